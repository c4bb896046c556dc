"""Private elements, found by their creator (PS3.5 7.8.1), as vendors document them."""

import struct
from functools import cached_property
from typing import Any

from pydicom.dataset import Dataset

from inference.headers.attributes import values

USUAL_BLOCK = 0x10  # the first block of a group, in which scanners put their first creator
USUAL_BLOCKS = {"Philips MR Imaging DD 005": 0x14}  # exceptions: creators that are not the first
BINARY = {"FL": "f", "FD": "d", "US": "H", "UL": "I", "SS": "h", "SL": "i"}


class PrivateElements:
    """The private elements of one dataset.

    `Dataset.private_block` would sort all tags for every look-up; this class reads the creators once.
    """

    def __init__(self, ds: Dataset, manufacturer: str = "") -> None:
        """Keep `ds`. For an item of a sequence, `manufacturer` must be passed, because the item does not hold it."""
        self._ds = ds
        self._stated = manufacturer

    @cached_property
    def _manufacturer(self) -> str:
        return (self._stated or str(self._ds.get("Manufacturer", ""))).upper()

    @cached_property
    def _blocks(self) -> dict[tuple[int, str], int]:
        blocks: dict[tuple[int, str], int] = {}
        for tag in list(self._ds.keys()):
            if tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF:
                blocks.setdefault((tag >> 16, str(self._ds[tag].value).strip()), tag & 0xFF)
        return blocks

    def value(self, group: int, creator: str, element: int, vendor: str = "") -> Any | None:
        """Return the value of (group, block of `creator`, element), or None.

        De-identification often keeps an element and drops its creator. If no creator of the whole group is left and
        Manufacturer begins with `vendor`, the block that scanners usually take is assumed.
        """
        block = self._blocks.get((group, creator))
        if block is None and vendor and not any(known == group for known, _ in self._blocks):
            block = USUAL_BLOCKS.get(creator, USUAL_BLOCK) if self._manufacturer.startswith(vendor) else None
        tag = group << 16 | (block or 0) << 8 | element
        return self._ds[tag].value if block is not None and tag in self._ds else None

    def text(self, group: int, creator: str, element: int, vendor: str = "") -> str:
        """Return the first value as text, empty if there is none. Elements of implicit VR files are decoded here."""
        value = self.value(group, creator, element, vendor)
        if isinstance(value, bytes):
            value = value.decode("ascii", "ignore")
        if value is not None and not isinstance(value, str | int | float):
            value = next(iter(value), None)
        return "" if value is None else str(value).split("\\")[0].strip(" \0")

    def numbers(self, group: int, creator: str, element: int, vr: str, vendor: str = "") -> list[float]:
        """Return the numbers of an element, none if it holds none.

        If the VR was not sent (implicit VR) or was lost (UN), the bytes are not decoded yet, and `vr` tells how to
        decode them.
        """
        value = self.value(group, creator, element, vendor)
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
