"""Shared parts of the fits of signal equations: stacking images, measuring noise, the exponential decay, the result.

Signals are float64 [image, slice, row, column]. Every fit works on all voxels at once, and a voxel without a fit is
NaN. A voxel is NaN too if no tissue can have the fitted value (a negative diffusivity, for example). Such voxels are
counted and not clipped, because clipped values would look like measurements.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.volumes.geometry import Array, Mask
from storage.errors import InputRefused

Signals = NDArray[np.float64]

CORNER = 1 / 8  # of rows and columns: the size of each corner of a slice in which air is looked for
RAYLEIGH = (1.6, 2.4)  # mean / SD of the magnitude of pure noise is 1.91; several coils raise it, ghosts lower it
NOISE_FLOOR = 3.0  # times the SD of the noise: below, the Rician mean departs from the signal by more than 5 %


@dataclass(frozen=True, eq=False)
class FittedMap:
    """A fitted quantity: `values` float32 [slice, row, column], NaN where there is no fit.

    `used` are the b-values (s/mm2) or echo times (ms) of the fitted images, ascending. `implausible` is the number of
    voxels with signal whose fitted value no tissue can have; they are NaN. `noise` is the SD of the noise in one
    channel, None where there was no air to measure it in.
    """

    values: Array
    used: tuple[float, ...]
    implausible: int
    noise: float | None


@dataclass(frozen=True, eq=False)
class Decay:
    """S = amplitude * exp(-rate * x), [slice, row, column]; NaN where fewer than two signals rise above the floor."""

    rate: Signals
    amplitude: Signals


def stack_images(
    images: Sequence[NDArray[Any]], settings: Sequence[float], least: int, what: str
) -> tuple[Signals, Signals]:
    """Return the images in ascending order of their `settings`, and the sorted settings as float64 [image].

    `what` names the settings in messages ("b-values"). Raises InputRefused unless all images have one shape and
    `settings` holds at least `least` different ones.
    """
    if len(images) != len(settings):
        raise InputRefused(f"{len(images)} images do not go with {len(settings)} {what}; give one for each image")
    if len({image.shape for image in images}) > 1:
        raise InputRefused(f"the images of different {what} have different shapes; bring them to one grid first")
    if len(set(settings)) < least:
        raise InputRefused(f"the fit needs at least {least} different {what}, and there are {len(set(settings))}")
    order = np.argsort(settings, kind="stable")
    return np.stack([images[i] for i in order]).astype(np.float64), np.asarray(settings, np.float64)[order]


def noise_sd(image: NDArray[Any]) -> float | None:
    """Return the SD of the noise in one channel, from the air in a corner of a magnitude image [slice, row, column].

    In air the magnitude is Rayleigh distributed, and its mean square is 2 SD^2 (Gudbjartsson and Patz 1995, doi
    10.1002/mrm.1910340618). The corner with the least noise counts. The result is None if no corner looks like air: it
    may hold tissue, ghosts, or a background that was set to 0.
    """
    rows, columns = (max(2, round(CORNER * n)) for n in image.shape[1:])
    best: float | None = None
    for r in (slice(None, rows), slice(-rows, None)):
        for c in (slice(None, columns), slice(-columns, None)):
            corner = np.asarray(image[:, r, c], np.float64)
            signal = corner[corner > 0]
            if signal.size == 0 or signal.std() == 0:
                continue
            sd = float(np.sqrt(np.mean(signal**2) / 2))
            if RAYLEIGH[0] <= signal.mean() / signal.std() <= RAYLEIGH[1] and (best is None or sd < best):
                best = sd
    return best


def fit_decay(signals: Signals, x: Signals, floor: float) -> Decay:
    """Fit an exponential decay in every voxel by weighted log-linear least squares.

    log S has variance (noise / S)^2, so signals weigh with S^2. The first fit takes the measured signals as weights,
    the second those that the first one predicts. This removes most of the bias of weights that share their noise with
    the data (Veraart et al. 2013, doi 10.1016/j.neuroimage.2013.05.028). Signals that are predicted at or below `floor`
    are noise and are left out.
    """
    logs = np.log(np.maximum(signals, np.finfo(np.float64).tiny))
    first = _fit_line(logs, np.where(signals > 0, signals, 0.0) ** 2, x)
    with np.errstate(over="ignore", invalid="ignore"):
        predicted = first.amplitude * np.exp(-first.rate * x[:, None, None, None])
        counts = (predicted > floor) & (signals > 0) & np.isfinite(predicted)
        return _fit_line(logs, np.where(counts, predicted, 0.0) ** 2, x)


def fitted_map(
    values: Signals, signal: Mask, plausible: tuple[float, float], used: Signals, noise: float | None
) -> FittedMap:
    """Return the `values` that lie inside the open interval `plausible`; `signal` marks the voxels that were fitted."""
    with np.errstate(invalid="ignore"):
        kept = signal & (values > plausible[0]) & (values < plausible[1])
    return FittedMap(
        np.where(kept, values, np.nan).astype(np.float32),
        tuple(float(v) for v in dict.fromkeys(used.tolist())),
        int(np.count_nonzero(signal & ~kept)),
        noise,
    )


def _fit_line(logs: Signals, weights: Signals, x: Signals) -> Decay:
    """Fit a line of `logs` on `x` in every voxel; NaN unless two different `x` have weight."""
    at = x[:, None, None, None]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        weights = weights / weights.max(axis=0)  # Sums of squared signals could overflow otherwise.
        total = weights.sum(axis=0)
        centre, level = (weights * at).sum(axis=0) / total, (weights * logs).sum(axis=0) / total
        spread = (weights * (at - centre) ** 2).sum(axis=0)
        slope = (weights * (at - centre) * (logs - level)).sum(axis=0) / spread
        slope = np.where(spread > np.finfo(np.float64).eps * np.ptp(x) ** 2 * total, slope, np.nan)
        return Decay(-slope, np.exp(level - slope * centre))
