"""Diffusion weighting from classic headers: the standard's attribute, then each vendor's private one by its creator."""

import re
import struct
from typing import Any

from pydicom.dataset import Dataset

from inference.private import PrivateElements

PRIVATE = (
    # group, creator, element, what Manufacturer begins with; the first value is the b-value in s/mm2
    (0x0019, "SIEMENS MR HEADER", 0x0C, "SIEMENS"),
    (0x0043, "GEMS_PARM_01", 0x39, "GE"),
    (0x2001, "Philips Imaging DD 001", 0x03, "PHILIPS"),
    (0x0065, "Image Private Header", 0x09, "UIH"),
)
GE_OFFSET = 1e9  # GE adds it to the b-value of some acquisitions
LARGEST = 1e5  # s/mm2, far above what any scanner can do: what is more is no b-value


def b_value(ds: Dataset) -> float | None:
    """s/mm2, or None where the header tells of no diffusion weighting."""
    standard = _number(ds.get("DiffusionBValue"))
    if standard is not None:
        return standard
    private = PrivateElements(ds)
    for group, creator, element, vendor in PRIVATE:
        value = _number(private.value(group, creator, element, vendor))
        if value is not None and 0 <= (weighting := value % GE_OFFSET) < LARGEST:
            return round(weighting, 2)
    return _in_words(ds)


def _in_words(ds: Dataset) -> float | None:
    """Canon and Toshiba write "b=1000(0.4,0.1,-0.9)" into ImageComments, Siemens calls its sequence "*ep_b1000#3"."""
    for keyword, pattern in (("ImageComments", r"\s*b=(\d+(?:\.\d+)?)\("), ("SequenceName", r"\*?ep_b(\d+)")):
        if found := re.match(pattern, str(ds.get(keyword, ""))):
            return float(found[1])
    return None


def _number(value: Any) -> float | None:
    """The first of the values. Private elements may come undecoded: text, or one binary number of VR FD."""
    if isinstance(value, bytes):
        text = value.decode("ascii", "ignore").strip(" \0")
        if len(value) == 8 and not re.fullmatch(r"[-+.\deE\\ ]+", text):
            return float(struct.unpack("<d", value)[0])
        value = text
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
