"""The kept header: the elements of an instance that the node reads between reception and the worker.

It is a byte with the version of the list (`kept_elements`), a byte of flags, and the elements as they came, in the
order of their tags. Flags: 1, the elements are in explicit VR, and otherwise in implicit VR, always little endian;
2, an element that belongs here is missing, so that the header of the instance must be read.
"""

import re
import struct
from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import date, datetime
from functools import lru_cache
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from storage.log.headers.csa import trim_csa
from storage.log.headers.dataset_reader import DatasetReader
from storage.log.headers.encodings import UNKNOWN_HEAD, value_of
from storage.log.headers.kept_elements import (
    CSA_NAMES,
    FUNCTIONAL_GROUPS,
    KEPT_ELEMENTS,
    LIST_VERSION,
    PRIVATE_BLOCKS,
    SEQUENCES,
    SIEMENS_CSA,
    PrivateBlock,
)
from storage.log.headers.patient_header import PATIENT_BIRTH_DATE
from storage.log.headers.wanted import Wanted

LARGEST_KEPT = 2**13  # bytes of one element; a larger one must be read from the instance
LARGEST_CSA = 2**18  # bytes of a CSA header that is trimmed

_EXPLICIT, _LACKING = 1, 2
_IMAGE_TYPE, _PATIENT_AGE = 0x00080008, 0x00101010
_DAYS = (0x00080020, 0x00080022, 0x00080021)  # of the study, the acquisition or the series
_AGE = re.compile(rb"(?!000)[0-9]{3}[DWMY]")
_AGE_EXPLICIT, _AGE_BARE = b"\x10\0\x10\x10AS\4\0", b"\x10\0\x10\x10\4\0\0\0"
_BARE_HEAD = struct.Struct("<HHL")  # group, element, length
_SEQUENCE_VRS = frozenset({b"SQ", b"UN"})
# Heads of patient attributes inside of a sequence, in explicit and in implicit VR. Other bytes may look the same.
_PATIENT_INSIDE = (
    re.compile(rb"\x10\0[\0-\xff][\0\x10\x20-\x22\x40\x94](AS|CS|DA|DS|DT|IS|LO|LT|PN|SH|SQ|ST|TM|UC|UI|UN|US|UT)"),
    re.compile(rb"\x10\0[\0-\xff][\0\x10\x20-\x22\x40\x94][\0-\xff]{2}\0\0"),
)
_EVERY_BLOCK = range(0x10, 0x100)
_BLOCKS: defaultdict[tuple[int, int], list[PrivateBlock]] = defaultdict(list)  # by group and lower byte of an element
for _block in PRIVATE_BLOCKS:
    for _element in _block.elements:
        _BLOCKS[_block.group, _element].append(_block)

CANDIDATES = frozenset(
    KEPT_ELEMENTS
    | FUNCTIONAL_GROUPS
    | {block.group << 16 | at for block in PRIVATE_BLOCKS for at in _EVERY_BLOCK}
    | {group << 16 | at << 8 | element for group, element in _BLOCKS for at in _EVERY_BLOCK}
)
CANDIDATE_SIZES = {
    block.group << 16 | at << 8 | element: LARGEST_CSA
    for block in PRIVATE_BLOCKS
    if block.creator == SIEMENS_CSA
    for element in block.elements
    for at in _EVERY_BLOCK
}


NOT_ENOUGH = bytes((LIST_VERSION, _LACKING))  # of an instance that cannot be read


def encode_kept_header(
    elements: Mapping[int, bytes], left_out: Collection[int], implicit: bool, little: bool, complete: bool
) -> bytes:
    """Return the kept header of an instance, from its encoded elements by tag.

    `left_out` are wanted elements that were too large. `complete` is False if the instance could not be read to its
    end.
    """
    if not little:
        every, elements = elements, _to_little_endian(elements)
        complete = complete and elements.keys() == every.keys()
    private = _PrivateChoice(elements, implicit)
    chosen = {tag: element for tag, element in elements.items() if tag in KEPT_ELEMENTS}
    chosen |= private.kept()
    if age := _age(elements, implicit):
        chosen[_PATIENT_AGE] = age
    fitting = [chosen[tag] for tag in sorted(chosen) if _may_be_kept(tag, chosen[tag], implicit)]
    lacks = (
        not complete
        or len(fitting) < len(chosen)
        or not FUNCTIONAL_GROUPS.isdisjoint((*elements, *left_out))
        or any(tag in KEPT_ELEMENTS or private.belongs(tag) for tag in left_out)
    )
    flags = (0 if implicit else _EXPLICIT) | (_LACKING if lacks else 0)
    return bytes((LIST_VERSION, flags)) + b"".join(fitting)


def decode_kept_header(kept: bytes) -> Dataset:
    """Return the dataset that a kept header holds."""
    elements, implicit = encoded_elements(kept)
    return read_dataset(BytesIO(elements), is_implicit_VR=implicit, is_little_endian=True)


