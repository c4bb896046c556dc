"""The way from a T1w image to the input of the networks, and from their output back to the image.

Training and the application share this code, so that the networks see what they were trained on.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.volumes.canonical import canonical
from inference.volumes.geometry import Affine, Array, Geometry
from inference.volumes.resampling import resample_to_spacing

SPACING = 3.0  # mm, isotropic
SMALLEST_MASS = 1.0  # mL: a smaller mass is not reported
BRIGHTEST = 1.6  # of the normalised intensity; fat lies near 1


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """The input of the networks: `array` [slice, row, column] with air at 0 and fat near 1.

    Its axes point towards the head, the back and the left. `affine` maps its indices to LPS mm.
    """

    array: Array
    affine: Affine

    @property
    def geometry(self) -> Geometry:
        slices, rows, columns = self.array.shape
        return Geometry((slices, rows, columns), self.affine)


def prepare_image(array: Array, geometry: Geometry) -> PreparedImage:
    """Bring a T1w image [slice, row, column] to canonical axes, SPACING and intensities relative to fat."""
    turned, affine = canonical(array, geometry.affine)
    resampled, affine = resample_to_spacing(scale_to_fat(turned), affine, SPACING)
    return PreparedImage(resampled, affine)


def scale_to_fat(array: NDArray[np.float32]) -> Array:
    """Scale air to 0 and the brightest hundredth of the body, which is subcutaneous fat as a rule, to 1."""
    low, high = np.percentile(array, [0.5, 99.9])
    shifted = array - low
    body = shifted[shifted > 0.08 * (high - low)]
    if body.size == 0:
        return np.zeros_like(array)
    fat = float(np.percentile(body, 99.0))
    return np.clip(shifted / max(fat, 1e-6), 0.0, BRIGHTEST).astype(np.float32)


def restore_probability(probability: Array, prepared: PreparedImage, geometry: Geometry) -> Array:
    """Interpolate the probability linearly to the grid of the image.

    Outside of its own grid the nearest value is taken.
    """
    into = np.linalg.inv(prepared.affine) @ geometry.affine
    result = ndimage.affine_transform(
        probability, into[:3, :3], into[:3, 3], geometry.shape, order=1, mode="nearest", output=np.float32
    )
    return np.asarray(result, dtype=np.float32)


def largest_mass(probability: Array, geometry: Geometry, threshold: float) -> NDArray[np.bool_]:
    """Return the largest connected part at or above `threshold`; empty if it is smaller than SMALLEST_MASS."""
    labels, count = ndimage.label(probability >= threshold)
    if count == 0:
        return np.zeros(probability.shape, np.bool_)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    if sizes.max() * geometry.voxel_volume / 1000 < SMALLEST_MASS:
        return np.zeros(probability.shape, np.bool_)
    return np.asarray(labels == int(sizes.argmax()))
