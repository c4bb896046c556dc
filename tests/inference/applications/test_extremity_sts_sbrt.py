"""The application `extremity_sts_sbrt` from files to findings and objects, on simulated limbs it has not seen."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dicom_node.demo.simulator.limb_study import write_limb_patient, write_limb_study
from dicom_node.demo.simulator.phantom_study import PhantomStudy
from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.build import build_objects
from dicom_node.objects.profiles import ObjectProfile
from inference.applications.extremity_sts_sbrt.course import change_measurements, recist_course, response_evaluations
from inference.applications.extremity_sts_sbrt.examination import Examination
from inference.applications.extremity_sts_sbrt.network import CONTRASTS
from inference.applications.extremity_sts_sbrt.notes import EarlierTimePoint, report_notes
from inference.applications.extremity_sts_sbrt.preprocessing import prepare_limb, restore_structures
from inference.contract.application import Application, load_application
from inference.contract.concepts import (
    ADC_CHANGE,
    BONE_DISTANCE,
    BUNDLE_DISTANCE,
    CERTAINTY,
    DIAMETER_CHANGE,
    DIAMETER_SUM,
    LONG_AXIS,
    MAXIMUM_3D,
    NADIR_CHANGE,
    NECROTIC,
    OVER_5_CM,
    RESPONSE,
    UNCERTAIN,
    VOLUME,
    VOLUME_CHANGE,
    YES,
)
from inference.contract.findings import NOT_ATTEMPTED, Code, Findings, Measurement, Segment
from inference.contract.inputs import input_key
from inference.contract.manifest import load_manifest
from inference.contract.series_input import SeriesInput
from inference.engine.models import TorchEngine
from inference.headers.reading import read_object
from inference.phantoms.limb.study import limb_study
from inference.quantities.missing import Missing
from inference.quantities.panel import Panel
from inference.quantities.panel_quantities import ADC, T1, T2
from inference.quantities.response import Course, Response
from inference.quantities.statistics import MEAN
from inference.volumes.geometry import Geometry
from inference.volumes.volume import Volume
from storage.blobs import Blob, file_blobs
from storage.errors import InputRefused
from storage.records.results import ObjectKind

SEED = 12  # it shrinks
LEAST = ("t1w", "t2w_fs")
SERIES = ("t1w", "t2w_fs", "t1w_fs_post", "dwi", "adc", "t1_map", "t2_map")
CATEGORIES = {"PR": Response.PARTIAL, "SD": Response.STABLE, "PD": Response.PROGRESSIVE}


@dataclass(frozen=True)
class Examined:
    study: PhantomStudy
    truth: dict[str, Any]

    def inputs(self, *names: str, time_point: int = 0) -> dict[str, SeriesInput]:
        return {
            input_key(name, time_point): SeriesInput(
                name,
                self.study.series[name].series_instance_uid,
                file_blobs(self.study.series[name].paths),
                time_point,
                date(2026, 1, 5) if time_point else date(2026, 3, 2),
            )
            for name in names
        }


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> tuple[Examined, Examined]:
    first, second = (Examined(*one) for one in write_limb_patient(tmp_path_factory.mktemp("limb"), SEED, 2))
    return first, second


@pytest.fixture(scope="module")
def run() -> Callable[[Mapping[str, SeriesInput]], Findings]:
    application: Application = load_application(load_manifest("extremity_sts_sbrt", "extremity_sts_sbrt", None))
    engine = TorchEngine("cpu")
    return lambda inputs: application.run(inputs, engine, lambda what, part: None)


@pytest.fixture(scope="module")
def followed(patient: tuple[Examined, Examined], run: Callable[..., Findings]) -> Findings:
    first, second = patient
    return run(second.inputs(*SERIES) | first.inputs("t1w", "t2w_fs", "dwi", time_point=1))


def segment(findings: Findings, label: str) -> Segment:
    (found,) = (s for s in findings.segments if s.label == label)
    return found


def value(measurements: tuple[Measurement, ...], name: Code, derivation: Code | None = None) -> float:
    (found,) = (m for m in measurements if m.name == name and m.derivation == derivation)
    assert found.value is not None
    return found.value


def test_every_number_is_the_truth_within_its_error(patient: tuple[Examined, Examined], followed: Findings) -> None:
    truth = patient[1].truth
    assert [s.label for s in followed.segments][:1] == ["GTV"]
    assert {"Neurovascular bundle", "Bone"} <= {s.label for s in followed.segments}
    mass = segment(followed, "GTV").measurements
    assert value(mass, LONG_AXIS) == pytest.approx(truth["long_axis"], abs=3.0)
    assert value(mass, MAXIMUM_3D) == pytest.approx(truth["maximum_3d"], abs=6.0)
    assert value(mass, VOLUME) == pytest.approx(truth["volume_ml"], rel=0.1)
    assert value(mass, NECROTIC) == pytest.approx(100 * truth["necrosis_fraction"], abs=10.0)
    assert value(mass, BUNDLE_DISTANCE) == pytest.approx(truth["bundle_distance"], abs=4.0)
    assert value(mass, BONE_DISTANCE) == pytest.approx(truth["bone_distance"], abs=4.0)
    for quantity, name in ((ADC, "adc"), (T1, "t1"), (T2, "t2")):
        assert value(mass, quantity.code, MEAN) == pytest.approx(truth[name], rel=0.04), name
    over = {e.value for e in segment(followed, "GTV").evaluations if e.name == OVER_5_CM}
    assert (over == {YES}) == (truth["maximum_3d"] > 50)


def test_change_and_response_are_those_of_the_truth(patient: tuple[Examined, Examined], followed: Findings) -> None:
    before, now = (one.truth for one in patient)

    def change(key: str) -> float:
        return 100 * (float(now[key]) / float(before[key]) - 1)

    told = followed.measurements
    assert value(told, DIAMETER_SUM) == pytest.approx(now["long_axis"], abs=3.0)
    assert value(told, DIAMETER_CHANGE) == pytest.approx(change("long_axis"), abs=5.0)
    assert value(told, NADIR_CHANGE) == value(told, DIAMETER_CHANGE)
    assert value(told, VOLUME_CHANGE) == pytest.approx(change("volume_ml"), abs=5.0)
    assert value(told, ADC_CHANGE) == pytest.approx(change("adc"), abs=5.0)
    (response,) = (e.value for e in followed.evaluations if e.name == RESPONSE)
    assert response == CATEGORIES[now["response"]].value
    assert followed.time_point is not None
    assert (followed.time_point.label, followed.time_point.order) == ("follow-up", 2)
    assert any("study 1 of 2026-01-05" in note for note in followed.notes)


def test_it_says_that_it_knows_simulations_only(followed: Findings) -> None:
    assert followed.research
    assert "no image of a patient" in followed.algorithm.training_data
    assert "simulated limbs only" in followed.notes[0]
    assert "do not plan a treatment" in followed.notes[0]
    for one in followed.segments:
        assert UNCERTAIN in {e.value for e in one.evaluations if e.name == CERTAINTY}


def test_it_makes_every_object_and_a_gross_tumour_volume(followed: Findings) -> None:
    context = ObjectContext("NODE", "seed")
    kinds = frozenset({ObjectKind.SEG, ObjectKind.PM, ObjectKind.RTSTRUCT, ObjectKind.SR})
    built = build_objects(followed, context, ObjectProfile(objects=kinds, names_gtv=True))
    (structures,) = (one.dataset for one in built if one.kind is ObjectKind.RTSTRUCT)
    rois = {roi.ROINumber: roi.ROIName for roi in structures.StructureSetROISequence}
    types = {rois[o.ReferencedROINumber]: o.RTROIInterpretedType for o in structures.RTROIObservationsSequence}
    assert (types["GTV"], types["Bone"], types["Neurovascular"]) == ("GTV", "ORGAN", "ORGAN")
    assert [one.kind for one in built].count(ObjectKind.PM) == len(followed.maps) == 3


def test_alone_it_says_what_is_missing_and_why(
    patient: tuple[Examined, Examined], run: Callable[..., Findings], followed: Findings
) -> None:
    first, _ = patient
    findings = run(first.inputs(*LEAST))
    changes = {m.name: m.missing for m in findings.measurements if m.value is None}
    assert changes == dict.fromkeys((DIAMETER_CHANGE, NADIR_CHANGE, VOLUME_CHANGE, ADC_CHANGE), NOT_ATTEMPTED)
    assert not findings.evaluations
    assert any("No earlier study could be compared" in note for note in findings.notes)
    assert any("did without t1w_fs_post, adc, t1_map, t2_map" in note for note in findings.notes)
    assert findings.time_point is not None
    assert findings.time_point.order == 1
    # The mass is the same one when it is seen again.
    assert segment(findings, "GTV").tracking_uid == segment(followed, "GTV").tracking_uid


@pytest.mark.parametrize("series", [LEAST, SERIES], ids=["T1w and T2w", "all"])
def test_no_mass_is_no_complete_response(
    patient: tuple[Examined, Examined], run: Callable[[Mapping[str, SeriesInput]], Findings], tmp_path: Path,
    series: tuple[str, ...],
) -> None:  # fmt: skip
    healthy = write_limb_study(tmp_path, limb_study(SEED, 1), healthy=True)
    findings = run(Examined(healthy, {}).inputs(*series) | patient[0].inputs(*LEAST, time_point=1))
    assert "GTV" not in {s.label for s in findings.segments}
    assert not findings.evaluations
    assert not findings.measurements
    assert "no complete response" in findings.notes[0]


def test_empty_images_are_refused(
    patient: tuple[Examined, Examined], run: Callable[..., Findings], tmp_path: Path
) -> None:
    inputs = patient[0].inputs(*LEAST)
    with pytest.raises(InputRefused, match="shows the body: 0 %"):
        run(inputs | {"t1w": replace(inputs["t1w"], blobs=blanked(inputs["t1w"].blobs, tmp_path))})


def blanked(blobs: Iterable[Blob], folder: Path) -> tuple[Blob, ...]:
    written = []
    for number, ds in enumerate(map(read_object, blobs)):
        ds.PixelData = bytes(len(ds.PixelData))
        written.append(folder / f"{number}.dcm")
        ds.save_as(written[-1])
    return file_blobs(written)


def test_without_fat_suppressed_t2w_nothing_is_outlined(
    patient: tuple[Examined, Examined], run: Callable[..., Findings]
) -> None:
    """By T1w alone the network finds masses where there are none."""
    inputs = patient[0].inputs(*SERIES)
    t2w = inputs.pop("t2w_fs")
    with pytest.raises(InputRefused, match="no t2w_fs series"):
        run(inputs)
    with pytest.raises(InputRefused, match="missing"):
        run(inputs | {"t2w_fs": replace(t2w, blobs=t2w.blobs[:10] + t2w.blobs[11:])})
    findings = run(patient[1].inputs(*LEAST) | patient[0].inputs("t1w", time_point=1))
    assert any("was left out: it has no t2w_fs series" in note for note in findings.notes)
    assert not findings.evaluations


def test_an_earlier_study_that_cannot_be_used_is_left_out(
    patient: tuple[Examined, Examined], run: Callable[..., Findings]
) -> None:
    first, second = patient
    earlier = first.inputs(*LEAST, time_point=1)
    gap = earlier["t1w@1"].blobs
    earlier["t1w@1"] = replace(earlier["t1w@1"], blobs=gap[:10] + gap[11:])
    findings = run(second.inputs(*LEAST) | earlier)
    assert any("earlier study of 2026-01-05 was left out" in note and "missing" in note for note in findings.notes)
    assert any("No earlier study could be compared" in note for note in findings.notes)
    assert findings.time_point is not None
    assert (findings.time_point.label, findings.time_point.order) == ("follow-up", 2)
    assert segment(findings, "GTV").mask.any()


def test_nothing_is_outlined_where_there_is_no_t2w(
    patient: tuple[Examined, Examined], run: Callable[..., Findings], followed: Findings
) -> None:
    inputs = patient[1].inputs(*LEAST)
    t2w = inputs["t2w_fs"]
    findings = run(inputs | {"t2w_fs": replace(t2w, blobs=t2w.blobs[:21])})
    assert any("Only where the fat-suppressed T2w lies over the T1w was anything searched" in n for n in findings.notes)
    assert any("reaches the edge of what was imaged" in note for note in findings.notes)
    outlined = np.any([one.mask.any(axis=(1, 2)) for one in findings.segments], axis=0)
    assert np.any([one.mask.any(axis=(1, 2)) for one in followed.segments], axis=0).all()
    assert outlined.sum() in (21, 22)
    with pytest.raises(InputRefused, match=r"shows 2[0-9]% of what T1w shows of the limb"):
        run(inputs | {"t2w_fs": replace(t2w, blobs=t2w.blobs[:10])})


def ellipsoid(turn: NDArray[np.float64], offset: float = 0.0) -> Examination:
    """An upright ellipsoid, 50 x 50 x 90 mm, seen in slices whose axes are the columns of `turn`."""
    affine = np.eye(4)
    affine[:3, :3] = 2.5 * turn
    affine[:3, 3] = -affine[:3, :3] @ np.array([30, 30, 30]) + np.array([0, 0, offset])
    geometry = Geometry((61, 61, 61), affine)
    points = geometry.to_lps(np.stack(np.indices(geometry.shape), axis=-1).reshape(-1, 3).astype(float))
    mass = (np.linalg.norm(points / [25, 25, 45], axis=-1) < 1).reshape(geometry.shape)
    volume = Volume(mass.astype(np.float32), geometry, (), "study", "series", "frame", "MR")
    missing = {quantity.name: Missing(NOT_ATTEMPTED, "it is not there") for quantity in (ADC, T1, T2)}
    panel = Panel((ADC, T1, T2), {}, (), missing, (), ())
    return Examination(volume, (volume,), CONTRASTS, {"mass": mass}, np.ones(mass.shape, bool), panel, ())


AXIAL, CORONAL = np.eye(3)[:, ::-1], np.eye(3)[:, [1, 2, 0]]


def test_lengths_in_different_planes_are_not_compared() -> None:
    assert isinstance(recist_course([ellipsoid(AXIAL), ellipsoid(AXIAL)]), Course)
    other = [ellipsoid(AXIAL), ellipsoid(CORONAL)]
    told = recist_course(other)
    assert isinstance(told, Missing)
    assert "different planes" in told.reason
    assert response_evaluations(other) == ()
    known = {m.name: m.value for m in change_measurements(other)}
    assert (known[DIAMETER_CHANGE], known[NADIR_CHANGE]) == (None, None)
    assert known[VOLUME_CHANGE] == pytest.approx(0.0, abs=1.0)
    said = report_notes(other[1], [EarlierTimePoint(1, date(2026, 1, 5), other[0])])
    assert any("no response by RECIST 1.1: the time points were imaged in different planes" in note for note in said)


def test_a_mass_that_is_not_all_in_the_images_is_not_compared() -> None:
    part = [ellipsoid(AXIAL), ellipsoid(AXIAL, offset=60.0)]
    assert [one.cut_off for one in part] == [False, True]
    assert response_evaluations(part) == ()
    assert all(m.value is None for m in change_measurements(part) if m.name != DIAMETER_SUM)
    said = report_notes(part[1], [EarlierTimePoint(1, None, part[0])])
    assert any("goes on beyond what was imaged" in note for note in said)
    assert any("reaches the edge of what was imaged" in note for note in said)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_preparation_and_back_keep_the_place(order: tuple[int, int, int]) -> None:
    """An axial, a coronal and a sagittal image of one ball, each with axes against the patient's."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1.2], [0, 1.1, 0], [-4.0, 0, 0]])[:, list(order)]
    s, r, c = np.array([40, 110, 100])[list(order)].tolist()
    geometry = Geometry((s, r, c), affine)
    indices = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    points = geometry.to_lps(indices.astype(float)).reshape(*geometry.shape, 3)
    ball = np.linalg.norm(points - np.array([50.0, 70.0, -90.0]), axis=-1) < 30
    prepared = prepare_limb({"t1w": (200 + 800 * ball).astype(np.float32)}, geometry)
    assert np.allclose(prepared.geometry.affine[:3, :3], np.diag([1.5, 1.5, 4.0])[:, ::-1])  # head, back, left
    back = restore_structures(prepared.array[:1], prepared, geometry)[0] > 0.5 * prepared.array[0].max()
    assert 2 * (back & ball).sum() / (back.sum() + ball.sum()) > 0.95
