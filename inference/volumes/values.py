"""The one way from the stored values of a frame to numbers with a unit.

A frame may state several mappings of its stored values: Real World Value Mapping (PS3.3 C.7.6.16.2.11), whose items are
alternatives, the modality LUT (PS3.3 C.11.1; Pixel Value Transformation in Enhanced objects), and the private Scale
Slope of Philips. This module reads them, chooses, applies, and refuses what contradicts.

The numbers of a map are those with a unit of measure. The numbers of a signal are arbitrary, but must be comparable
between the images that a fit uses. Philips chooses the slope of every image type and every series for display; its
Scale Slope leads back to the measured value: stored value / Scale Slope = (stored value x Rescale Slope + Rescale
Intercept) / (Rescale Slope x Scale Slope) if the intercept is 0 (Chenevert et al., Transl Oncol 2014;7:65, PMC3998685).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations
from math import isclose
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from inference.headers.image_content import COMPONENT, FRAME_TYPE, is_map, is_signal
from inference.headers.private import PrivateElements
from inference.headers.units import Dimension, Unit, unit_of
from inference.volumes.planes import is_enhanced
from storage.errors import InputRefused

PHILIPS_FRAME = (0x2005, "Philips MR Imaging DD 005", 0x0F, "PHILIPS")  # sequence in the functional groups of a frame
SCALE_SLOPE = (0x2005, "Philips MR Imaging DD 001", 0x0E, "FL", "PHILIPS")
APART = 1e-3  # part of a value by which two mappings of one frame may differ
ROUNDING = 1e-2  # of the step between two stored values: decimal strings are rounded, and values near 0 are small
SAME = 1e-6  # of slope and intercept: two mappings are one, and no stored value needs to be looked at
SIXTEEN_BITS = 1 << 16


class MappingSource(StrEnum):
    """The attribute that a mapping of stored values comes from, in words for a reader."""

    REAL_WORLD = "a Real World Value Mapping"
    RESCALE = "a rescale"
    PHILIPS = "a Scale Slope of Philips"
    STORED = "no mapping of its stored values"


@dataclass(frozen=True, eq=False)
class PixelMapping:
    """A mapping of stored values to numbers, linear or by a table that begins with the stored value `first`.

    Stored values outside of `first` to `last` have no number; the ends of a `clamped` table go on. `unit` is None if no
    unit is stated.
    """

    source: MappingSource
    unit: Unit | None = None
    slope: float = 1.0
    intercept: float = 0.0
    table: NDArray[np.float64] | None = None
    first: float | None = None
    last: float | None = None
    clamped: bool = False

    @property
    def measured(self) -> bool:
        """True if the numbers have a unit of measure; "1" is none, because scanners state it where there is no unit."""
        return self.unit is not None and not self.unit.arbitrary

    @property
    def identity(self) -> bool:
        return self.table is None and (self.slope, self.intercept) == (1.0, 0.0)

    def numbers(self, stored: NDArray[Any], precision: type[np.floating[Any]] = np.float32) -> NDArray[Any]:
        """Return the numbers of `stored` values, NaN where there is none."""
        if self.table is not None and self.first is not None:
            index = stored.astype(np.int64) - int(self.first)
            found = self.table[np.clip(index, 0, len(self.table) - 1)].astype(precision)
        elif self.identity:
            found = stored.astype(precision)
        else:
            found = stored * precision(self.slope) + precision(self.intercept)
        if self.clamped:
            return found
        for bound, beyond in ((self.first, np.less), (self.last, np.greater)):
            if bound is not None and (outside := beyond(stored, bound)).any():
                found[outside] = np.nan
        return found


@dataclass(frozen=True, eq=False)
class Numbers:
    """A choice of mappings of one frame that give numbers in one unit; several share out the stored values.

    `display_scale` is the number by which those of Philips are multiplied to be the output of the modality LUT.
    """

    pieces: tuple[PixelMapping, ...]
    display_scale: float = 1.0

    @property
    def unit(self) -> Unit | None:
        return self.pieces[0].unit

    @property
    def key(self) -> tuple[MappingSource, Dimension | None]:
        """The source and the dimension, which must agree among all images that are compared."""
        first = self.pieces[0]
        return first.source, first.unit.dimension if first.unit is not None and first.measured else None

    @property
    def identity(self) -> bool:
        return len(self.pieces) == 1 and self.pieces[0].identity and self.pieces[0].first is None

    def applied(self, stored: NDArray[Any], unit: Unit | None) -> NDArray[np.float32]:
        """Return the numbers of `stored` values in `unit`, NaN where there is none."""
        found: NDArray[np.float32] | None = None
        for piece in self.pieces:
            numbers = piece.numbers(stored)
            if unit is not None and piece.unit is not None and (factor := piece.unit.per(unit)) != 1.0:
                numbers = numbers * np.float32(factor)
            found = numbers if found is None else np.where(np.isnan(found), numbers, found)
        assert found is not None
        return found


@dataclass(frozen=True, eq=False)
class FrameValues:
    """The mappings of one frame: its numbers, the others that it states in other units, and what must agree."""

    numbers: Numbers
    others: tuple[Numbers, ...]
    comparable: tuple[tuple[PixelMapping, PixelMapping], ...]

    def check(self, stored: NDArray[Any], label: str) -> None:
        """Raise InputRefused if two mappings give different numbers for a stored value of this frame."""
        for one, other in self.comparable:
            if (value := _disagreement(one, other, stored)) is not None:
                texts = (f"{m.source} gives {float(m.numbers(np.array([value]))[0]):.4g}{_in(m)}" for m in (one, other))
                raise InputRefused(
                    f"{label} contradicts itself: for the stored value {value:g}, {' and '.join(texts)}; "
                    "correct the header of the series, or send it from the scanner again"
                )


def values_of(ds: Dataset, frame_number: int | None, told: Mapping[str, Any], label: str) -> FrameValues:
    """Choose the numbers of one frame by its header.

    `told` says what the frame shows (`inference.headers.image_content`), and `label` names it in messages. Raises
    InputRefused if a mapping cannot be read.
    """
    try:
        real_world = tuple(_real_world(ds, frame_number))
        modality = tuple(_modality(ds, frame_number))
        scale = _scale_slope(ds, frame_number)
    except MemoryError:
        raise
    except Exception:  # pydicom reads values late, and raises errors of many kinds
        raise InputRefused(f"{label}: the mapping of its stored values cannot be read") from None
    if any(mapping.slope == 0 for mapping in modality):
        raise InputRefused(f"{label}: its Rescale Slope is 0, so its stored values mean nothing")
    groups = _by_dimension([m for m in (*real_world, *modality[:1]) if m.measured])
    arbitrary = tuple(m for m in real_world if not m.measured)
    plain = arbitrary or modality[:1]
    stored = Numbers((PixelMapping(MappingSource.STORED),))
    if ds.get("Modality") in ("CT", "PT"):
        numbers = Numbers(modality[:1]) if modality else next(iter(groups), None)
    elif not is_signal(told):
        numbers = next(iter(groups), None)
    elif scale is not None:
        numbers = _measured_signal(modality[:1] or arbitrary, scale)
    else:
        numbers = Numbers(plain) if plain else next(iter(groups), None)
    numbers = numbers or (Numbers(plain) if plain else stored)
    others = tuple(group for group in groups if group.pieces[0] not in numbers.pieces)
    return FrameValues(numbers, others, tuple(_comparable(real_world, modality)))


def refuse_mixed(frames: Iterable[tuple[str, Mapping[str, Any], FrameValues]]) -> None:
    """Refuse the images of a series if some have a mapping that others lack: their numbers cannot be compared.

    `frames` are (label, told, values). Maps are compared with maps of their own type, signals with one another.
    """
    first: dict[tuple[Any, ...], tuple[str, FrameValues]] = {}
    for label, told, found in frames:
        shown = (told.get(COMPONENT), told.get(FRAME_TYPE) if is_map(told) else None)
        before_label, before = first.setdefault(shown, (label, found))
        for one, other in zip(_padded(before, found), _padded(found, before), strict=True):
            sources = {one.key[0], other.key[0]}
            harmless = sources == {MappingSource.RESCALE, MappingSource.STORED} and one.identity and other.identity
            if one.key != other.key and not harmless:
                raise InputRefused(
                    f"{before_label} has {one.key[0]}{_in(one.pieces[0])}, but {label} has "
                    f"{other.key[0]}{_in(other.pieces[0])}: their values cannot be compared; send the whole series "
                    "from the scanner again"
                )


def _padded(found: FrameValues, other: FrameValues) -> Iterator[Numbers]:
    yield found.numbers
    yield from found.others
    for _ in range(len(other.others) - len(found.others)):
        yield Numbers((PixelMapping(MappingSource.STORED),))


def _in(mapping: PixelMapping) -> str:
    return f" {mapping.unit.text}" if mapping.unit is not None and mapping.measured else ""


def _measured_signal(plain: tuple[PixelMapping, ...], scale: float) -> Numbers:
    """Return the signal that a scanner of Philips measured, by its Scale Slope."""
    shown = plain[0] if plain and plain[0].table is None else PixelMapping(MappingSource.STORED)
    display_scale = shown.slope * scale
    measured = replace(
        shown, source=MappingSource.PHILIPS, unit=None, slope=1 / scale, intercept=shown.intercept / display_scale
    )
    return Numbers((measured,), display_scale)


def _by_dimension(mappings: Sequence[PixelMapping]) -> list[Numbers]:
    """Group mappings whose units convert to one another, in their order."""
    groups: dict[Dimension, tuple[PixelMapping, ...]] = {}
    for mapping in mappings:
        if mapping.unit is not None:
            before = groups.get(mapping.unit.dimension, ())
            # A rescale in the same unit adds nothing: it gives the same numbers, or the frame contradicts itself.
            if not before or before[0].source is mapping.source:
                groups[mapping.unit.dimension] = (*before, mapping)
    return [Numbers(pieces) for pieces in groups.values()]


def _comparable(
    real_world: Sequence[PixelMapping], modality: Sequence[PixelMapping]
) -> Iterator[tuple[PixelMapping, PixelMapping]]:
    """Yield the pairs of mappings that must give the same numbers."""
    yield from combinations(modality, 2)
    for one, other in combinations((*real_world, *modality[:1]), 2):
        if one.unit is None or other.unit is None:
            same = one.source is other.source and not one.measured and not other.measured
        else:
            same = one.unit.converts_to(other.unit)
        if same:
            yield one, other


def _disagreement(one: PixelMapping, other: PixelMapping, stored: NDArray[Any]) -> float | None:
    """Return the stored value for which the numbers of two mappings lie farthest apart; None if they agree."""
    factors = {1.0}
    if one.unit is not None and other.unit is not None:
        factors = {other.unit.per(one.unit)}
        if one.unit.arbitrary is not other.unit.arbitrary:  # Scanners state "1" where the unit is another one.
            factors.add(1.0)
    linear = one.table is None and other.table is None
    if linear and any(
        isclose(one.slope, f * other.slope, rel_tol=SAME) and isclose(one.intercept, f * other.intercept, rel_tol=SAME)
        for f in factors
    ):
        return None
    present = np.unique(stored)
    numbers = one.numbers(present, np.float64)
    worst: list[tuple[float, float]] = []
    for factor in factors:
        others = factor * other.numbers(present, np.float64)
        step = ROUNDING * min(abs(one.slope), abs(factor * other.slope)) if linear else 0.0
        apart = np.abs(numbers - others) - np.maximum(APART * np.maximum(np.abs(numbers), np.abs(others)), step)
        apart[~np.isfinite(apart)] = -np.inf
        if not apart.size or apart.max() <= 0:
            return None
        worst.append((float(apart.max()), float(present[apart.argmax()])))
    return min(worst)[1]


def _real_world(ds: Dataset, frame_number: int | None) -> Iterator[PixelMapping]:
    """Yield the items of the Real World Value Mapping Sequence that map anything."""
    for item in _items(ds, frame_number, "RealWorldValueMappingSequence"):
        table = np.asarray(item.get("RealWorldValueLUTData") or [], np.float64).reshape(-1)
        slope = _finite(item.get("RealWorldValueSlope"))
        first, last = _mapped_range(ds, item)
        if table.size and first is not None:
            last = first + table.size - 1
            yield PixelMapping(MappingSource.REAL_WORLD, _coded_unit(item), table=table, first=first, last=last)
        elif slope:
            intercept = _finite(item.get("RealWorldValueIntercept")) or 0.0
            yield PixelMapping(MappingSource.REAL_WORLD, _coded_unit(item), slope, intercept, first=first, last=last)


def _coded_unit(item: Dataset) -> Unit | None:
    """Return the unit of a mapping; one that is not known here converts to none."""
    codes = item.get("MeasurementUnitsCodeSequence")
    text = str(codes[0].get("CodeValue") or "").strip() if codes else ""
    scheme = str(codes[0].get("CodingSchemeDesignator") or "").strip() if codes else ""
    found = unit_of(text) if codes and scheme in ("", "UCUM") else None
    if found is None and text and text.upper() != "US":
        return Unit(text, 1.0, ((f"unknown {text}", 1),))
    return found


def _mapped_range(ds: Dataset, item: Dataset) -> tuple[float | None, float | None]:
    """Return the first and the last stored value that an item maps.

    Some writers give them as unsigned numbers though the pixels are signed.
    """
    raw = []
    for end in ("First", "Last"):
        value = item.get(f"DoubleFloatRealWorldValue{end}ValueMapped")
        if value is None:
            value = item.get(f"RealWorldValue{end}ValueMapped")
        if isinstance(value, bytes):  # undecoded, because implicit VR does not tell whether it is signed
            value = int.from_bytes(value[:2], "little") if value else None
        raw.append(_finite(value))
    if ds.get("PixelRepresentation") == 1:
        signed = [v - SIXTEEN_BITS if v is not None and SIXTEEN_BITS / 2 <= v < SIXTEEN_BITS else v for v in raw]
        if signed[0] is None or signed[1] is None or signed[0] <= signed[1]:
            raw = signed
    return raw[0], raw[1]


def _modality(ds: Dataset, frame_number: int | None) -> Iterator[PixelMapping]:
    """Yield the modality LUT, as a table and as a rescale."""
    for item in ds.get("ModalityLUTSequence") or ():
        count, first, bits = (int(v) for v in item.LUTDescriptor)
        if ds.get("PixelRepresentation") == 1 and first >= SIXTEEN_BITS / 2:
            first -= SIXTEEN_BITS
        data = item.LUTData
        if isinstance(data, bytes):
            data = np.frombuffer(data, "<u2" if bits > 8 or len(data) >= 2 * count > 0 else np.uint8)
        table = np.asarray(data, np.float64).reshape(-1)[: count or SIXTEEN_BITS]
        unit = unit_of(str(item.get("ModalityLUTType") or ""))
        yield PixelMapping(MappingSource.RESCALE, unit, table=table, first=float(first), clamped=True)
    items = _items(ds, frame_number, "PixelValueTransformationSequence") if frame_number is not None else ()
    source = next(iter(items), ds)
    if any(keyword in source for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType")):
        unit = unit_of(str(source.get("RescaleType") or ""))
        slope, intercept = _finite(source.get("RescaleSlope")), _finite(source.get("RescaleIntercept")) or 0.0
        yield PixelMapping(MappingSource.RESCALE, unit, 1.0 if slope is None else slope, intercept)


def _scale_slope(ds: Dataset, frame_number: int | None) -> float | None:
    """Return the Scale Slope of a Philips image; None for every other image."""
    source, manufacturer = ds, str(ds.get("Manufacturer", ""))
    if frame_number is not None and is_enhanced(ds):
        frame = ds.PerFrameFunctionalGroupsSequence[frame_number - 1]
        items = PrivateElements(frame, manufacturer).value(*PHILIPS_FRAME)
        if not isinstance(items, DicomSequence) or not items:  # without its creator it may come as bytes
            return None
        source = items[0]
    numbers = PrivateElements(source, manufacturer).numbers(*SCALE_SLOPE)
    return numbers[0] if numbers and numbers[0] > 0 else None


def _items(ds: Dataset, frame_number: int | None, keyword: str) -> Sequence[Dataset]:
    """Return the items of a functional group: those of the frame, or else those of all frames, or of the dataset."""
    places = [ds]
    if frame_number is not None and is_enhanced(ds):
        places = [ds.PerFrameFunctionalGroupsSequence[frame_number - 1], *ds.get("SharedFunctionalGroupsSequence", ())]
        places.append(ds)
    return next((place.get(keyword) for place in places if place.get(keyword)), ())


def _finite(value: Any) -> float | None:
    if value is None or value == "":
        return None
    number = float(value)
    if not np.isfinite(number):
        raise ValueError("not a finite number")
    return number
