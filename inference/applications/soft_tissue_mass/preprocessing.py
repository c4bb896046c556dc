"""From a T1w image to the grid and the intensities the network knows, and from its answer back to the image.

Training and the application both go through here, so that the network never sees anything it was not trained on.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.volume import Affine, Array, Geometry

SPACING = 3.0  # mm, isotropic
SMALLEST = 1.0  # ml; smaller findings are not reported
BRIGHTEST = 1.6  # of the normalised intensity; fat lies near 1


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the network sees: `array` [slice, row, column] towards the head, the back and the left, air 0 and fat
    about 1. `affine` maps its indices to LPS mm."""

    array: Array
    affine: Affine

    @property
    def geometry(self) -> Geometry:
        slices, rows, columns = self.array.shape
        return Geometry((slices, rows, columns), self.affine)


def prepare(array: Array, geometry: Geometry) -> Prepared:
    """Any T1w image [slice, row, column] brought to canonical axes, SPACING and intensities relative to fat."""
    turned, affine = canonical(array, geometry.affine)
    resampled, affine = resample(normalise(turned), affine)
    return Prepared(resampled, affine)


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


def resample(array: NDArray[np.float32], affine: Affine, spacing: float = SPACING) -> tuple[Array, Affine]:
    """To an isotropic grid over the same field of view, linear, smoothed first along the axes that lose samples."""
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    factor = spacing / steps
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


def normalise(array: NDArray[np.float32]) -> Array:
    """Air at 0, the brightest hundredth of the body (subcutaneous fat, as a rule) at 1."""
    low, high = np.percentile(array, [0.5, 99.9])
    shifted = array - low
    body = shifted[shifted > 0.08 * (high - low)]
    if body.size == 0:
        return np.zeros_like(array)
    fat = float(np.percentile(body, 99.0))
    return np.clip(shifted / max(fat, 1e-6), 0.0, BRIGHTEST).astype(np.float32)


def restore(probability: Array, prepared: Prepared, geometry: Geometry) -> Array:
    """The probability on the grid of the image, linear; outside the network's grid its nearest value."""
    into = np.linalg.inv(prepared.affine) @ geometry.affine
    result = ndimage.affine_transform(
        probability, into[:3, :3], into[:3, 3], geometry.shape, order=1, mode="nearest", output=np.float32
    )
    return np.asarray(result, dtype=np.float32)


def mass(probability: Array, geometry: Geometry, threshold: float) -> NDArray[np.bool_]:
    """The largest connected part at or above `threshold`; empty if it is smaller than SMALLEST."""
    labels, count = ndimage.label(probability >= threshold)
    if count == 0:
        return np.zeros(probability.shape, np.bool_)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    if sizes.max() * geometry.voxel_volume / 1000 < SMALLEST:
        return np.zeros(probability.shape, np.bool_)
    return np.asarray(labels == int(sizes.argmax()))


def _assign(nearness: NDArray[np.float64]) -> list[int]:
    """For patient axes z, y, x in turn, the array axis nearest to each; `nearness` is [patient axis, array axis]."""
    left = nearness.copy()
    chosen = {}
    for _ in range(3):
        patient_axis, axis = np.unravel_index(int(left.argmax()), left.shape)
        chosen[int(patient_axis)] = int(axis)
        left[patient_axis, :] = left[:, axis] = -1.0
    return [chosen[2], chosen[1], chosen[0]]
