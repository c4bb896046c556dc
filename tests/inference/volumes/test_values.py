"""The mappings that a frame may state, and the numbers that they give."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from inference.headers.image_content import COMPONENT, FRAME_TYPE, ImageContent, content_of, is_signal
from inference.headers.private import PrivateElements
from inference.headers.units import unit_of
from inference.volumes.values import FrameValues, MappingSource, values_of
from storage.errors import InputRefused

ROOT = Path(__file__).parents[3]
MAP, SIGNAL = {FRAME_TYPE: "T2 map"}, {COMPONENT: "magnitude"}
STORED = np.array([[0, 10, 100, 4000]], np.uint16)


def dataset(**attributes: Any) -> Dataset:
    ds = Dataset()
    ds.Modality = "MR"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def item(unit: str | None = None, **attributes: Any) -> Dataset:
    found = dataset(**attributes)
    del found.Modality
    if unit is not None:
        found.MeasurementUnitsCodeSequence = [dataset(CodeValue=unit, CodingSchemeDesignator="UCUM")]
    return found


def real_world(unit: str | None, slope: float, first: float | None = None, last: float | None = None) -> Dataset:
    found = item(unit, RealWorldValueSlope=slope, RealWorldValueIntercept=0.0)
    if first is not None:
        found.DoubleFloatRealWorldValueFirstValueMapped = float(first)
    if last is not None:
        found.DoubleFloatRealWorldValueLastValueMapped = float(last)
    return found


def numbers(ds: Dataset, told: dict[str, Any], frame: int | None = None, stored: Any = STORED) -> list[float]:
    found = values_of(ds, frame, told, "image 1")
    found.check(np.asarray(stored), "image 1")
    return [float(v) for v in found.numbers.applied(np.asarray(stored), found.numbers.unit).ravel()]


def enhanced(shared: Dataset, *frames: Dataset) -> Dataset:
    return dataset(SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=list(frames))


def test_a_frame_has_its_own_mapping_or_that_of_all_frames() -> None:
    own = item(RealWorldValueMappingSequence=[real_world("ms", 0.5)])
    shared = item(RealWorldValueMappingSequence=[real_world("ms", 0.1)])
    ds = enhanced(shared, own, item())
    assert numbers(ds, MAP, 1) == [0, 5, 50, 2000]
    assert numbers(ds, MAP, 2) == pytest.approx([0, 1, 10, 400])
    ds = enhanced(item(PixelValueTransformationSequence=[item(RescaleSlope=3, RescaleIntercept=1)]), item())
    assert numbers(ds, SIGNAL, 1) == [1, 31, 301, 12001]


def test_values_outside_of_the_mapped_range_are_missing() -> None:
    ds = dataset(RealWorldValueMappingSequence=[real_world("ms", 0.1, 1, 100)])
    assert np.isnan(numbers(ds, MAP)).tolist() == [True, False, False, True]
    ds.RealWorldValueMappingSequence.append(real_world("s", 0.0002, 101, 4000))
    assert numbers(ds, MAP)[1:] == pytest.approx([1, 10, 800])
    assert np.isnan(numbers(ds, MAP)[0])


@pytest.mark.parametrize("last", [4000, 0xFFFF - 1000, (0xFFFF - 1000).to_bytes(2, "little")])
def test_mapped_ranges_of_signed_pixels(last: Any) -> None:
    """Ranges may be written as unsigned numbers, or have no VR in implicit VR."""
    ds = dataset(PixelRepresentation=1)
    ds.RealWorldValueMappingSequence = [item("Hz", RealWorldValueSlope=2.0)]
    ds.RealWorldValueMappingSequence[0].add_new("RealWorldValueFirstValueMapped", "SS", -2000)
    ds.RealWorldValueMappingSequence[0].add_new(
        "RealWorldValueLastValueMapped", "OB" if isinstance(last, bytes) else "US", last
    )
    told = {FRAME_TYPE: "field map"}
    low, high = numbers(ds, told, stored=np.array([[-1500, 50]], np.int16))
    assert low == -3000
    assert high == 100 if last == 4000 else np.isnan(high)


def test_tables() -> None:
    ds = dataset(RealWorldValueMappingSequence=[item("ms", RealWorldValueLUTData=[7.0, 9.0])])
    ds.RealWorldValueMappingSequence[0].DoubleFloatRealWorldValueFirstValueMapped = 10.0
    found = numbers(ds, MAP, stored=np.array([[9, 10, 11, 12]], np.uint16))
    assert np.isnan(found).tolist() == [True, False, False, True]
    assert found[1:3] == [7, 9]
    table = item(LUTDescriptor=[3, 10, 16], LUTData=[5, 6, 8], ModalityLUTType="US")
    found = numbers(dataset(ModalityLUTSequence=[table]), SIGNAL, stored=np.array([[0, 10, 11, 4000]], np.uint16))
    assert found == [5, 5, 6, 8]  # the modality LUT goes on at its ends (PS3.3 C.11.1.1.1)


def test_only_stored_values_that_occur_can_contradict() -> None:
    ds = dataset(RescaleSlope=1, RescaleType="ms")
    ds.RealWorldValueMappingSequence = [item("ms", RealWorldValueLUTData=[float(min(v, 4000)) for v in range(4096)])]
    ds.RealWorldValueMappingSequence[0].DoubleFloatRealWorldValueFirstValueMapped = 0.0
    assert numbers(ds, MAP) == [0, 10, 100, 4000]
    with pytest.raises(InputRefused, match="image 1 contradicts itself: for the stored value 4090"):
        numbers(ds, MAP, stored=[[0, 4090]])


def test_the_unit_one_beside_another_unit_is_no_unit() -> None:
    ds = dataset(RescaleSlope=0.1, RescaleType="%", RealWorldValueMappingSequence=[real_world("1", 0.1)])
    assert numbers(ds, {FRAME_TYPE: "fat fraction"}) == pytest.approx([0, 1, 10, 400])
    ds.RealWorldValueMappingSequence = [real_world("1", 0.2)]
    with pytest.raises(InputRefused, match="contradicts itself"):
        numbers(ds, {FRAME_TYPE: "fat fraction"})


@pytest.mark.parametrize(
    ("series", "frame"), [("philips_elition_mprage_classic", None), ("philips_elition_fieldmap_enhanced", 1)]
)
def test_the_scale_of_philips_outlives_its_private_creators(test_data: Path, series: str, frame: int | None) -> None:
    """De-identification often drops the creators and keeps their elements."""
    ds = dcmread(min((test_data / "mr" / series).iterdir()), stop_before_pixels=True)
    scaled = numbers(ds, SIGNAL, frame)
    ds.walk(lambda part, element: part.pop(element.tag) if element.tag.is_private_creator else None)
    assert numbers(ds, SIGNAL, frame) == scaled
    ds.Manufacturer = "another"
    assert numbers(ds, SIGNAL, frame) != scaled


def test_ct_is_in_hounsfield_units() -> None:
    ds = dataset(Modality="CT", RescaleSlope=2, RescaleIntercept=-1024, RescaleType="HU")
    assert numbers(ds, {}) == [-1024, -1004, -824, 6976]


def chosen(ds: Dataset, told: dict[str, Any]) -> FrameValues:
    return values_of(ds, None, told, "image 1")


def test_a_unit_that_is_not_known_is_stated_all_the_same() -> None:
    ds = dataset(RescaleSlope=2, RealWorldValueMappingSequence=[real_world("furlong", 3)])
    as_map, as_signal = chosen(ds, MAP), chosen(ds, SIGNAL)
    assert as_map.numbers.unit is not None
    assert not as_map.numbers.unit.converts_to(unit_of("ms"))  # type: ignore[arg-type]
    assert as_signal.numbers.key[0] is MappingSource.RESCALE


def test_a_mapping_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(InputRefused, match="image 1: the mapping of its stored values cannot be read"):
        numbers(dataset(RescaleSlope="inf"), SIGNAL)
    damaged = real_world("ms", 1)
    damaged.pop("RealWorldValueSlope")
    tag = Tag("RealWorldValueSlope")
    damaged[tag] = RawDataElement(tag, "FD", 3, b"abc", 0, False, True)
    with pytest.raises(InputRefused, match="image 1: the mapping of its stored values cannot be read"):
        numbers(dataset(RealWorldValueMappingSequence=[damaged]), MAP)
    with pytest.raises(InputRefused, match="image 1: its Rescale Slope is 0"):
        numbers(dataset(RescaleSlope=0, RescaleIntercept=5), SIGNAL)


def test_a_code_without_scheme_is_a_unit() -> None:
    ds = dataset(RealWorldValueMappingSequence=[real_world("ms", 0.1)])
    ds.RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence[0].CodingSchemeDesignator = ""
    assert chosen(ds, MAP).numbers.unit == unit_of("ms")


def test_the_scale_of_philips_belongs_to_the_rescale() -> None:
    ds = dataset(Manufacturer="Philips", RescaleSlope=2, RescaleIntercept=-4)
    ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(0x0E, "FL", 0.5)
    expected = numbers(ds, SIGNAL)
    assert expected == [-4, 16, 196, 7996]
    mapping = real_world("1", 3, 1, 100)
    mapping.RealWorldValueIntercept = 7.0
    ds.RealWorldValueMappingSequence = [mapping]
    assert numbers(ds, SIGNAL) == expected


@pytest.mark.parametrize(
    ("image_type", "component", "content"),
    [
        ("ORIGINAL/PRIMARY/M/ND", None, ("magnitude", None)),
        ("ORIGINAL/PRIMARY/PHASE MAP/P/FFE", None, ("phase", None)),
        ("ORIGINAL/PRIMARY/T1/PHASE MAP", None, ("phase", None)),
        ("ORIGINAL/PRIMARY/T1/NONE", "PHASE", ("phase", None)),
        ("ORIGINAL/PRIMARY/T1/M", "MIXED", ("magnitude", None)),
        ("DERIVED/PRIMARY/DIFFUSION/ADC", "MAGNITUDE", ("magnitude", "ADC")),
        ("DERIVED/PRIMARY/DIFFUSION/TRACEW", None, ("magnitude", "trace")),
        ("ORIGINAL/PRIMARY/M/ND/W", None, ("magnitude", "water")),
        ("DERIVED/PRIMARY/DIXON/T2_STAR", None, ("magnitude", "T2* map")),
        ("ORIGINAL/PRIMARY/T2_STAR/NONE", None, ("magnitude", None)),
        ("DERIVED/PRIMARY/MULTI_QMAP/T2", None, ("magnitude", "T2 map")),
        ("ORIGINAL/PRIMARY/T2/NONE", None, ("magnitude", None)),
    ],
)
def test_what_an_image_shows(image_type: str, component: str | None, content: tuple[str, str | None]) -> None:
    assert content_of(image_type.split("/"), component) == ImageContent(*content)


def test_ge_tells_the_component_in_a_private_attribute() -> None:
    ds = dataset(Manufacturer="GE MEDICAL SYSTEMS")
    ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", 1)
    assert content_of(["ORIGINAL", "PRIMARY", "M"], None, PrivateElements(ds)).component == "phase"


def test_signals() -> None:
    assert is_signal({})
    assert is_signal({FRAME_TYPE: "water"})
    assert is_signal({COMPONENT: "real", "InversionTime": 300.0})
    assert not is_signal({COMPONENT: "real"})
    assert not is_signal({COMPONENT: "phase"})
    assert not is_signal({FRAME_TYPE: "ADC"})


# The places that name stored values or their mappings, with the reason why they need no numbers with a unit.
READERS = {
    "inference/volumes/values.py": "the one way to numbers",
    "inference/headers/pixels.py": "gives the stored values to it",
    "inference/series/image_facts.py": "reads the quantity and the unit of a map, and no pixels",
    "dicom_node/objects/sc.py": "writes pictures",
    "dicom_node/objects/seg.py": "writes masks",
    "dicom_node/objects/reading/segmentation.py": "stored values of a SEG are masks",
    "dicom_node/demo/overlay.py": "stored values of a SEG are masks",
    "dicom_node/demo/simulator/mr_series.py": "writes images",
    "storage/log/filing/comparison.py": "compares two copies of one instance, stored value by stored value",
}
NAMES = frozenset({
    "pixel_array", "apply_modality_lut", "apply_rescale", "apply_rwvm", "pixel_data", "PixelData", "iter_pixels",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "PixelValueTransformationSequence",
    "RealWorldValueMappingSequence", "RealWorldValueSlope", "RealWorldValueIntercept",
})  # fmt: skip


def named(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name | ast.alias):
            yield node.id if isinstance(node, ast.Name) else node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_nothing_else_makes_numbers_of_stored_values() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("dicom_node", "inference", "storage")
        for path in (ROOT / package).rglob("*.py")
        if NAMES & set(named(ast.parse(path.read_text())))
    }
    assert found == set(READERS)
