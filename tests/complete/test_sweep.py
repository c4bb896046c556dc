"""The completion sweep: what it reads, and when a study is complete."""

from datetime import datetime, timedelta

import pytest
from pydicom.dataset import Dataset

from storage.records.evidence import StudyContents
from storage.records.procedure_steps import ProcedureStepState
from storage.records.studies import StudyState
from storage.tables.procedure_steps import ProcedureSteps
from tests.schedule.sweeps import Clock, Source, Sweeps, application, bring
from tests.storage.node import STUDY, Node


def test_a_study_completes_by_what_its_images_declare(node: Node, clock: Clock) -> None:
    sweeper = Sweeps(node, clock)
    for number in (1, 2):
        bring(node, clock, number, images_in_acquisition=2)
    sweeper.sweep()
    assert node.study().state is StudyState.RECEIVING
    clock.pass_(2)
    sweeper.sweep()
    assert node.study().state is StudyState.IGNORED  # no application is configured
    (event,) = [e for e in node.studies.events(STUDY) if e.stage == "complete"]
    assert event.data["evidence"] == "declared counts"
    assert event.data["numbers"]["series"][0]["declared"] == 2


def test_images_are_looked_at_once_and_not_while_they_arrive(
    node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    contents = node.studies.contents

    def counting(uid: str) -> StudyContents:
        read.append(uid)
        return contents(uid)

    monkeypatch.setattr(node.studies, "contents", counting)
    sweeper = Sweeps(node, clock)
    for number in range(5):
        bring(node, clock, number, images_in_acquisition=7)
        sweeper.sweep()
        clock.pass_(1)
    assert read == []
    for _ in range(10):
        sweeper.sweep()
        clock.pass_(1)
    assert read == [STUDY]
    bring(node, clock, 6, images_in_acquisition=7)
    for _ in range(5):
        sweeper.sweep()
        clock.pass_(1)
    assert read == [STUDY, STUDY]


def test_what_is_indexed_late_is_waited_for(node: Node, clock: Clock) -> None:
    """The index was behind by a minute: what it files now came long ago, and more may follow."""
    sweeper = Sweeps(node, clock)
    bring(node, clock, 1)
    clock.pass_(60)
    sweeper.sweep()
    assert node.study().state is StudyState.RECEIVING
    clock.pass_(10)
    sweeper.sweep()
    assert node.study().state is StudyState.IGNORED


def test_a_study_is_not_quiet_while_the_index_stalls(node: Node, clock: Clock) -> None:
    """The database works, but what the receiver acknowledges stays in its journal."""
    sweeper = Sweeps(node, clock, applications=[application()])
    bring(node, clock, 1)
    clock.index_stalled_at = clock.now + timedelta(seconds=1)
    for _ in range(60):
        clock.pass_(1)
        sweeper.sweep()
    assert node.study().state is StudyState.RECEIVING
    clock.index_stalled_at = None
    sweeper.sweep()
    assert node.study().state is StudyState.IGNORED


def test_a_study_waits_until_something_says_what_is_indexed(
    node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "filed", lambda: None)
    sweeper = Sweeps(node, clock, applications=[application()])
    bring(node, clock, 1, images_in_acquisition=1)
    for _ in range(599):
        clock.pass_(1)
        sweeper.sweep()
    assert node.study().state is StudyState.RECEIVING
    clock.pass_(1)
    sweeper.sweep()
    assert node.study().state is StudyState.IGNORED


def test_what_is_indexed_while_it_is_decided_keeps_the_study_open(
    node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeper = Sweeps(node, clock)
    bring(node, clock, 1)
    sweeper.sweep()
    clock.pass_(30)
    contents = node.studies.contents

    def late(uid: str) -> StudyContents:
        monkeypatch.undo()
        found = contents(uid)
        bring(node, clock, 2)
        return found

    monkeypatch.setattr(node.studies, "contents", late)
    sweeper.sweep()
    study = node.study()
    assert (study.state, study.revision, study.instances) == (StudyState.RECEIVING, 1, 2)


STEPS = pytest.mark.parametrize("seconds", [-30 * 86400, -3600, 3600, 30 * 86400])


@STEPS
def test_a_step_of_the_clock_neither_ends_nor_prolongs_the_waiting(
    node: Node, clock: Clock, source: Source, seconds: int
) -> None:
    sweeper = Sweeps(node, clock, source)
    source.count = 5
    bring(node, clock, 1)
    clock.pass_(3)
    sweeper.sweep()
    sweeper.ask_source()
    clock.step(seconds)
    bring(node, clock, 2)
    for _ in range(10):
        sweeper.sweep()
        sweeper.ask_source()
        clock.pass_(1)
    assert node.study().state is StudyState.RECEIVING  # it has been quiet for 9 s, and the source counts more
    source.count = 2
    for _ in range(16):
        sweeper.sweep()
        sweeper.ask_source()
        clock.pass_(1)
    assert node.study().state is StudyState.IGNORED
    (event,) = [e for e in node.studies.events(STUDY) if e.stage == "complete"]
    assert event.data["evidence"] == "count of the source PACS"
    assert 2 <= (event.at - datetime.fromisoformat(event.data["since"])).total_seconds() < 30
    assert abs(event.at - clock.wall()) < timedelta(seconds=20)


@STEPS
def test_a_study_that_still_arrives_outlasts_a_step(node: Node, clock: Clock, seconds: int) -> None:
    sweeper = Sweeps(node, clock)
    for number in range(40):
        if number == 20:
            clock.step(seconds)
        bring(node, clock, number)
        for _ in range(5):
            sweeper.sweep()
            clock.pass_(1)
    assert node.study().state is StudyState.RECEIVING
    for _ in range(12):
        sweeper.sweep()
        clock.pass_(1)
    assert node.study().state is StudyState.IGNORED


@STEPS
def test_a_role_that_starts_after_a_step_begins_the_waiting_anew(node: Node, clock: Clock, seconds: int) -> None:
    Sweeps(node, clock).sweep()
    bring(node, clock, 1)
    clock.step(seconds)
    sweeper = Sweeps(node, clock)
    for _ in range(10):
        sweeper.sweep()
        assert node.study().state is StudyState.RECEIVING
        clock.pass_(1)
    sweeper.sweep()
    assert node.study().state is StudyState.IGNORED


def test_images_that_come_again_after_the_clock_was_set_back_keep_the_study_open(node: Node, clock: Clock) -> None:
    """A scanner repeats what it sent before an abort, and then sends the rest."""
    sweeper = Sweeps(node, clock)
    for number in range(3):
        bring(node, clock, number)
    clock.step(-3600)
    for _ in range(4):
        for number in range(3):
            bring(node, clock, number)
            for _ in range(3):
                sweeper.sweep()
                clock.pass_(1)
    assert node.study().state is StudyState.RECEIVING


def test_a_procedure_step_for_two_studies_completes_both(node: Node, clock: Clock) -> None:
    """Neither waits for the images of the other one, once those are here."""
    steps = ProcedureSteps(node.database, node.root / "mpps")
    sweeper = Sweeps(node, clock)
    bring(node, clock, 1, study="1.1")
    listed = ("1.1.1.1", "1.2.1.1")
    ds = Dataset()
    assert steps.create("1.7", ds, "MR1", ("1.1", "1.2"), listed, clock.now)
    step = steps.get("1.7")
    assert step is not None
    assert steps.update(step, ds, ProcedureStepState.COMPLETED, ("1.1", "1.2"), listed, clock.now)
    for _ in range(20):
        sweeper.sweep()
        clock.pass_(1)
    assert node.study("1.1").state is StudyState.RECEIVING
    bring(node, clock, 1, study="1.2")
    for _ in range(4):
        sweeper.sweep()
        clock.pass_(1)
    assert [node.study(uid).state for uid in ("1.1", "1.2")] == [StudyState.IGNORED] * 2
    assert "the procedure step is completed and all 1 instance listed are here" in "".join(node.texts("1.2"))
