"""The completion of studies by a running node: scanners that abort, forget, declare and report, and a real PACS that
is asked for its count."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import ModalityPerformedProcedureStep

from dicom_node.demo.pacs.base import Pacs
from dicom_node.demo.simulator.phantom_study import PhantomStudy
from dicom_node.dimse.scu import OutgoingInstance, StorageSCU, send_files
from storage.blobs import FileBlob, file_blobs
from tests.acceptance.node import SCANNER, Node, delivered
from tests.acceptance.studies import write_ball_study

SETTLED, MAXIMUM_AGE = 1.0, 90.0
RELEASED = 10.0  # longer than it takes until the source is asked again, on a machine that is busy
QUIET = 16.0
COMPLETION = f"""
settled_seconds = {SETTLED}
released_seconds = {RELEASED}
quiet_seconds = {QUIET}
maximum_age_seconds = {MAXIMUM_AGE}
source = "pacs"
"""


@pytest.fixture(scope="module")
def place(make_node: Callable[..., tuple[Node, Pacs]]) -> tuple[Node, Pacs]:
    node, pacs = make_node()
    node.stop()
    text = node.config.read_text()
    for old, new in (("quiet_seconds = 1.5", COMPLETION), ('name = "model"', 'name = "model"\nstart = "inputs"')):
        assert old in text
        text = text.replace(old, new)
    node.config.write_text(text)
    node.start()
    return node, pacs


def write_study(folder: Path, **attributes: Any) -> PhantomStudy:
    """Write a T1w series of 20 slices whose headers also say `attributes`."""
    study = write_ball_study(folder)
    for path in study.paths:
        ds = dcmread(path)
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        ds.save_as(path)
    return study


def write_t2w(folder: Path, study: PhantomStudy, count: int = 20) -> list[Path]:
    """Another series of the study, which no input of the application takes; it declares nothing."""
    folder.mkdir()
    series_instance_uid = generate_uid()
    paths = []
    for n, source in enumerate(study.paths[:count]):
        ds = dcmread(source)
        ds.SeriesInstanceUID, ds.SeriesNumber = series_instance_uid, 2
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.RepetitionTime, ds.EchoTime = 4000, 80
        if "ImagesInAcquisition" in ds:
            del ds.ImagesInAcquisition
        paths.append(folder / f"{n:04d}.dcm")
        ds.save_as(paths[-1])
    return paths


def push(node: Node, paths: Sequence[Path]) -> None:
    """Over one association, which is released."""
    results = send_files(file_blobs(paths), SCANNER, node.target)
    assert all(r.ok for r in results), [r.reason for r in results if not r.ok]


def association(node: Node, paths: Sequence[Path]) -> StorageSCU:
    """Return an association for these files, which sends nothing by itself."""
    contexts = [c for path in paths for c in OutgoingInstance.from_blob(FileBlob(path)).contexts()]
    return StorageSCU(SCANNER, node.target, contexts, 30)


def complete(revision: int = 1) -> Callable[[dict[str, Any]], bool]:
    return lambda detail: any(e["stage"] == "complete" and e["revision"] == revision for e in detail["timeline"])


def completion(node: Node, uid: str, revision: int = 1) -> dict[str, Any]:
    """The event of that revision, with the seconds since its first instance was received."""
    detail = node.wait(uid, complete(revision), seconds=MAXIMUM_AGE + 30)
    (event,) = [e for e in detail["timeline"] if e["stage"] == "complete" and e["revision"] == revision]
    return dict(event)


def waits(node: Node, uid: str, words: str, seconds: float = QUIET) -> dict[str, Any]:
    """Return what `explain` says of a study that waits, as soon as it says `words`."""
    deadline = time.monotonic() + seconds
    explained: dict[str, Any] = {}
    while time.monotonic() < deadline:
        if node.study(uid) is not None:
            explained = node.command("explain", uid)
            if explained["waiting"] and words in explained["waiting"]["reason"]:
                return explained
        time.sleep(0.3)
    raise AssertionError(f"never {words!r}: {explained.get('state')} {explained.get('waiting')}")


def test_declared_counts_complete_a_study_at_once(place: tuple[Node, Pacs], tmp_path: Path) -> None:
    node, _ = place
    study = write_study(tmp_path / "study", ImagesInAcquisition=20)
    push(node, study.paths)
    event = completion(node, study.study_instance_uid)
    assert event["data"]["evidence"] == "declared counts"
    assert "20 of 20 declared images; all associations released and quiet for 1 s" in event["text"]
    source = event["data"]["numbers"]["source"]  # it was asked, and has the result at most, which may come first
    assert source["count"] == source["own_results"]
    (explained,) = node.command("explain", study.study_instance_uid)["completion"]
    assert explained["data"] == event["data"]
    node.wait(study.study_instance_uid, delivered())


def test_a_screenshot_in_a_series_costs_neither_its_count_nor_its_result(
    place: tuple[Node, Pacs], tmp_path: Path
) -> None:
    node, _ = place
    study = write_study(tmp_path / "study", ImagesInAcquisition=20)
    uid = study.study_instance_uid
    ds = dcmread(study.paths[0])
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    del ds.ImagePositionPatient, ds.ImageOrientationPatient
    ds.save_as(tmp_path / "screenshot.dcm")
    push(node, [*study.paths, tmp_path / "screenshot.dcm"])
    event = completion(node, uid)
    assert event["data"]["evidence"] == "declared counts"
    assert "20 of 20 declared images" in event["text"]
    detail = node.wait(uid, delivered())
    assert [(job["kind"], job["state"]) for job in detail["jobs"]] == [("ANALYSIS", "SUCCEEDED")]
    explained = str(node.command("explain", uid))
    assert f"object {ds.InstanceNumber} is left out: it is a capture of a screen" in explained


def test_varying_spacing_is_no_missing_slice(place: tuple[Node, Pacs], tmp_path: Path) -> None:
    node, _ = place
    study = write_study(tmp_path / "study")
    uid = study.study_instance_uid
    for n, path in enumerate(sorted(study.paths, key=lambda path: float(dcmread(path).ImagePositionPatient[2]))):
        ds = dcmread(path)
        place_of_slice = 4.0 * n if n < 10 else 40.0 + 7.0 * (n - 10)
        ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], place_of_slice]
        ds.save_as(path)
    push(node, study.paths)
    event = completion(node, uid)
    assert event["data"]["evidence"] == "associations released"
    node.wait(uid, lambda detail: detail["state"] == "IGNORED")
    timeline = str(node.command("explain", uid))
    assert "the spacing varies: its slices lie 4.00 to 7.00 mm apart, and none is missing" in timeline
    assert "again" not in timeline


def test_a_missing_slice_is_waited_for_and_named(place: tuple[Node, Pacs], tmp_path: Path) -> None:
    node, _ = place
    study = write_study(tmp_path / "study", ImagesInAcquisition=20)
    uid = study.study_instance_uid
    push(node, study.paths[:-1])
    explained = waits(node, uid, "19 of 20 declared images in series")
    assert (explained["state"], explained["completion"]) == ("RECEIVING", [])
    event = completion(node, uid)
    assert (event["data"]["evidence"], event["data"]["waited_seconds"]) == ("quiet period", QUIET)
    assert "19 of 20 declared images in series" in event["text"]
    push(node, study.paths[-1:])
    late = completion(node, uid, revision=2)
    assert late["data"]["evidence"] == "declared counts"
    node.wait(uid, delivered(2))


def test_the_count_of_the_pacs_decides(place: tuple[Node, Pacs], tmp_path: Path) -> None:
    node, pacs = place
    study = write_study(tmp_path / "study", ImagesInAcquisition=20)
    uid = study.study_instance_uid
    other = write_t2w(tmp_path / "t2w", study)
    assert all(r.ok for r in send_files(file_blobs([*study.paths, *other]), "DICOM_NODE", pacs.target))
    push(node, study.paths)
    explained = waits(node, uid, "20 of 40 instances that pacs counts")
    assert explained["asked"][0]["data"]["count"] == 40
    push(node, other)
    event = completion(node, uid)
    assert event["data"]["evidence"] == "count of the source PACS"
    assert "40 instances; pacs counts 40 instances too" in event["text"]
    detail = node.wait(uid, delivered())
    assert [j["revision"] for j in detail["jobs"]] == [1]

    # Our own results, which the PACS now holds as well, are no images that are missing here.
    late = write_t2w(tmp_path / "late", study, 5)
    assert all(r.ok for r in send_files(file_blobs(late), "DICOM_NODE", pacs.target))
    push(node, late)
    event = completion(node, uid, revision=2)
    assert event["data"]["evidence"] == "count of the source PACS"
    assert event["data"]["numbers"]["source"] | {"at": ""} == {
        "name": "pacs", "count": 47, "own_results": 2, "problem": "", "at": "",
    }  # fmt: skip


@pytest.mark.slow
def test_an_abort_and_a_resend_wait_longer_not_less(place: tuple[Node, Pacs], tmp_path: Path) -> None:
    node, _ = place
    study = write_study(tmp_path / "study", ImagesInAcquisition=20)
    uid = study.study_instance_uid
    with suppress(RuntimeError), association(node, study.paths) as scu:
        for path in study.paths[:8]:
            assert scu.store(OutgoingInstance.from_blob(FileBlob(path))).ok
        raise RuntimeError("the scanner's network broke")
    waits(node, uid, "after an aborted association")
    push(node, study.paths)
    event = completion(node, uid)
    assert event["data"]["evidence"] == "declared counts"
    assert f"20 of 20 declared images; quiet for {QUIET:g} s after an aborted association" in event["text"]
    assert event["data"]["numbers"]["associations"] == {"open": 0, "aborted": 1, "released": 1}


def test_a_procedure_step_keeps_a_study_waiting_until_it_is_completed(place: tuple[Node, Pacs], tmp_path: Path) -> None:
    node, _ = place
    study = write_study(tmp_path / "study", ImagesInAcquisition=20)
    uid = study.study_instance_uid
    step = generate_uid()
    report_step(node, step, begin_step(uid))
    push(node, study.paths)
    explained = waits(node, uid, "waits while a procedure step is IN PROGRESS")
    assert explained["waiting"]["numbers"]["procedure_steps"]["in_progress"] == 1
    time.sleep(RELEASED)
    found = node.study(uid)
    assert found is not None
    assert found["state"] == "RECEIVING"
    report_step(node, step, end_step(study.paths), ends=True)
    event = completion(node, uid)
    assert event["data"]["evidence"] == "MPPS"
    assert "the procedure step is completed and all 20 instances listed are here" in event["text"]


def test_an_application_starts_on_its_inputs_and_stat_goes_ahead(place: tuple[Node, Pacs], tmp_path: Path) -> None:
    node, _ = place
    study = write_study(tmp_path / "study", ImagesInAcquisition=20, RequestedProcedurePriority="STAT")
    uid = study.study_instance_uid
    other = write_t2w(tmp_path / "t2w", study)
    with association(node, [*study.paths, *other]) as scu:
        for path in study.paths:
            assert scu.store(OutgoingInstance.from_blob(FileBlob(path))).ok
        for path in other:
            assert scu.store(OutgoingInstance.from_blob(FileBlob(path))).ok
            time.sleep(0.4)
        detail = node.wait(uid, lambda d: bool(d["jobs"]), seconds=20)
        assert detail["state"] == "RECEIVING"
        (job,) = detail["jobs"]
        assert job["priority"] == detail["priority"] == 2
    detail = node.wait(uid, lambda d: d["state"] == "ROUTED", seconds=60)
    detail = node.wait(uid, delivered())
    assert [j["id"] for j in detail["jobs"]] == [job["id"]]  # the same instances: its result stands
    (early,) = node.command("explain", uid)["early"]
    assert "20 of 20 declared images" in early["text"]
    assert [j["priority"] for j in node.command("jobs") if j["study_instance_uid"] == uid] == [2]


# -- MPPS as a scanner sends it (PS3.3 C.4.13 to C.4.15, PS3.4 F.7) ----------------------------------------------------


def begin_step(study_instance_uid: str) -> Dataset:
    scheduled = Dataset()
    scheduled.StudyInstanceUID = study_instance_uid
    scheduled.ReferencedStudySequence = []
    for keyword in (
        "AccessionNumber", "RequestedProcedureID", "RequestedProcedureDescription", "ScheduledProcedureStepID",
        "ScheduledProcedureStepDescription",
    ):  # fmt: skip
        setattr(scheduled, keyword, "")
    scheduled.ScheduledProtocolCodeSequence = []
    ds = Dataset()
    ds.ScheduledStepAttributesSequence = [scheduled]
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "PHANTOM^LIMB", "PHANTOM-1", "", ""
    ds.ReferencedPatientSequence = []
    ds.PerformedProcedureStepID = "1"
    ds.PerformedStationAETitle, ds.PerformedStationName, ds.PerformedLocation = SCANNER, "", ""
    ds.PerformedProcedureStepStartDate, ds.PerformedProcedureStepStartTime = "20260105", "090000"
    ds.PerformedProcedureStepEndDate, ds.PerformedProcedureStepEndTime = "", ""
    ds.PerformedProcedureStepStatus = "IN PROGRESS"
    ds.PerformedProcedureStepDescription = ds.PerformedProcedureTypeDescription = ""
    ds.ProcedureCodeSequence = []
    ds.Modality, ds.StudyID = "MR", ""
    ds.PerformedProtocolCodeSequence = []
    ds.PerformedSeriesSequence = []
    return ds


def end_step(paths: Sequence[Path]) -> Dataset:
    headers = [dcmread(path, stop_before_pixels=True) for path in paths]
    series = Dataset()
    series.PerformingPhysicianName = series.OperatorsName = ""
    series.ProtocolName = "T1"
    series.SeriesInstanceUID = headers[0].SeriesInstanceUID
    series.SeriesDescription = series.RetrieveAETitle = ""
    series.ReferencedImageSequence = []
    for header in headers:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        series.ReferencedImageSequence.append(item)
    series.ReferencedNonImageCompositeSOPInstanceSequence = []
    ds = Dataset()
    ds.PerformedProcedureStepStatus = "COMPLETED"
    ds.PerformedProcedureStepEndDate, ds.PerformedProcedureStepEndTime = "20260105", "091500"
    ds.PerformedSeriesSequence = [series]
    return ds


def report_step(node: Node, uid: str, ds: Dataset, ends: bool = False) -> None:
    ae = AE(ae_title=SCANNER)
    ae.add_requested_context(ModalityPerformedProcedureStep)
    assoc = ae.associate(node.target.host, node.target.port, ae_title=node.target.ae_title)
    assert assoc.is_established
    try:
        send = assoc.send_n_set if ends else assoc.send_n_create
        status, _ = send(ds, ModalityPerformedProcedureStep, uid)
        assert status.Status == 0x0000
    finally:
        assoc.release()
