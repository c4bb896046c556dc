"""Fat fraction (DCM 129100) of the signal, in %, from magnitude images [slice, row, column].

It is the fraction of the signal, not of the protons: what T1 weighting and T2* decay add to it is not corrected for.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.quantities.fits.fitting import FLOOR, noise_sd
from inference.volumes.volume import Array
from storage.errors import InputRefused


def fat_fraction(water: Array, fat: Array, noise: float | None = None) -> Array:
    """100 fat / (water + fat) in %, NaN where water + fat does not rise above the noise.

    Both images must come from one reconstruction, on one scale. Magnitudes are never negative, so noise lifts the
    fraction in pure water, and lowers it in pure fat, by about noise / (water + fat). `noise` is the SD in one
    channel of either image; None measures it in the air around.
    """
    _alike(water, fat)
    return _percent(fat, water + fat, noise_sd(water) if noise is None else noise)


def fat_fraction_two_point(in_phase: Array, opposed_phase: Array, noise: float | None = None) -> Array:
    """100 (in phase - opposed phase) / (2 in phase) in %, NaN where the in-phase signal does not rise above the noise.

    Magnitudes do not tell |water - fat| from |fat - water|: the result holds where water dominates. A voxel with the
    fraction f > 50 % shows 100 % - f, so what reads 10 % in a lipoma is 90 % (Dixon 1984,
    doi 10.1148/radiology.153.1.6089263). In lean tissue noise makes values just below 0; they stay, because a mean
    over the others alone would be too high.
    """
    _alike(in_phase, opposed_phase)
    return _percent((in_phase - opposed_phase) / 2, in_phase, noise_sd(in_phase) if noise is None else noise)


def _percent(fat: NDArray[Any], total: NDArray[Any], noise: float | None) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > FLOOR * (noise or 0.0), 100.0 * fat / total, np.nan).astype(np.float32)


def _alike(one: Array, other: Array) -> None:
    if one.shape != other.shape:
        raise InputRefused(f"the two images have shapes {one.shape} and {other.shape}; bring them to one grid first")
