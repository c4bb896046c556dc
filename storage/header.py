"""The few attributes the node needs to file an instance, read from its encoded bytes without touching the rest."""

import zlib
from dataclasses import dataclass, field
from io import BytesIO

from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from storage.errors import Permanent
from storage.records import Facts

SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
MODALITY = 0x00080060
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E

# Written by GE: implicit VR little endian, but for the words of the pixel data.
GE_PRIVATE_IMPLICIT = "1.2.840.113619.5.2"
JPIP_REFERENCED_DEFLATE = "1.2.840.10008.1.2.4.95"
JPIP_HTJ2K_REFERENCED_DEFLATE = "1.2.840.10008.1.2.4.205"

_IMPLICIT = frozenset({ImplicitVRLittleEndian, GE_PRIVATE_IMPLICIT})
_DEFLATED = frozenset({DeflatedExplicitVRLittleEndian, JPIP_REFERENCED_DEFLATE, JPIP_HTJ2K_REFERENCED_DEFLATE})
_LARGEST_INFLATED_HEADER = 4 * 2**20  # stops a small deflated dataset from filling the memory


class UnreadableDataset(Permanent):
    """Bytes that are not a dataset in their transfer syntax, or one without the UIDs that identify an instance."""


@dataclass(frozen=True)
class Header:
    """Identification of one composite instance. Padding is removed; `modality` may be empty."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    facts: Facts = field(default_factory=Facts)


def scan_header(dataset: bytes, transfer_syntax_uid: str) -> Header:
    """Reads the header of a dataset encoded in `transfer_syntax_uid`, without preamble and file meta information.

    Transfer syntaxes this function does not know are explicit VR little endian, as PS3.5 A.4 requires of all
    encapsulated ones. Raises UnreadableDataset; its message never quotes the dataset.
    """
    try:
        encoded = _inflate(dataset) if transfer_syntax_uid in _DEFLATED else dataset
        ds = read_dataset(
            BytesIO(encoded),
            is_implicit_VR=transfer_syntax_uid in _IMPLICIT,
            is_little_endian=transfer_syntax_uid != ExplicitVRBigEndian,
            stop_when=_after_series,
            specific_tags=[SOP_CLASS_UID, SOP_INSTANCE_UID, MODALITY, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID],
        )
        values = {int(tag): _text(ds.get_item(tag)) for tag in ds.keys()}  # noqa: SIM118 - iterating decodes the values
    except Exception as error:  # a parser fails on damaged bytes in many ways, all of which mean the same
        raise UnreadableDataset(f"The dataset cannot be read ({type(error).__name__})") from None
    for tag, name in (
        (SOP_CLASS_UID, "SOP Class UID"),
        (SOP_INSTANCE_UID, "SOP Instance UID"),
        (STUDY_INSTANCE_UID, "Study Instance UID"),
        (SERIES_INSTANCE_UID, "Series Instance UID"),
    ):
        if not values.get(tag):
            raise UnreadableDataset(f"The dataset has no {name}")
    return Header(
        sop_class_uid=values[SOP_CLASS_UID],
        sop_instance_uid=values[SOP_INSTANCE_UID],
        study_instance_uid=values[STUDY_INSTANCE_UID],
        series_instance_uid=values[SERIES_INSTANCE_UID],
        modality=values.get(MODALITY, ""),
    )


def _after_series(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag > SERIES_INSTANCE_UID


def _inflate(dataset: bytes) -> bytes:
    """The beginning of a deflated dataset (PS3.5 A.5: a raw deflate stream)."""
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(dataset, _LARGEST_INFLATED_HEADER)


def _text(element: object) -> str:
    """The undecoded value of an element: UIDs and code strings are ASCII, padded with NUL or space."""
    value = getattr(element, "value", b"") or b""
    text = value.decode("ascii") if isinstance(value, bytes) else str(value)
    return text.strip(" \0")
