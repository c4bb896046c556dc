"""The states of a study, and what routing does to jobs."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC

import pytest
from sqlalchemy import Update, update

from storage.records.jobs import JobState, NewJob
from storage.records.studies import Event, Stage, StudyState
from storage.tables.database import schema
from storage.tables.database.connection import Database
from storage.tables.events import add_event
from tests.storage.node import NOW, STUDY, UNDECIDED, Node, after, completion, decision_on, received


def test_a_study_goes_its_way_once(node: Node) -> None:
    node.store(received())
    (evidence,) = node.studies.evidence()
    assert node.studies.complete(evidence, completion("3 instances; quiet"), NOW)
    assert not node.studies.complete(evidence, completion("again"), NOW)
    (study,) = node.studies.completed()
    assert (study.state, study.reason) == (StudyState.COMPLETE, "3 instances; quiet")
    assert node.studies.evidence() == []
    assert node.studies.route(STUDY, 1, "applies: liver", [], UNDECIDED, NOW)
    assert not node.studies.route(STUDY, 1, "again", [], UNDECIDED, NOW)
    assert not node.studies.ignore(STUDY, 1, "again", UNDECIDED, NOW)
    assert node.studies.completed() == []
    assert node.study().state is StudyState.ROUTED
    assert node.texts() == [
        "received: first instance",
        "complete: 3 instances; quiet",
        "routed: applies: liver",
    ]


def test_a_decision_on_an_older_revision_comes_too_late(node: Node) -> None:
    node.store(received(1))
    (old,) = node.studies.evidence()
    node.complete()
    node.store(received(2))
    assert not node.studies.complete(old, completion("old"), NOW)
    assert not node.studies.route(STUDY, 1, "old", [NewJob(STUDY, 1, "liver", {}, "f")], UNDECIDED, NOW)
    assert node.jobs.list() == []
    node.complete()
    assert not node.studies.route(STUDY, 1, "old", [], UNDECIDED, NOW)
    assert not node.studies.ignore(STUDY, 1, "old", UNDECIDED, NOW)
    assert [s.revision for s in node.studies.completed()] == [2]


def test_what_was_indexed_meanwhile_is_decided_on_again(node: Node) -> None:
    node.store(received(1))
    (before,) = node.studies.evidence()
    node.store(received(2))
    (after,) = node.studies.evidence()
    for changed in (
        before,
        replace(after, last_received_at=before.last_received_at),
        replace(after, instances=before.instances),
    ):
        assert not node.studies.complete(changed, completion("quiet"), NOW)
    assert node.study().state is StudyState.RECEIVING
    assert "complete: quiet" not in node.texts()
    assert node.studies.complete(after, completion("quiet"), NOW)


def test_of_many_schedulers_one_wins(node: Node) -> None:
    node.store(received())
    node.complete()
    jobs = [NewJob(STUDY, 1, "liver", {"t1": "1"}, "f")]
    won: list[bool] = []
    threads = [
        threading.Thread(target=lambda: won.append(node.studies.route(STUDY, 1, "r", jobs, UNDECIDED, NOW)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 5 + [True]
    assert len(node.jobs.list()) == 1


def test_an_ignored_study_can_be_routed_again(node: Node) -> None:
    node.store(received())
    assert not node.studies.reroute(STUDY)
    node.complete()
    assert node.studies.ignore(STUDY, 1, "nothing applies", decision_on("try 1"), NOW)
    assert node.study().state is StudyState.IGNORED
    assert node.studies.routing(STUDY) == decision_on("try 1")
    assert node.studies.reroute(STUDY)
    assert not node.studies.reroute(STUDY)
    assert node.studies.route(STUDY, 1, "applies", [NewJob(STUDY, 1, "liver", {}, "f")], decision_on("try 2"), NOW)
    assert node.studies.routing(STUDY) == decision_on("try 2")
    assert not node.studies.reroute("9.9")


def test_a_routed_study_is_routed_again_without_a_second_result(node: Node) -> None:
    node.store(received())
    node.route("liver", fingerprint="same")
    assert node.succeed(node.claim(), "PACS")
    assert node.studies.reroute(STUDY)
    assert not node.studies.reroute(STUDY)
    jobs = [NewJob(STUDY, 1, name, {}, "same") for name in ("liver", "knee")]
    assert node.studies.route(STUDY, 1, "applies", jobs, UNDECIDED, NOW, warnings=["not run: brain: no folder"])
    assert states(node) == [("liver", 1, JobState.SUCCEEDED), ("knee", 1, JobState.QUEUED)]
    assert "warning: not run: brain: no folder" in node.texts()


def test_decisions_belong_to_their_revision(node: Node) -> None:
    assert node.studies.routing("9.9") is None
    node.queue("liver")
    node.store(received(2))
    assert node.studies.routing(STUDY) is None  # the current revision was not routed yet
    assert node.studies.routing(STUDY, 1) == decision_on("liver")


def test_studies_are_listed_the_last_received_first(node: Node) -> None:
    for uid in ("1.1", "1.2", "1.3"):
        node.store(received(study=uid))
    node.complete("1.2")
    assert [s.study_instance_uid for s in node.studies.list()] == ["1.3", "1.2", "1.1"]
    assert [s.study_instance_uid for s in node.studies.list(limit=1)] == ["1.3"]
    assert [s.study_instance_uid for s in node.studies.list(state=StudyState.COMPLETE)] == ["1.2"]
    assert node.studies.get("9.9") is None
    assert node.study("1.1").first_received_at.tzinfo is UTC


def test_events_keep_what_they_are_given(node: Node) -> None:
    event = Event(NOW, STUDY, 2, Stage.WARNING, "geometry is uneven", 7, {"gap_mm": 1.5, "names": ["a"]})
    with node.database.session() as session:
        add_event(session, event)
    assert node.studies.events(STUDY) == [event]


# -- revisions and jobs ------------------------------------------------------------------------------------------------


def revise(node: Node, *applications: str, fingerprint: str | None = None) -> None:
    """A late image and the routing of the revision it opens."""
    node.store(received(node.study().instances + 1))
    node.route(*applications, fingerprint=fingerprint)


def states(node: Node) -> list[tuple[str, int, JobState]]:
    return [(job.application, job.revision, job.state) for job in node.jobs.list()]


@pytest.mark.parametrize("retrying", [False, True])
def test_waiting_jobs_are_superseded(node: Node, retrying: bool) -> None:
    node.queue("liver", "knee")
    if retrying:
        job = node.claim()
        node.jobs.fail(job.id, "worker", "out of memory", after(60), NOW)
    revise(node, "liver")
    assert states(node) == [
        ("liver", 1, JobState.CANCELLED),
        ("knee", 1, JobState.CANCELLED),  # it does not apply to the revision any more
        ("liver", 2, JobState.QUEUED),
    ]
    assert node.jobs.list()[0].reason == "superseded by revision 2"


def test_a_running_job_that_is_superseded_delivers_nothing(node: Node) -> None:
    node.queue("liver")
    job = node.claim()
    revise(node, "liver")
    assert not node.jobs.heartbeat(job.id, "worker", NOW)
    assert not node.succeed(job, "PACS")
    assert states(node) == [("liver", 1, JobState.CANCELLED), ("liver", 2, JobState.QUEUED)]
    assert node.deliveries.list() == []
    assert node.results.objects(STUDY) == []
    assert node.succeed(node.claim(), "PACS")
    assert {d.object.job_id for d in node.deliveries.list()} == {2}


@pytest.mark.parametrize("retry_at", [None, NOW])
def test_a_superseded_job_that_fails_is_over(node: Node, retry_at: object) -> None:
    node.queue("liver")
    job = node.claim()
    revise(node, "liver")
    assert node.jobs.fail(job.id, "worker", "broke", retry_at, NOW) is JobState.CANCELLED  # type: ignore[arg-type]


def test_a_superseded_job_whose_worker_died_is_over(node: Node) -> None:
    node.queue("liver")
    node.claim()
    revise(node, "liver")
    (released,) = node.jobs.release_silent(node.heartbeats_before(after(60)), 3, after(61))
    assert released.state is JobState.CANCELLED


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.RETRYING, JobState.SUCCEEDED])
def test_the_same_fingerprint_is_not_computed_twice(node: Node, state: JobState) -> None:
    """A late instance in a series that feeds nothing of this application."""
    node.store(received())
    node.route("liver", fingerprint="same")
    if state is not JobState.QUEUED:
        job = node.claim()
        if state is JobState.RETRYING:
            node.jobs.fail(job.id, "worker", "broke", NOW, NOW)
        elif state is JobState.SUCCEEDED:
            node.succeed(job, "PACS")
    revise(node, "liver", fingerprint="same")
    assert states(node) == [("liver", 1, state)]
    if state is JobState.RUNNING:
        assert node.succeed(job, "PACS")
    assert "queued: liver: the same instances as before, job 1 stands" in node.texts()


@pytest.mark.parametrize("end", [JobState.FAILED, JobState.CANCELLED])
def test_a_fingerprint_without_result_is_computed(node: Node, end: JobState) -> None:
    node.store(received())
    node.route("liver", fingerprint="same")
    if end is JobState.FAILED:
        node.jobs.fail(node.claim().id, "worker", "broke", None, NOW)
    else:
        revise(node, "liver", fingerprint="other")
        node.jobs.fail(node.claim().id, "worker", "broke", None, NOW)
    revise(node, "liver", fingerprint="same")
    assert node.jobs.list()[-1].state is JobState.QUEUED


def meanwhile(url: str, statement: Update, action: Callable[[], object]) -> None:
    """Runs `action` in a thread while another process is between `statement` and its commit."""
    other = Database(url)
    thread = threading.Thread(target=action)
    with other.session() as session:
        session.execute(statement, execution_options={"synchronize_session": False})
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()  # it waits for that commit
    thread.join()
    other.close()


def test_a_job_claimed_during_routing_is_superseded(node: Node, url: str) -> None:
    node.queue("liver")
    node.store(received(2))
    job = node.jobs.list()[0]
    claim = update(schema.JobRow).values(state=JobState.RUNNING, worker="worker")
    meanwhile(url, claim, lambda: node.route("liver"))
    assert not node.succeed(job, "PACS")
    assert states(node) == [("liver", 1, JobState.CANCELLED), ("liver", 2, JobState.QUEUED)]


@pytest.mark.parametrize("end", ["succeed", "fail", "release"])
def test_a_job_that_ends_during_routing_is_superseded(node: Node, url: str, end: str) -> None:
    node.queue("liver")
    job = node.claim()
    ends: dict[str, Callable[[], object]] = {
        "succeed": lambda: node.succeed(job, "PACS"),
        "fail": lambda: node.jobs.fail(job.id, "worker", "broke", NOW, NOW),
        "release": lambda: node.jobs.release_worker("worker", "restarted", 3),
    }
    meanwhile(url, update(schema.JobRow).values(superseded=True), ends[end])
    assert states(node) == [("liver", 1, JobState.CANCELLED)]
    assert node.deliveries.list() == []


def test_a_late_image_during_completion_is_in_one_revision_or_the_next(node: Node, url: str) -> None:
    node.store(received(1))
    complete = update(schema.StudyRow).values(state=StudyState.COMPLETE)
    meanwhile(url, complete, lambda: node.store(received(2)))
    study = node.study()
    assert (study.state, study.revision, study.instances) == (StudyState.RECEIVING, 2, 2)


def test_claims_and_routing_at_once_deliver_only_the_newest(node: Node) -> None:
    """Whatever the order in which workers and the router meet, results of older revisions are not sent."""
    node.queue("liver")
    stop = threading.Event()

    def work(name: str) -> None:
        while not stop.is_set():
            job = node.jobs.claim(name, NOW)
            if job is not None:
                node.jobs.fail(job.id, name, "broke", NOW, NOW)

    threads = [threading.Thread(target=work, args=(f"worker-{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        revise(node, "liver")
    stop.set()
    for thread in threads:
        thread.join()
    *older, newest = node.jobs.list()
    assert {job.state for job in older} == {JobState.CANCELLED}
    assert newest.state in (JobState.QUEUED, JobState.RETRYING)
