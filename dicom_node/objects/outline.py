"""Masks to polygons, exact on pixel edges."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Point = tuple[int, int]


def outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n, 2) closed polygon (column, row) round the largest component of a 2D mask; the last point is the first.

    Coordinates are those of SCOORD (PS3.3 C.18.6.1.2): 0\\0 is the top left corner of the top left pixel, 1\\1 its
    bottom right corner, so pixel edges are integers. Holes are not drawn; points on a straight line are left out.
    """
    components = components_of(mask)
    if not components:
        raise ValueError("an empty mask has no outline")
    region = np.pad(ndimage.binary_fill_holes(components[0]), 1)
    after = _edges(region)
    row, column = np.argwhere(region)[0]
    start = (int(column), int(row))
    points, point, direction = [start], (start[0] + 1, start[1]), (1, 0)
    while point != start:
        step = _next(after[point], point, direction)
        if step != direction:
            points.append(point)
        point, direction = (point[0] + step[0], point[1] + step[1]), step
    return np.array([*points, start], float) - 1.0


def components_of(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The 4-connected components of a 2D mask, the largest first."""
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return [labels == 1 + index for index in np.argsort(-sizes, kind="stable")]


def key_slice(mask: NDArray[np.bool_]) -> int:
    """The slice of a (slice, row, column) mask with the largest area."""
    return int(mask.sum(axis=(1, 2)).argmax())


def _edges(region: NDArray[np.bool_]) -> dict[Point, list[Point]]:
    """Pixel edges between inside and outside, as start -> ends, the inside on the right hand (rows run down)."""
    after: dict[Point, list[Point]] = {}
    for (dr, dc), (begin, end) in {
        (-1, 0): ((0, 0), (1, 0)),  # top
        (0, 1): ((1, 0), (1, 1)),  # right
        (1, 0): ((1, 1), (0, 1)),  # bottom
        (0, -1): ((0, 1), (0, 0)),  # left
    }.items():
        for row, column in np.argwhere(region & ~np.roll(region, (-dr, -dc), (0, 1))).tolist():
            after.setdefault((column + begin[0], row + begin[1]), []).append((column + end[0], row + end[1]))
    return after


def _next(ends: list[Point], point: Point, direction: Point) -> Point:
    """The step to take; where two pixels touch at a corner, turn right to stay on the same one."""
    steps = [(end[0] - point[0], end[1] - point[1]) for end in ends]
    right = (-direction[1], direction[0])
    return right if right in steps else steps[0]
