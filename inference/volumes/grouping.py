"""Groups of planes that belong to one volume: by geometry, by distinguishing attributes, and by their order."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.headers.image_content import COMPONENT, FRAME_TYPE
from inference.volumes.planes import B_VALUE, ECHO_TIME, TIME, TRIGGER_TIME, LpsVector, Plane
from storage.errors import InputRefused

DIRECTION_TOLERANCE = 1e-3  # of a direction cosine: scanners round differently within one series
SPACING_TOLERANCE = 1e-3  # mm, pixel spacing
SAME_PLACE = 0.05  # mm along the normal, between images of several volumes: scanners round
CONTRAST = frozenset({COMPONENT, FRAME_TYPE, ECHO_TIME, B_VALUE})  # slices that differ in these are never one volume
REPETITION = "repetition"  # counted from 1, if only the order of acquisition tells volumes apart


@dataclass(frozen=True, eq=False)
class PlaneGroup:
    """The planes of one volume, in any order. `told_apart` holds the attributes that they share, without None."""

    planes: Sequence[Plane]
    told_apart: Mapping[str, Any]


def groups_of(planes: Sequence[Plane]) -> list[PlaneGroup]:
    """Group planes that lie on one grid and that no attribute distinguishes, so a group has one plane at each place.

    An attribute that differs from slice to slice does not distinguish volumes, unless it is one of CONTRAST: some
    scanners write another trigger time into every slice. If several images of a group lie at each place, their numbers
    must run through all places for each repetition, or through all repetitions at each place.

    Raises InputRefused if two images lie in one place, or if a volume lacks a slice that an overlapping volume has.
    """
    return [group for grid in _grids(planes) for group in _groups(grid)]


def may_stack(one: Plane, other: Plane) -> bool:
    """Return True if two planes are parallel and of the same form, so that they may be slices of one volume."""
    return (
        (one.rows, one.columns) == (other.rows, other.columns)
        and one.frame_of_reference_uid == other.frame_of_reference_uid
        and all(abs(a - b) <= SPACING_TOLERANCE for a, b in zip(one.spacing, other.spacing, strict=True))
        and _is_near(one.row_direction, other.row_direction)
        and _is_near(one.column_direction, other.column_direction)
    )


def _is_near(one: LpsVector, other: LpsVector) -> bool:
    return one is other or bool((np.abs(one - other) <= DIRECTION_TOLERANCE).all())


def text_of(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float | int) else str(value)


def _grids(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Group planes of one orientation, matrix and spacing."""
    grids: list[list[Plane]] = []
    for plane in planes:
        grid = next((grid for grid in grids if may_stack(plane, grid[0])), None)
        if grid is None:
            grids.append([plane])
        else:
            grid.append(plane)
    return grids


def _groups(grid: Sequence[Plane]) -> list[PlaneGroup]:
    """Group the planes on one grid. Each volume must have a slice wherever one that it overlaps has one."""
    places = _places(grid)
    keys = [key for key in grid[0].told_apart if key in CONTRAST or not _belongs_to_the_slice(key, grid, places)]
    found: dict[tuple[Any, ...], list[Plane]] = {}
    for plane in grid:
        found.setdefault(tuple(plane.told_apart.get(key) for key in keys), []).append(plane)
    groups = [group for part in found.values() for group in _repetitions(part, places)]
    _refuse_unequal(groups, places)
    return groups


def _places(grid: Sequence[Plane]) -> dict[Plane, int]:
    """Count the places along the normal, and return the number of the place of each plane."""
    along = np.array([plane.position for plane in grid]) @ grid[0].normal
    order = np.argsort(along, kind="stable")
    numbers = np.concatenate([[0], np.cumsum(np.diff(along[order]) > SAME_PLACE)])
    return {grid[i]: int(number) for i, number in zip(order, numbers, strict=True)}


def _belongs_to_the_slice(key: str, grid: Sequence[Plane], places: Mapping[Plane, int]) -> bool:
    """Return True if most values of `key` are found at one place only.

    Trigger times also belong to the slice if no place has two images: in a stack gated by the heart, some slices agree.
    """
    if key == TRIGGER_TIME and len(set(places.values())) == len(grid):
        return True
    found: dict[Any, set[int]] = {}
    for plane in grid:
        found.setdefault(plane.told_apart.get(key), set()).add(places[plane])
    return len(found) > 1 and 2 * sum(len(at) == 1 for at in found.values()) > len(found)


def _repetitions(part: Sequence[Plane], places: Mapping[Plane, int]) -> list[PlaneGroup]:
    """Split images that differ in nothing but their order."""
    told = {
        key: value
        for key, value in part[0].told_apart.items()
        if value is not None and all(plane.told_apart.get(key) == value for plane in part)
    }
    at = Counter(places[plane] for plane in part)
    number = max(at.values())
    if number == 1:
        return [PlaneGroup(part, told)]
    if short := [place for place, images in at.items() if images < number]:
        example = next(plane for plane in part if places[plane] == min(short))
        raise InputRefused(
            f"{sum(number - at[place] for place in short)} slice(s) missing: there are {number} images at most places "
            f"but {at[min(short)]} where {example.label} lies; send the missing slices again"
        )
    ordered = sorted(part, key=lambda plane: plane.order)
    sequence = np.array([places[plane] for plane in ordered])
    if len({plane.order for plane in part}) == len(part):
        again, at_once = np.sort(sequence.reshape(number, -1)), sequence.reshape(-1, number)
        key = REPETITION if TIME in told else TIME
        if (again == sorted(at)).all():
            return [PlaneGroup(ordered[k * len(at) : (k + 1) * len(at)], told | {key: k + 1.0}) for k in range(number)]
        if (at_once == at_once[:, :1]).all():
            return [PlaneGroup(ordered[k::number], told | {key: k + 1.0}) for k in range(number)]
    raise InputRefused(
        f"{len(part) - len(at)} images lie where another one lies, and nothing in their headers tells them apart; "
        "send each volume as a series of its own"
    )


def _refuse_unequal(groups: Sequence[PlaneGroup], places: Mapping[Plane, int]) -> None:
    """Refuse a volume that lacks a slice where others have one.

    If a volume begins late or ends early, only the volumes that it overlaps show that slices are missing.
    """
    covered = [frozenset(places[plane] for plane in group.planes) for group in groups]
    different = set(covered)  # A time series has a thousand volumes, of which most cover the same places.
    for group, at in zip(groups, covered, strict=True):
        whole = {place for other in different if other & at for place in other}
        if missing := whole - at:
            lacking = next(plane for plane, place in places.items() if place == min(missing))
            what = ", ".join(f"{key} {text_of(value)}" for key, value in group.told_apart.items())
            raise InputRefused(
                f"{len(missing)} slice(s) missing: a volume of {len(at)} slices ({what}) beside others has none where "
                f"{lacking.label} lies; send the missing slices again"
            )
