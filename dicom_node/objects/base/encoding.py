"""Sequences of thousands of items as bytes: Explicit VR Little Endian (PS3.5 7.1.2, 7.5), every length defined.

Ten such items take milliseconds as pydicom datasets. Their bytes are joined from pieces in microseconds.
"""

import struct
from collections.abc import Iterable

from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag


def element(keyword: str, value: bytes) -> bytes:
    """Encode an element of a VR whose length has two bytes, padded to an even length."""
    tag = tag_of(keyword)
    vr = dictionary_VR(tag)
    if len(value) % 2:
        value += b"\0" if vr == "UI" else b" "
    return struct.pack("<HH2sH", tag.group, tag.element, vr.encode(), len(value)) + value


def sequence(keyword: str, *items: bytes) -> bytes:
    tag = tag_of(keyword)
    value = b"".join(map(item, items))
    return struct.pack("<HH2sHL", tag.group, tag.element, b"SQ", 0, len(value)) + value


def item(elements: bytes) -> bytes:
    """Encode an item of elements, which must be in the order of their tags."""
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(elements)) + elements


def encoded(one: DataElement) -> bytes:
    """Encode an element as pydicom writes it."""
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = False, True
    write_data_element(file, one)
    return file.getvalue()


def add_sequence(ds: Dataset, keyword: str, items: Iterable[bytes]) -> None:
    """Give `ds` a sequence of encoded items, which pydicom decodes on demand and otherwise writes unchanged.

    pydicom writes items unchanged only in a dataset that was read in the same encoding, so this function declares that
    `ds` was read so. Hence no other element of `ds` may have an ambiguous VR, like US or SS, and its character set must
    be final.
    """
    tag = tag_of(keyword)
    value = b"".join(items)
    ds[tag] = RawDataElement(tag, "SQ", len(value), value, 0, False, True)
    character_set = ds.get("SpecificCharacterSet")
    ds.set_original_encoding(False, True, convert_encodings(character_set) if character_set else default_encoding)


def tag_of(keyword: str) -> BaseTag:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return BaseTag(tag)
