"""A baseline that does not use the image: an ellipsoid in the middle of the crop.

The crops of the sarcoma collection are centred on the tumour, so a network is useful only if it beats this baseline.
"""

import numpy as np
from numpy.typing import NDArray

from inference.training.scoring import dice


def ellipsoid(shape: tuple[int, int, int], fractions: tuple[float, float]) -> NDArray[np.bool_]:
    """Return a centred ellipsoid.

    Its diameters along the slices and in the plane are `fractions` of the field of view.
    """
    axes = [np.linspace(-1 + 1 / n, 1 - 1 / n, n) for n in shape]
    scale = (fractions[0], fractions[1], fractions[1])
    z, y, x = np.meshgrid(*[a / s for a, s in zip(axes, scale, strict=True)], indexing="ij")
    return np.asarray(z**2 + y**2 + x**2 <= 1.0)


def fit_ellipsoid(masks: list[NDArray[np.bool_]]) -> tuple[float, float]:
    """Return the fractions with the best mean Dice on these masks, in steps of 0.05."""
    steps = [round(0.3 + 0.05 * i, 2) for i in range(13)]
    found = {
        (along, across): float(np.mean([dice(ellipsoid(_shape(mask), (along, across)), mask) for mask in masks]))
        for along in steps
        for across in steps
    }
    return max(found, key=lambda fractions: found[fractions])


def _shape(mask: NDArray[np.bool_]) -> tuple[int, int, int]:
    return mask.shape[0], mask.shape[1], mask.shape[2]
