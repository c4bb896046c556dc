"""What a worker writes beside results: that there is none, and that one is withdrawn."""

from collections.abc import Iterator, Mapping
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
from inference.volumes.reading import read_volume
from storage.errors import InputRefused, WhyNoResult
from storage.records.instances import ReceivedInstance
from storage.records.jobs import JobKind, JobState, NewJob, NoResultDetail
from storage.records.results import ResultObject
from storage.tables.database.connection import Database, default_url
from tests.acceptance.studies import write_ball_study
from tests.objects.sources import ABNORMAL, MASS
from tests.storage.node import NOW, UNDECIDED, Node
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
        volume = read_volume(inputs["t1w"].paths)
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
        filing.instance(instance, path.read_bytes())
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


def made(node: Node, study: PhantomStudy, kind: str) -> tuple[ResultObject, Dataset]:
    """The latest object of this kind; valid."""
    *_, latest = [o for o in node.results.objects(study.study_instance_uid) if o.kind == kind and not o.stands_for]
    assert dciodvfy_errors(latest.path) == []
    return latest, dcmread(latest.path)


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
    assert node.jobs.list()[0].attempts == 2
    _, ds = made(node, study, "SR")
    assert "unexpected ValueError" in texts(ds)
    assert "SECRET" not in str(ds)


def test_an_unusable_application_and_a_damaged_image_leave_a_report(node: Node, study: PhantomStudy) -> None:
    uid = study.study_instance_uid
    detail = NoResultDetail(WhyNoResult.FAILURE, "there is no such file")
    report = NewJob(uid, 1, "mass", {}, "f", detail=detail)
    assert node.studies.ignore(uid, 1, "nothing applies", UNDECIDED, NOW, reports=[report])
    *others, last = node.instances.instances(uid)
    for instance in others:
        instance.path.chmod(0o600)
        instance.path.write_bytes(b"damaged")
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
    told = {note.destinations: referenced(dcmread(note.path)) for note in notes}
    assert told == {("archive",): {uids["SEG"]}, ("pacs",): {uids["SEG"], uids["SR"]}}
    _, ds = made(node, study, "REJECTION")
    assert ds.ConceptNameCodeSequence[0].CodeValue == "113001"
    assert ds.StudyInstanceUID == study.study_instance_uid


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
    note, ds = made(node, study, "REJECTION")
    assert note.destinations == ("pacs",)
    assert referenced(ds) == {
        o.sop_instance_uid for o in objects if o.job_id == 1 and "pacs" in o.destinations and not o.stands_for
    }


def test_what_stood_before_a_report_of_no_result_is_withdrawn_too(node: Node, study: PhantomStudy) -> None:
    """That report withdraws nothing; the next result does it for both."""
    uid = study.study_instance_uid
    busy = worker(node, Application(study.mask), pacs=ObjectProfile(withdraws_superseded=True))
    detail = NoResultDetail(WhyNoResult.FAILURE, "the model folder is gone")
    nothing = NewJob(uid, 1, "mass", {}, "n", detail=detail)
    for job in (analysis(study, "a"), nothing, analysis(study, "b"), analysis(study, "c")):
        route(node, job)
        assert busy.work_one()
        node.arrive("pacs")
    sent = [o for o in node.results.objects(uid) if not o.stands_for]
    first, second = (referenced(dcmread(o.path)) for o in sent if o.kind == "REJECTION")
    assert first == {o.sop_instance_uid for o in sent if o.job_id in (1, 2)}
    assert second == {o.sop_instance_uid for o in sent if o.job_id == 3 and o.kind != "REJECTION"}


def test_uids_depend_on_the_installation_and_on_no_number_of_a_row(
    node: Node, study: PhantomStudy, tmp_path: Path
) -> None:
    """A node whose database was lost numbers its jobs anew, and another installation may receive the same images."""
    (tmp_path / "lost").mkdir()
    database = Database(default_url(tmp_path / "lost"))
    database.upgrade()
    again = Node(database, tmp_path / "lost" / "instances")
    receive(again, study)
    again_first = NewJob(study.study_instance_uid, 1, "another", {}, "f")
    assert again.studies.route(study.study_instance_uid, 1, "applies", [again_first], UNDECIDED, NOW)
    assert again.jobs.claim("w", NOW) is not None
    uids = {}
    for place, installation, fingerprint in (
        (node, "here", "f"), (again, "here", "f"), (node, "there", "g"), (again, "here", "g"),
    ):  # fmt: skip
        route(place, analysis(study, fingerprint))
        assert worker(place, Application(study.mask), installation, pacs=ObjectProfile()).work_one()
        made = [o for o in place.results.objects(study.study_instance_uid) if o.kind == "SEG"]
        uids[len(uids)] = made[-1].sop_instance_uid
    assert uids[0] == uids[1]
    assert len({*uids.values()}) == 3
    database.close()