def encoded_elements(kept: bytes) -> tuple[bytes, bool]:
    """Return the elements of a kept header, which are in little endian, and True if they are in implicit VR."""
    return kept[2:], not kept[1] & _EXPLICIT


def is_enough(kept: bytes) -> bool:
    """Return True if the kept header says all that is read from headers.

    Otherwise the header of the instance must be read once: it is of an Enhanced object, an element is too large, or
    the list has grown since.
    """
    return len(kept) >= 2 and kept[0] == LIST_VERSION and not kept[1] & _LACKING


def _may_be_kept(tag: int, element: bytes, implicit: bool) -> bool:
    """Return True unless the element is too large, or is a sequence that names a patient."""
    if len(element) > LARGEST_KEPT:
        return False
    if not (tag in SEQUENCES if implicit else element[4:6] in _SEQUENCE_VRS):
        return True
    return not any(pattern.search(element) for pattern in _PATIENT_INSIDE)


class _PrivateChoice:
    """The private elements among those of an instance, by their creators."""

    def __init__(self, elements: Mapping[int, bytes], implicit: bool) -> None:
        self._elements = elements
        self._implicit = implicit
        self._tags = [tag for tag in elements if tag & 0x10000]
        self._creators = {
            tag: value_of(elements[tag], implicit).strip(b" \0") for tag in self._tags if 0x10 <= tag & 0xFFFF <= 0xFF
        }
        self._named = {tag >> 16 for tag in self._creators}

    def kept(self) -> dict[int, bytes]:
        """Return the elements that are kept, with their creators."""
        chosen: dict[int, bytes] = {}
        for tag in self._tags:
            if self.belongs(tag):
                chosen[tag] = self._trimmed(tag) if self._is_csa(tag) else self._elements[tag]
                if (creator := _creator_of(tag)) in self._creators:
                    chosen[creator] = self._elements[creator]
        return chosen

    def belongs(self, tag: int) -> bool:
        """Return True if a private element of this tag is kept. Of CSA headers, only a mosaic needs its one."""
        group, at, creator = tag >> 16, tag >> 8 & 0xFF, self._creators.get(_creator_of(tag))
        return any(
            (creator == block.creator or (group not in self._named and at == block.usual))
            and (block.creator != SIEMENS_CSA or b"MOSAIC" in self._elements.get(_IMAGE_TYPE, b"").upper())
            for block in _BLOCKS.get((group, tag & 0xFF), ())
            if at
        )

    def _is_csa(self, tag: int) -> bool:
        return any(block.creator == SIEMENS_CSA for block in _BLOCKS[tag >> 16, tag & 0xFF])

    def _trimmed(self, tag: int) -> bytes:
        block = trim_csa(value_of(self._elements[tag], self._implicit), CSA_NAMES)
        if self._implicit:
            return _BARE_HEAD.pack(tag >> 16, tag & 0xFFFF, len(block)) + block
        return UNKNOWN_HEAD.pack(tag >> 16, tag & 0xFFFF, b"OB", 0, len(block)) + block


def _creator_of(tag: int) -> int:
    return tag & 0xFFFF0000 | tag >> 8 & 0xFF


def _to_little_endian(elements: Mapping[int, bytes]) -> Mapping[int, bytes]:
    """Return elements in explicit VR little endian that came in big endian; none if they cannot be read."""
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    try:
        encoded = b"".join(elements[tag] for tag in sorted(elements))
        write_dataset(file, read_dataset(BytesIO(encoded), is_implicit_VR=False, is_little_endian=False))
    except Exception:  # a parser fails in many ways
        return {}
    reader = DatasetReader(Wanted.of(frozenset(elements), {}), implicit=False, little=True)
    reader.update(file.getvalue(), final=True)
    return reader.elements


def _age(elements: Mapping[int, bytes], implicit: bool) -> bytes:
    """Return the element Patient's Age by the birth date; empty if the age is stated or not known."""
    stated, born = elements.get(_PATIENT_AGE, b""), elements.get(PATIENT_BIRTH_DATE, b"")
    if not born or (stated and _AGE.fullmatch(value_of(stated, implicit).strip(b" \0"))):
        return b""
    days = tuple(value_of(elements[tag], implicit) for tag in _DAYS if tag in elements)
    return _age_element(value_of(born, implicit), days, implicit)


@lru_cache(maxsize=256)
def _age_element(birth_date: bytes, days: tuple[bytes, ...], implicit: bool) -> bytes:
    born, day = _day(birth_date), next(filter(None, map(_day, days)), None)
    if born is None or day is None or day < born:
        return b""
    years = min(day.year - born.year - ((day.month, day.day) < (born.month, born.day)), 999)
    # Days would tell the date of birth.
    text = b"%03dY" % years if years else b"%03dW" % max((day - born).days // 7, 1)
    return (_AGE_BARE if implicit else _AGE_EXPLICIT) + text


def _day(value: bytes) -> date | None:
    try:
        return datetime.strptime(value.decode("ascii").strip(" \0").replace(".", ""), "%Y%m%d").date()
    except ValueError:
        return None
