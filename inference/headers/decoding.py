"""The decoding of the headers of a study, which share most of their elements: each of these is converted once.

Headers of one pattern have the same elements, and the same bytes in all of them but those of VARYING. Whatever is
derived from the other elements holds for all headers of the pattern.
"""

import struct
from collections.abc import Callable, Hashable, Iterable, Mapping, MutableSequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple, TypeVar

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag

# Elements that scanners write differently into every image of a series.
VARYING = {
    Tag(keyword): keyword
    for keyword in (
        "SOPInstanceUID", "InstanceNumber", "ImagePositionPatient", "AcquisitionNumber", "AcquisitionTime",
        "TemporalPositionIdentifier", "TriggerTime",
    )
}  # fmt: skip
MOST_KNOWN = 10_000  # varying elements that are kept converted
_SOP_INSTANCE_UID = Tag("SOPInstanceUID")
MOST_PATTERNS = 64  # of one series: as many directions of diffusion as are usual
_SHORT_VRS = frozenset({"UI", "IS", "DS", "TM", "SH", "LO", "CS"})  # a length of 16 bits follows them
_CONTEXT = tuple(map(Tag, ("SpecificCharacterSet", "PixelRepresentation")))
_Read = TypeVar("_Read")
_SHORT, _LONG = struct.Struct("<H").unpack_from, struct.Struct("<L").unpack_from


class PatternedHeader(Dataset):
    """A header that shares its elements with others, so that nobody may change them.

    `varying` has the values of VARYING elements by their keywords.
    """

    pattern: Hashable
    varying: Mapping[str, Any]

    # That of Dataset looks every name up among the keywords.
    __setattr__ = object.__setattr__  # type: ignore[assignment]


def pattern_of(ds: Dataset) -> Hashable | None:
    """Return the pattern of a header; None if it was not decoded together with others."""
    return ds.pattern if isinstance(ds, PatternedHeader) else None


def varying_values(ds: Dataset) -> Mapping[str, Any]:
    """Return the values of VARYING elements of a header that has a pattern, by their keywords."""
    assert isinstance(ds, PatternedHeader)
    return ds.varying


def of_each(headers: Iterable[Dataset], read: Callable[[Dataset], _Read]) -> list[_Read]:
    """Return what `read` returns for each header. It is called once for each pattern, and must not read VARYING."""
    known: dict[Hashable, _Read] = {}
    found = []
    for ds in headers:
        pattern = pattern_of(ds)
        if pattern is None:
            found.append(read(ds))
            continue
        if pattern not in known:
            known[pattern] = read(ds)
        found.append(known[pattern])
    return found


def one_of_each_pattern(headers: Iterable[Dataset]) -> list[Dataset]:
    """Return the first header of each pattern, and all that have none."""
    found: dict[Hashable, Dataset] = {}
    for ds in headers:
        pattern = pattern_of(ds)
        found.setdefault(id(ds) if pattern is None else pattern, ds)
    return list(found.values())


