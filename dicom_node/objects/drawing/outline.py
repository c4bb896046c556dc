r"""Polygons of masks, exact on pixel edges.

Polygons are (n, 2) arrays of (column, row), the last point equal to the first. Coordinates are those of SCOORD (PS3.3
C.18.6.1.2): 0\0 is the top left corner of the top left pixel, 1\1 its bottom right corner, so pixel edges are
integers. Points on a straight line are left out. Pixels that touch only at a corner belong to different components.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Point = tuple[int, int]
Polygon = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Part:
    """A 4-connected component of a 2D mask: its bounding box, the top left corner of the box, and its pixels."""

    mask: NDArray[np.bool_]
    row: int
    column: int
    size: int


def parts_of(mask: NDArray[np.bool_]) -> list[Part]:
    """Return the components of a 2D mask, the largest first."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return []
    top, left = int(rows[0]), int(columns[0])
    labels, _ = ndimage.label(mask[top : rows[-1] + 1, left : columns[-1] + 1])  # most masks fill little of the image
    parts = []
    for label, (down, across) in enumerate(ndimage.find_objects(labels), start=1):
        component = labels[down, across] == label
        parts.append(Part(component, top + down.start, left + across.start, int(component.sum())))
    return sorted(parts, key=lambda part: -part.size)


def outline(mask: NDArray[np.bool_]) -> Polygon:
    """Return the polygon round the largest component of a 2D mask, as `outline_of` does."""
    parts = parts_of(mask)
    if not parts:
        raise ValueError("an empty mask has no outline")
    return outline_of(parts[0])


def outline_of(part: Part) -> Polygon:
    """Return the polygon round a part, without its holes."""
    return _polygon(_loops(replace(part, mask=ndimage.binary_fill_holes(part.mask)))[0])


def boundaries(mask: NDArray[np.bool_]) -> list[Polygon]:
    """Return all edges of a 2D mask: for each component the polygon round it, then one round each of its holes."""
    return [_polygon(loop) for part in parts_of(mask) for loop in _loops(part)]


def contours(mask: NDArray[np.bool_]) -> list[Polygon]:
    """Return one polygon for each component of a 2D mask, which encloses its pixels and nothing else.

    Holes are joined to the outside by channels of no width (the keyhole technique of PS3.3 C.8.8.6.3), so that even-odd
    and non-zero filling give the mask, whether the polygons are united or exclusive-ored.
    """
    return [_polygon(_keyhole(_loops(part))) for part in parts_of(mask)]


def key_slice(mask: NDArray[np.bool_]) -> int:
    """Return the slice of a (slice, row, column) mask with the largest area."""
    return int(np.argmax([np.count_nonzero(image) for image in mask]))


def _loops(part: Part) -> list[list[Point]]:
    """Return the edges of a part as loops of pixel corners, one pixel apart, the first corner not repeated.

    The outer loop comes first, then the loops round the holes from the top down. Each loop starts in its topmost row,
    at the left.
    """
    after = _edges(np.pad(part.mask, 1))
    left, top = part.column - 1, part.row - 1
    loops = []
    for start in sorted(after, key=lambda point: (point[1], point[0])):  # the outer loop has the topmost corner
        while after[start]:
            loop, point = [start], after[start].pop(0)
            direction = (point[0] - start[0], point[1] - start[1])
            while point != start:
                loop.append(point)
                step = _next(after[point], point, direction)
                point, direction = (point[0] + step[0], point[1] + step[1]), step
            loops.append([(column + left, row + top) for column, row in loop])
    return loops


def _edges(region: NDArray[np.bool_]) -> dict[Point, list[Point]]:
    """Return the pixel edges between inside and outside, as start -> ends, with the inside on the right.

    Rows run down.
    """
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
    """Remove the next step from `ends` and return it. If two pixels touch at the corner, stay on the same pixel."""
    steps = [(end[0] - point[0], end[1] - point[1]) for end in ends]
    right = (-direction[1], direction[0])
    step = right if right in steps else steps[0]
    del ends[steps.index(step)]
    return step


def _keyhole(loops: list[list[Point]]) -> list[Point]:
    """Join all loops of a component into one.

    A channel goes straight up from the top of each hole, through the component, to a corner of the outer loop or of a
    hole that starts further up, which has been joined already.
    """
    outer, *holes = loops
    points, following = list(outer), [*range(1, len(outer)), 0]  # a linked list: insertion must not move what follows
    at = {point: n for n, point in enumerate(points)}
    for hole in holes:
        column, row = hole[0]
        end = next(r for r in range(row - 1, -1, -1) if (column, r) in at)
        channel = [(column, r) for r in range(end + 1, row)]
        detour = [*channel, *hole, hole[0], *channel[::-1], (column, end)]
        first, last = len(points), len(points) + len(detour) - 1
        following += [*range(first + 1, last + 1), following[at[column, end]]]
        following[at[column, end]] = first
        points += detour
        at.update((point, first + n) for n, point in enumerate(detour))
    whole, n = [points[0]], following[0]
    while n:
        whole.append(points[n])
        n = following[n]
    return whole


def _polygon(loop: list[Point]) -> Polygon:
    """Close a loop, and leave out the points at which the direction does not change."""
    points = np.array(loop)
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    kept = points[(before != after).any(axis=1)].astype(float)
    return np.concatenate([kept, kept[:1]])
