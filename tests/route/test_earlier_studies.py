"""Studies of one patient as time points: which are taken, in whatever order they come, and what the worker is given."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from rich.console import Console
from sqlalchemy import update

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.demo.explanation_tree import explanation_tree
from dicom_node.objects.profiles import ObjectProfile
from dicom_node.read.explanation import Explanation
from dicom_node.read.study import read_study
from dicom_node.route import earlier_studies
from dicom_node.route.earlier_studies import EarlierStudies
from dicom_node.route.identification import ExistingPatients
from dicom_node.route.received_series import ReceivedSeries
from dicom_node.route.recognition import SeriesRecogniser
from inference.contract.findings import Findings
from inference.contract.inputs import EarlierRule, InputRule
from inference.contract.manifest import Manifest
from inference.contract.series_input import SeriesInput
from inference.headers.reading import read_object
from inference.series.recogniser import recognise_headers
from storage.records.jobs import Job, JobKind, JobState
from storage.records.studies import StudyState
from storage.tables.database.schema import StudyRow
from storage.tables.patients import Patients
from tests.acceptance.studies import write_ball_study
from tests.inference.series.test_recogniser import header
from tests.objects.sources import findings, read
from tests.schedule.sweeps import Clock, Sweeps, push, release
from tests.storage.node import Node
from tests.stores import stores_of
from tests.work.parts import build_worker

SECRET = "SECRET-7"


def application(earlier: EarlierRule | None) -> ConfiguredApplication:
    manifest = Manifest("x", "mass", "1", "X", (InputRule("t1w", kind="T1w"),), Path("."), {}, "a", earlier)
    return ConfiguredApplication("mass", ("pacs",), manifest)


class Course:
    """A node to which studies of one patient come."""

    def __init__(self, node: Node, folder: Path, earlier: EarlierRule | None = EarlierRule(maximum=2)) -> None:  # noqa: B008
        self.node = node
        self.folder = folder
        self.clock = Clock()
        self.patients = Patients(node.database, folder / "patients.key")
        self.use(earlier)

    def use(self, earlier: EarlierRule | None) -> None:
        self.sweeps = Sweeps(self.node, self.clock, applications=[application(earlier)], patients=self.patients)

    def start(self) -> ExistingPatients:
        """The part that a start of the role begins, and that goes on beside the sweeps."""
        instances = self.node.instances
        received = ReceivedSeries(instances)
        earlier = EarlierStudies(self.patients, instances, received, SeriesRecogniser(instances))
        return ExistingPatients(self.patients, earlier, self.node.studies)

    def forget(self) -> None:
        """Leave the studies as they were before the index identified patients."""
        with self.node.database.session() as session:
            session.execute(update(StudyRow).values(subject=None, routed_subject=None))

    def write(self, name: str, **attributes: str) -> tuple[str, list[Path]]:
        study = write_ball_study(self.folder / name)
        for path in study.paths:
            change(path, {"PatientID": SECRET, "StudyTime": "100000", **attributes})
        return study.study_instance_uid, study.paths

    def bring(self, name: str, **attributes: str) -> str:
        """A study comes, and everything is routed. Its UID."""
        uid, paths = self.write(name, **attributes)
        self.push(name, paths)
        return uid

    def push(self, association: str, paths: list[Path], declared: int = 20, seconds: int = 14) -> None:
        push(self.node, self.clock, paths, association, declared)
        release(self.node, self.clock, association)
        for _ in range(seconds):
            self.clock.pass_(1)
            self.sweeps.sweep()

    def jobs(self, uid: str, kind: JobKind = JobKind.ANALYSIS) -> list[Job]:
        return [job for job in self.node.jobs.list(study=uid) if job.kind is kind]

    def points(self, uid: str) -> list[str]:
        """The studies that the standing job takes beside its own, the oldest first."""
        *_, job = self.jobs(uid)
        assert job.state is JobState.QUEUED
        keys = ["t1w", *(f"t1w@{n}" for n in range(1, len(job.detail.earlier) + 1))]
        assert list(job.inputs) == keys
        return list(job.detail.earlier)

    def explained(self, uid: str) -> str:
        detail = read_study(stores_of(self.node), self.node.study(uid))
        console = Console(width=500, record=True, file=StringIO())
        console.print(explanation_tree(Explanation(detail, self.node.studies.routing(uid))))
        return console.export_text()


def study_of(inputs: Mapping[str, SeriesInput]) -> str:
    return str(read_object(inputs["t1w"].blobs[0]).StudyInstanceUID)


def change(path: Path, attributes: Mapping[str, str]) -> None:
    ds = dcmread(path)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.save_as(path)


def test_an_earlier_study_is_taken_whenever_it_comes(node: Node, tmp_path: Path) -> None:
    course = Course(node, tmp_path)
    second = course.bring("second", StudyDate="20260301")
    assert course.points(second) == []
    other = course.bring("other", StudyDate="20260102", IssuerOfPatientID="OTHER HOSPITAL")
    first = course.bring("first", StudyDate="20260101")
    assert course.points(first) == course.points(other) == []
    assert course.points(second) == [first]
    assert [j.state for j in course.jobs(second)] == [JobState.CANCELLED, JobState.QUEUED]
    assert f"complete: to be routed again: the earlier study {first} of the patient came" in node.texts(second)
    third = course.bring("third", StudyDate="20260301", StudyTime="100001")
    assert course.points(third) == [first, second]
    text = course.explained(third)
    assert f"earlier study {first}, 59 days before: taken as time point 1" in text
    assert f"earlier study {second}, 0 days before: taken as time point 2" in text
    assert "input t1w: series" in text
    assert "(takes MR, T1w, at least 3 slices)" in text
    assert SECRET not in text + str(node.studies.routing(third)) + str(node.texts(third))
    between = course.bring("between", StudyDate="20260201")
    assert course.points(between) == [first]
    assert course.points(second) == [first, between]
    assert course.points(third) == [first, second]  # two at most: the first and the latest
    assert "fits, but only 2 earlier studies are taken" in course.explained(third)
    assert all(node.study(uid).state is StudyState.ROUTED for uid in (first, second, third, between))
    count = len(node.jobs.list())
    for _ in range(5):
        course.sweeps.sweep()
    assert len(node.jobs.list()) == count


def test_a_late_image_of_an_earlier_study_is_computed_with(node: Node, tmp_path: Path) -> None:
    course = Course(node, tmp_path)
    uid, (*most, last) = course.write("first", StudyDate="20260101")
    course.push("first", most, declared=19)
    second = course.bring("second", StudyDate="20260301")
    (before,) = course.jobs(second)
    course.push("late", [last], declared=19, seconds=40)
    *_, after = course.jobs(second)
    assert course.points(second) == [uid]
    assert before.inputs == after.inputs
    assert before.fingerprint != after.fingerprint


def test_a_corrected_patient_id_takes_the_study_away(node: Node, tmp_path: Path) -> None:
    course = Course(node, tmp_path)
    first, paths = course.write("first", StudyDate="20260101")
    course.push("first", paths)
    second = course.bring("second", StudyDate="20260301")
    assert course.points(second) == [first]
    for path in paths:
        change(path, {"PatientID": "SECRET-8"})
    course.push("corrected", paths)
    assert course.points(second) == []


def test_a_corrected_patient_id_takes_the_study_away_once_its_images_can_be_read(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = Course(node, tmp_path)
    first, paths = course.write("first", StudyDate="20260101")
    course.push("first", paths)
    second = course.bring("second", StudyDate="20260301")
    for path in paths:
        change(path, {"PatientID": "SECRET-8"})
    with monkeypatch.context() as away:
        away.setattr(earlier_studies, "sample_header", Mock(side_effect=OSError("the disk is away")))
        course.push("corrected", paths, seconds=40)
    assert node.study(first).state is StudyState.COMPLETE
    course.push("nothing", [])
    assert course.points(second) == []


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"StudyDate": "20260101", "PatientBirthDate": "19000101"}, "another birth date or sex"),
        ({"StudyDate": "20260301"}, "do not say which one is earlier"),
        ({"StudyDate": "20260101", "Modality": "CT"}, "no series fits (MR, T1w"),
        ({"StudyDate": "20260101", "BodyPartExamined": "KNEE"}, "shows KNEE, and the study THIGH"),
        ({"StudyDate": "20260101", "ImageLaterality": "L"}, "shows the left side, and the study the right"),
        ({"StudyDate": "20260401"}, "none is here"),
    ],
)
def test_what_is_no_earlier_time_point_says_why(
    node: Node, tmp_path: Path, attributes: dict[str, str], told: str
) -> None:
    course = Course(node, tmp_path, EarlierRule(required=True))
    other = course.bring("other", **attributes)
    uid = course.bring("study", StudyDate="20260301", PatientBirthDate="19500101", Laterality="R")
    assert course.jobs(uid) == []
    routing = node.studies.routing(uid)
    assert routing is not None
    (decision,) = routing.applications
    assert decision.reason.startswith("no earlier study of the same patient can be used: ")
    assert told in decision.reason
    assert other not in decision.reason
    listed = told != "none is here"
    assert ((other in course.explained(uid)), (told in course.explained(uid))) == (listed, True)


def test_studies_from_before_anybody_asked_are_found(node: Node, tmp_path: Path) -> None:
    course = Course(node, tmp_path, earlier=None)
    first = course.bring("first", StudyDate="20260101")
    course.forget()
    course.use(EarlierRule())
    existing = course.start()
    second = course.bring("second", StudyDate="20260301")
    assert course.points(second) == []
    existing.advance()
    course.clock.pass_(1)
    course.sweeps.sweep()
    assert course.points(second) == [first]
    course.forget()
    course.start().advance()  # what was routed before it is not routed again
    assert node.study(second).state is StudyState.ROUTED
    assert course.patients.others(second) == [first]


def test_the_worker_gives_the_series_of_each_time_point(node: Node, tmp_path: Path) -> None:
    course = Course(node, tmp_path)
    first = course.bring("first", StudyDate="20251224", AcquisitionDate="20251225")
    second = course.bring("second", StudyDate="20260301", AcquisitionDate="")
    given: dict[str, dict[str, SeriesInput]] = {}

    def run(inputs: dict[str, SeriesInput], *_: object) -> None:
        given[study_of(inputs)] = inputs
        raise RuntimeError

    worker = build_worker(node, application(None), SimpleNamespace(run=run), {}, tmp_path / "objects")
    assert worker.work_one()
    assert worker.work_one()
    assert list(given[first]) == ["t1w"]
    now, before = given[second]["t1w"], given[second]["t1w@1"]
    assert (now.time_point, now.acquired) == (0, date(2026, 3, 1))
    assert (before.name, before.time_point, before.acquired) == ("t1w", 1, date(2025, 12, 25))
    assert before == replace(given[first]["t1w"], time_point=1)
    assert len(before.blobs) == 20


def test_the_report_tells_of_earlier_studies_that_were_not_compared(node: Node, tmp_path: Path) -> None:
    course = Course(node, tmp_path, EarlierRule())
    course.bring("first", StudyDate="20260101", AcquisitionDate="20260101")
    course.bring("knee", StudyDate="20260102", AcquisitionDate="20260102", BodyPartExamined="KNEE")
    course.bring("ct", StudyDate="20260103", AcquisitionDate="20260103", Modality="CT")  # of this nothing is told
    course.bring("doubtful", StudyDate="20260104", AcquisitionDate="20260104", PatientSex="F")
    second = course.bring("second", StudyDate="20260105", AcquisitionDate="20260105")
    uid, paths = course.write("third", StudyDate="20260301")
    course.push("third", paths)
    assert course.points(uid) == [second]
    found = findings(read(paths[0].parent), ())

    def run(inputs: dict[str, SeriesInput], *_: object) -> Findings:
        assert study_of(inputs) == uid  # the jobs of the other studies fail
        return found

    profiles = {"pacs": ObjectProfile()}
    worker = build_worker(node, application(None), SimpleNamespace(run=run), profiles, tmp_path / "objects")
    while worker.work_one():
        pass
    (report,) = (result for result in node.results.objects(uid) if result.kind == "SR")
    said = [str(element.value) for element in read_object(report.blob).iterall() if element.keyword == "TextValue"]
    assert [text for text in said if text in found.notes or "not compared" in text] == [
        *found.notes,
        "The earlier study of 2026-01-01 was not compared: fits, but only 1 earlier study is taken: "
        "the smallest size before (nadir) may be missed.",
        "The earlier study of 2026-01-02 was not compared: shows KNEE, and the study THIGH.",
        "The other study of 2026-01-04 was not compared: has the same Patient ID, but another birth date or sex: "
        "it may be of another patient.",
    ]


def test_an_earlier_study_that_is_not_taken_makes_another_report(node: Node, tmp_path: Path) -> None:
    course = Course(node, tmp_path)
    second = course.bring("second", StudyDate="20260301")
    course.bring("knee", StudyDate="20260101", BodyPartExamined="KNEE")
    assert course.points(second) == []
    before, after = course.jobs(second)
    assert before.inputs == after.inputs
    assert before.fingerprint != after.fingerprint
    assert node.studies.reroute(second)
    course.clock.pass_(1)
    course.sweeps.sweep()
    assert course.jobs(second) == [before, after]  # nothing new: the job stands


@pytest.mark.parametrize(
    ("sides", "told"), [(["L", "L"], "L"), (["R", ""], "R"), (["R", "L"], ""), (["B", "B"], ""), (["", ""], "")]
)
def test_the_side_that_a_series_shows(sides: list[str], told: str) -> None:
    assert recognise_headers([header(k, Laterality=side) for k, side in enumerate(sides)]).laterality == told
    assert recognise_headers([header(k, ImageLaterality=side) for k, side in enumerate(sides)]).laterality == told
    enhanced = header(SharedFunctionalGroupsSequence=[Dataset()], PerFrameFunctionalGroupsSequence=[])
    for side in sides:
        anatomy, frame = Dataset(), Dataset()
        anatomy.FrameLaterality = side
        frame.FrameAnatomySequence = [anatomy]
        enhanced.PerFrameFunctionalGroupsSequence.append(frame)
    assert recognise_headers([enhanced]).laterality == told
