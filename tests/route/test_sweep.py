"""The routing sweep: what is reported, how urgent a job is, and what late versions do."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import dcmread

from inference.series.kinds import Kind
from inference.series.site_table import SiteRule
from storage.log import journal
from storage.log.segments.ranges import SegmentRange
from storage.records.completion import Completion, Evidence
from storage.records.jobs import JobKind, JobState
from storage.records.problems import Problem, ProblemKind, ProblemLimits
from storage.records.studies import StudyState
from storage.tables.problems import Problems
from tests.acceptance.studies import write_ball_study
from tests.schedule.sweeps import REPORT_QUIET, START, Clock, Sweeps, application, bring, end, push, release
from tests.storage.node import Node


def test_a_study_without_a_usable_input_is_reported_once_it_is_over(node: Node, clock: Clock, tmp_path: Path) -> None:
    sweeper = Sweeps(node, clock, applications=[replace(application(kind="T2w"), no_result="always")])
    study = write_ball_study(tmp_path / "study")
    uid = study.study_instance_uid
    push(node, clock, study.paths, "a", 20)
    clock.pass_(3)
    sweeper.sweep()
    assert node.study(uid).state is StudyState.RECEIVING
    assert node.jobs.list() == []  # it could have started on its inputs
    end(sweeper, node, clock)
    assert node.study(uid).state is StudyState.IGNORED
    clock.pass_(REPORT_QUIET - 30)
    sweeper.sweep()
    assert node.jobs.list() == []
    clock.pass_(40)
    sweeper.sweep()
    (report,) = node.jobs.list()
    assert (report.kind, report.application, report.revision) == (JobKind.NO_RESULT, "mass", 1)
    (told,) = report.detail.applications
    assert told.why == "input-missing"
    assert told.explanation in node.study(uid).reason
    assert uid not in told.explanation
    assert node.studies.reroute(uid)
    sweeper.sweep()
    assert node.study(uid).state is StudyState.IGNORED
    clock.pass_(REPORT_QUIET)
    sweeper.sweep()
    assert [j.state for j in node.jobs.list()] == [JobState.CANCELLED, JobState.QUEUED]  # nobody had written the first


def test_one_application_applies_and_another_reports(node: Node, clock: Clock, tmp_path: Path) -> None:
    """The report waits for the analysis, and names what failed with what does not apply; a retry takes it back."""
    other = replace(application(start=False, kind="T2w"), name="other", no_result="always")
    quiet = replace(application(start=False), name="quiet", no_result="never")
    sweeper = Sweeps(node, clock, applications=[application(start=False), other, quiet])
    push(node, clock, write_ball_study(tmp_path / "study").paths, "a", 20)
    end(sweeper, node, clock)
    clock.pass_(REPORT_QUIET)
    sweeper.sweep()
    assert [(j.application, j.kind) for j in node.jobs.list()] == [
        ("mass", JobKind.ANALYSIS),
        ("quiet", JobKind.ANALYSIS),
    ]
    for _ in range(2):
        job = node.claim(now=clock.now)
        node.jobs.fail(job.id, "worker", "the disk is away", clock.now + timedelta(seconds=5), clock.now)
    sweeper.sweep()
    assert len(node.jobs.list()) == 2  # a try is due
    clock.pass_(5)
    for _ in range(2):
        job = node.claim(now=clock.now)
        node.jobs.fail(job.id, "worker", "the disk is away", None, clock.now)
    sweeper.sweep()
    *_, report = node.jobs.list()
    assert [(one.application, one.why) for one in report.detail.applications] == [
        ("mass", "failure"),
        ("other", "input-missing"),
    ]
    assert "the disk is away" in report.detail.applications[0].explanation
    assert "Input series: " in report.detail.applications[0].explanation
    assert node.jobs.retry(1)
    sweeper.sweep()
    assert [j.state for j in node.jobs.list()] == [JobState.QUEUED, JobState.FAILED, JobState.CANCELLED]


def test_five_series_minutes_apart_get_no_report_before_the_result(node: Node, clock: Clock, tmp_path: Path) -> None:
    sweeper = Sweeps(node, clock, applications=[replace(application(start=False), no_result="always")])
    study = write_ball_study(tmp_path / "study")
    uid = study.study_instance_uid
    for number in range(4):
        bring(node, clock, number + 100, study=uid)
        for _ in range(24):
            clock.pass_(10)
            sweeper.sweep()
        assert node.study(uid).state is StudyState.IGNORED
    assert node.jobs.list() == []
    push(node, clock, study.paths, "a", 20)
    end(sweeper, node, clock)
    (job,) = node.jobs.list()
    assert (job.kind, job.revision) == (JobKind.ANALYSIS, 5)
    assert node.succeed(node.claim())
    clock.pass_(REPORT_QUIET)
    sweeper.sweep()
    assert len(node.jobs.list()) == 1


def test_a_completed_procedure_step_ends_the_quiet_time(node: Node, clock: Clock, tmp_path: Path) -> None:
    sweeper = Sweeps(node, clock, applications=[replace(application(kind="T2w"), no_result="always")])
    study = write_ball_study(tmp_path / "study")
    push(node, clock, study.paths, "a", 20)
    release(node, clock, "a")
    (evidence,) = node.studies.evidence(study.study_instance_uid)
    proven = Completion(Evidence.PROCEDURE_STEP, "all are here")
    assert node.studies.complete(evidence, proven, clock.now)
    sweeper.sweep()
    assert [j.kind for j in node.jobs.list()] == [JobKind.NO_RESULT]


# -- trouble of the machine --------------------------------------------------------------------------------------------


def test_a_disk_that_is_away_decides_about_no_study(
    node: Node, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study, whose headers are not kept, stays COMPLETE. Others go on, and it is routed when the disk answers."""
    monkeypatch.setattr(node.instances, "kept_headers", lambda *_: {})
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 1)  # a segment for each instance
    sweeper = Sweeps(node, clock, applications=[replace(application(start=False), no_result="always")])
    study = write_ball_study(tmp_path / "study")
    uid = study.study_instance_uid
    push(node, clock, study.paths, "a", 20)
    segments = [i.blob.path for i in node.instances.instances(uid) if isinstance(i.blob, SegmentRange)]
    away = tmp_path / "away"
    away.mkdir()
    for segment in segments:
        segment.rename(away / segment.name)
    end(sweeper, node, clock)
    other = write_ball_study(tmp_path / "other", seed=8)
    push(node, clock, other.paths, "b", 20)
    release(node, clock, "b")
    for _ in range(12):
        clock.pass_(1)
        sweeper.sweep()
    assert node.study(uid).state is StudyState.COMPLETE
    assert node.study(other.study_instance_uid).state is StudyState.ROUTED
    assert node.studies.routing(uid) is None
    (problem,) = problems(node)
    assert (problem.kind, problem.study_instance_uid) == (ProblemKind.MACHINE_TROUBLE, uid)
    assert "No such file or directory" in problem.text
    assert any(r.levelname == "ERROR" and getattr(r, "action", "") == "routing_put_off" for r in caplog.records)
    clock.pass_(REPORT_QUIET)
    sweeper.sweep()
    assert [j.study_instance_uid for j in node.jobs.list()] == [other.study_instance_uid]
    for segment in segments:
        (away / segment.name).rename(segment)
    clock.pass_(11)
    sweeper.sweep()
    assert node.study(uid).state is StudyState.ROUTED
    assert problems(node) == []


