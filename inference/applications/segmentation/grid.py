"""The grid of a site's network: the way from the source volume to this grid, and the way back for masks."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from inference.contract.bundle import Normalization, Preprocessing
from inference.volumes.geometry import Geometry, Mask
from inference.volumes.resampling import resample_to_grid

DIRECTIONS = {
    "L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1),
}  # fmt: skip
SMALLEST_RANGE = 1e-3
THICK = 3.0  # voxels of the model: from this thickness on, slices of the source are thick

VoxelBox = tuple[slice, ...]


def model_grid(source: Geometry, preprocessing: Preprocessing) -> Geometry:
    """Return a grid along the axes of the patient, with the centre of `source`.

    Array axis n of the result points where letter n of `orientation` says. Without a configured shape it covers all
    of `source`.
    """
    spacing = np.array(preprocessing.spacing, float)
    directions = np.array([DIRECTIONS[letter] for letter in preprocessing.orientation], float).T  # columns are axes
    last = np.array(source.shape) - 1
    centre = source.to_lps(last[None] / 2)[0]
    if preprocessing.shape is not None:
        shape = preprocessing.shape
    else:
        corners = source.to_lps(np.array(list(product(*((-0.5, n + 0.5) for n in last)))))
        extent = np.ptp(corners @ directions, axis=0)
        i, j, k = (int(n) for n in np.ceil(extent / spacing))
        shape = (i, j, k)
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, affine)


def normalize(image: NDArray[np.float32], how: Normalization) -> NDArray[np.float32]:
    """Scale intensities in the way of the images on which the network was trained."""
    values = image[image > 0] if how.nonzero else image
    if how.method == "none" or values.size == 0:
        return image
    if how.method == "zscore":
        return ((image - values.mean()) / max(float(values.std()), SMALLEST_RANGE)).astype(np.float32)
    lower, upper = how.lower, how.upper
    if how.method == "percentile":
        lower, upper = (float(q) for q in np.percentile(values, [how.lower, how.upper]))
    return np.clip((image - lower) / max(upper - lower, SMALLEST_RANGE), 0, 1).astype(np.float32)


def foreground_box(image: NDArray[np.float32], threshold: float, margin: int) -> tuple[slice, slice, slice]:
    """Return the box around all voxels above `threshold`, with a margin of `margin` voxels on each side."""
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        inside = np.flatnonzero((image > threshold).any(axis=others))
        if inside.size == 0:
            return slice(None), slice(None), slice(None)
        box.append(slice(max(0, int(inside[0]) - margin), int(inside[-1]) + margin + 1))
    i, j, k = box
    return i, j, k


def masks_to_source(masks: Sequence[Mask], grid: Geometry, source: Geometry) -> list[Mask]:
    """Bring masks on `grid` to the grid of the source.

    Each mask is interpolated, and a voxel is given to the structure with the largest share, if this share exceeds that
    of the background. Thick slices are interpolated linearly, because the nearest voxel would cost small structures a
    tenth of their volume. Thin slices take the nearest voxel, which does not favour large structures over small ones
    beside them. Structures that overlap on `grid` take every voxel in which their own share is more than half.
    """
    order = 1 if max(source.spacing) > THICK * max(grid.spacing) else 0
    overlapping = sum(int(mask.sum()) for mask in masks) > int(np.logical_or.reduce(masks).sum())
    best = np.full(source.shape, 0.5 if overlapping else 0.0, np.float32)
    total = np.zeros(source.shape, np.float32)
    winner = np.zeros(source.shape, np.uint16)
    apart = []
    for number, mask in enumerate(masks, start=1):
        box, share = _share(mask, grid, source, order)
        if overlapping:
            apart.append(np.zeros(source.shape, bool))
            apart[-1][box] = share > 0.5
            continue
        total[box] += share
        ahead = share > best[box]
        winner[box][ahead] = number
        best[box][ahead] = share[ahead]
    if overlapping:
        return apart
    winner[best <= 1 - total] = 0
    return [winner == number for number in range(1, len(masks) + 1)]


def _share(mask: Mask, grid: Geometry, source: Geometry, order: int) -> tuple[VoxelBox, NDArray[np.float32]]:
    """Return a box of the source that holds all of `mask`, and the share of `mask` in each of its voxels."""
    if not mask.any():
        return (slice(0, 0),) * 3, np.zeros((0, 0, 0), np.float32)
    inside = np.argwhere(mask)
    low, high = inside.min(axis=0) - 1, inside.max(axis=0) + 1
    corners = grid.to_lps(np.array(list(product(*zip(low, high, strict=True))), float))
    indices = (corners - source.affine[:3, 3]) @ np.linalg.inv(source.affine[:3, :3]).T
    first = np.maximum(np.floor(indices.min(axis=0)).astype(int), 0)
    last = np.minimum(np.ceil(indices.max(axis=0)).astype(int) + 1, source.shape)
    last = np.maximum(first, last)
    affine = source.affine.copy()
    affine[:3, 3] = source.to_lps(first[None].astype(float))[0]
    i, j, k = (int(n) for n in last - first)
    share = resample_to_grid(mask.astype(np.float32), grid.affine, affine, (i, j, k), order)
    return tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True)), share
