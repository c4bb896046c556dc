"""The application `soft_tissue_mass` from files to findings, on phantoms and on patients it was not trained on."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.sr.codedict import codes

from dicom_node.simulator.limb import limb
from dicom_node.simulator.phantom_study import write_phantom_study
from inference.application import Application, SeriesInput, load_application
from inference.applications.soft_tissue_mass import preprocessing
from inference.applications.soft_tissue_mass.application import NOT_FOUND
from inference.engine import Engine
from inference.findings import Findings, Mask
from inference.manifest import load_manifest
from inference.training import sarcoma
from inference.training.scoring import dice
from inference.volume import Geometry
from storage.errors import InputRefused


@pytest.fixture(scope="module")
def application() -> Application:
    return load_application(load_manifest("soft_tissue_mass", "soft_tissue_mass", None))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine("cpu")


def run(application: Application, engine: Engine, paths: list[Path]) -> Findings:
    return application.run({"t1w": SeriesInput("t1w", "", tuple(paths))}, engine, lambda what, part: None)


def values(findings: Findings) -> dict[str, float]:
    (segment,) = findings.segments
    return {m.name.value: m.value for m in segment.measurements}


@pytest.mark.parametrize("oblique", [False, True])
def test_finds_the_mass_of_a_phantom(application: Application, engine: Engine, tmp_path: Path, oblique: bool) -> None:
    study = write_phantom_study(tmp_path, limb(1), 1, oblique=oblique)
    findings = run(application, engine, list(study.series["t1w"].paths))
    (segment,) = findings.segments
    assert dice(segment.mask, study.mask) >= 0.85
    truth = study.mask.sum() * findings.source.geometry.voxel_volume / 1000
    measured = values(findings)
    assert measured["118565006"] == pytest.approx(truth, rel=0.15)
    assert 0 < measured["103340004"] <= measured["103339001"] <= measured["L0JK"]
    assert np.allclose(findings.source.geometry.affine, study.affine, atol=1e-4)


def test_repeats_itself(application: Application, engine: Engine, tmp_path: Path) -> None:
    paths = list(write_phantom_study(tmp_path, limb(1), 1).series["t1w"].paths)
    one, other = run(application, engine, paths), run(application, engine, paths[::-1])
    assert np.array_equal(one.segments[0].mask, other.segments[0].mask)
    assert one.segments[0].tracking_uid == other.segments[0].tracking_uid


def test_says_so_when_there_is_no_mass(application: Application, engine: Engine, tmp_path: Path) -> None:
    paths = list(write_phantom_study(tmp_path, limb(1), 1).series["t1w"].paths)
    for path in paths:
        ds = dcmread(path)
        ds.PixelData = bytes(len(ds.PixelData))
        ds.save_as(path)
    findings = run(application, engine, paths)
    assert findings.segments == ()
    assert findings.notes[0] == NOT_FOUND


def test_refuses_a_series_with_a_slice_missing(application: Application, engine: Engine, tmp_path: Path) -> None:
    paths = list(write_phantom_study(tmp_path, limb(1), 1).series["t1w"].paths)
    with pytest.raises(InputRefused, match="missing"):
        run(application, engine, [*paths[:10], *paths[11:]])


def test_codes_are_those_of_the_dictionary(application: Application, engine: Engine, tmp_path: Path) -> None:
    study = write_phantom_study(tmp_path, limb(1), 1)
    (segment,) = run(application, engine, list(study.series["t1w"].paths)).segments
    expected = [
        codes.SCT.Mass, codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Volume, codes.SCT.LongAxis,
        codes.SCT.ShortAxis, codes.IBSI.Maximum3DDiameterOfAMesh,
    ]  # fmt: skip
    used = [segment.type, segment.category, *(m.name for m in segment.measurements)]
    assert [(c.value, c.scheme, c.meaning) for c in used] == [
        (c.value, c.scheme_designator, c.meaning) for c in expected
    ]


def test_finds_the_mass_of_a_held_out_patient(application: Application, engine: Engine, test_data: Path) -> None:
    folder = test_data / "sarcoma"
    if not folder.is_dir():
        pytest.skip("the sarcoma set is not here")
    _, held_out = sarcoma.split(sarcoma.patients(folder))
    case = sarcoma.load(folder, held_out[1])
    findings = run(application, engine, sorted((folder / case.name / "MR_T1").iterdir()))
    assert np.allclose(findings.source.geometry.affine, case.geometry.affine, atol=1e-3)
    assert dice(findings.segments[0].mask, case.mask) >= 0.6


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_preparation_and_back_keep_the_place(order: tuple[int, int, int]) -> None:
    """An axial, a coronal and a sagittal image of one ball, each with axes against the patient's."""
    directions = np.eye(4)
    directions[:3, :3] = np.array([[0, 0, 1.2], [0, 1.1, 0], [-4.0, 0, 0]])[:, list(order)]
    shape = tuple(np.array([40, 110, 100])[list(order)].tolist())
    geometry = Geometry(shape, directions)
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 3)
    points = geometry.to_lps(indices.astype(float)).reshape(*shape, 3)
    ball: Mask = np.linalg.norm(points - np.array([50.0, 70.0, -90.0]), axis=-1) < 30
    image = (200 + 800 * ball).astype(np.float32)
    prepared = preprocessing.prepare(image, geometry)
    steps = prepared.affine[:3, :3]
    assert np.allclose(steps, np.diag([3.0, 3.0, 3.0])[:, ::-1])  # towards the head, the back and the left
    back = preprocessing.restore(prepared.array, prepared, geometry)
    assert dice(back > 0.5 * back.max(), ball) > 0.95


def test_a_small_finding_is_dropped() -> None:
    geometry = Geometry((10, 10, 10), np.diag([5.0, 2.0, 2.0, 1.0]))
    probability = np.zeros((10, 10, 10), np.float32)
    probability[4:6, 2:6, 2:6] = 0.9  # 0.64 mL
    assert not preprocessing.mass(probability, geometry).any()
    probability[3:7, 2:6, 2:6] = 0.9
    probability[0, 0, 0] = 0.9
    assert preprocessing.mass(probability, geometry).sum() == 64
