"""A real site's model on real heads from three scanners, against figures computed apart from this project."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicom_node.demo.overlay import masks_of, write_overlay
from dicom_node.demo.pacs.base import Pacs
from inference.volumes.measurements import volume_ml
from inference.volumes.reading import read_volume
from storage.blobs import file_blobs
from tests.acceptance.conftest import Push
from tests.acceptance.node import Node, delivered
from tests.conftest import REPOSITORY
from tests.inference.volumes.centroid import centroid_lps
from tests.validators import dciodvfy_errors, dcmqi_measurements, dcmqi_segments

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# the model's own names of structures, in the order of the example's labels
STRUCTURES = (
    "Cerebral-White-Matter", "Cerebral-Cortex", "Lateral-Ventricle", "Inferior-Lateral-Ventricle",
    "Cerebellum-White-Matter", "Cerebellum-Cortex", "Thalamus", "Caudate", "Putamen", "Pallidum", "3rd-Ventricle",
    "4th-Ventricle", "Brain-Stem", "Hippocampus", "Amygdala", "Accumbens-area", "VentralDC",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(
    make_node: Callable[..., tuple[Node, Pacs]], test_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Node, Pacs]:
    """A node with the committed example descriptor copied beside the weights."""
    bundle = tmp_path_factory.mktemp("brain")
    shutil.copy(REPOSITORY / "config" / "examples" / "brain_meshnet" / "bundle.toml", bundle)
    shutil.copy(test_models / "brain_meshnet" / "meshnet_model18cls_torchscript.pt", bundle)
    return make_node(bundle=bundle)


@pytest.mark.parametrize(
    "series",
    ["philips_elition_mprage_classic", "siemens_xa30_study/5_anat-T1w_acq-tfl", "siemens_prisma_t1_sag_HFDR"],
)
def test_structures_lie_where_they_should(
    place: tuple[Node, Pacs], push: Push, test_data: Path, test_models: Path, tmp_path: Path, series: str
) -> None:
    node, pacs = place
    folder = test_data / "mr" / series
    files = [p for p in folder.rglob("*") if p.is_file()]
    uid = str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)
    push(node, folder)
    node.wait(uid, delivered(), seconds=800)
    held = {i.modality: pacs.dataset(i.sop_instance_uid) for i in pacs.instances(uid) if i.modality in ("SEG", "SR")}
    assert sorted(i.modality for i in pacs.instances(uid) if i.modality != "MR") == ["SEG", "SR"]

    volume = read_volume(file_blobs(files))
    masks = masks_of(held["SEG"], volume)
    expected = json.loads((test_models / "brain_meshnet" / "expected.json").read_text())[series]
    for number, structure in enumerate(STRUCTURES, start=1):
        want = expected[structure]
        distance = np.linalg.norm(np.array(centroid_lps(masks[number], volume.geometry)) - want["centroid_lps_mm"])
        ratio = volume_ml(masks[number], volume.geometry) / want["volume_ml"]
        assert distance < 3, structure
        assert ratio == pytest.approx(1, abs=0.25 if want["volume_ml"] < 1 else 0.10), structure

    positions = positions_of(files)
    for frame in held["SEG"].PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        number = source.get("ReferencedFrameNumber")
        expected_position = positions[str(source.ReferencedSOPInstanceUID), int(number) if number else None]
        written = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        assert np.allclose(written, expected_position, atol=1e-3)

    for kind, ds in held.items():
        ds.save_as(tmp_path / f"{kind}.dcm")
        assert dciodvfy_errors(tmp_path / f"{kind}.dcm") == []
    assert len(dcmqi_segments(tmp_path / "SEG.dcm", tmp_path / "dcmqi")) == len(STRUCTURES)
    assert len(dcmqi_measurements(tmp_path / "SR.dcm", tmp_path)) >= len(STRUCTURES)
    write_overlay(tmp_path / "overlay.png", held["SEG"], files)


def positions_of(files: list[Path]) -> dict[tuple[str, int | None], np.ndarray]:
    """ImagePositionPatient by instance and frame, straight from the source headers."""
    found: dict[tuple[str, int | None], np.ndarray] = {}
    for path in files:
        ds = dcmread(path, stop_before_pixels=True)
        if "PerFrameFunctionalGroupsSequence" not in ds:
            found[str(ds.SOPInstanceUID), None] = np.array(ds.ImagePositionPatient, float)
            continue
        for k, frame in enumerate(ds.PerFrameFunctionalGroupsSequence, start=1):
            found[str(ds.SOPInstanceUID), k] = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
    return found