class HeaderDecoder:
    """The decoder of headers of one study. The datasets equal those that pydicom reads from the same bytes."""

    def __init__(self) -> None:
        self._patterns: list[_Pattern] = []  # those that were met last come first
        self._known: dict[tuple[object, ...], DataElement] = {}
        self._varying: _Converted = {}

    def begin_series(self) -> None:
        """Expect other patterns, but the same elements in many of them."""
        self._patterns.clear()

    def decode(self, elements: bytes, implicit: bool) -> Dataset:
        """Decode a header from its elements in little endian, and in implicit VR if `implicit` is True.

        Raises whatever pydicom raises for malformed bytes.
        """
        for pattern in self._patterns:
            header = pattern.apply(elements, self._varying) if pattern.implicit is implicit else None
            if header is not None:
                self._meet(pattern)
                return header
        ds = read_dataset(BytesIO(elements), is_implicit_VR=implicit, is_little_endian=True)
        pattern = self._new_pattern(ds, elements, implicit)
        header = pattern.apply(elements, self._varying)
        if header is None:  # its last element is cut off
            return ds
        self._patterns.insert(0, pattern)
        del self._patterns[MOST_PATTERNS:]
        return header

    def _meet(self, pattern: "_Pattern") -> None:
        if self._patterns[0] is not pattern:
            self._patterns.remove(pattern)
            self._patterns.insert(0, pattern)

    def _new_pattern(self, ds: Dataset, elements: bytes, implicit: bool) -> "_Pattern":
        raw = {tag: element for tag, element in ds.items() if isinstance(element, RawDataElement)}
        parts, at = [], 0
        for tag in sorted(VARYING.keys() & raw.keys()):
            element = raw[tag]
            if implicit or element.VR in _SHORT_VRS:
                parts.append(_Part(tag, element.VR, elements[at : element.value_tell - (4 if implicit else 2)]))
                at = element.value_tell + element.length
                del raw[tag]
        shared = {tag: element for tag, element in ds.items() if tag in raw or tag not in VARYING}
        shared |= self._convert(ds, raw)
        charset = ds.original_character_set
        fixed = {VARYING[tag]: ds[tag].value for tag in VARYING.keys() & shared.keys()}
        return _Pattern(shared, fixed, charset, tuple(parts), elements[at:], implicit)

    def _convert(self, ds: Dataset, shared: Mapping[BaseTag, RawDataElement]) -> dict[BaseTag, DataElement]:
        """Return the shared elements, each distinct one converted once, without those that cannot be read.

        Character set, sign of pixels and creators of private elements enter into the conversion.
        """
        context = tuple(shared[tag].value if tag in shared else None for tag in _CONTEXT)
        creators = tuple((tag, raw.value) for tag, raw in shared.items() if tag.is_private_creator)
        found = {}
        for tag, raw in shared.items():
            key = (tag, raw.VR, raw.value, context, creators if tag.is_private else ())
            with suppress(Exception):  # pydicom raises errors of many kinds
                if key not in self._known:
                    self._known[key] = ds[tag]
                found[tag] = self._known[key]
        return found


class _Part(NamedTuple):
    """A varying element, and the bytes of the header from the one before up to its length."""

    tag: BaseTag
    vr: str | None
    before: bytes


@dataclass(frozen=True, eq=False)
class _Pattern:
    """The common part of some headers: the `shared` elements, and the bytes around the varying ones."""

    shared: Mapping[BaseTag, DataElement | RawDataElement]
    fixed: dict[str, Any]  # the values of shared elements that vary elsewhere
    character_set: str | MutableSequence[str]
    parts: tuple[_Part, ...]
    end: bytes
    implicit: bool

    def apply(self, elements: bytes, known: "_Converted") -> PatternedHeader | None:
        """Return the header with these elements; None if it is of another pattern. `known` are converted elements."""
        own: list[RawDataElement] = []
        length_size, unpack = (4, _LONG) if self.implicit else (2, _SHORT)
        at = 0
        for tag, vr, before in self.parts:
            if not elements.startswith(before, at):
                return None
            at += len(before)
            value_at = at + length_size
            if value_at > len(elements):
                return None
            (length,) = unpack(elements, at)
            at = value_at + length
            own.append(RawDataElement(tag, vr, length, elements[value_at:at], value_at, self.implicit, True))
        if len(elements) != at + len(self.end) or not elements.endswith(self.end):
            return None
        found = dict(self.shared)
        found.update((raw.tag, known.get(raw[:_UP_TO_VALUE], raw)) for raw in own)
        header = PatternedHeader(found)
        header.set_original_encoding(self.implicit, True, self.character_set)
        header.varying = {**self.fixed, **{VARYING[raw.tag]: _value(header, raw, found[raw.tag], known) for raw in own}}
        header.pattern = self
        return header


_Converted = dict[tuple[Any, ...], DataElement]
_UP_TO_VALUE = 4  # fields of a raw element: its tag, VR, length and value


def _value(header: Dataset, raw: RawDataElement, element: DataElement | RawDataElement, known: _Converted) -> Any:
    """Return the value of an element of `header`. One that had to be converted is kept among those `known`."""
    if isinstance(element, RawDataElement):
        element = header[raw.tag]
        if raw.tag != _SOP_INSTANCE_UID and len(known) < MOST_KNOWN:
            known[raw[:_UP_TO_VALUE]] = element
    return element.value
