"""Diffusion weighting from classic headers: the standard's attribute, then each vendor's private one by its creator."""

from typing import Any

from pydicom.dataset import Dataset
from pydicom.tag import Tag

PRIVATE = (
    # group, creator, element; the first value is the b-value in s/mm2
    (0x0019, "SIEMENS MR HEADER", 0x0C),
    (0x0043, "GEMS_PARM_01", 0x39),
    (0x2001, "Philips Imaging DD 001", 0x03),
)
PRIVATE_GROUPS = frozenset(group for group, _, _ in PRIVATE)
GE_OFFSET = 1e9  # GE adds it to the b-value of some acquisitions


def b_value(ds: Dataset) -> float | None:
    """s/mm2, or None where the header tells of no diffusion weighting."""
    standard = _first(ds.get("DiffusionBValue"))
    if standard is not None:
        return standard
    blocks = _private_blocks(ds)
    for group, creator, element in PRIVATE:
        block = blocks.get((group, creator))
        if block is None or (tag := group << 16 | block << 8 | element) not in ds:
            continue
        value = _first(ds[tag].value)
        if value is not None:
            return value % GE_OFFSET
    return None


def _private_blocks(ds: Dataset) -> dict[tuple[int, str], int]:
    """Group and creator to block (PS3.5 7.8.1). `Dataset.private_block` would sort all tags for every look-up."""
    blocks: dict[tuple[int, str], int] = {}
    for tag in list(ds.keys()):
        if tag >> 16 in PRIVATE_GROUPS and 0x10 <= tag & 0xFFFF <= 0xFF:
            blocks.setdefault((tag >> 16, str(ds[tag].value)), tag & 0xFF)
    return blocks


def b_values(ds: Dataset) -> set[float]:
    """All b-values of one instance, of its frames where it is Enhanced."""
    found = {item.get("DiffusionBValue") for item in _walk(ds, Tag("MRDiffusionSequence"))}
    values = {float(v) for v in found if v is not None}
    own = b_value(ds)
    return values if own is None else values | {own}


def _walk(ds: Dataset, sequence: Any) -> list[Dataset]:
    groups = [*ds.get("SharedFunctionalGroupsSequence", []), *ds.get("PerFrameFunctionalGroupsSequence", [])]
    return [group[sequence][0] for group in groups if group.get(sequence) and len(group[sequence].value)]


def _first(value: Any) -> float | None:
    if isinstance(value, bytes):  # private elements of implicit VR files come undecoded
        value = value.decode("ascii", "ignore").split("\\")
    if isinstance(value, str):
        value = value.split("\\")
    try:
        values = list(value)
    except TypeError:
        values = [value]
    try:
        return float(values[0])
    except (IndexError, TypeError, ValueError):
        return None
