"""From a T1w image to the grid and the intensities the network knows, and from its answer back to the image.

Training and the application both go through here, so that the network never sees anything it was not trained on.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.volumes.canonical import canonical
from inference.volumes.geometry import Affine, Array, Geometry
from inference.volumes.resampling import resample_to_spacing

SPACING = 3.0  # mm, isotropic
SMALLEST = 1.0  # ml; smaller findings are not reported
BRIGHTEST = 1.6  # of the normalised intensity; fat lies near 1


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the network sees: `array` [slice, row, column] towards the head, the back and the left, air 0 and fat
    about 1. `affine` maps its indices to LPS mm.
    """

    array: Array
    affine: Affine

    @property
    def geometry(self) -> Geometry:
        slices, rows, columns = self.array.shape
        return Geometry((slices, rows, columns), self.affine)


def prepare(array: Array, geometry: Geometry) -> Prepared:
    """Any T1w image [slice, row, column] brought to canonical axes, SPACING and intensities relative to fat."""
    turned, affine = canonical(array, geometry.affine)
    resampled, affine = resample_to_spacing(normalise(turned), affine, SPACING)
    return Prepared(resampled, affine)


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
