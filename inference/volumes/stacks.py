"""Stacks of slices: the planes of a series, proven to lie on regular grids, or the reason why they do not.

No images are stacked silently: they are grouped by the attributes that distinguish them, and each group must lie on a
regular grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from inference.headers.image_content import COMPONENT, FRAME_TYPE, MAGNITUDE, is_signal
from inference.volumes.geometry import GAP, Geometry, spacing_varies
from inference.volumes.grouping import PlaneGroup, groups_of, may_stack, text_of
from inference.volumes.planes import ASSUMED, B_VALUE, DIRECTION, ECHO_TIME, Plane
from inference.volumes.volume import Volume
from storage.errors import InputRefused

MINIMUM_SLICES = 3  # with fewer, distances cannot be compared with one another
POSITION_TOLERANCE = 0.02  # of the slice distance: how far a slice may lie off the regular grid
SAME_POSITION = 0.01  # mm along the normal


@dataclass(frozen=True, eq=False)
class SliceStack:
    """The planes of one volume, sorted along their normal, proven to lie on `geometry`. `told_apart` as in `Volume`."""

    planes: tuple[Plane, ...]
    geometry: Geometry
    told_apart: Mapping[str, Any]


def stacks_of(planes: Sequence[Plane]) -> list[SliceStack]:
    """Return the stacks of a series in the order of acquisition. Every one is regular, and those on one grid are alike.

    Raises InputRefused: no images, too few slices, two images in one place, a slice missing, slices off the grid.
    """
    if not planes:
        raise InputRefused("the series holds no image")
    groups = groups_of(planes)
    few = [group for group in groups if len(group.planes) < MINIMUM_SLICES]
    if few and any(not may_stack(group.planes[0], groups[0].planes[0]) for group in groups):
        raise InputRefused(
            "its images differ in orientation, matrix or pixel spacing and do not make one volume; "
            "send a series whose slices are parallel and alike"
        )
    stacks = sorted(map(_stack, groups), key=lambda stack: min(plane.order for plane in stack.planes))
    return assume_unweighted(stacks)


def assume_unweighted(stacks: Sequence[SliceStack]) -> list[SliceStack]:
    """Give the b-value 0 to stacks without one beside weighted ones of the same grid, echo and repetition time.

    Canon and Toshiba write nothing into the images of b = 0. Derived images and parts of the complex signal are none.
    `confirm_unweighted` asks the pixels.
    """
    weighted = [stack for stack in stacks if stack.told_apart.get(B_VALUE) and is_signal(stack.told_apart)]
    return [
        replace(stack, told_apart={**stack.told_apart, B_VALUE: 0.0, ASSUMED: True})
        if B_VALUE not in stack.told_apart and any(_may_be_unweighted(stack, other) for other in weighted)
        else stack
        for stack in stacks
    ]


def _may_be_unweighted(stack: SliceStack, weighted: SliceStack) -> bool:
    one, other = stack.planes[0], weighted.planes[0]
    return (
        not one.derived
        and one.told_apart.get(COMPONENT) in (None, MAGNITUDE)
        and one.told_apart.get(FRAME_TYPE) is None
        and stack.geometry.shape == weighted.geometry.shape
        and np.allclose(stack.geometry.affine, weighted.geometry.affine, atol=SAME_POSITION)
        and one.told_apart.get(ECHO_TIME) == other.told_apart.get(ECHO_TIME)
        and one.repetition_time == other.repetition_time
    )


def confirm_unweighted(volumes: Sequence[Volume]) -> tuple[Volume, ...]:
    """Take the assumed b-value from volumes that are not brighter than the least weighted ones."""
    stated = [v for v in volumes if v.told_apart.get(B_VALUE) and is_signal(v.told_apart)]
    least = min((v.told_apart[B_VALUE] for v in stated), default=0.0)
    brightest = max((float(np.nanmean(v.array)) for v in stated if v.told_apart[B_VALUE] == least), default=0.0)
    return tuple(
        replace(v, told_apart=_without_assumption(v, float(np.nanmean(v.array)) > brightest))
        if ASSUMED in v.told_apart
        else v
        for v in volumes
    )


def _without_assumption(volume: Volume, confirmed: bool) -> dict[str, Any]:
    unknown = {ASSUMED} if confirmed else {ASSUMED, B_VALUE}
    return {key: value for key, value in volume.told_apart.items() if key not in unknown}


def differences(stacks: Sequence[SliceStack]) -> str:
    """Describe the attributes that distinguish several volumes of a series."""
    told = [stack.told_apart for stack in stacks]
    found = []
    for key in dict.fromkeys(key for d in told for key in d if key != ASSUMED):
        present = sorted({d[key] for d in told if key in d}, key=lambda v: (isinstance(v, str), v))
        if key == DIRECTION and len(present) > 1:
            found.append(f"{len(present)} gradient directions")
        elif len({d.get(key) for d in told}) > 1:
            found.append(f"{key} {', '.join(map(text_of, present))}")
    if any(not may_stack(stack.planes[0], stacks[0].planes[0]) for stack in stacks):
        found.append("orientation, matrix or pixel spacing")
    return "; ".join(found)


def _stack(group: PlaneGroup) -> SliceStack:
    normal = group.planes[0].normal
    ordered = sorted(group.planes, key=lambda plane: float(plane.position @ normal))
    if len(ordered) < MINIMUM_SLICES:
        raise InputRefused(
            f"only {len(ordered)} slice{'s' if len(ordered) > 1 else ''} in one orientation; "
            f"a volume needs at least {MINIMUM_SLICES}: send the missing slices again"
        )
    steps = np.diff([float(plane.position @ normal) for plane in ordered])
    if np.any(steps < SAME_POSITION):
        n = int(np.sum(steps < SAME_POSITION))
        raise InputRefused(
            f"{n} images lie where another one lies, and nothing in their headers tells them apart; "
            "send each volume as a series of its own"
        )
    if spacing_varies(steps.tolist(), _numbers_have_holes(ordered)):
        raise InputRefused(
            f"the spacing varies: its slices lie {steps.min():.2f} to {steps.max():.2f} mm apart, and none is missing; "
            "such a series makes no volume"
        )
    step = float(np.median(steps))
    if np.any(wide := steps > GAP * step):
        missing = int(np.sum(np.round(steps[wide] / step) - 1))
        k = int(np.argmax(wide))
        raise InputRefused(
            f"{missing} slice(s) missing: distances from {steps.min():.2f} to {steps.max():.2f} mm, the first gap "
            f"between {ordered[k].label} and {ordered[k + 1].label}; send the missing slices again"
        )
    first, last = ordered[0], ordered[-1]
    affine = np.eye(4)
    affine[:3, 0] = (last.position - first.position) / (len(ordered) - 1)
    affine[:3, 1] = first.column_direction * first.spacing[0]
    affine[:3, 2] = first.row_direction * first.spacing[1]
    affine[:3, 3] = first.position
    expected = first.position + np.arange(len(ordered))[:, None] * affine[:3, 0]
    off = np.linalg.norm(np.array([p.position for p in ordered]) - expected, axis=1)
    if off.max() > max(POSITION_TOLERANCE * step, SAME_POSITION):
        raise InputRefused(
            f"the slices are not evenly spaced on a line: {ordered[int(off.argmax())].label} lies {off.max():.2f} mm "
            "off; send the whole series again"
        )
    return SliceStack(tuple(ordered), Geometry((len(ordered), first.rows, first.columns), affine), group.told_apart)


def _numbers_have_holes(ordered: Sequence[Plane]) -> bool:
    """Return True if the numbers of the images do not rise evenly, because some are missing, or tell nothing."""
    steps = set(np.diff(np.sort([plane.order[-1] for plane in ordered])))
    return len(steps) > 1 or steps == {0}
