"""What a worker writes beside results: that there is none, and that one is withdrawn."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.demo.simulator.phantom_study import PhantomStudy
from dicom_node.objects.profiles import ObjectProfile
from dicom_node.runtime.backoff import Backoff
from dicom_node.work.worker import Worker
from inference.contract.application import Progress
from inference.contract.findings import Algorithm, Findings, Segment
from inference.contract.inputs import InputRule
from inference.contract.manifest import Manifest
from inference.contract.series_input import SeriesInput
from inference.engine.models import TorchEngine
from inference.headers.reading import read_object
from inference.volumes.reading import read_volume
from storage.errors import InputRefused, WhyNoResult
from storage.records.instances import ReceivedInstance
from storage.records.jobs import JobKind, JobState, NewJob, WithoutResult
from storage.records.patients import PatientIdentity
from storage.records.results import ResultObject
from storage.tables.database.connection import Database, default_url
from tests.acceptance.studies import write_ball_study
from tests.objects.sources import ABNORMAL, MASS
from tests.storage.node import NOW, UNDECIDED, Node, overwrite, received, sent_file
from tests.validators import dciodvfy_errors
from tests.work.parts import build_worker

MANIFEST = Manifest("x", "mass", "1", "Mass of a limb", (InputRule("t1w", kind="T1w"),), Path("."), {}, "a")


class Application:
    """Finds the ball, or refuses."""

    manifest = MANIFEST
    algorithm = Algorithm("Ball", "1", "dicom-node tests", "0" * 64, "none")
    research = True

    def __init__(self, mask: Any, refusal: Exception | None = None) -> None:
        self.mask = mask
        self.refusal = refusal

    def run(self, inputs: Mapping[str, SeriesInput], engine: TorchEngine, progress: Progress) -> Findings:
        if self.refusal is not None:
            raise self.refusal
        volume = read_volume(inputs["t1w"].blobs)
        segment = Segment("Ball", self.mask, ABNORMAL, MASS, (255, 0, 0), "Ball", "2.25.77")
        return Findings(volume, (volume,), (segment,), self.algorithm, MANIFEST.title, datetime.now(UTC))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    database = Database(default_url(tmp_path))
    database.upgrade()
    yield Node(database, tmp_path / "data" / "instances")
    database.close()


@pytest.fixture
def study(node: Node, tmp_path: Path) -> PhantomStudy:
    """Received and indexed."""
    study = write_ball_study(tmp_path / "study")
    receive(node, study)
    return study


def receive(node: Node, study: PhantomStudy) -> None:
    filing = node.instances.filing()
    for path in study.paths:
        ds = dcmread(path, stop_before_pixels=True)
        instance = ReceivedInstance(
            str(ds.SOPInstanceUID), str(ds.SOPClassUID), str(ds.SeriesInstanceUID), str(ds.StudyInstanceUID),
            str(ds.file_meta.TransferSyntaxUID), "MR", "MR1", "", datetime.now(UTC),
        )  # fmt: skip
        node.add(filing, sent_file(path, instance))
    filing.commit()
    node.complete(study.study_instance_uid)


def worker(
    node: Node, application: Application | None, installation: str = "here", **profiles: ObjectProfile
) -> Worker:
    """With no application, it is one that cannot be used."""
    manifest = MANIFEST if application is not None else None
    configured = ConfiguredApplication("mass", tuple(profiles), manifest, "there is no such file")
    return build_worker(
        node,
        configured,
        application,
        profiles,
        node.root.parent / "objects",
        Backoff(0, 0, 2),
        heartbeat_seconds=5,
        installation=installation,
    )


def analysis(study: PhantomStudy, fingerprint: str = "f") -> NewJob:
    series = str(dcmread(study.paths[0], stop_before_pixels=True).SeriesInstanceUID)
    return NewJob(study.study_instance_uid, 1, "mass", {"t1w": series}, fingerprint)


def route(node: Node, job: NewJob) -> None:
    if node.study(job.study_instance_uid).state != "COMPLETE":
        assert node.studies.reroute(job.study_instance_uid)
    assert node.studies.route(job.study_instance_uid, 1, "applies", [job], UNDECIDED, NOW)


def tell(node: Node, study: PhantomStudy, *applications: WithoutResult) -> None:
    """Decide on the report of no result."""
    node.report(*applications, uid=study.study_instance_uid)


def predecessors(report: ResultObject) -> set[str]:
    return {
        str(sop.ReferencedSOPInstanceUID)
        for study in read_object(report.blob).get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for sop in series.ReferencedSOPSequence
    }


def made(node: Node, study: PhantomStudy, kind: str) -> tuple[ResultObject, Dataset]:
    """The latest object of this kind; valid."""
    *_, latest = [o for o in node.results.objects(study.study_instance_uid) if o.kind == kind and not o.stands_for]
    assert dciodvfy_errors(latest.blob.path) == []
    return latest, read_object(latest.blob)


def texts(ds: Dataset) -> str:
    return " ".join(str(item.TextValue) for item in ds.ContentSequence if item.ValueType == "TEXT")


def referenced(ds: Dataset) -> set[str]:
    """SOP Instance UIDs of the evidence."""
    keyword = "CurrentRequestedProcedureEvidenceSequence"
    return {
        str(sop.ReferencedSOPInstanceUID)
        for study in ds[keyword].value
        for series in study.ReferencedSeriesSequence
        for sop in series.ReferencedSOPSequence
    }


def test_an_analysis_that_refuses_is_reported_to_every_destination(node: Node, study: PhantomStudy) -> None:
    route(node, analysis(study))
    refusing = Application(study.mask, InputRefused("motion blurs the images", why=WhyNoResult.POOR_QUALITY))
    only_sr_left_out = ObjectProfile(objects=frozenset())
    busy = worker(node, refusing, pacs=ObjectProfile(), archive=only_sr_left_out)
    assert busy.work_one()
    tell(node, study, WithoutResult("mass", WhyNoResult.POOR_QUALITY, node.jobs.list()[0].reason, 1))
    assert busy.work_one()
    assert not busy.work_one()
    assert [(j.kind, j.state) for j in node.jobs.list()] == [
        (JobKind.ANALYSIS, JobState.FAILED),
        (JobKind.NO_RESULT, JobState.SUCCEEDED),
    ]
    report, ds = made(node, study, "SR")
    assert [d.destination for d in node.deliveries.list()] == ["archive", "pacs"]
    assert "motion blurs the images" in texts(ds)
    assert "poor" in str(ds.ContentSequence)
    assert report.study_instance_uid == study.study_instance_uid
    first = dcmread(study.paths[0], stop_before_pixels=True)
    assert str(first.PatientName) == str(ds.PatientName)
    assert not any(str(first.PatientID) in text for text in node.texts(study.study_instance_uid))


def test_an_error_nobody_foresaw_is_told_without_its_text(node: Node, study: PhantomStudy) -> None:
    route(node, analysis(study))
    busy = worker(node, Application(study.mask, ValueError("SECRET^PERSON")), pacs=ObjectProfile())
    while busy.work_one():
        pass
    (failed,) = node.jobs.list()
    assert failed.attempts == 2
    assert failed.why is WhyNoResult.FAILURE
    tell(node, study, WithoutResult("mass", failed.why, failed.reason, failed.id))
    assert busy.work_one()
    _, ds = made(node, study, "SR")
    assert "unexpected ValueError" in texts(ds)
    assert "SECRET" not in str(ds)


def test_an_unusable_application_and_a_damaged_image_leave_a_report(node: Node, study: PhantomStudy) -> None:
    uid = study.study_instance_uid
    assert node.studies.ignore(uid, 1, "nothing applies", UNDECIDED, NOW)
    tell(node, study, WithoutResult("mass", WhyNoResult.FAILURE, "there is no such file"))
    *others, last = node.instances.instances(uid)
    for instance in others:
        overwrite(instance.blob, lambda content: b"damaged".ljust(len(content), b"!"))
    assert worker(node, None, pacs=ObjectProfile()).work_one()
    _, ds = made(node, study, "SR")
    assert "there is no such file" in texts(ds)
    assert referenced(ds) == {last.sop_instance_uid}


def test_a_rejection_note_goes_to_those_who_got_something(node: Node, study: PhantomStudy) -> None:
    route(node, analysis(study))
    busy = worker(node, Application(study.mask), pacs=ObjectProfile(), archive=ObjectProfile(), down=ObjectProfile())
    assert busy.work_one()
    for destination, count in (("pacs", 2), ("archive", 1)):
        for _ in range(count):
            sent = node.next(destination)
            assert sent is not None
            assert node.deliveries.sent(sent.id, "dispatch", NOW)
    assert node.results.withdraw(1, "", NOW)
    assert busy.work_one()
    uids = {o.kind: o.sop_instance_uid for o in node.results.objects(study.study_instance_uid) if o.job_id == 1}
    notes = [o for o in node.results.objects(study.study_instance_uid) if o.kind == "REJECTION"]
    told = {note.destinations: referenced(read_object(note.blob)) for note in notes}
    assert told == {("archive",): {uids["SEG"]}, ("pacs",): {uids["SEG"], uids["SR"]}}
    _, ds = made(node, study, "REJECTION")
    assert ds.ConceptNameCodeSequence[0].CodeValue == "113001"
    assert ds.StudyInstanceUID == study.study_instance_uid


def test_a_rejection_note_of_a_study_of_two_patients_is_of_the_patient_of_the_result(
    node: Node, study: PhantomStudy
) -> None:
    """The images state another patient by now, and not all of them."""
    uid = study.study_instance_uid
    route(node, analysis(study))
    busy = worker(node, Application(study.mask), pacs=ObjectProfile())
    assert busy.work_one()
    node.arrive("pacs")
    patient = dcmread(study.paths[0]).PatientID
    for instance in node.instances.instances(uid):
        overwrite(instance.blob, lambda content: content.replace(patient.encode(), b"OTHER".ljust(len(patient))))
    for number, name in enumerate(("A", "B"), 1):
        sent = received(number, sop=f"1.2.99.{number}", patient=PatientIdentity(name))
        node.store(replace(sent, instance=replace(sent.instance, study_instance_uid=uid)))
    assert node.results.withdraw(1, "", NOW)
    assert busy.work_one()
    _, ds = made(node, study, "REJECTION")
    assert ds.PatientID == patient != "OTHER"


def test_a_superseded_result_is_withdrawn_where_that_is_wanted(node: Node, study: PhantomStudy) -> None:
    asking = ObjectProfile(withdraws_superseded=True)
    busy = worker(node, Application(study.mask), pacs=asking, archive=ObjectProfile())
    for weights in ("a", "b"):
        route(node, analysis(study, weights))
        assert busy.work_one()
        node.arrive("pacs")
    objects = node.results.objects(study.study_instance_uid)
    assert [o.kind for o in objects if "pacs" in o.destinations and not o.stands_for] == [
        "SEG", "SR", "SEG", "SR", "REJECTION",
    ]  # fmt: skip
    series = [
        (read_object(o.blob).SeriesNumber, read_object(o.blob).SeriesDescription[:16])
        for o in objects
        if o.kind == "SEG"
    ]
    assert set(series) == {(9001, "Mass of a SEG, R"), (9101, "Mass of a r2 SEG")}
    note, ds = made(node, study, "REJECTION")
    assert note.destinations == ("pacs",)
    assert referenced(ds) == {
        o.sop_instance_uid for o in objects if o.job_id == 1 and "pacs" in o.destinations and not o.stands_for
    }


def test_a_report_of_no_result_is_withdrawn_once_there_is_a_result(node: Node, study: PhantomStudy) -> None:
    """The report names the result before it as predecessor, the next result names the report, and a note rejects it."""
    uid = study.study_instance_uid
    busy = worker(node, Application(study.mask), pacs=ObjectProfile(), archive=ObjectProfile())
    route(node, analysis(study, "a"))
    assert busy.work_one()
    node.arrive("pacs")
    nothing = NewJob(uid, 1, "other", {}, "n")
    route(node, nothing)  # the application does not apply any more
    node.claim()
    node.jobs.fail(2, "worker", "broke", None, NOW)
    tell(node, study, WithoutResult("mass", WhyNoResult.INPUT_MISSING, "no series fits"))
    assert busy.work_one()
    result, report = (o for o in node.results.objects(uid) if o.kind == "SR")
    assert predecessors(report) == {result.sop_instance_uid}
    node.arrive("pacs")
    route(node, analysis(study, "b"))
    assert busy.work_one()
    *_, again = (o for o in node.results.objects(uid) if o.kind == "SR")
    assert predecessors(again) == {report.sop_instance_uid}
    node.arrive("pacs")
    tell(node, study)
    assert busy.work_one()
    note, ds = made(node, study, "REJECTION")
    assert note.destinations == ("pacs",)  # the archive is away, and never gets the report
    assert referenced(ds) == {report.sop_instance_uid}
    assert {d.object.id: d.state for d in node.deliveries.list() if d.destination == "archive"}[report.id] == "REPLACED"
    route(node, nothing)
    node.claim()
    node.jobs.fail(6, "worker", "broke", None, NOW)
    tell(node, study, WithoutResult("mass", WhyNoResult.INPUT_MISSING, "no series fits"))
    assert busy.work_one()
    *_, last = (o for o in node.results.objects(uid) if o.kind == "SR")
    assert predecessors(last) == {again.sop_instance_uid}  # a rejected report is nobody's predecessor


def test_each_destination_hears_of_the_applications_that_deliver_there(node: Node, study: PhantomStudy) -> None:
    route(node, NewJob(study.study_instance_uid, 1, "other", {}, "n"))
    both = ConfiguredApplication("mass", ("pacs", "archive"), MANIFEST)
    one = ConfiguredApplication("knee", ("pacs",), None, "there is no such file")
    profiles = {"pacs": ObjectProfile(), "archive": ObjectProfile()}
    objects_dir = node.root.parent / "objects"
    busy = build_worker(node, (both, one), Application(study.mask), profiles, objects_dir, Backoff(0, 0, 2))
    assert node.claim()
    missing = [WithoutResult(name, WhyNoResult.INPUT_MISSING, f"no series of {name} fits") for name in ("mass", "knee")]
    tell(node, study, *missing)
    assert busy.work_one()
    written = [o for o in node.results.objects(study.study_instance_uid) if not o.stands_for]
    told = {o.destinations: texts(read_object(o.blob)) for o in written}
    assert set(told) == {("pacs",), ("archive",)}
    assert "no series of mass fits" in told["archive",]
    assert "knee" not in told["archive",]
    assert "no series of mass fits" in told["pacs",]
    assert "no series of knee fits" in told["pacs",]
    _, ds = made(node, study, "SR")
    assert "This says nothing of the patient" in texts(ds)
