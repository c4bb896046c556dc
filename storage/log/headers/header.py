"""The header of an instance: the few attributes that the node needs, read from the encoded bytes.

Two readers give the same answer. The quick reader parses little endian datasets by hand, in a tenth of the time. It
gives up at anything that it does not expect; then pydicom, which accepts more, reads the dataset.
"""

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from storage.errors import Permanent
from storage.log.files import BytesLike
from storage.log.headers.patient_header import (
    OTHER_PATIENT_IDS_SEQUENCE,
    PATIENT_ELEMENTS,
    identity_of,
    listed_ids,
    raw_values,
)
from storage.records.instances import Facts
from storage.records.patients import NOBODY, PatientIdentity

SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
MODALITY = 0x00080060
ECHO_NUMBERS = 0x00180086
SPACING_BETWEEN_SLICES = 0x00180088
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
ACQUISITION_NUMBER = 0x00200012
INSTANCE_NUMBER = 0x00200013
IMAGE_POSITION = 0x00200032
IMAGE_ORIENTATION = 0x00200037
TEMPORAL_POSITION_IDENTIFIER = 0x00200100
NUMBER_OF_TEMPORAL_POSITIONS = 0x00200105
IMAGES_IN_ACQUISITION = 0x00201002
NUMBER_OF_FRAMES = 0x00280008
REQUESTED_PROCEDURE_PRIORITY = 0x00401003

_WANTED = (
    *PATIENT_ELEMENTS,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    MODALITY,
    ECHO_NUMBERS,
    SPACING_BETWEEN_SLICES,
    STUDY_INSTANCE_UID,
    SERIES_INSTANCE_UID,
    ACQUISITION_NUMBER,
    INSTANCE_NUMBER,
    IMAGE_POSITION,
    IMAGE_ORIENTATION,
    TEMPORAL_POSITION_IDENTIFIER,
    NUMBER_OF_TEMPORAL_POSITIONS,
    IMAGES_IN_ACQUISITION,
    NUMBER_OF_FRAMES,
    REQUESTED_PROCEDURE_PRIORITY,
)

# A private transfer syntax of GE: implicit VR little endian, except for the words of the pixel data.
GE_PRIVATE_IMPLICIT = "1.2.840.113619.5.2"
JPIP_REFERENCED_DEFLATE = "1.2.840.10008.1.2.4.95"
JPIP_HTJ2K_REFERENCED_DEFLATE = "1.2.840.10008.1.2.4.205"

_IMPLICIT = frozenset({ImplicitVRLittleEndian, GE_PRIVATE_IMPLICIT})
_DEFLATED = frozenset({DeflatedExplicitVRLittleEndian, JPIP_REFERENCED_DEFLATE, JPIP_HTJ2K_REFERENCED_DEFLATE})
_BY_PYDICOM = _DEFLATED | {ExplicitVRBigEndian}
_LARGEST_INFLATED_HEADER = 4 * 2**20  # prevents a small deflated dataset from filling the memory
_LARGEST_INTEGER = 2**31 - 1  # of IS (PS3.5 table 6.2-1)

NO_FACTS = Facts()


class UnreadableDataset(Permanent):
    """An error for bytes that are no dataset in their transfer syntax, or lack the UIDs that identify an instance."""