def problems(node: Node) -> list[Problem]:
    return list(Problems(node.database).list(ProblemLimits(START, START, frozenset())))


def test_what_the_site_says_of_its_series_feeds_an_input(node: Node, clock: Clock, tmp_path: Path) -> None:
    site = [SiteRule(Kind.T2W, series_description="*")]
    sweeper = Sweeps(node, clock, applications=[application(start=False, kind="T2w")], site=site)
    study = write_ball_study(tmp_path / "study")
    push(node, clock, study.paths, "a", 20)
    end(sweeper, node, clock)
    (job,) = node.jobs.list()
    assert (job.kind, job.application) == (JobKind.ANALYSIS, "mass")


def test_a_study_that_cannot_be_routed_is_reported(
    node: Node, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise KeyError("SECRET^PERSON")

    monkeypatch.setattr("dicom_node.route.sweep.route", broken)
    sweeper = Sweeps(node, clock, applications=[replace(application(start=False), no_result="failures")])
    push(node, clock, write_ball_study(tmp_path / "study").paths, "a", 20)
    end(sweeper, node, clock)
    assert [p.kind for p in problems(node)] == [ProblemKind.ROUTING_FAILED]
    clock.pass_(REPORT_QUIET)
    sweeper.sweep()
    (report,) = node.jobs.list()
    (told,) = report.detail.applications
    assert told.why == "failure"
    assert told.explanation.startswith("routing failed (KeyError)")


# -- priority ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "peer", "expected"), [(None, 0, 0), ("STAT", 0, 2), ("HIGH", 0, 1), (None, 3, 3), ("STAT", 1, 2)]
)
def test_a_job_is_as_urgent_as_its_study_or_its_peer(
    node: Node, clock: Clock, tmp_path: Path, asked: str | None, peer: int, expected: int
) -> None:
    sweeper = Sweeps(node, clock, applications=[application(start=False)], peers={"MR1": peer})
    study = write_ball_study(tmp_path / "study")
    push(node, clock, study.paths, "a", 20)
    if asked:
        bring(node, clock, 1, "a", study.study_instance_uid, priority=asked)
    release(node, clock, "a")
    for _ in range(12):
        sweeper.sweep()
        clock.pass_(1)
    assert [j.priority for j in node.jobs.list()] == [expected]


# -- late versions -----------------------------------------------------------------------------------------------------


def test_a_corrected_name_is_computed_again(node: Node, clock: Clock, tmp_path: Path) -> None:
    sweeper = Sweeps(node, clock, applications=[application(start=False)])
    study = write_ball_study(tmp_path / "study")
    push(node, clock, study.paths, "a", 20)
    release(node, clock, "a")
    for _ in range(12):
        sweeper.sweep()
        clock.pass_(1)
    corrected = dcmread(study.paths[3])
    corrected.PatientName = "PHANTOM^CORRECTED"
    corrected.save_as(study.paths[3])
    push(node, clock, study.paths, "b", 20)
    release(node, clock, "b")
    for _ in range(12):
        sweeper.sweep()
        clock.pass_(1)
    first, second = node.jobs.list()
    assert (first.revision, first.state, second.revision, second.state) == (
        1, JobState.CANCELLED, 2, JobState.QUEUED,
    )  # fmt: skip
    assert first.fingerprint != second.fingerprint
