"""The patient that the header of an instance states (PS3.3 C.7.1.1), from encoded values.

The images of a study repeat the same values, so the outcomes for the last ones are remembered.
"""

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_partial

from storage.blobs import Blob, open_to_parse
from storage.errors import MalformedObject
from storage.records.patients import NOBODY, PatientIdentity

SPECIFIC_CHARACTER_SET = 0x00080005
PATIENT_ID = 0x00100020
ISSUER_OF_PATIENT_ID = 0x00100021
PATIENT_BIRTH_DATE = 0x00100030
PATIENT_SEX = 0x00100040
OTHER_PATIENT_IDS = 0x00101000  # retired
OTHER_PATIENT_IDS_SEQUENCE = 0x00101002

PATIENT_ELEMENTS = (
    SPECIFIC_CHARACTER_SET,
    PATIENT_ID,
    ISSUER_OF_PATIENT_ID,
    PATIENT_BIRTH_DATE,
    PATIENT_SEX,
    OTHER_PATIENT_IDS,
    OTHER_PATIENT_IDS_SEQUENCE,
)

_LAST = 0x0010FFFF
_LARGEST_SEQUENCE = 2**14  # bytes; a longer list of IDs is nobody's
_MOST_OTHERS = 64  # other IDs; a longer list is nobody's either
_LARGEST_REMEMBERED = 2**12  # bytes
_SEXES = frozenset("MFO")  # PS3.3 C.7.1.1
_DATE = re.compile(r"[0-9]{4}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])")


def identity_of(values: Mapping[int, bytes]) -> PatientIdentity:
    """Return the identity that values state, by tag. That of a sequence of IDs is what `listed_ids` makes of it."""
    stated = [values.get(tag) for tag in PATIENT_ELEMENTS]
    remembered = sum(map(len, filter(None, stated))) <= _LARGEST_REMEMBERED
    return _identity(*stated) if remembered else _identity.__wrapped__(*stated)


def read_identity(blob: Blob) -> PatientIdentity:
    """Read the identity, without what follows the patient. Damaged bytes state nothing. Raises OSError."""
    try:
        with open_to_parse(blob) as file:
            ds = read_partial(file, stop_when=lambda tag, vr, length: tag > _LAST, specific_tags=list(PATIENT_ELEMENTS))
            return identity_of(raw_values(ds))
    except MalformedObject:  # whoever reads the image will say so
        return NOBODY


def stated_birth_date(text: str) -> str:
    """Return the date as eight digits; empty if it is none. 1901.02.03 is a date of ACR-NEMA times."""
    digits = text.replace(".", "")
    return digits if _DATE.fullmatch(digits) else ""


def stated_sex(text: str) -> str:
    """Return M, F or O; empty for anything else, such as the U of some systems, which states nothing."""
    letter = text.upper()
    return letter if letter in _SEXES else ""


def raw_values(ds: Dataset) -> dict[int, bytes]:
    """Return the encoded values of a dataset that was just read, without empty ones; a sequence only of other IDs."""
    # Iterating over the dataset itself would decode all values.
    found = {int(tag): getattr(ds.get_item(tag), "value", None) for tag in ds.keys()}  # noqa: SIM118
    if OTHER_PATIENT_IDS_SEQUENCE in found:
        found[OTHER_PATIENT_IDS_SEQUENCE] = _ids_of(ds)
    return {tag: value for tag, value in found.items() if value and isinstance(value, bytes)}


@lru_cache(maxsize=64)
def listed_ids(element: bytes, is_implicit: bool, is_little: bool = True) -> bytes:
    """Return the IDs that an encoded element Other Patient IDs Sequence lists, each followed by its issuer.

    All are separated by backslashes. The result is empty if the element cannot be read.
    """
    if len(element) > _LARGEST_SEQUENCE:
        return b""
    try:
        return _ids_of(read_dataset(BytesIO(element), is_implicit, is_little))
    except Exception:  # damaged bytes make a parser fail in many ways
        return b""


def _ids_of(ds: Dataset) -> bytes:
    try:
        items = ds[OTHER_PATIENT_IDS_SEQUENCE].value or ()
        pairs = [(_raw(item, PATIENT_ID), _raw(item, ISSUER_OF_PATIENT_ID)) for item in items]
    except Exception:
        return b""
    return b"\\".join(value for pair in pairs if pair[0] for value in pair)[:_LARGEST_SEQUENCE]


def _raw(item: Dataset, tag: int) -> bytes:
    value = item.get_item(tag).value if tag in item else b""
    return value if isinstance(value, bytes) else str(value or "").encode()


@lru_cache(maxsize=256)
def _identity(
    character_set: bytes | None,
    patient_id: bytes | None,
    issuer: bytes | None,
    birth_date: bytes | None,
    sex: bytes | None,
    other_ids: bytes | None,
    listed: bytes | None,
) -> PatientIdentity:
    def text(value: bytes | None) -> str:
        return _text(value, character_set)

    pairs = [(text(one), "") for one in (other_ids or b"").split(b"\\")]
    values = (listed or b"").split(b"\\")
    pairs += [(text(one), text(from_)) for one, from_ in zip(values[::2], values[1::2], strict=False)]
    others = {pair for pair in pairs if pair[0]}
    identity = PatientIdentity(
        patient_id=text(patient_id),
        issuer=text(issuer),
        birth_date=stated_birth_date(text(birth_date)),
        sex=stated_sex(text(sex)),
        others=tuple(sorted(others)) if len(others) <= _MOST_OTHERS else (),
    )
    return NOBODY if identity == NOBODY else identity


def _text(value: bytes | None, character_set: bytes | None) -> str:
    """Decode a text without padding (PS3.5 6.2). The same letters are the same text, however they were encoded."""
    if not value:
        return ""
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii").strip(" \0")
    try:
        names = [name.strip() for name in (character_set or b"").decode("ascii").split("\\")]
        decoded = decode_bytes(value, convert_encodings(names), set())
    except Exception:  # an unknown character set, or bytes that are none of it
        decoded = value.decode("latin-1")
    return unicodedata.normalize("NFC", decoded).strip(" \0")
