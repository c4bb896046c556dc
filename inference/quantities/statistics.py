"""Statistics of the values of a map inside a mask, as report measurements or as the reason why there are none.

Moments are those of the voxels themselves (division by n), as the IBSI defines them, and not estimates for a larger
population (Zwanenburg et al. 2020, doi 10.1148/radiol.2020191145): skewness is KE2A, kurtosis the excess kurtosis IPH6,
which is 0 for a normal distribution. DCM 126051 and 126052 do not fix these definitions. Percentiles interpolate
linearly.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.contract.findings import MEASUREMENT_FAILURE, NOT_ATTEMPTED, OUT_OF_RANGE, Code, Measurement
from inference.quantities.missing import Missing
from inference.volumes.geometry import Mask

MINIMUM_VOXELS = 10  # Fewer do not give a 10th percentile.

MEAN = Code("373098007", "SCT", "Mean")
MEDIAN = Code("373099004", "SCT", "Median")
STANDARD_DEVIATION = Code("386136009", "SCT", "Standard Deviation")
P10 = Code("371890005", "SCT", "10th Percentile Value of population")
P90 = Code("371887004", "SCT", "90th Percentile Value of population")
SKEWNESS = Code("126051", "DCM", "Skewness")
KURTOSIS = Code("126052", "DCM", "Kurtosis")
NO_UNIT = Code("1", "UCUM", "no units")
IN_SLICE = ndimage.generate_binary_structure(2, 1)[np.newaxis]


@dataclass(frozen=True)
class Statistics:
    """Statistics of a region in the unit of the map.

    `skewness` and `kurtosis` have no unit, and are NaN where all values are the same. `count` is the number of voxels
    with a value.
    """

    count: int
    mean: float
    median: float
    sd: float
    p10: float
    p90: float
    skewness: float
    kurtosis: float


def region_statistics(
    values: NDArray[Any], mask: Mask, limits: tuple[float, float] | None = None, minimum: int = MINIMUM_VOXELS
) -> Statistics | Missing:
    """Measure `values` inside `mask`, both [slice, row, column] on one grid; NaN is ignored.

    The result is Missing where the mask has fewer voxels than `minimum` (not attempted), where fewer than `minimum` or
    less than half of its voxels have a value (measurement failure), and where the mean lies outside of `limits` (out of
    range).
    """
    inside = np.asarray(values[mask], np.float64)
    if inside.size < minimum:
        return Missing(NOT_ATTEMPTED, f"the region has {inside.size} voxels, and statistics need {minimum}")
    x = inside[np.isfinite(inside)]
    if x.size < max(minimum, inside.size / 2):
        return Missing(MEASUREMENT_FAILURE, f"only {x.size} of the {inside.size} voxels of the region have a value")
    mean, sd, skewness, kurtosis = _moments(x)
    if limits is not None and not limits[0] <= mean <= limits[1]:
        return Missing(OUT_OF_RANGE, f"the mean {mean:.4g} is outside {limits[0]:g} to {limits[1]:g}")
    p10, median, p90 = (float(v) for v in np.percentile(x, (10, 50, 90)))
    return Statistics(x.size, mean, median, sd, p10, p90, skewness, kurtosis)


def interior(mask: Mask) -> Mask:
    """Return `mask` [slice, row, column] without its outermost voxels in each slice, which may show other tissue."""
    return np.asarray(ndimage.binary_erosion(mask, IN_SLICE))


def _moments(x: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return mean, SD, skewness and excess kurtosis of finite values; a constant has NaN for the last two."""
    mean, sd = float(x.mean()), float(x.std())
    scaled = (x - mean) / sd if sd > 0 else np.full(x.shape, np.nan)
    return mean, sd, float(np.mean(scaled**3)), float(np.mean(scaled**4) - 3.0)


def as_measurements(quantity: Code, unit: Code, found: Statistics | Missing) -> tuple[Measurement, ...]:
    """Return a measurement of `quantity` for each statistic.

    If the statistics are missing, return only that of the mean, which has no value but the code of the reason.
    """
    if isinstance(found, Missing):
        return (Measurement(quantity, None, unit, MEAN, found.code),)
    return tuple(
        Measurement(quantity, None, in_unit, derivation, OUT_OF_RANGE)
        if np.isnan(value)
        else Measurement(quantity, value, in_unit, derivation)
        for derivation, value, in_unit in (
            (MEAN, found.mean, unit), (MEDIAN, found.median, unit), (STANDARD_DEVIATION, found.sd, unit),
            (P10, found.p10, unit), (P90, found.p90, unit),
            (SKEWNESS, found.skewness, NO_UNIT), (KURTOSIS, found.kurtosis, NO_UNIT),
        )
    )  # fmt: skip
