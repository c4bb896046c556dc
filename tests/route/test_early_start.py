"""Applications that start on their inputs while their study still arrives."""

from pathlib import Path

import pytest

from storage.records.jobs import JobKind, JobState
from storage.records.studies import StudyState
from tests.acceptance.studies import write_ball_study
from tests.schedule.sweeps import Clock, Sweeps, application, bring, push, release
from tests.storage.node import Node


def test_an_application_starts_on_its_inputs_and_its_job_stands(node: Node, clock: Clock, tmp_path: Path) -> None:
    sweeper = Sweeps(node, clock, applications=[application()])
    study = write_ball_study(tmp_path / "study")
    uid = study.study_instance_uid
    push(node, clock, study.paths, "a", len(study.paths))
    sweeper.sweep()
    assert node.jobs.list() == []
    clock.pass_(2)
    bring(node, clock, 1, "a", uid)
    sweeper.sweep()
    (job,) = node.jobs.list()
    assert (job.application, job.revision, job.state) == ("mass", 1, JobState.QUEUED)
    assert node.study(uid).state is StudyState.RECEIVING
    (early,) = [e for e in node.studies.events(uid) if e.stage == "early"]
    assert "20 of 20 declared images" in early.text
    assert early.data["routing"]["applies"] is True
    release(node, clock, "a")
    for _ in range(15):
        clock.pass_(1)
        sweeper.sweep()
    assert node.study(uid).state is StudyState.ROUTED
    assert [j.id for j in node.jobs.list()] == [job.id]
    assert f"queued: mass (right): the same instances as before, job {job.id} stands" in node.texts(uid)


@pytest.mark.parametrize("case", ["short", "not asked to", "other kind", "open"])
def test_no_application_starts_on_less(node: Node, clock: Clock, tmp_path: Path, case: str) -> None:
    chosen = application(start=case != "not asked to", kind="T2w" if case == "other kind" else "T1w")
    sweeper = Sweeps(node, clock, applications=[chosen])
    study = write_ball_study(tmp_path / "study")
    push(node, clock, study.paths, "a", {"short": 21, "open": None}.get(case, 20))
    for _ in range(28):
        clock.pass_(1)
        sweeper.sweep()
    assert [job for job in node.jobs.list() if job.kind is JobKind.ANALYSIS] == []


def test_a_late_slice_supersedes_the_early_job(node: Node, clock: Clock, tmp_path: Path) -> None:
    sweeper = Sweeps(node, clock, applications=[application()])
    study = write_ball_study(tmp_path / "study")
    *most, last = study.paths
    push(node, clock, most, "a", 19)  # what the scanner declares is wrong
    clock.pass_(2)
    sweeper.sweep()
    assert len(node.jobs.list()) == 1
    push(node, clock, [last], "a", 19)
    release(node, clock, "a")
    for _ in range(15):
        clock.pass_(1)
        sweeper.sweep()
    assert [j.state for j in node.jobs.list()] == [JobState.CANCELLED, JobState.QUEUED]
