"""Volumes in one orientation and one resolution, so that images of any scanner can be compared.

Axes are permuted and flipped, never turned: an oblique image keeps its obliquity. Arrays are [slice, row, column].
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.volumes.volume import Affine, Array


def canonical(array: NDArray[np.float32], affine: Affine) -> tuple[NDArray[np.float32], Affine]:
    """Axes permuted and flipped, nothing interpolated, so that they point most nearly to the head, back and left.

    An oblique image keeps its obliquity.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    order = _assign(np.abs(directions))
    steps = affine[:3, :3][:, order]
    result = np.transpose(array, order)
    origin = affine[:3, 3].copy()
    for axis, patient_axis in enumerate((2, 1, 0)):
        if steps[patient_axis, axis] < 0:
            origin = origin + steps[:, axis] * (result.shape[axis] - 1)
            steps[:, axis] *= -1
            result = np.flip(result, axis)
    turned = np.eye(4)
    turned[:3, :3], turned[:3, 3] = steps, origin
    return np.ascontiguousarray(result), turned


def resample(
    array: NDArray[np.float32], affine: Affine, spacing: float | tuple[float, float, float]
) -> tuple[Array, Affine]:
    """To a grid of `spacing` mm (along each array axis, where it is three numbers) over the same field of view, linear,
    smoothed first along the axes that lose samples.
    """
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    factor = np.asarray(spacing) / steps
    sigma = np.where(factor > 1, 0.35 * factor, 0.0)
    smooth = ndimage.gaussian_filter(array, sigma, mode="nearest") if sigma.any() else array
    shape = np.maximum(np.floor((np.array(array.shape) - 1) / factor + 1e-6).astype(int) + 1, 1)
    # Both grids have the same middle.
    offset = (np.array(array.shape) - 1) / 2 - factor * (shape - 1) / 2
    result = ndimage.affine_transform(smooth, factor, offset, tuple(shape), order=1, mode="nearest")
    coarse = affine.copy()
    coarse[:3, :3] = affine[:3, :3] * factor
    coarse[:3, 3] = affine[:3, :3] @ offset + affine[:3, 3]
    return result.astype(np.float32), coarse


def _assign(nearness: NDArray[np.float64]) -> list[int]:
    """For patient axes z, y, x in turn, the array axis nearest to each; `nearness` is [patient axis, array axis]."""
    left = nearness.copy()
    chosen = {}
    for _ in range(3):
        patient_axis, axis = np.unravel_index(int(left.argmax()), left.shape)
        chosen[int(patient_axis)] = int(axis)
        left[patient_axis, :] = left[:, axis] = -1.0
    return [chosen[2], chosen[1], chosen[0]]
