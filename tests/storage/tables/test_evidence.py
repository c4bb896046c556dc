"""What storage knows of a study in RECEIVING, early jobs, and what is urgent."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

import pytest
from sqlalchemy import event, insert

from storage.records.completion import (
    AssociationNumbers,
    Completion,
    CompletionNumbers,
    Evidence,
    Grade,
    SeriesNumbers,
    StepNumbers,
)
from storage.records.evidence import AssociationEnd, SourceAnswer, StudyEvidence
from storage.records.instances import Facts
from storage.records.jobs import JobState, NewJob
from storage.records.procedure_steps import ProcedureStepState
from storage.records.studies import StudyState
from storage.tables.database import schema
from tests.storage.node import NOW, STUDY, UNDECIDED, Node, Sent, after, early_start, objects, received


def with_facts(sent: Sent, **facts: object) -> Sent:
    return replace(sent, instance=replace(sent.instance, facts=Facts(**facts)))  # type: ignore[arg-type]


def evidence(node: Node, uid: str = STUDY) -> StudyEvidence:
    (found,) = node.studies.evidence(uid)
    return found


def keep_step(
    node: Node, state: ProcedureStepState, referenced: list[str], uid: str = "1.7", ended: datetime | None = None
) -> None:
    with node.database.session() as session:
        session.execute(
            insert(schema.ProcedureStepRow).values(
                sop_instance_uid=uid, state=state, source_ae_title="MR1", referenced=referenced, created_at=NOW,
                ended_at=ended, version=1, path="x",
            )
        )  # fmt: skip
        session.execute(insert(schema.ProcedureStepStudyRow).values(sop_instance_uid=uid, study_instance_uid=STUDY))


@contextmanager
def statements(node: Node) -> Iterator[list[str]]:
    """The SQL that reading executes meanwhile."""
    seen: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        seen.append(statement)

    engine = node.database._engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


# -- evidence ----------------------------------------------------------------------------------------------------------


def test_the_associations_of_this_revision(node: Node) -> None:
    for key, calling in (("a", "MR1"), ("b", "MR2")):
        node.store(received(1 if key == "a" else 2, association=node.open_association(key, calling)))
    node.end_association("a", AssociationEnd.RELEASED)
    first, second = evidence(node).associations
    assert (first.calling_ae_title, first.end, second.calling_ae_title, second.end) == (
        "MR1", AssociationEnd.RELEASED, "MR2", None,
    )  # fmt: skip
    assert first.opened_at.tzinfo is not None
    assert first.ended_at == evidence(node).last_association_ended_at
    assert (evidence(node).open_associations, evidence(node).aborted_associations) == (1, 0)
    node.end_association("b", AssociationEnd.ABORTED)
    assert (evidence(node).open_associations, evidence(node).aborted_associations) == (0, 1)
    node.complete()
    assert node.studies.evidence() == []
    node.store(received(3, association=node.open_association("c", "MR3")))
    assert [a.calling_ae_title for a in evidence(node).associations] == ["MR3"]
    assert node.studies.callers(STUDY) == {"MR1", "MR2", "MR3"}


def test_several_studies_keep_their_own(node: Node) -> None:
    key = node.open_association("a", "MR1")
    node.store(received(1, study="1.1", association=key))
    node.store(received(1, study="1.2", association=key))
    node.store(received(1, study="1.3", association=node.open_association("b", "MR2")))
    assert [(e.study_instance_uid, [a.calling_ae_title for a in e.associations]) for e in node.studies.evidence()] == [
        ("1.1", ["MR1"]), ("1.2", ["MR1"]), ("1.3", ["MR2"]),
    ]  # fmt: skip
    assert [e.study_instance_uid for e in node.studies.evidence("1.2")] == ["1.2"]
    assert node.studies.evidence("9.9") == []


def test_the_contents_are_the_facts_of_every_instance(node: Node) -> None:
    facts: dict[str, object] = {"images_in_acquisition": 2, "position": (1.0, 2.0, 3.5), "frames": 4}
    node.store(with_facts(received(1), **facts))
    node.store(received(1, series=2, modality="SR"))
    contents = node.studies.contents(STUDY)
    image, report = sorted(contents.instances, key=lambda i: i.series_instance_uid)
    assert image.facts == Facts(images_in_acquisition=2, position=(1.0, 2.0, 3.5), frames=4)
    assert (report.facts, report.own, report.received_at.tzinfo is not None) == (Facts(), False, True)
    assert contents.steps == ()


def test_our_own_results_are_told_apart(node: Node) -> None:
    job = node.deliver("archive", "PACS")
    seg, report = (o.sop_instance_uid for o in objects(job))
    assert node.studies.own_at(STUDY, "archive") == 0
    sent = node.next("archive")
    assert sent is not None
    node.deliveries.sent(sent.id, "dispatch", NOW)
    assert (node.studies.own_at(STUDY, "archive"), node.studies.own_at(STUDY, "PACS")) == (1, 0)
    node.store(received(sop=report, series=8, modality="SR"))  # the other one came back
    node.store(received(sop=seg, series=7, modality="SR"))
    assert node.studies.own_at(STUDY, "archive") == 2
    assert {i.sop_instance_uid for i in node.studies.contents(STUDY).instances if i.own} == {seg, report}


def test_procedure_steps_are_part_of_it(node: Node) -> None:
    node.store(received(1))
    before = evidence(node).contents_key
    keep_step(node, ProcedureStepState.IN_PROGRESS, [])
    assert evidence(node).steps == (("1.7", ProcedureStepState.IN_PROGRESS),)
    assert evidence(node).contents_key != before
    keep_step(node, ProcedureStepState.COMPLETED, ["1.2.3.1.1", "1.2.3.1.2"], "1.8", after(5))
    _, ended = node.studies.contents(STUDY).steps
    assert (ended.state, ended.referenced, ended.ended_at) == (
        ProcedureStepState.COMPLETED, frozenset({"1.2.3.1.1", "1.2.3.1.2"}), after(5),
    )  # fmt: skip


def test_what_a_step_lists_may_be_here_as_another_study(node: Node) -> None:
    node.store(received(1))
    listed = ["1.2.3.1.1", "1.2.3.1.2", *(f"1.4.1.{n}" for n in range(1, 1200))]
    keep_step(node, ProcedureStepState.COMPLETED, listed, ended=after(5))
    assert node.studies.contents(STUDY).elsewhere == frozenset()
    node.store(received(7, study="1.4"))
    node.store(received(1100, study="1.4"))
    node.store(received(1500, study="1.4"))
    assert node.studies.contents(STUDY).elsewhere == {"1.4.1.7", "1.4.1.1100"}


def test_what_the_source_answered_is_kept(node: Node) -> None:
    node.store(received(1))
    answers = [SourceAnswer(after(1), "archive", 3, own=1), SourceAnswer(after(9), "archive", None, 0, "is down")]
    for answer in answers:
        assert node.studies.answered(STUDY, 1, answer)
    assert evidence(node).answers == tuple(answers)
    assert node.texts()[1:] == [
        "asked: archive counts 3 instances, 1 of them results of this node",
        "asked: archive gives no count of the study: is down",
    ]
    assert not node.studies.answered(STUDY, 2, answers[0])
    node.complete()
    assert not node.studies.answered(STUDY, 1, answers[0])
    node.store(received(2))
    assert evidence(node).answers == ()  # they were given to another question


def test_the_evidence_of_many_instances_reads_none_of_them(node: Node) -> None:
    for number in range(30):
        node.store(received(number, association=node.open_association(f"a{number}")))
    before = evidence(node).contents_key
    with statements(node) as seen:
        assert len(evidence(node).associations) == 30
    assert 4 <= len(seen) <= 8  # the same for one study or a hundred; PRAGMA and BEGIN included
    assert not any("FROM instance" in s for s in seen)
    node.store(received(99))
    assert evidence(node).contents_key != before


def test_a_complete_study_keeps_its_evidence(node: Node) -> None:
    node.store(received(1))
    series = SeriesNumbers(f"{STUDY}.1", 20, 20, Grade.DECLARED, "20 of 20 declared images")
    numbers = CompletionNumbers(20, 0, AssociationNumbers(released=1), (series,), StepNumbers(completed=1))
    decided = Completion(Evidence.DECLARED, "20 of 20", numbers, 2.0, NOW)
    assert node.studies.complete(evidence(node), decided, NOW)
    event = node.studies.events(STUDY)[-1]
    assert (event.text, event.data) == ("20 of 20", decided.to_json())
    assert Completion.from_json(event.text, event.data) == decided


# -- applications that start on their inputs ---------------------------------------------------------------------------


def early(revision: int = 1, fingerprint: str = "f1", application: str = "liver", priority: int = 0) -> NewJob:
    return NewJob(STUDY, revision, application, {"t1": f"{STUDY}.1"}, fingerprint, priority)


def start(node: Node, job: NewJob) -> bool:
    return node.studies.start_early(job, early_start(job, "t1 is series 1, 20 of 20 declared images"), NOW)


def listed(node: Node) -> list[tuple[str, int, JobState]]:
    return [(j.fingerprint, j.revision, j.state) for j in node.jobs.list()]


def test_a_job_starts_while_its_study_arrives(node: Node) -> None:
    node.store(received(1))
    assert start(node, early())
    assert node.study().state is StudyState.RECEIVING
    assert node.texts()[1:] == [
        "early: liver: starts before the study is complete, its inputs are: t1 is series 1, 20 of 20 declared images",
        "queued: liver: job 1 queued",
    ]
    assert node.studies.events(STUDY)[1].data["inputs"] == {"t1": f"{STUDY}.1"}
    assert not start(node, early())
    assert not start(node, early(fingerprint="f2"))  # once in a revision
    assert start(node, early(application="knee"))
    node.store(received(2))
    node.route("liver", fingerprint="f1")
    assert "queued: liver: the same instances as before, job 1 stands" in node.texts()


def test_a_job_that_started_early_is_superseded_by_other_instances(node: Node) -> None:
    node.store(received(1))
    assert start(node, early())
    job = node.claim()
    node.route("liver", fingerprint="f2")
    assert not node.succeed(job, "PACS")
    assert listed(node) == [("f1", 1, JobState.CANCELLED), ("f2", 1, JobState.QUEUED)]
    assert node.deliveries.list() == []


@pytest.mark.parametrize("applies", [True, False])
def test_what_does_not_apply_to_the_complete_study_is_superseded(node: Node, applies: bool) -> None:
    node.store(received(1))
    assert start(node, early())
    assert start(node, early(application="knee"))
    running = node.claim()
    if applies:
        node.route("brain")
    else:
        node.complete()
        assert node.studies.ignore(STUDY, 1, "nothing applies", UNDECIDED, NOW)
    assert not node.succeed(running, "PACS")
    assert [j.state for j in node.jobs.list()][:2] == [JobState.CANCELLED, JobState.CANCELLED]


def test_the_report_of_an_early_job_is_superseded_by_the_final_one(node: Node) -> None:
    node.store(received(1))
    assert start(node, early())
    assert node.succeed(node.claim(), "PACS")
    node.arrive()
    node.route("liver", fingerprint="f2")
    final = node.claim()
    (previous,) = node.results.previous_sr(STUDY, "liver", final.id, ["PACS"])
    assert (previous.job_id, final.revision) == (1, 1)


@pytest.mark.parametrize("state", ["complete", "revision", "failed"])
def test_a_job_does_not_start_early_again(node: Node, state: str) -> None:
    node.store(received(1))
    if state == "complete":
        node.complete()
        assert not start(node, early())
    elif state == "revision":
        assert not start(node, early(revision=2))
    else:
        assert start(node, early())
        node.jobs.fail(node.claim().id, "worker", "broke", None, NOW)
        node.route("knee")
        node.store(received(2))
        assert not start(node, early(revision=2))  # the very same instances failed before
        assert start(node, early(revision=2, fingerprint="f2"))


def test_a_late_revision_supersedes_what_started_in_the_one_before(node: Node) -> None:
    node.store(received(1))
    assert start(node, early())
    node.route("liver", fingerprint="f1")
    node.store(received(2))
    assert start(node, early(revision=2, fingerprint="f2"))
    assert listed(node) == [("f1", 1, JobState.CANCELLED), ("f2", 2, JobState.QUEUED)]


# -- priority ----------------------------------------------------------------------------------------------------------


def route(node: Node, uid: str, priority: int, at: datetime = NOW) -> None:
    node.store(received(study=uid))
    study = node.complete(uid)
    job = NewJob(uid, study.revision, "liver", {}, uid, priority)
    assert node.studies.route(uid, study.revision, "applies", [job], UNDECIDED, at)


def test_the_urgent_job_is_claimed_first_then_the_oldest(node: Node) -> None:
    for uid, priority, seconds in (("1.1", 0, 0), ("1.2", 1, 1), ("1.3", 2, 2), ("1.4", 1, 3), ("1.5", 2, 4)):
        route(node, uid, priority, after(seconds))
    claimed = [node.claim(now=after(10)) for _ in range(5)]
    assert [(j.study_instance_uid, j.priority) for j in claimed] == [
        ("1.3", 2), ("1.5", 2), ("1.2", 1), ("1.4", 1), ("1.1", 0),
    ]  # fmt: skip
    assert "queued: liver: job 3 queued with priority 2" in node.texts("1.3")


def test_urgent_results_are_delivered_first(node: Node) -> None:
    for uid, priority in (("1.1", 0), ("1.2", 2)):
        route(node, uid, priority)
    urgent, other = node.claim(), node.claim()
    for job in (other, urgent):
        assert node.succeed(job, "PACS")
    found = []
    while (delivery := node.next()) is not None:
        found.append((delivery.object.study_instance_uid, delivery.object.kind))
        node.deliveries.sent(delivery.id, "dispatch", NOW)
    assert found == [("1.2", "SEG"), ("1.2", "SR"), ("1.1", "SEG"), ("1.1", "SR")]


def test_a_job_that_stands_becomes_as_urgent_as_its_study(node: Node) -> None:
    node.store(received(1))
    assert start(node, early())
    node.store(with_facts(received(2), priority="STAT"))
    study = node.complete()
    assert study.priority == 2
    assert node.studies.route(STUDY, 1, "applies", [early(priority=study.priority)], UNDECIDED, NOW)
    assert [(j.id, j.priority) for j in node.jobs.list()] == [(1, 2)]
