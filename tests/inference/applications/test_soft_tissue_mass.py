"""The application `soft_tissue_mass` from files to findings, on phantoms and on patients it was not trained on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.sr.codedict import codes

from dicom_node.demo.simulator.limb import imaged_limb
from dicom_node.demo.simulator.phantom_study import PhantomStudy, write_phantom_study
from inference.applications.soft_tissue_mass import application as application_module
from inference.applications.soft_tissue_mass import preprocessing
from inference.applications.soft_tissue_mass.outline import Estimate, window
from inference.contract.application import Application, load_application
from inference.contract.findings import Findings
from inference.contract.manifest import load_manifest
from inference.contract.series_input import SeriesInput
from inference.engine.models import TorchEngine
from inference.training import sarcoma_collection
from inference.training.scoring import dice
from inference.training.soft_tissue_mass import phantom_cases
from inference.training.soft_tissue_mass.ellipsoid_baseline import ellipsoid, fit_ellipsoid
from inference.volumes.geometry import Geometry, Mask
from storage.blobs import file_blobs
from storage.errors import InputRefused


@pytest.fixture(scope="module")
def application() -> Application:
    return load_application(load_manifest("soft_tissue_mass", "soft_tissue_mass", None))


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine("cpu")


def run(application: Application, engine: TorchEngine, paths: list[Path]) -> Findings:
    return application.run({"t1w": SeriesInput("t1w", "", file_blobs(tuple(paths)))}, engine, lambda what, part: None)


@dataclass(frozen=True)
class Result:
    study: PhantomStudy
    findings: Findings


@pytest.fixture(scope="module")
def phantom(
    application: Application, engine: TorchEngine, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Result]:
    """Return a function that runs the application on a phantom. Each result is computed once to save time."""

    @cache
    def found(seed: int, oblique: bool = False, healthy: bool = False) -> Result:
        folder = tmp_path_factory.mktemp("phantom")
        study = write_phantom_study(folder, imaged_limb(seed, healthy=healthy), seed, oblique=oblique)
        return Result(study, run(application, engine, list(study.series["t1w"].paths)))

    return found


def values(findings: Findings) -> dict[str, float]:
    (segment,) = findings.segments
    return {m.name.value: m.value for m in segment.measurements}


@dataclass(frozen=True)
class Expected:
    """The result that the shipped weights must reach on one phantom: their own, less a margin.

    `dice` is the least; `most_ml` is the largest volume that may be outlined by mistake where there is no mass.
    """

    seed: int
    dice: float = 0.0
    most_ml: float = 0.0
    oblique: bool = False


# Measured with weights 2.0. Seed 1 is the demo's, whose result must be right. The rest is what is true today: to be
# raised with better weights, never lowered without a word in the model card. Also measured, and not held here: the
# masses of seeds 5 (3 mL), 7 (5 mL) and 8 (26 mL) are missed.
MASSES = (
    Expected(1, dice=0.85),  # 452 mL: 0.90, a sixth too small
    Expected(1, dice=0.85, oblique=True),
    Expected(2, dice=0.85),  # 345 mL: 0.87, a fifth too small
)
MORE_MASSES = (
    Expected(3, dice=0.65),  # 315 mL: 0.72, said to be uncertain; 0.78 with weights 1.1 and their lower threshold
    Expected(4, dice=0.60),  # 63 mL: 0.68, said to be uncertain
    Expected(6, dice=0.80),  # 61 mL: 0.85
)
NO_MASS = (Expected(2),)  # nothing is outlined; nor for seeds 1 and 3
MORE_NO_MASS = (Expected(4),)


def cases(quick: Sequence[Expected], slow: Sequence[Expected]) -> list[Any]:
    """Every phantom takes some seconds of inference."""
    marked = [(e, ()) for e in quick] + [(e, (pytest.mark.slow,)) for e in slow]
    return [pytest.param(e, id=f"{e.seed}{'-oblique' if e.oblique else ''}", marks=marks) for e, marks in marked]


@pytest.mark.parametrize("expected", cases(MASSES, MORE_MASSES))
def test_finds_the_mass_of_a_phantom(phantom: Callable[..., Result], expected: Expected) -> None:
    result = phantom(expected.seed, oblique=expected.oblique)
    study, findings = result.study, result.findings
    (segment,) = findings.segments
    assert dice(segment.mask, study.mask) >= expected.dice
    measured = values(findings)
    if expected.dice >= 0.85:
        truth = study.mask.sum() * findings.source.geometry.voxel_volume / 1000
        assert measured["118565006"] == pytest.approx(truth, rel=0.2)
    assert 0 < measured["103340004"] <= measured["103339001"] <= measured["L0JK"]
    assert np.allclose(findings.source.geometry.affine, study.affine, atol=1e-4)


@pytest.mark.parametrize("expected", cases(NO_MASS, MORE_NO_MASS))
def test_outlines_little_in_a_limb_without_mass(phantom: Callable[..., Result], expected: Expected) -> None:
    result = phantom(expected.seed, healthy=True)
    assert not result.study.mask.any()
    assert sum(values(result.findings)["118565006"] for _ in result.findings.segments) <= expected.most_ml


def test_repeats_itself(application: Application, engine: TorchEngine, phantom: Callable[..., Result]) -> None:
    result = phantom(1)
    one, other = result.findings, run(application, engine, list(result.study.series["t1w"].paths)[::-1])
    assert np.array_equal(one.segments[0].mask, other.segments[0].mask)
    assert one.segments[0].tracking_uid == other.segments[0].tracking_uid


def test_says_so_when_there_is_no_mass(phantom: Callable[..., Result]) -> None:
    findings = phantom(1, healthy=True).findings
    assert findings.segments == ()
    note = findings.notes[0]
    assert "No mass of at least 1 mL was found; this does not exclude one" in note
    assert "may overlook a mass" in note
    assert "outlined" not in note


def test_the_number_of_patients_stands_in_one_place(application: Application, phantom: Callable[..., Result]) -> None:
    findings = phantom(1).findings
    patients = f"{application.manifest.options['training']['patients']} patients"
    assert patients in findings.algorithm.training_data
    note = findings.notes[0]
    assert note.startswith("The mass was outlined by")
    assert patients in note


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_says_where_the_networks_disagree(
    application: Application, engine: TorchEngine, phantom: Callable[..., Result], limit: float
) -> None:
    manifest = application.manifest
    options = manifest.options | {"model": manifest.options["model"] | {"uncertain_below": limit}}
    strict = application_module.create(replace(manifest, options=options))
    findings = run(strict, engine, list(phantom(6).study.series["t1w"].paths))
    (segment,) = findings.segments
    said = [(e.name.value, e.value.value) for e in segment.evaluations]
    if limit == 0.0:
        assert said == []
        assert not any("uncertain" in note for note in findings.notes)
    else:  # no two networks agree wholly
        assert said == [(codes.DCM.CertaintyOfFinding.value, codes.SCT.Uncertain.value)]
        assert "The outline is uncertain" in findings.notes[1]
        assert "limit 1.00" in findings.notes[1]


def test_a_mass_that_the_images_cut_off_is_uncertain(phantom: Callable[..., Result]) -> None:
    result = phantom(1)
    (segment,) = result.findings.segments
    assert result.study.mask[0].any()
    assert segment.mask[0].any()
    assert [e.value.value for e in segment.evaluations] == [codes.SCT.Uncertain.value]
    assert any("the mass reaches the edge of the images" in note for note in result.findings.notes)


def test_the_card_and_the_application_have_the_same_limits(application: Application) -> None:
    model = application.manifest.options["model"]
    card = " ".join((application.manifest.folder / "MODEL_CARD.md").read_text().split())
    assert f"thresholded at {model['threshold']:g} " in card
    assert f"agree by a Dice of less than {model['uncertain_below']:g}," in card


def test_agreement_is_that_of_the_masses() -> None:
    geometry = Geometry((10, 20, 20), np.diag([3.0, 3.0, 3.0, 1.0]))
    members = np.zeros((2, 10, 20, 20), np.float32)
    members[0, 2:8, 5:15, 5:15] = members[1, 2:8, 5:15, 5:10] = 0.9
    estimated = Estimate(members.mean(axis=0), geometry, members, geometry)
    assert estimated.agreement(0.5) == pytest.approx(2 * 0.5 / 1.5)
    assert estimated.agreement(0.95) == 1.0  # neither outlines anything


@pytest.mark.parametrize(
    ("shape", "expected"), [((20, 30, 30), (80, 64, 64)), ((90, 65, 74), (96, 80, 80)), ((300, 90, 150), (112, 96, 96))]
)
def test_images_are_seen_whole_where_they_fit(shape: tuple[int, int, int], expected: tuple[int, int, int]) -> None:
    assert window(shape) == expected


def test_refuses_a_series_with_a_slice_missing(application: Application, engine: TorchEngine, tmp_path: Path) -> None:
    paths = list(write_phantom_study(tmp_path, imaged_limb(1), 1).series["t1w"].paths)
    with pytest.raises(InputRefused, match="missing"):
        run(application, engine, [*paths[:10], *paths[11:]])


def test_codes_are_those_of_the_dictionary(phantom: Callable[..., Result]) -> None:
    (segment,) = phantom(1).findings.segments
    expected = [
        codes.SCT.Mass, codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Volume, codes.SCT.LongAxis,
        codes.SCT.ShortAxis, codes.IBSI.Maximum3DDiameterOfAMesh,
    ]  # fmt: skip
    used = [segment.type, segment.category, *(m.name for m in segment.measurements[:4])]
    assert [(c.value, c.scheme, c.meaning) for c in used] == [
        (c.value, c.scheme_designator, c.meaning) for c in expected
    ]


def test_finds_the_mass_of_a_held_out_patient(application: Application, engine: TorchEngine, test_data: Path) -> None:
    folder = test_data / "sarcoma"
    if not folder.is_dir():
        pytest.skip("the sarcoma set is not here")
    _, held_out = sarcoma_collection.split(sarcoma_collection.patients(folder))
    case = sarcoma_collection.load_patient(folder, held_out[1])
    findings = run(application, engine, sorted((folder / case.name / "MR_T1").iterdir()))
    assert np.allclose(findings.source.geometry.affine, case.geometry.affine, atol=1e-3)
    assert dice(findings.segments[0].mask, case.mask) >= 0.6


@pytest.fixture(scope="module")
def held_out_scores(application: Application, engine: TorchEngine, test_data: Path) -> tuple[float, float]:
    """Mean Dice over all patients that were not trained on: of the application, and of the ellipsoid that looks at
    nothing."""
    folder = test_data / "sarcoma"
    if not folder.is_dir():
        pytest.skip("the sarcoma set is not here")
    trained_on, held_out = sarcoma_collection.split(sarcoma_collection.patients(folder))
    assert len(trained_on) == application.manifest.options["training"]["patients"]
    fractions = fit_ellipsoid(
        [
            phantom_cases.to_training_sample(sarcoma_collection.load_patient(folder, name)).mask >= 0.5
            for name in trained_on
        ]
    )
    found, trivial = [], []
    for name in held_out:
        case = sarcoma_collection.load_patient(folder, name)
        findings = run(application, engine, sorted((folder / name / "MR_T1").iterdir()))
        mask = findings.segments[0].mask if findings.segments else np.zeros_like(case.mask)
        found.append(dice(mask, case.mask))
        trivial.append(dice(ellipsoid(case.geometry.shape, fractions), case.mask))
    return float(np.mean(found)), float(np.mean(trivial))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_held_out_patients_are_outlined_as_promised(held_out_scores: tuple[float, float]) -> None:
    found, _ = held_out_scores
    assert found >= 0.68


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.xfail(reason="weights 2.0: 0.768 against the ellipsoid's 0.698, which is 0.070 more", strict=True)
def test_held_out_patients_are_outlined_far_better_than_by_an_ellipsoid(held_out_scores: tuple[float, float]) -> None:
    found, trivial = held_out_scores
    assert found >= trivial + 0.10


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
    prepared = preprocessing.prepare_image(image, geometry)
    steps = prepared.affine[:3, :3]
    assert np.allclose(steps, np.diag([3.0, 3.0, 3.0])[:, ::-1])  # towards the head, the back and the left
    back = preprocessing.restore_probability(prepared.array, prepared, geometry)
    assert dice(back > 0.5 * back.max(), ball) > 0.95


def test_a_small_finding_is_dropped() -> None:
    geometry = Geometry((10, 10, 10), np.diag([5.0, 2.0, 2.0, 1.0]))
    probability = np.zeros((10, 10, 10), np.float32)
    probability[4:6, 2:6, 2:6] = 0.9  # 0.64 mL
    assert not preprocessing.largest_mass(probability, geometry, 0.5).any()
    probability[3:7, 2:6, 2:6] = 0.9
    probability[0, 0, 0] = 0.9
    assert preprocessing.largest_mass(probability, geometry, 0.5).sum() == 64
