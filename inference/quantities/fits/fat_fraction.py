"""The fat fraction (DCM 129100) of the signal in %, from magnitude images [slice, row, column].

It is a fraction of the signal, not of the protons: T1 weighting and T2* decay are not corrected for.
"""

import numpy as np

from inference.quantities.fits.common import NOISE_FLOOR, noise_sd
from inference.volumes.geometry import Array
from storage.errors import InputRefused


def fat_fraction(water: Array, fat: Array, noise: float | None = None) -> Array:
    """Return 100 fat / (water + fat) in %, NaN where water + fat does not rise above the noise.

    Both images must come from one reconstruction, on one scale. Magnitudes are never negative, so noise raises the
    fraction in pure water and lowers it in pure fat, by about noise / (water + fat). `noise` is the SD in one channel
    of either image; None measures it in the air around the body. Raises InputRefused for images of different shapes.
    """
    if water.shape != fat.shape:
        raise InputRefused(f"the two images have shapes {water.shape} and {fat.shape}; bring them to one grid first")
    floor = NOISE_FLOOR * ((noise_sd(water) if noise is None else noise) or 0.0)
    total = water + fat
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > floor, 100.0 * fat / total, np.nan).astype(np.float32)