@dataclass(frozen=True)
class InstanceHeader:
    """The identification of one composite instance, without padding; `modality` may be empty."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    facts: Facts = NO_FACTS
    patient: PatientIdentity = field(default=NOBODY, repr=False)


def scan_header(dataset: BytesLike, transfer_syntax_uid: str) -> InstanceHeader:
    """Return the header of a dataset, given without preamble and file meta information.

    The beginning of a dataset is enough if it holds the wanted attributes. A transfer syntax that is unknown here is
    read as explicit VR little endian, as PS3.5 A.4 requires of all encapsulated ones. Raises UnreadableDataset if a UID
    is missing; its message never quotes the dataset. Any other attribute that cannot be read is None.
    """
    values = scan_by_hand(dataset, transfer_syntax_uid)
    if values is None:
        values = scan_with_pydicom(dataset, transfer_syntax_uid)
    return _header(values)


# -- from values to their meaning --------------------------------------------------------------------------------------


def _header(values: Mapping[int, bytes]) -> InstanceHeader:
    get = values.get
    return InstanceHeader(
        sop_class_uid=_uid(get(SOP_CLASS_UID), "SOP Class UID"),
        sop_instance_uid=_uid(get(SOP_INSTANCE_UID), "SOP Instance UID"),
        study_instance_uid=_uid(get(STUDY_INSTANCE_UID), "Study Instance UID"),
        series_instance_uid=_uid(get(SERIES_INSTANCE_UID), "Series Instance UID"),
        modality=_code(get(MODALITY)) or "",
        facts=Facts(
            _integer(get(INSTANCE_NUMBER)),
            _integer(get(ACQUISITION_NUMBER)),
            _integer(get(IMAGES_IN_ACQUISITION)),
            _integer(get(TEMPORAL_POSITION_IDENTIFIER)),
            _integer(get(NUMBER_OF_TEMPORAL_POSITIONS)),
            _integer(get(ECHO_NUMBERS)),
            _integer(get(NUMBER_OF_FRAMES)),
            _decimals(get(IMAGE_POSITION), 3),  # type: ignore[arg-type]
            _decimals(get(IMAGE_ORIENTATION), 6),  # type: ignore[arg-type]
            _decimal(get(SPACING_BETWEEN_SLICES)),
            _code(get(REQUESTED_PROCEDURE_PRIORITY)),
        ),
        patient=identity_of(values),
    )


def _uid(value: bytes | None, name: str) -> str:
    text = (value or b"").decode("ascii", "replace").strip(" \0")
    if not text:
        raise UnreadableDataset(f"The dataset has no {name}")
    return text


def _code(value: bytes | None) -> str | None:
    """Decode a code string, 16 characters at most (PS3.5 table 6.2-1)."""
    if not value:
        return None
    text = value.split(b"\\", 1)[0].strip(b" \0")
    return text.decode("ascii") if 0 < len(text) <= 16 and text.isascii() else None


def _integer(value: bytes | None) -> int | None:
    """Decode the first value of an integer string. A value such as 12.0 is accepted, because some devices write it."""
    if not value:
        return None
    first = value.split(b"\\", 1)[0].strip(b" \0")
    if first.isdigit():
        number = int(first)
    else:
        numbers = _decimals(first, 1)
        if numbers is None or not numbers[0].is_integer():
            return None
        number = int(numbers[0])
    return number if -_LARGEST_INTEGER <= number <= _LARGEST_INTEGER else None


def _decimals(value: bytes | None, count: int) -> tuple[float, ...] | None:
    """Decode a decimal string of `count` values."""
    if not value or b"_" in value:  # Python would accept an underscore in a number
        return None
    try:
        numbers = tuple(map(float, value.strip(b" \0").split(b"\\")))
    except ValueError:
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _decimal(value: bytes | None) -> float | None:
    numbers = _decimals(value, 1)
    return numbers[0] if numbers is not None else None


# -- by hand -----------------------------------------------------------------------------------------------------------

# A tag is read as one number with its halves swapped: the group is the lower half.
_EXPLICIT = struct.Struct("<L2sH")  # tag, VR, length (PS3.5 7.1.2)
_IMPLICIT_ELEMENT = struct.Struct("<LL")  # tag, length (PS3.5 7.1.3)
_ELEMENT = struct.Struct("<HHL")  # group, element, length: items and delimiters in any encoding (PS3.5 7.5)
_LONG = struct.Struct("<L")
_SHORT_VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()  # a length of 16 bits
)
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # two bytes reserved, a length of 32 bits
_WANTED_AS_ENCODED = {tag >> 16 | (tag & 0xFFFF) << 16: tag for tag in _WANTED}
_OTHER_IDS = OTHER_PATIENT_IDS_SEQUENCE >> 16 | (OTHER_PATIENT_IDS_SEQUENCE & 0xFFFF) << 16
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD
_LAST_GROUP = REQUESTED_PROCEDURE_PRIORITY >> 16
_LAST = _LAST_GROUP | (REQUESTED_PROCEDURE_PRIORITY & 0xFFFF) << 16  # the greatest of its group


class _Unexpected(Exception):
    """An encoding that the quick reader does not expect; pydicom then reads the dataset."""


def scan_by_hand(dataset: BytesLike, transfer_syntax_uid: str) -> dict[int, bytes] | None:
    """Return the values of the wanted elements that are there; None if the quick reader gives up."""
    if transfer_syntax_uid in _BY_PYDICOM:
        return None
    try:
        if transfer_syntax_uid in _IMPLICIT:
            return _scan_implicit(dataset)
        return _scan_explicit(dataset)
    except (_Unexpected, struct.error):
        return None


def _scan_explicit(dataset: BytesLike) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    unpack, short_vrs, wanted = _EXPLICIT.unpack_from, _SHORT_VRS, _WANTED_AS_ENCODED
    position, size = 0, len(dataset)
    while position < size:
        start = position
        tag, vr, length = unpack(dataset, position)
        if tag & 0xFFFF >= _LAST_GROUP and (tag & 0xFFFF > _LAST_GROUP or tag > _LAST):
            break
        if vr in short_vrs:
            position += 8
        elif vr in _LONG_VRS:
            (length,) = _LONG.unpack_from(dataset, position + 8)
            position += 12
            if length == _UNDEFINED:
                if vr != b"SQ":
                    raise _Unexpected
                position = _skip_sequence(dataset, position, explicit=True)
                if tag == _OTHER_IDS:
                    _keep_other_ids(values, dataset[start:position], is_implicit=False)
                continue
        else:
            raise _Unexpected
        end = position + length
        if length & 1 or end > size:
            raise _Unexpected
        if tag == _OTHER_IDS:
            _keep_other_ids(values, dataset[start:end], is_implicit=False)
        elif tag in wanted and length:
            values[wanted[tag]] = bytes(dataset[position:end])
        position = end
    return values


def _scan_implicit(dataset: BytesLike) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    unpack, wanted = _IMPLICIT_ELEMENT.unpack_from, _WANTED_AS_ENCODED
    position, size = 0, len(dataset)
    if bytes(dataset[4:6]).isalpha():  # it looks explicit
        raise _Unexpected
    while position < size:
        start = position
        tag, length = unpack(dataset, position)
        if tag & 0xFFFF >= _LAST_GROUP and (tag & 0xFFFF > _LAST_GROUP or tag > _LAST):
            break
        position += 8
        if length == _UNDEFINED:
            position = _skip_sequence(dataset, position, explicit=False)
            if tag == _OTHER_IDS:
                _keep_other_ids(values, dataset[start:position], is_implicit=True)
            continue
        end = position + length
        if length & 1 or end > size:
            raise _Unexpected
        if tag == _OTHER_IDS:
            _keep_other_ids(values, dataset[start:end], is_implicit=True)
        elif tag in wanted and length:
            values[wanted[tag]] = bytes(dataset[position:end])
        position = end
    return values


def _keep_other_ids(values: dict[int, bytes], element: BytesLike, is_implicit: bool) -> None:
    if ids := listed_ids(bytes(element), is_implicit):
        values[OTHER_PATIENT_IDS_SEQUENCE] = ids


def _skip_sequence(dataset: BytesLike, position: int, explicit: bool) -> int:
    """Return the position after a sequence of undefined length whose items begin at `position` (PS3.5 7.5).

    Nested sequences are skipped with it. Each step moves forward, so that the time is bounded by the length of the
    dataset.
    """
    size = len(dataset)
    inside = [False]  # for each open level: True inside an item of undefined length, False inside a sequence
    while inside:
        group, element, length = _ELEMENT.unpack_from(dataset, position)
        if group == 0xFFFE:
            position += 8
            if element == _ITEM and not inside[-1]:
                if length == _UNDEFINED:
                    inside.append(True)
                else:
                    position += length
            elif (element == _ITEM_END and inside[-1]) or (element == _SEQUENCE_END and not inside[-1]):
                inside.pop()
            else:
                raise _Unexpected
        elif not inside[-1]:
            raise _Unexpected
        elif not explicit:
            position += 8
            if length == _UNDEFINED:
                inside.append(False)
            else:
                position += length
        else:
            position, is_open = _skip_explicit(dataset, position, length)
            if is_open:
                inside.append(False)
        if position > size:
            raise _Unexpected
    return position


def _skip_explicit(dataset: BytesLike, position: int, length: int) -> tuple[int, bool]:
    """Return the position after an element in explicit VR, and whether that is inside a sequence of undefined length.

    `length` are the four bytes behind the tag, read as one number.
    """
    vr = bytes(dataset[position + 4 : position + 6])
    if vr in _SHORT_VRS:
        return position + 8 + (length >> 16), False
    if vr not in _LONG_VRS:
        raise _Unexpected
    (length,) = _LONG.unpack_from(dataset, position + 8)
    if length != _UNDEFINED:
        return position + 12 + length, False
    if vr != b"SQ":
        raise _Unexpected
    return position + 12, True


# -- with pydicom ------------------------------------------------------------------------------------------------------


def scan_with_pydicom(dataset: BytesLike, transfer_syntax_uid: str) -> dict[int, bytes]:
    """Return the same values as `scan_by_hand`, for any transfer syntax and for datasets that violate the standard.

    Raises UnreadableDataset.
    """
    try:
        encoded = _inflate(dataset) if transfer_syntax_uid in _DEFLATED else bytes(dataset)
        try:
            ds = _read(encoded, transfer_syntax_uid, REQUESTED_PROCEDURE_PRIORITY)
        except Exception:  # the attributes after the UIDs are optional
            ds = _read(encoded, transfer_syntax_uid, SERIES_INSTANCE_UID)
        found = raw_values(ds)
    except Exception as error:  # damaged bytes make a parser fail in many ways
        raise UnreadableDataset(f"The dataset cannot be read ({type(error).__name__})") from None
    return {tag: value for tag, value in found.items() if tag in _WANTED}


def _read(encoded: bytes, transfer_syntax_uid: str, last: int) -> Dataset:
    def is_past(tag: BaseTag, vr: str | None, length: int) -> bool:
        return bool(tag > last)

    return read_dataset(
        BytesIO(encoded),
        is_implicit_VR=transfer_syntax_uid in _IMPLICIT,
        is_little_endian=transfer_syntax_uid != ExplicitVRBigEndian,
        stop_when=is_past,
        specific_tags=list(_WANTED),
    )


def _inflate(dataset: BytesLike) -> bytes:
    """Return the beginning of a deflated dataset (PS3.5 A.5: a raw deflate stream)."""
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(dataset, _LARGEST_INFLATED_HEADER)
