"""Two patients under one study, corrections of the patient, instances under other UIDs: on a running node."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_role, evt

from dicom_node.demo.pacs.base import Pacs
from dicom_node.demo.simulator.phantom_study import PhantomStudy
from dicom_node.dimse.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE
from dicom_node.dimse.scu import send_files
from storage.blobs import file_blobs
from tests.acceptance.node import SCANNER, Node, delivered
from tests.acceptance.studies import write_ball_study
from tests.receive.services.datasets import commitment
from tests.storage.node import MR

MAXIMUM_AGE = 20.0
COMPLETION = f"quiet_seconds = 1.5\nmaximum_age_seconds = {MAXIMUM_AGE}"
SECRETS = ("SECRET-A", "SECRET-B", "19600102", "19700304")
A = {"PatientID": "SECRET-A", "PatientBirthDate": "19600102", "PatientSex": "F"}


@pytest.fixture(scope="module")
def place(make_node: Callable[..., tuple[Node, Pacs]]) -> tuple[Node, Pacs]:
    node, pacs = make_node()
    node.stop()
    node.config.write_text(node.config.read_text().replace("quiet_seconds = 1.5", COMPLETION))
    node.start()
    return node, pacs


def write(folder: Path) -> PhantomStudy:
    study = write_ball_study(folder)
    change(study.paths, **A)
    return study


def change(paths: Sequence[Path], **attributes: Any) -> None:
    """Write the files anew with these attributes; None takes one away."""
    for path in paths:
        ds = dcmread(path)
        for keyword, value in attributes.items():
            if value is None:
                ds.pop(keyword, None)
            else:
                setattr(ds, keyword, value)
        ds.save_as(path)


def send(node: Node, paths: Sequence[Path]) -> None:
    assert all(r.ok for r in send_files(file_blobs(paths), SCANNER, node.target))


def listed(ds: Dataset, **attributes: str) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    ds.OtherPatientIDsSequence = [item]
    return ds


def problems(node: Node, uid: str) -> dict[str, str]:
    done = node.run("problems", "--json")
    assert done.returncode in (0, 3), done.stderr
    return {p["kind"]: p["text"] for p in json.loads(done.stdout) if p["study_instance_uid"] == uid}


def silent(node: Node, pacs: Pacs, uid: str) -> None:
    """Nothing of this study went to the PACS, and nothing that the node wrote names a patient."""
    assert pacs.instances(uid) == []
    detail = node.study(uid)
    assert detail is not None
    assert [j for j in detail["jobs"] if j["state"] != "CANCELLED"] == []
    for text in (node.log.read_text(), json.dumps(detail)):
        assert [secret for secret in SECRETS if secret in text] == []


def ignored(revision: int = 1) -> Callable[[dict[str, Any]], bool]:
    return lambda detail: detail["state"] == "IGNORED" and detail["revision"] == revision


def test_two_patients_inside_a_series(place: tuple[Node, Pacs], tmp_path: Path) -> None:
    node, pacs = place
    study = write(tmp_path)
    change(study.paths[12:], PatientID="SECRET-B", PatientBirthDate="19700304")
    send(node, study.paths)
    uid = study.study_instance_uid
    detail = node.wait(uid, ignored())
    told = (
        "its 20 instances state different patients: they contradict one another in Patient ID and Patient's Birth Date"
    )
    assert detail["reason"] == f"not analysed, and nothing is sent: {told}"
    assert problems(node, uid) == {"patients_mixed": f"Nothing is analysed or sent of this study: {told}"}
    assert any(
        "ERROR" in line and "patients_mixed" in line and uid in line for line in node.log.read_text().split("\n")
    )
    silent(node, pacs, uid)


def test_two_patients_in_two_series_until_one_is_corrected(place: tuple[Node, Pacs], tmp_path: Path) -> None:
    """A second series, of another patient and under the same study, is corrected once it was told."""
    node, pacs = place
    study = write(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    other = sorted((tmp_path / "b").rglob("*.dcm"))
    series = generate_uid()
    for path in other:
        change([path], SOPInstanceUID=generate_uid(), SeriesInstanceUID=series, PatientID="SECRET-B", ProtocolName="T2")
    send(node, [*study.paths, *other])
    uid = study.study_instance_uid
    detail = node.wait(uid, ignored())
    assert "its 40 instances state different patients" in detail["reason"]
    silent(node, pacs, uid)
    change(other, PatientID="SECRET-A")
    send(node, other)
    node.wait(uid, lambda d: d["revision"] == 2 and delivered(2)(d))
    assert problems(node, uid) == {}
    assert {str(pacs.dataset(i.sop_instance_uid).PatientID) for i in pacs.instances(uid)} == {"SECRET-A"}


def test_what_does_not_contradict(place: tuple[Node, Pacs], tmp_path: Path) -> None:
    """Padding, an absent issuer, an empty sex or birth date, another spelling of the name."""
    node, pacs = place
    study = write(tmp_path)
    change(study.paths[:4], PatientID=" SECRET-A  ", IssuerOfPatientID="HOSPITAL")
    change(study.paths[4:8], PatientBirthDate="", PatientSex="", PatientName="ANOTHER^SPELLING")
    change(study.paths[8:12], PatientSex=None, PatientBirthDate="1960.01.02")
    send(node, study.paths)
    node.wait(study.study_instance_uid, delivered())
    assert {i.modality for i in pacs.instances(study.study_instance_uid)} == {"SEG", "SR"}


def test_a_correction_that_reaches_every_instance_is_a_revision(place: tuple[Node, Pacs], tmp_path: Path) -> None:
    """It comes in two halves, longer apart than the quiet time."""
    node, pacs = place
    study = write(tmp_path)
    uid = study.study_instance_uid
    send(node, study.paths)
    node.wait(uid, delivered())
    before = {i.sop_instance_uid for i in pacs.instances(uid)}
    change(study.paths, PatientID="SECRET-B", PatientBirthDate="19700304")
    send(node, study.paths[:10])
    time.sleep(4)
    waiting = node.study(uid)
    assert waiting is not None
    assert (waiting["state"], waiting["revision"]) == ("RECEIVING", 2)
    told = "a correction of the patient (Patient ID and Patient's Birth Date) has reached 10 of 20 instances"
    assert told in " ".join(node.run("explain", uid).stdout.split())
    send(node, study.paths[10:])
    node.wait(uid, lambda d: d["revision"] == 2 and delivered(2)(d))
    results = [pacs.dataset(i.sop_instance_uid) for i in pacs.instances(uid) if i.sop_instance_uid not in before]
    assert {(str(ds.PatientID), str(ds.PatientBirthDate)) for ds in results} == {("SECRET-B", "19700304")}
    assert {ds.Modality for ds in results} >= {"SEG", "SR"}
    assert problems(node, uid) == {}


@pytest.mark.slow
def test_a_correction_that_stops_half_way_is_told_at_the_maximum_age(place: tuple[Node, Pacs], tmp_path: Path) -> None:
    """The corrected instances list the former ID; then the rest comes, and the study has its result."""
    node, pacs = place
    study = write(tmp_path)
    uid = study.study_instance_uid
    for path in study.paths[:5]:
        listed(ds := dcmread(path), PatientID="SECRET-A").PatientID = "SECRET-B"
        ds.save_as(path)
    began = time.monotonic()
    send(node, study.paths)
    detail = node.wait(uid, ignored())
    assert time.monotonic() - began > MAXIMUM_AGE - 2
    told = "a correction of the patient (Patient ID) has reached"
    assert f"maximum age of {MAXIMUM_AGE:g} s reached while {told}" in json.dumps(detail["timeline"])
    assert detail["reason"].startswith(f"not analysed, and nothing is sent: {told}")
    assert list(problems(node, uid)) == ["correction_incomplete"]
    silent(node, pacs, uid)
    change(study.paths[5:], PatientID="SECRET-B")
    send(node, study.paths[5:])
    node.wait(uid, lambda d: d["revision"] == 2 and delivered(2)(d))
    assert problems(node, uid) == {}
    assert {str(pacs.dataset(i.sop_instance_uid).PatientID) for i in pacs.instances(uid)} == {"SECRET-B"}


def test_a_study_that_moves_is_found_in_both_places(place: tuple[Node, Pacs], tmp_path: Path) -> None:
    """A PACS merges the study into another one of another patient: each has its own result, under its own patient."""
    node, pacs = place
    study = write(tmp_path)
    send(node, study.paths)
    uid, moved, series = study.study_instance_uid, generate_uid(), generate_uid()
    node.wait(uid, delivered())
    change(study.paths, StudyInstanceUID=moved, SeriesInstanceUID=series, PatientID="SECRET-B")
    send(node, study.paths)
    detail = node.wait(moved, delivered())
    assert len(detail["instances"]) == 20
    assert f"of study {uid} came with the same pixels as series {series}, and are filed here too" in str(detail)
    before = node.study(uid)
    assert before is not None
    assert (before["revision"], before["state"], len(before["instances"])) == (1, "ROUTED", 20)
    assert f"as series {series} of study {moved}, and are filed there too" in str(before)
    for where, patient in ((uid, "SECRET-A"), (moved, "SECRET-B")):
        assert {str(pacs.dataset(i.sop_instance_uid).PatientID) for i in pacs.instances(where)} == {patient}
    assert {s["study_instance_uid"] for s in node.command("studies")} >= {uid, moved}
    assert node.run("fsck").returncode == 0


def test_other_pixels_under_a_known_uid_are_a_problem_and_not_committed(
    place: tuple[Node, Pacs], tmp_path: Path
) -> None:
    node, _ = place
    study = write(tmp_path)
    send(node, study.paths)
    node.wait(study.study_instance_uid, delivered())
    wrong = dcmread(study.paths[3])
    wrong.StudyInstanceUID = moved = generate_uid()
    wrong.PixelData = bytes(len(wrong.PixelData))
    uids = [str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in study.paths[2:4]]
    heard: list[Dataset] = []

    def hear(event: Any) -> tuple[int, None]:
        heard.append(event.event_information)
        return 0x0000, None

    ae = AE(SCANNER)
    ae.add_requested_context(MR)
    ae.add_requested_context(PUSH_MODEL)
    assoc = ae.associate(
        node.target.host,
        node.target.port,
        ae_title="DICOM_NODE",
        ext_neg=[build_role(PUSH_MODEL, True, False)],
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, hear)],
    )
    assert assoc.send_c_store(wrong).Status == 0x0000
    ds = commitment("1.9.20", *((MR, uid) for uid in uids))
    status, _ = assoc.send_n_action(ds, 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)
    assert status.Status == 0x0000
    deadline = time.monotonic() + 20
    while not heard:
        assert time.monotonic() < deadline, node.log.read_text()[-3000:]
        time.sleep(0.05)
    assoc.release()
    (failed,) = heard[0].FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == (uids[1], 0x0110)
    assert [item.ReferencedSOPInstanceUID for item in heard[0].ReferencedSOPSequence] == [uids[0]]
    told = problems(node, moved)
    assert f"is in series {study.series['t1w'].series_instance_uid} of study" in told["quarantined"]
