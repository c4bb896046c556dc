"""Values of attributes, the standard's and private ones, as headers really hold them: absent, empty, or undecoded."""

import struct
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from storage.errors import InputRefused

Blocks = Mapping[tuple[int, str], int]
BINARY = {"FL": "f", "FD": "d", "US": "H", "UL": "I", "SS": "h", "SL": "i"}


def values(value: Any) -> list[Any]:
    """The values of an attribute, none where it is absent or empty."""
    if value is None or value == "":
        return []
    if isinstance(value, str | bytes | int | float):
        return [value]
    try:
        return list(value)
    except TypeError:
        return [value]


def vector(ds: Dataset, keyword: str, length: int, where: str) -> NDArray[np.float64]:
    """(`length`,) numbers. Raises InputRefused, which says `where`, unless there are so many and all are finite."""
    try:
        found = np.array([float(v) for v in values(ds.get(keyword))])
    except (TypeError, ValueError):
        found = np.array([])
    if found.shape != (length,) or not np.isfinite(found).all():
        raise InputRefused(f"{where}: {keyword} is missing or is not {length} numbers")
    return found


def private_blocks(ds: Dataset, groups: Collection[int]) -> Blocks:
    """Group and creator to block (PS3.5 7.8.1). `Dataset.private_block` would sort all tags for every look-up."""
    blocks: dict[tuple[int, str], int] = {}
    for tag in list(ds.keys()):
        if tag >> 16 in groups and 0x10 <= tag & 0xFFFF <= 0xFF:
            blocks.setdefault((tag >> 16, str(ds[tag].value).strip()), tag & 0xFF)
    return blocks


def private(ds: Dataset, blocks: Blocks, group: int, creator: str, element: int) -> Any:
    """The value of a private attribute, None where it is absent. `blocks` are those of `ds`."""
    block = blocks.get((group, creator))
    if block is None or (tag := group << 16 | block << 8 | element) not in ds:
        return None
    return ds[tag].value


def private_numbers(value: Any, vr: str) -> list[float]:
    """The numbers of a private attribute of this VR; none where it holds none.

    Where the VR is not sent (implicit VR) or was lost on the way (UN), the bytes come undecoded.
    """
    if isinstance(value, bytes):
        value = _decoded(value, vr)
    if isinstance(value, str):
        value = value.split("\\")
    try:
        return [float(v) for v in values(value)]
    except (TypeError, ValueError):
        return []


def _decoded(value: bytes, vr: str) -> Any:
    if vr not in BINARY:
        return value.decode("ascii", "ignore").strip("\0 ")
    size = struct.calcsize("<" + BINARY[vr])
    return struct.unpack_from(f"<{len(value) // size}{BINARY[vr]}", value)
