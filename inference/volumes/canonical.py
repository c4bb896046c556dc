"""Volumes in one orientation, so that images of any scanner can be compared.

Axes are permuted and flipped, never rotated: an oblique image keeps its obliquity. Arrays are [slice, row, column].
"""

import numpy as np
from numpy.typing import NDArray

from inference.volumes.geometry import Affine


def canonical(array: NDArray[np.float32], affine: Affine) -> tuple[NDArray[np.float32], Affine]:
    """Permute and flip axes so that they point as nearly as possible to head, back and left. Nothing is interpolated.

    Returns the array and its affine. An oblique image keeps its obliquity.
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


def _assign(nearness: NDArray[np.float64]) -> list[int]:
    """Return the nearest array axis to each patient axis z, y, x in turn; `nearness` is [patient axis, array axis]."""
    left = nearness.copy()
    chosen = {}
    for _ in range(3):
        patient_axis, axis = np.unravel_index(int(left.argmax()), left.shape)
        chosen[int(patient_axis)] = int(axis)
        left[patient_axis, :] = left[:, axis] = -1.0
    return [chosen[2], chosen[1], chosen[0]]
