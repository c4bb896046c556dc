"""The quantitative panel, and `soft_tissue_mass` with it, on the DICOM of a simulated limb."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicom_node.catalogue import ConfiguredApplication, configured_applications
from dicom_node.settings.model import ApplicationSettings
from inference.contract.application import load_application
from inference.contract.concepts import GRADES, MALIGNANCY, PROBABILITY
from inference.contract.findings import NOT_ATTEMPTED, Findings, Measurement
from inference.contract.manifest import load_manifest
from inference.contract.series_input import SeriesInput
from inference.engine.models import TorchEngine
from inference.quantities.alignment import align
from inference.quantities.fits.fat_fraction import fat_fraction
from inference.quantities.panel import measure_panel, read_optional_volumes
from inference.quantities.panel_quantities import ADC, FAT, QUANTITIES, T1, T2
from inference.quantities.statistics import Statistics, interior
from inference.volumes.geometry import Geometry
from inference.volumes.reading import read_volume
from storage.blobs import file_blobs
from storage.errors import InputRefused
from tests.inference.quantities.limb import Examined

RULES = load_manifest("soft_tissue_mass", "soft_tissue_mass", None).inputs
TOLERANCE = {ADC: 0.02, T1: 0.02, T2: 0.02}  # of the truth
FAT_POINTS = 1.0  # % of fat


def test_every_number_is_the_truth_within_its_error(examined: Examined) -> None:
    source = read_volume(file_blobs(examined.study.series["t1w"].paths))
    volumes, notes = read_optional_volumes(examined.inputs("dwi", "adc", "t1_map", "t2_map", "water", "fat"), RULES)
    found = measure_panel(volumes, source)
    assert notes == ()
    (said,) = found.notes(examined.study.mask)
    assert said.startswith("The statistics of ADC, T1, T2, Fat fraction are those of the outline without its outermost")
    assert [one.label for one in found.maps] == ["ADC", "T1", "T2", "Fat fraction"]
    assert found.maps[0].method is not None  # the ADC was fitted here, though the scanner's map is there too
    for quantity, tolerance in TOLERANCE.items():
        told = found.statistics(quantity, examined.study.mask)
        assert isinstance(told, Statistics)
        assert told.mean == pytest.approx(examined.truth[quantity.name], rel=tolerance), quantity.label
        assert told.p10 < told.median < told.p90
    told = found.statistics(FAT, examined.study.mask)
    assert isinstance(told, Statistics)
    assert told.mean == pytest.approx(100 * examined.truth["fat_fraction"], abs=FAT_POINTS)
    assert len(found.measurements(examined.study.mask)) == 7 * len(QUANTITIES)


def test_what_is_missing_is_said_with_its_reason(examined: Examined, tmp_path: Path) -> None:
    source = read_volume(file_blobs(examined.study.series["t1w"].paths))
    ten_times = rescaled(examined.study.series["t1_map"].paths, tmp_path, 10)
    inputs = examined.inputs("adc", "t2_map") | {"t1_map": SeriesInput("t1_map", "", file_blobs(ten_times))}
    inputs["t2_map"] = replace(inputs["t2_map"], blobs=inputs["t2_map"].blobs[::2][:-3] + inputs["t2_map"].blobs[-1:])
    volumes, notes = read_optional_volumes(inputs, RULES)
    found = measure_panel(volumes, source)
    assert any(note.startswith("The series for t2_map was not used") and "missing" in note for note in notes)
    assert [one.quantity for one in found.maps] == [ADC.code]
    told = found.measurements(examined.study.mask)
    assert [(m.name, m.missing) for m in told if m.value is None] == [
        (q.code, NOT_ATTEMPTED) for q in (T1, T2, FAT)
    ]  # fmt: skip
    said = found.notes(examined.study.mask)
    assert any("T1" in note and "cannot be T1 in ms" in note for note in said)
    assert "Not measured: T2, Fat fraction; no usable series was given for it." in said


@pytest.mark.parametrize("folder", ["ge_hdxt_prostate_adc", "siemens_xa30_study/11_DWI_dir80_PA"])
def test_a_unit_is_judged_by_the_whole_map(test_data: Path, folder: str) -> None:
    """Real ones; of the first, ten times too high, a quarter could still be an ADC."""
    scanned = read_volume(file_blobs(sorted((test_data / "mr" / folder).rglob("*.dcm"))))
    noise = np.random.default_rng(0).normal(0, 4000, scanned.array.shape).astype(np.float32)  # of a fit in the air
    noisy = replace(scanned, array=np.where(scanned.array == 0, noise, scanned.array))
    assert [set(measure_panel({"adc": (one,)}, one).values) for one in (scanned, noisy)] == [{"adc"}] * 2
    refused = measure_panel({"adc": (replace(scanned, array=10 * scanned.array),)}, scanned)
    assert "cannot be ADC in um2/s" in refused.missing["adc"].reason


def test_a_fat_fraction_in_per_mille_is_none(examined: Examined) -> None:
    volumes, _ = read_optional_volumes(examined.inputs("water", "fat"), RULES)
    (water,), (fat,) = volumes["water"], volumes["fat"]
    percent = np.nan_to_num(fat_fraction(water.array, fat.array))
    for scale, said in ((0.01, None), (1, None), (10, "cannot be Fat fraction in %")):
        found = measure_panel({"fat_fraction": (replace(fat, array=scale * percent),)}, water)
        if said is None:
            assert np.nanmax(found.values["fat"]) > 90
        else:
            assert said in found.missing["fat"].reason


@pytest.mark.parametrize("changed", ["place", "frame of reference"])
def test_water_and_fat_must_show_the_same_place(examined: Examined, changed: str) -> None:
    volumes, _ = read_optional_volumes(examined.inputs("water", "fat"), RULES)
    (water,), (fat,) = volumes["water"], volumes["fat"]
    affine = fat.geometry.affine.copy()
    affine[:3, 3] += (0.0, 0.0, 8.0)
    other = {
        "place": replace(fat, geometry=Geometry(fat.geometry.shape, affine)),
        "frame of reference": replace(fat, frame_of_reference_uid="1.2.3"),
    }[changed]
    refused = measure_panel({"water": (water,), "fat": (other,)}, water)
    reason = refused.missing["fat"].reason
    assert "water and fat lie on different grids" in reason


def test_only_what_is_asked_for_is_told_and_why_a_better_series_was_not_used(examined: Examined) -> None:
    source = read_volume(file_blobs(examined.study.series["t1w"].paths))
    volumes, _ = read_optional_volumes(examined.inputs("dwi", "adc", "water", "fat"), RULES)
    found = measure_panel(volumes | {"dwi": volumes["dwi"][:1]}, source, (ADC, T1))
    assert {m.name for m in found.measurements(examined.study.mask)} == {ADC.code, T1.code}
    assert found.inputs == volumes["adc"]
    statistics, unused, missing = found.notes(examined.study.mask)
    assert "of ADC are" in statistics
    assert unused.startswith("The series for dwi was not used: the fit needs at least 2 different b-values")
    assert missing == "Not measured: T1; no usable series was given for it."


def rescaled(paths: tuple[Path, ...], folder: Path, factor: float) -> tuple[Path, ...]:
    written = []
    for path in paths:
        ds = dcmread(path)
        ds.RescaleSlope = float(ds.RescaleSlope) * factor
        ds.RealWorldValueMappingSequence[0].RealWorldValueSlope *= factor
        written.append(folder / path.name)
        ds.save_as(written[-1])
    return tuple(written)


def test_a_map_of_another_frame_of_reference_is_registered_or_left_out(examined: Examined) -> None:
    source = read_volume(file_blobs(examined.study.series["t1w"].paths))
    volumes, _ = read_optional_volumes(examined.inputs("t2_map"), RULES)
    (t2,) = volumes["t2_map"]
    affine = t2.geometry.affine.copy()
    affine[:3, 3] += (9.0, -6.0, 0.0)
    moved = replace(t2, frame_of_reference_uid="1.2.3", geometry=replace(t2.geometry, affine=affine))
    told = measure_panel({"t2_map": (moved,)}, source).statistics(T2, examined.study.mask)
    assert isinstance(told, Statistics)
    assert told.mean == pytest.approx(examined.truth["t2"], rel=TOLERANCE[T2])
    noise = np.random.default_rng(0).uniform(50, 150, t2.array.shape).astype(np.float32)
    refused = measure_panel({"t2_map": (replace(moved, array=noise),)}, source)
    assert refused.maps == ()
    assert any("cannot be brought onto" in note for note in refused.notes(examined.study.mask))


def test_what_shows_less_of_a_limb_has_no_place_along_it(examined: Examined) -> None:
    """Along the shaft every place looks much alike: half a volume can be registered 20 mm off, and accepted."""
    source, whole = (read_volume(file_blobs(examined.study.series[name].paths)) for name in ("t1w", "t2w_fs"))
    affine = whole.geometry.affine.copy()
    affine[:3, 3] += (7.0, -5.0, 25.0)
    half = replace(
        whole, array=whole.array[:20], frame_of_reference_uid="1.2.3",
        geometry=Geometry((20, *whole.geometry.shape[1:]), affine),
    )  # fmt: skip
    with pytest.raises(InputRefused, match="do not show the same length of the limb"):
        align(half.array, half, source)


def test_outside_of_the_field_of_view_nothing_is_known(examined: Examined) -> None:
    """The field of view ends with the faces of the voxels: numerical noise in a position loses no slice."""
    source, whole = (read_volume(file_blobs(examined.study.series[name].paths)) for name in ("t1w", "t2w_fs"))
    affine = whole.geometry.affine.copy()
    affine[:3, 3] += (0.0, 0.0, 1e-6)
    part = replace(whole, array=whole.array[:30], geometry=Geometry((30, *whole.geometry.shape[1:]), affine))
    brought = align(part.array, part, source)
    assert np.isfinite(brought[:30]).all()
    assert np.isnan(brought[30:]).all()


def values(findings: Findings) -> dict[str, Measurement]:
    (segment,) = findings.segments
    return {f"{m.name.value} {m.derivation.value if m.derivation else ''}": m for m in segment.measurements}


def test_soft_tissue_mass_measures_what_it_outlines(examined: Examined, engine: TorchEngine) -> None:
    application = load_application(load_manifest("soft_tissue_mass", "soft_tissue_mass", None))
    inputs = examined.inputs("t1w", "adc", "t1_map", "t2_map")
    findings = application.run(inputs, engine, lambda what, part: None)
    assert {v.series_instance_uid for v in findings.inputs} == {
        examined.study.series[name].series_instance_uid for name in inputs
    }
    (segment,) = findings.segments
    told = values(findings)
    for one in findings.maps:
        mean = told[f"{one.quantity.value} 373098007"].value
        assert mean == pytest.approx(float(np.nanmean(one.values[interior(segment.mask)])), rel=1e-5)
    assert told["fascia-depth "].missing == NOT_ATTEMPTED
    assert any("fascia" in note for note in findings.notes)
    assert not {PROBABILITY, *GRADES} & {m.name for m in segment.measurements}
    assert MALIGNANCY not in {e.name for e in segment.evaluations}


def test_classification_is_a_switch_and_says_what_it_is(examined: Examined, engine: TorchEngine) -> None:
    plain = load_manifest("soft_tissue_mass", "soft_tissue_mass", None)
    on = load_manifest("soft_tissue_mass", "soft_tissue_mass", None, {"classification": True})
    assert on.sha256 != plain.sha256
    application = load_application(on)
    assert application.algorithm.weights_sha256 != load_application(plain).algorithm.weights_sha256
    findings = application.run(examined.inputs("t1w", "adc", "t1_map", "t2_map"), engine, lambda what, part: None)
    (segment,) = findings.segments
    probabilities = [m.value for m in segment.measurements if m.name in (PROBABILITY, *GRADES)]
    assert len(probabilities) == 4
    assert sum(p for p in probabilities[1:] if p is not None) == pytest.approx(1.0)
    assert MALIGNANCY in {e.name for e in segment.evaluations}
    assert any("phantom-trained" in note and "not validated on patients" in note for note in findings.notes)
    without = application.run(examined.inputs("t1w"), engine, lambda what, part: None)
    told = [m for m in without.segments[0].measurements if m.name in (PROBABILITY, *GRADES)]
    assert {m.missing for m in told} == {NOT_ATTEMPTED}
    assert MALIGNANCY not in {e.name for e in without.segments[0].evaluations}


def test_a_site_switches_options_that_there_are() -> None:
    def configured(**options: bool) -> ConfiguredApplication:
        (one,) = configured_applications(
            [ApplicationSettings(id="soft_tissue_mass", destinations=("pacs",), options=options).entry]
        )
        return one

    assert (plain := configured().manifest) is not None
    assert (on := configured(classification=True).manifest) is not None
    assert (plain.switches, on.switches) == ({"classification": False}, {"classification": True})
    assert "no option 'clasification'" in configured(clasification=True).problem
    assert "did you mean 'classification'" in configured(clasification=True).problem
