"""Diffusion weighting from classic headers: the standard's attributes, then each vendor's private ones by creator."""

from typing import Any

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from inference.attributes import Blocks, private, private_blocks, private_numbers, values

Direction = tuple[float, float, float]

B_VALUES = (
    # group, creator, element, VR; the first value is the b-value in s/mm2
    (0x0019, "SIEMENS MR HEADER", 0x0C, "IS"),
    (0x0043, "GEMS_PARM_01", 0x39, "IS"),
    (0x2001, "Philips Imaging DD 001", 0x03, "FL"),
    (0x0065, "Image Private Header", 0x09, "FD"),  # UIH: what the gradients amounted to; the b-value asked for is 0A
)
DIRECTIONS = (
    # group, creator, elements, VR; together three numbers
    (0x0019, "SIEMENS MR HEADER", (0x0E,), "FD"),
    (0x0019, "GEMS_ACQU_01", (0xBB, 0xBC, 0xBD), "DS"),
    (0x2005, "Philips MR Imaging DD 001", (0xB0, 0xB1, 0xB2), "FL"),
    (0x0065, "Image Private Header", (0x37,), "FD"),
)
PRIVATE_GROUPS = frozenset(group for group, *_ in (*B_VALUES, *DIRECTIONS))
GE_OFFSET = 1e9  # GE adds it to the b-value of some acquisitions


def b_value(ds: Dataset) -> float | None:
    """s/mm2, or None where the header tells of no diffusion weighting."""
    return weighting(ds)[0]


def weighting(ds: Dataset) -> tuple[float | None, Direction | None]:
    """The b-value in s/mm2 and the direction of the gradient, each None where the header tells of none.

    The direction is as the vendor writes it, GE's for one in axes of the image: it tells images apart, and is no
    direction in the patient.
    """
    standard = _numbers(ds.get("DiffusionBValue"))
    orientation = _numbers(ds.get("DiffusionGradientOrientation"))
    if standard and (orientation or standard[0] == 0):
        return standard[0], direction(orientation) if standard[0] > 0 else None
    blocks = private_blocks(ds, PRIVATE_GROUPS)
    b = standard[0] if standard else _private_b_value(ds, blocks)
    return b, _private_direction(ds, blocks) if b else None


def direction(numbers: Any) -> Direction | None:
    """Three numbers, so rounded that the scanner's own rounding tells no two images apart; None for no direction."""
    found = [round(v, 3) + 0.0 for v in _numbers(numbers)]
    return (found[0], found[1], found[2]) if len(found) == 3 and any(found) else None


def b_values(ds: Dataset) -> set[float]:
    """All b-values of one instance, of its frames where it is Enhanced."""
    found = {item.get("DiffusionBValue") for item in _walk(ds, Tag("MRDiffusionSequence"))}
    of_frames = {float(v) for v in found if v is not None}
    own = b_value(ds)
    return of_frames if own is None else of_frames | {own}


def _private_b_value(ds: Dataset, blocks: Blocks) -> float | None:
    for group, creator, element, vr in B_VALUES:
        if numbers := private_numbers(private(ds, blocks, group, creator, element), vr):
            return numbers[0] % GE_OFFSET
    return None


def _private_direction(ds: Dataset, blocks: Blocks) -> Direction | None:
    for group, creator, elements, vr in DIRECTIONS:
        numbers = [n for e in elements for n in private_numbers(private(ds, blocks, group, creator, e), vr)]
        if found := direction(numbers):
            return found
    return None


def _walk(ds: Dataset, sequence: Any) -> list[Dataset]:
    groups = [*ds.get("SharedFunctionalGroupsSequence", []), *ds.get("PerFrameFunctionalGroupsSequence", [])]
    return [group[sequence][0] for group in groups if group.get(sequence) and len(group[sequence].value)]


def _numbers(value: Any) -> list[float]:
    try:
        return [float(v) for v in values(value)]
    except (TypeError, ValueError):
        return []
