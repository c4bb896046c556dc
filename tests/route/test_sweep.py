"""The routing sweep: what is reported, how urgent a job is, and what late versions do."""

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from inference.series.kinds import Kind
from inference.series.site_table import SiteRule
from storage.records.jobs import JobKind, JobState
from storage.records.studies import StudyState
from tests.acceptance.studies import write_ball_study
from tests.schedule.sweeps import Clock, Sweeps, application, bring, end, push, release
from tests.storage.node import Node


def test_a_study_without_a_usable_input_is_reported_when_it_is_complete(
    node: Node, clock: Clock, tmp_path: Path
) -> None:
    sweeper = Sweeps(node, clock, applications=[application(kind="T2w")])
    study = write_ball_study(tmp_path / "study")
    uid = study.study_instance_uid
    push(node, clock, study.paths, "a", 20)
    clock.pass_(3)
    sweeper.sweep()
    assert node.study(uid).state is StudyState.RECEIVING
    assert node.jobs.list() == []  # it could have started on its inputs
    end(sweeper, node, clock)
    assert node.study(uid).state is StudyState.IGNORED
    (report,) = node.jobs.list()
    assert (report.kind, report.application, report.revision) == (JobKind.NO_RESULT, "mass", 1)
    assert report.detail.why == "input-missing"
    assert report.detail.explanation in node.study(uid).reason
    assert node.studies.reroute(uid)
    sweeper.sweep()
    assert node.study(uid).state is StudyState.IGNORED
    assert len(node.jobs.list()) == 1


def test_one_application_applies_and_another_reports(node: Node, clock: Clock, tmp_path: Path) -> None:
    other = replace(application(start=False, kind="T2w"), name="other")
    sweeper = Sweeps(node, clock, applications=[application(start=False), other])
    study = write_ball_study(tmp_path / "study")
    push(node, clock, study.paths, "a", 20)
    end(sweeper, node, clock)
    assert node.study(study.study_instance_uid).state is StudyState.ROUTED
    assert [(j.application, j.kind) for j in node.jobs.list()] == [
        ("mass", JobKind.ANALYSIS),
        ("other", JobKind.NO_RESULT),
    ]


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
    sweeper = Sweeps(node, clock, applications=[application(start=False)])
    push(node, clock, write_ball_study(tmp_path / "study").paths, "a", 20)
    end(sweeper, node, clock)
    (report,) = node.jobs.list()
    assert report.detail.why == "failure"
    assert report.detail.explanation.startswith("routing failed (KeyError)")


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
