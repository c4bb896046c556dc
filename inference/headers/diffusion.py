"""Diffusion weighting from classic headers: the attributes of the standard, then private ones of each vendor.

`shells` removes b-values that only scatter around another one.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset

from inference.headers.attributes import values
from inference.headers.private import PrivateElements

Direction = tuple[float, float, float]


@dataclass(frozen=True)
class DiffusionWeighting:
    """The b-value in s/mm2 and the direction of the gradient; each is None if the header does not tell it."""

    b_value: float | None
    direction: Direction | None


B_VALUE_ELEMENTS = (
    # Group, creator, element, VR, and the beginning of Manufacturer. The first value is the b-value in s/mm2.
    (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", "SIEMENS"),
    (0x0043, "GEMS_PARM_01", 0x39, "IS", "GE"),
    (0x2001, "Philips Imaging DD 001", 0x03, "FL", "PHILIPS"),
    (0x0065, "Image Private Header", 0x09, "FD", "UIH"),  # the measured b-value; the nominal one is in 0A
)
DIRECTION_ELEMENTS = (
    # Group, creator, elements, VR, and the beginning of Manufacturer. The elements hold three numbers together.
    (0x0019, "SIEMENS MR HEADER", (0x0E,), "FD", "SIEMENS"),
    (0x0019, "GEMS_ACQU_01", (0xBB, 0xBC, 0xBD), "DS", "GE"),
    (0x2005, "Philips MR Imaging DD 001", (0xB0, 0xB1, 0xB2), "FL", "PHILIPS"),
    (0x0065, "Image Private Header", (0x37,), "FD", "UIH"),
)
GE_OFFSET = 1e9  # added by GE to the b-value of some acquisitions
# Vendors state the b-value of each direction: values that differ by at most this many s/mm2, or by this part of the
# b-value if that is more, are one.
SAME_SHELL = 25.0, 0.05
LARGEST_B_VALUE = 1e5  # s/mm2, far above what any scanner can do; larger numbers are not b-values


def b_value(ds: Dataset) -> float | None:
    """Return the b-value in s/mm2, or None if the header states no diffusion weighting."""
    return weighting(ds, PrivateElements(ds)).b_value


def weighting(ds: Dataset, private: PrivateElements) -> DiffusionWeighting:
    """Return the diffusion weighting that the header states, whose private elements are `private`.

    The direction is as the vendor writes it; GE, for example, uses the axes of the image. It distinguishes images, but
    must not be used as a direction in the patient.
    """
    standard = _numbers(ds.get("DiffusionBValue"))
    orientation = _numbers(ds.get("DiffusionGradientOrientation"))
    if standard and (orientation or standard[0] == 0):
        return DiffusionWeighting(standard[0], direction(orientation) if standard[0] > 0 else None)
    b = standard[0] if standard else _private_b_value(private)
    if b is None:
        b = _in_words(ds)
    return DiffusionWeighting(b, _private_direction(private) if b else None)


def shells(b_values: Iterable[float]) -> tuple[float, ...]:
    """Return the different b-values (s/mm2), ascending.

    If several b-values scatter around one value, such as 995, 1000 and 1005, only the lowest is returned.
    """
    found: list[float] = []
    for b in sorted(b_values):
        if not found or b - found[-1] > max(SAME_SHELL[0], SAME_SHELL[1] * b):
            found.append(b)
    return tuple(found)


def direction(numbers: Any) -> Direction | None:
    """Return three numbers as a direction; None if there are not three, or all are zero.

    They are rounded, because the scanner's own rounding must not make two images differ.
    """
    found = [round(v, 3) + 0.0 for v in _numbers(numbers)]
    return (found[0], found[1], found[2]) if len(found) == 3 and any(found) else None


def _private_b_value(private: PrivateElements) -> float | None:
    for group, creator, element, vr, vendor in B_VALUE_ELEMENTS:
        numbers = private.numbers(group, creator, element, vr, vendor)
        if numbers and 0 <= (weighted := numbers[0] % GE_OFFSET) < LARGEST_B_VALUE:
            return round(weighted, 2)
    return None


def _in_words(ds: Dataset) -> float | None:
    """Read a b-value that is written as text.

    Canon and Toshiba write "b=1000(0.4,0.1,-0.9)" into ImageComments; Siemens calls its sequence "*ep_b1000#3".
    """
    for keyword, pattern in (("ImageComments", r"\s*b=(\d+(?:\.\d+)?)\("), ("SequenceName", r"\*?ep_b(\d+)")):
        if found := re.match(pattern, str(ds.get(keyword, ""))):
            return float(found[1])
    return None


def _private_direction(private: PrivateElements) -> Direction | None:
    for group, creator, elements, vr, vendor in DIRECTION_ELEMENTS:
        numbers = [n for element in elements for n in private.numbers(group, creator, element, vr, vendor)]
        if found := direction(numbers):
            return found
    return None


def _numbers(value: Any) -> list[float]:
    try:
        return [float(v) for v in values(value)]
    except (TypeError, ValueError):
        return []
