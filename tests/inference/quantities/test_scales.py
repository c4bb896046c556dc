"""The numbers of a simulated limb stay the same, however its headers tell the scale and the unit of its pixels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from inference.contract.application import load_application
from inference.contract.manifest import load_manifest
from inference.contract.series_input import SeriesInput
from inference.engine.models import TorchEngine
from inference.quantities.fits.fat_fraction import fat_fraction
from inference.quantities.panel import Panel, measure_panel, read_optional_volumes
from inference.quantities.panel_quantities import ADC, FAT, QUANTITIES, T1, T2, PanelQuantity
from inference.quantities.statistics import Statistics
from inference.volumes.reading import read_volume, read_volumes
from inference.volumes.volume import Volume
from storage.blobs import file_blobs
from storage.errors import InputRefused
from tests.inference.quantities.limb import Examined

RULES = load_manifest("soft_tissue_mass", "soft_tissue_mass", None).inputs
CASES = Path("cases/mr")  # beside the folder of the test data
Change = Callable[[Dataset], None]


@dataclass(frozen=True)
class Usual:
    """The numbers by the headers as the simulator writes them; `maps` takes the ADC that the scanner computed."""

    source: Volume
    panel: Panel
    maps: Panel


@pytest.fixture(scope="module")
def usual(examined: Examined) -> Usual:
    source = read_volume(file_blobs(examined.study.series["t1w"].paths))
    volumes, _ = read_optional_volumes(examined.inputs("dwi", "t1_map", "t2_map", "water", "fat"), RULES)
    maps, _ = read_optional_volumes(examined.inputs("adc", "t1_map", "t2_map"), RULES)
    return Usual(source, measure_panel(volumes, source), measure_panel(maps, source, (ADC, T1, T2)))


def mean_of(panel: Panel, quantity: PanelQuantity, examined: Examined) -> float:
    found = panel.statistics(quantity, examined.study.mask)
    assert isinstance(found, Statistics), found
    return found.mean


def changed(examined: Examined, name: str, folder: Path, change: Change) -> SeriesInput:
    """Write the images of a series again, each of them changed."""
    (folder / name).mkdir()
    paths = []
    for path in examined.study.series[name].paths:
        ds = dcmread(path)
        change(ds)
        paths.append(folder / name / path.name)
        ds.save_as(paths[-1])
    return SeriesInput(name, "", file_blobs(tuple(paths)))


def bare(ds: Dataset) -> None:
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType", "RealWorldValueMappingSequence"):
        if keyword in ds:
            delattr(ds, keyword)


def mapping(unit: str | None, slope: float, **attributes: float) -> Dataset:
    item = Dataset()
    item.RealWorldValueSlope, item.RealWorldValueIntercept = slope, 0.0
    item.RealWorldValueFirstValueMapped, item.RealWorldValueLastValueMapped = 0, 65535
    item.LUTLabel = item.LUTExplanation = "scale"
    if unit is not None:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, "UCUM", unit
        item.MeasurementUnitsCodeSequence = [code]
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def by_real_world(*items: tuple[str | None, float]) -> Change:
    def change(ds: Dataset) -> None:
        bare(ds)
        ds.RealWorldValueMappingSequence = [mapping(unit, slope) for unit, slope in items]

    return change


def by_rescale(unit: str, slope: float) -> Change:
    def change(ds: Dataset) -> None:
        bare(ds)
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = f"{slope:g}", "0", unit

    return change


def by_rescale_beside_no_unit(unit: str, slope: float) -> Change:
    """Describe the map as Philips does, whose Real World Value Mapping often has the unit 1."""

    def change(ds: Dataset) -> None:
        by_rescale(unit, slope)(ds)
        ds.RealWorldValueMappingSequence = [mapping("1", slope)]

    return change


MAPS: Mapping[str, tuple[PanelQuantity, Mapping[str, float]]] = {
    "adc": (ADC, {"um2/s": 1, "mm2/s": 1e-6, "10*-3.mm2/s": 1e-3}),
    "t1_map": (T1, {"s": 1e-3}),
    "t2_map": (T2, {"ms": 1, "us": 1e3}),
}
RESCALE_TYPES = {
    "adc": {"mm2/s": 1e-6, "10-3 mm2/s": 1e-3, "10^-6 mm^2/s": 1},
    "t1_map": {"s": 1e-3},
    "t2_map": {"msec": 1},
}
WAYS: Sequence[tuple[str, str, Change, str]] = (
    *((n, f"RWVM {u}", by_real_world((u, f)), "") for n, (_, us) in MAPS.items() for u, f in us.items()),
    *((n, f"rescale {u}", by_rescale(u, f), "") for n, us in RESCALE_TYPES.items() for u, f in us.items()),
    ("adc", "alternatives", by_real_world(("1", 7), ("/s", 3), ("mm2/s", 1e-6)), ""),
    ("adc", "two items that agree", by_real_world(("mm2/s", 1e-6), ("um2/s", 1)), ""),
    ("t2_map", "unit 1 beside ms", by_rescale_beside_no_unit("ms", 1), ""),
    ("adc", "US", by_rescale("US", 1e-3), "10*-3.mm2/s"),
    ("t1_map", "normalized", by_rescale("normalized", 1e-3), "s"),
    ("t2_map", "nothing", bare, "ms"),
)


@pytest.mark.parametrize(("name", "way", "change", "assumed"), WAYS, ids=[f"{n} {way}" for n, way, *_ in WAYS])
def test_a_map_is_the_same_in_every_unit(
    examined: Examined, usual: Usual, tmp_path: Path, name: str, way: str, change: Change, assumed: str
) -> None:
    quantity = MAPS[name][0]
    volumes, notes = read_optional_volumes({name: changed(examined, name, tmp_path, change)}, RULES)
    found = measure_panel(volumes, usual.source, (quantity,))
    assert notes == ()
    assert mean_of(found, quantity, examined) == pytest.approx(mean_of(usual.maps, quantity, examined), rel=0.01)
    assert (f"{assumed} was taken" in " ".join(found.assumed)) == bool(assumed)


def scaled(ds: Dataset) -> float:
    """Store the pixels of an image at a scale of its own, by its b-value or its kind, and return the slope back."""
    slope = 2.0 if "fat" in str(ds.SeriesDescription).lower() else 1.0 + float(ds.get("DiffusionBValue") or 0) / 1000
    ds.PixelData = np.rint(ds.pixel_array / slope).astype("<u2").tobytes()
    bare(ds)
    return slope


def signal_by_rescale(ds: Dataset) -> None:
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = f"{scaled(ds):g}", "0", "US"


def signal_by_real_world(ds: Dataset) -> None:
    """The rescale beside it is made for display, in no unit."""
    slope = scaled(ds)
    ds.RealWorldValueMappingSequence = [mapping("1", slope)]
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "1.5", "0", "US"


def signal_without_a_unit(ds: Dataset) -> None:
    ds.RealWorldValueMappingSequence = [mapping(None, scaled(ds))]


def signal_by_philips(ds: Dataset) -> None:
    """Rescale and Real World Value Mapping agree, and are made for display; the Scale Slope is the measured scale."""
    slope = scaled(ds)
    display = 0.4 + slope**2
    ds.Manufacturer = "Philips Medical Systems"
    ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(0x0E, "FL", 1 / slope)
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = f"{display:.10g}", "0", "normalized"
    ds.RealWorldValueMappingSequence = [mapping("1", display)]


SIGNALS = (signal_by_rescale, signal_by_real_world, signal_without_a_unit, signal_by_philips)


@pytest.mark.parametrize("change", SIGNALS)
def test_fits_see_one_scale(examined: Examined, usual: Usual, tmp_path: Path, change: Change) -> None:
    inputs = {name: changed(examined, name, tmp_path, change) for name in ("dwi", "water", "fat")}
    volumes, notes = read_optional_volumes(inputs, RULES)
    found = measure_panel(volumes, usual.source, (ADC, FAT))
    assert notes == ()
    for quantity in (ADC, FAT):
        expected = mean_of(usual.panel, quantity, examined)
        assert mean_of(found, quantity, examined) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("unit", "slope"), [("%", 0.1), ("1", 0.001), ("[ppth]", 1.0), (None, 0.1)])
def test_a_fat_fraction_is_the_same_in_every_unit(
    examined: Examined, usual: Usual, tmp_path: Path, unit: str | None, slope: float
) -> None:
    water, fat = (read_volume(file_blobs(examined.study.series[name].paths)) for name in ("water", "fat"))
    percent = np.nan_to_num(fat_fraction(water.array, fat.array))
    slices = {frame.sop_instance_uid: k for k, frame in enumerate(fat.frames)}

    def change(ds: Dataset) -> None:
        ds.PixelData = np.rint(10 * percent[slices[ds.SOPInstanceUID]]).astype("<u2").tobytes()
        by_real_world((unit, slope))(ds)
        ds.ImageType = ["DERIVED", "PRIMARY", "DIXON", "FAT_FRACTION"]

    series = changed(examined, "fat", tmp_path, change)
    found = measure_panel({"fat_fraction": read_volumes(series.blobs)}, usual.source, (FAT,))
    assert mean_of(found, FAT, examined) == pytest.approx(mean_of(usual.panel, FAT, examined), rel=0.01)


def on_one_image(first: Change, then: Change) -> Change:
    def change(ds: Dataset) -> None:
        (then if int(ds.InstanceNumber) == 7 else first)(ds)

    return change


def both(one: Change, rescale: tuple[str, float]) -> Change:
    def change(ds: Dataset) -> None:
        one(ds)
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = f"{rescale[1]:g}", "0", rescale[0]

    return change


CONTRADICTIONS = (
    ("adc", both(by_real_world(("um2/s", 1)), ("um2/s", 1.002)), r"Real World .* um2/s and a rescale gives .* um2/s"),
    (
        "adc",
        both(by_real_world(("mm2/s", 1e-6)), ("10-3 mm2/s", 1)),
        r"gives .* mm2/s and a rescale gives .*10-3 mm2/s",
    ),
    ("adc", by_real_world(("mm2/s", 1e-6), ("um2/s", 10)), r"gives .* mm2/s and a Real World .* gives .* um2/s"),
    ("t2_map", on_one_image(by_real_world(("ms", 1)), bare), r"has a Real World .* ms, but .* has no mapping"),
    ("t2_map", on_one_image(by_rescale("ms", 1), by_real_world(("ms", 1))), "has a rescale ms, but .* Real World"),
    ("dwi", by_real_world(("1", 1), ("1", 1.01)), "contradicts itself"),
    ("dwi", on_one_image(by_real_world(("1", 1.2)), bare), r"image \d+ has a Real World .* has no mapping"),
)
AGREEING = (
    ("adc", both(by_real_world(("um2/s", 1)), ("um2/s", 1.0005))),
    ("adc", both(by_real_world(("mm2/s", 1e-6)), ("10-3 mm2/s", 1e-3))),
    ("adc", both(by_real_world(("um2/s", 1)), ("US", 17))),
    ("dwi", both(by_real_world(("1", 1.2)), ("US", 1.2))),
)


@pytest.mark.parametrize(("name", "change", "reason"), CONTRADICTIONS)
def test_contradictions_are_refused(examined: Examined, tmp_path: Path, name: str, change: Change, reason: str) -> None:
    series = changed(examined, name, tmp_path, change)
    with pytest.raises(InputRefused, match=reason):
        read_volumes(series.blobs)
    volumes, (note,) = read_optional_volumes({name: series}, RULES)
    assert volumes == {}
    assert note.startswith(f"The series for {name} was not used: image ")


@pytest.mark.parametrize(("name", "change"), AGREEING)
def test_mappings_that_agree_are_taken(examined: Examined, tmp_path: Path, name: str, change: Change) -> None:
    volumes, notes = read_optional_volumes({name: changed(examined, name, tmp_path, change)}, RULES)
    assert (set(volumes), notes) == ({name}, ())


def test_the_unit_of_another_quantity_is_refused(examined: Examined, usual: Usual, tmp_path: Path) -> None:
    volumes, _ = read_optional_volumes(
        {"t2_map": changed(examined, "t2_map", tmp_path, by_real_world(("/s", 1)))}, RULES
    )
    refused = measure_panel(volumes, usual.source, (T2,))
    assert refused.missing["t2"].reason == (
        "the headers of the series state /s, which does not convert to the unit of T2, ms"
    )


def test_an_application_reports_the_same_numbers(
    examined: Examined, usual: Usual, engine: TorchEngine, tmp_path: Path
) -> None:
    changes: Mapping[str, Change] = {
        "dwi": signal_by_philips, "water": signal_by_real_world, "fat": signal_by_real_world,
        "t1_map": by_rescale("s", 1e-3), "t2_map": bare,
    }  # fmt: skip
    inputs = {name: changed(examined, name, tmp_path, change) for name, change in changes.items()}
    application = load_application(load_manifest("soft_tissue_mass", "soft_tissue_mass", None))
    findings = application.run(examined.inputs("t1w") | inputs, engine, lambda what, part: None)
    (segment,) = findings.segments
    told = {m.name: m.value for m in segment.measurements if m.derivation and m.derivation.meaning == "Mean"}
    for quantity in QUANTITIES:
        expected = usual.panel.statistics(quantity, segment.mask)
        assert isinstance(expected, Statistics)
        assert told[quantity.code] == pytest.approx(expected.mean, rel=0.01), quantity.label
    assert any("do not state the unit of its values; ms was taken" in note for note in findings.notes)


@pytest.mark.parametrize(
    ("series", "name", "quantity", "expected"),
    [
        ("adcmix_adc_frames_b0", "dwi", ADC, 1200),
        ("adcmix_phase_beside_magnitude", "dwi", ADC, 1200),
        ("dwi_rwvm_1.2_1.0", "dwi", ADC, 1200),
        ("dwi_rwvm_1.5_1.0", "dwi", ADC, 1200),
        ("adc_rescale_1e-3mm2s", "adc", ADC, 1200),
        ("adc_rescale_1e-6_mm2s_weasis614", "adc", ADC, 1200),
        ("t2map_rwvm_0p1ms", "t2_map", T2, 35),
    ],
)
def test_cases_of_the_field(test_data: Path, series: str, name: str, quantity: PanelQuantity, expected: float) -> None:
    folder = test_data.parent / CASES / series
    if not folder.is_dir():
        pytest.skip("the cases of the field are not here")
    (volumes, notes) = read_optional_volumes(
        {name: SeriesInput(name, "", file_blobs(tuple(sorted(folder.iterdir()))))}, RULES
    )
    found = measure_panel(volumes, volumes[name][0], (quantity,))
    assert notes == found.assumed == ()
    assert np.nanmean(found.values[quantity.name]) == pytest.approx(expected, rel=0.002)


def test_an_adc_inside_a_diffusion_series_is_used_where_nothing_can_be_fitted(test_data: Path) -> None:
    folder = test_data.parent / CASES / "adcmix_adc_frames_b0"
    if not folder.is_dir():
        pytest.skip("the cases of the field are not here")
    volumes = [v for v in read_volumes(file_blobs(sorted(folder.iterdir()))) if v.told_apart.get("b-value") == 0]
    found = measure_panel({"dwi": tuple(volumes)}, volumes[0], (ADC,))
    assert np.nanmean(found.values["adc"]) == pytest.approx(1200)
    assert found.maps[0].method is None
