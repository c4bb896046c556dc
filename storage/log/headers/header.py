"""The header of an instance: the few attributes that the receiver and the index need, from encoded values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from storage.errors import Permanent
from storage.log.headers.patient_header import PATIENT_ELEMENTS, identity_of
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

HEADER_ELEMENTS = (
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

_LARGEST_INTEGER = 2**31 - 1  # of IS (PS3.5 table 6.2-1)
_DIGITS = 12  # of IS; a longer text is converted as a decimal, because Python refuses thousands of digits

UIDS = {
    SOP_CLASS_UID: "SOP Class UID",
    SOP_INSTANCE_UID: "SOP Instance UID",
    STUDY_INSTANCE_UID: "Study Instance UID",
    SERIES_INSTANCE_UID: "Series Instance UID",
}
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


def header_of(values: Mapping[int, bytes], broken_at: int | None = None) -> InstanceHeader:
    """Return the header that encoded values state, by tag. Values that cannot be decoded count as absent.

    `broken_at` is the tag from which on the dataset could not be read. Raises UnreadableDataset if a UID is missing;
    its message never quotes the dataset.
    """
    for tag, name in UIDS.items():
        if not _uid(values.get(tag)):
            raise UnreadableDataset(f"The dataset has no {name}{_explained(broken_at)}")
    get = values.get
    return InstanceHeader(
        sop_class_uid=_uid(get(SOP_CLASS_UID)),
        sop_instance_uid=_uid(get(SOP_INSTANCE_UID)),
        study_instance_uid=_uid(get(STUDY_INSTANCE_UID)),
        series_instance_uid=_uid(get(SERIES_INSTANCE_UID)),
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


def _explained(broken_at: int | None) -> str:
    if broken_at is None:
        return ""
    if not broken_at or min(broken_at.to_bytes(4)) >= ord(" "):  # four letters, perhaps of a name
        return ", and its last element is cut off or damaged"
    return f" before element ({broken_at >> 16:04X},{broken_at & 0xFFFF:04X}), from which on it cannot be read"


def _uid(value: bytes | None) -> str:
    return (value or b"").decode("ascii", "replace").strip(" \0")


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
    if first.isdigit() and len(first) <= _DIGITS:
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
