"""The main job through real peers: dcmtk pushes, the node works, Orthanc holds SEG and SR of that study."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.demo.overlay import masks_of, write_overlay
from dicom_node.demo.pacs.base import Pacs
from dicom_node.demo.simulator.phantom_study import PhantomStudy
from dicom_node.dimse.scu import send_files
from inference.volumes.measurements import volume_ml
from inference.volumes.reading import read_volume
from inference.volumes.volume import Volume
from storage.blobs import file_blobs
from tests.acceptance.conftest import Push
from tests.acceptance.node import SCANNER, Node, committed, delivered
from tests.acceptance.studies import RADIUS, write_ball_study
from tests.inference.volumes.centroid import centroid_lps
from tests.validators import dciodvfy_errors, dcmqi_measurements, dcmqi_segments

TRUE_ML = 4 / 3 * np.pi * RADIUS**3 / 1000


@pytest.fixture(scope="module")
def place(make_node: Callable[..., tuple[Node, Pacs]]) -> tuple[Node, Pacs]:
    return make_node()


def results(pacs: Pacs, uid: str) -> dict[str, list[Dataset]]:
    """The results that the PACS holds of a study, by modality."""
    held: dict[str, list[Dataset]] = {"SEG": [], "SR": []}
    for instance in pacs.instances(uid):
        if instance.modality in held:
            held[instance.modality].append(pacs.dataset(instance.sop_instance_uid))
    return held


def lps_centre(study: PhantomStudy) -> np.ndarray:
    return (np.argwhere(study.mask) @ study.affine[:3, :3].T + study.affine[:3, 3]).mean(axis=0)


def mask_in_pacs(seg: Dataset, volume: Volume) -> np.ndarray:
    (mask,) = masks_of(seg, volume).values()
    return mask


@pytest.mark.parametrize("oblique", [False, True])
def test_a_pushed_study_gets_one_seg_and_one_sr(
    place: tuple[Node, Pacs], push: Push, tmp_path: Path, oblique: bool
) -> None:
    node, pacs = place
    study = write_ball_study(tmp_path / "study", oblique=oblique)
    push(node, tmp_path / "study")
    detail = node.wait(study.study_instance_uid, delivered())

    held = results(pacs, study.study_instance_uid)
    (seg,), (sr,) = held["SEG"], held["SR"]
    volume = read_volume(file_blobs(study.paths))
    mask = mask_in_pacs(seg, volume)
    assert np.linalg.norm(np.array(centroid_lps(mask, volume.geometry)) - lps_centre(study)) < 1.0
    assert volume_ml(mask, volume.geometry) == pytest.approx(TRUE_ML, rel=0.10)
    source = {str(ds.SOPInstanceUID): ds for ds in map(dcmread, study.paths)}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        position = source[str(reference.ReferencedSOPInstanceUID)].ImagePositionPatient
        assert np.allclose(
            np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float), np.array(position, float), atol=1e-3
        )

    assert seg.StudyInstanceUID == sr.StudyInstanceUID == study.study_instance_uid
    assert "RESEARCH" in seg.SeriesDescription
    assert sr.VerificationFlag == "UNVERIFIED"
    assert {e["stage"] for e in detail["timeline"]} >= {"received", "complete", "queued", "running", "encoded"}

    files = {kind: tmp_path / f"{kind}.dcm" for kind in held}
    for kind, ds in (("SEG", seg), ("SR", sr)):
        ds.save_as(files[kind])
        assert dciodvfy_errors(files[kind]) == []
    assert list(dcmqi_segments(files["SEG"], tmp_path / "dcmqi")) == [1]
    groups = dcmqi_measurements(files["SR"], tmp_path)
    volumes = [
        float(m["value"]) for g in groups for m in g["measurementItems"] if m["quantity"]["CodeValue"] == "118565006"
    ]
    assert volumes == [pytest.approx(volume_ml(mask, volume.geometry), rel=1e-3)]
    picture = write_overlay(tmp_path / "overlay.png", seg, study.paths)
    assert picture.stat().st_size > 10_000


def test_the_commands_tell_the_same_story(place: tuple[Node, Pacs], push: Push, tmp_path: Path) -> None:
    node, _ = place
    study = write_ball_study(tmp_path / "study")
    uid = study.study_instance_uid
    push(node, tmp_path / "study")
    node.wait(uid, committed)

    (listed,) = [s for s in node.command("studies") if s["study_instance_uid"] == uid]
    assert (listed["state"], listed["revision"], listed["instances"]) == ("ROUTED", 1, len(study.paths))
    assert "released" in node.command("explain", uid)["completion"][0]["text"]
    detail = node.command("study", uid)
    assert len(detail["instances"]) == len(study.paths)
    assert [o["kind"] for o in detail["objects"]] == ["SEG", "SR"]
    assert [d["state"] for d in detail["deliveries"]] == ["COMMITTED", "COMMITTED"]
    landed = [e["text"] for e in detail["timeline"] if e["stage"] == "delivered" and "committed" in e["text"]]
    assert landed == ["SEG → pacs: storage committed", "SR → pacs: storage committed"]
    assert [j["application"] for j in node.command("jobs") if j["study_instance_uid"] == uid] == ["model"]
    decisions = node.command("explain", uid)["routing"]["applications"][0]["decisions"]
    assert [d["taken"] for d in decisions] == [True]
    assert "spin echo" in decisions[0]["reason"]
    assert "PHANTOM" not in node.log.read_text()


def test_the_same_study_again_makes_no_second_result(place: tuple[Node, Pacs], push: Push, tmp_path: Path) -> None:
    node, pacs = place
    study = write_ball_study(tmp_path / "study")
    push(node, tmp_path / "study")
    node.wait(study.study_instance_uid, delivered())
    push(node, tmp_path / "study")
    push_other_and_wait(node, push, tmp_path)  # long enough that a second result would be there
    detail = node.study(study.study_instance_uid)
    assert detail is not None
    assert (detail["revision"], len(detail["jobs"])) == (1, 1)
    held = results(pacs, study.study_instance_uid)
    assert (len(held["SEG"]), len(held["SR"])) == (1, 1)


def push_other_and_wait(node: Node, push: Push, tmp_path: Path) -> None:
    other = write_ball_study(tmp_path / "other", seed=2)
    push(node, tmp_path / "other")
    node.wait(other.study_instance_uid, delivered())


def test_a_late_slice_makes_a_new_revision_that_supersedes(
    place: tuple[Node, Pacs], push: Push, tmp_path: Path
) -> None:
    node, pacs = place
    study = write_ball_study(tmp_path / "study")
    last = study.series["t1w"].paths[-1]
    kept = tmp_path / "late" / last.name
    kept.parent.mkdir()
    last.rename(kept)
    push(node, tmp_path / "study")
    node.wait(study.study_instance_uid, delivered(1))
    (result,) = send_files(file_blobs([kept]), SCANNER, node.target)
    assert result.ok
    detail = node.wait(study.study_instance_uid, delivered(2))
    assert detail["revision"] == 2
    reports = results(pacs, study.study_instance_uid)["SR"]
    assert len(reports) == 2
    first, second = sorted(reports, key=lambda ds: "PredecessorDocumentsSequence" in ds)
    predecessor = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert predecessor.ReferencedSOPInstanceUID == first.SOPInstanceUID


def test_a_withdrawn_result_is_rejected_at_the_pacs(place: tuple[Node, Pacs], push: Push, tmp_path: Path) -> None:
    node, pacs = place
    study = write_ball_study(tmp_path / "study")
    uid = study.study_instance_uid
    push(node, tmp_path / "study")
    (job,) = node.wait(uid, delivered())["jobs"]
    held = results(pacs, uid)
    done = node.run("withdraw", str(job["id"]), "--reason", "wrong side")
    assert done.returncode == 0, done.stderr
    assert "withdrawn; job" in done.stdout
    assert "tells pacs" in done.stdout
    detail = node.wait(uid, lambda d: len(d["jobs"]) == 2 and len(d["deliveries"]) == 3 and delivered()(d))
    (note,) = [pacs.dataset(i.sop_instance_uid) for i in pacs.instances(uid) if i.modality == "KO"]
    assert note.ConceptNameCodeSequence[0].CodeValue == "113001"  # Rejected for Quality Reasons
    named = [item.ReferencedSOPSequence[0] for item in note.ContentSequence if "ReferencedSOPSequence" in item]
    assert {str(reference.ReferencedSOPInstanceUID) for reference in named} == {
        str(held["SEG"][0].SOPInstanceUID), str(held["SR"][0].SOPInstanceUID),
    }  # fmt: skip
    note.save_as(tmp_path / "ko.dcm")
    assert dciodvfy_errors(tmp_path / "ko.dcm") == []
    told = f"the results of job {job['id']} are withdrawn: wrong side"
    assert any(told in event["text"] for event in detail["timeline"])
    again = node.run("withdraw", str(job["id"]))
    assert (again.returncode, "were withdrawn before" in again.stderr) == (1, True)
