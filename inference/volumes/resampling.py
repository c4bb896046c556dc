"""Resampling of arrays onto other grids: of another spacing, or of another image.

Arrays are [slice, row, column]; affines map (slice, row, column, 1) to LPS mm.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.volumes.geometry import Affine, Array


def resample_to_spacing(
    array: NDArray[np.float32], affine: Affine, spacing: float | tuple[float, float, float]
) -> tuple[Array, Affine]:
    """Resample linearly to a grid of `spacing` mm over the same field of view, and return it with its affine.

    `spacing` is one number, or one for each array axis. The array is smoothed first along the axes that lose samples.
    """
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    factor = np.asarray(spacing) / steps
    sigma = np.where(factor > 1, 0.35 * factor, 0.0)
    smooth = ndimage.gaussian_filter(array, sigma, mode="nearest") if sigma.any() else array
    shape = np.maximum(np.floor((np.array(array.shape) - 1) / factor + 1e-6).astype(int) + 1, 1)
    # Give both grids the same middle.
    offset = (np.array(array.shape) - 1) / 2 - factor * (shape - 1) / 2
    result = ndimage.affine_transform(smooth, factor, offset, tuple(shape), order=1, mode="nearest")
    coarse = affine.copy()
    coarse[:3, :3] = affine[:3, :3] * factor
    coarse[:3, 3] = affine[:3, :3] @ offset + affine[:3, 3]
    return result.astype(np.float32), coarse


def resample_to_grid(
    array: NDArray[Any], affine_from: Affine, affine_to: Affine, shape_to: tuple[int, int, int], order: int
) -> NDArray[Any]:
    """Resample `array` to another grid; outside of the old one the result is 0.

    `order` 0 takes the nearest voxel, 1 interpolates linearly.
    """
    step = np.linalg.inv(affine_from) @ affine_to
    return ndimage.affine_transform(
        array, step[:3, :3], step[:3, 3], output_shape=shape_to, order=order, mode="constant", cval=0
    )
