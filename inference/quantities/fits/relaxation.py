"""Relaxation times in ms from magnitude images: T2 and T2* (DCM 113065, 113064), T1 (DCM 113063)."""

from collections.abc import Sequence

import numpy as np

from inference.quantities.fits.fitting import FLOOR, FittedMap, Stack, decay, noise_sd, result, stack
from inference.volumes.volume import Array
from storage.errors import InputRefused

T1_PLAUSIBLE = (20.0, 6000.0)  # ms; free water has 4500 at 3 T
BEYOND = 10.0  # times the last echo: how long a T2 can be measured, as the signal then falls by a tenth

# Candidates for T1, 5 % apart; around the best one, the maxima of two ever narrower parabolas.
CANDIDATES = np.geomspace(T1_PLAUSIBLE[0], T1_PLAUSIBLE[1], 118)
STEPS = (0.05, 0.01)
CHUNK = 1 << 14  # voxels at a time: candidates times voxels must fit in the cache, not only in memory

VFA_ROUNDS = 4  # the weights settle within 1e-3 of T1


def t2_map(images: Sequence[Array], echo_times: Sequence[float], noise: float | None = None) -> FittedMap:
    """T2 (spin echoes) or T2* (gradient echoes) in ms of S = S0 exp(-TE / T2), TE in ms.

    `noise` is the SD of the noise in one channel; None measures it in the air around. Echoes at the noise floor do not
    count, and a voxel with fewer than two above it is NaN. So is one that does not decay, or decays too slowly to
    tell (T2 > 10 times the last echo): it counts as `implausible`. All echoes are taken as they are: stimulated echoes,
    which make the T2 of a multi-spin-echo train too long, are not modelled.
    Raises InputRefused: fewer than two echo times, images of different shapes.
    """
    signals, times = stack(images, echo_times, 2, "echo times")
    if noise is None:
        noise = noise_sd(signals[-1])
    floor = FLOOR * (noise or 0.0)
    rate = decay(signals, times, floor).rate
    with np.errstate(divide="ignore", invalid="ignore"):
        return result(1.0 / rate, signals[0] > floor, (0.0, BEYOND * times[-1]), times, noise)


def t1_map_inversion_recovery(
    images: Sequence[Array], inversion_times: Sequence[float], noise: float | None = None
) -> FittedMap:
    """T1 in ms of S = |a - b exp(-TI / T1)|, TI in ms, from magnitude images with the sign restored.

    For each T1 of a list, `a` and `b` follow by least squares; signals before the smallest one are negative, and that
    one itself is tried with either sign (RD-NLS-PR, Barral et al. 2010, doi 10.1002/mrm.22497). `a` and `b` are free,
    so imperfect inversion and incomplete recovery before the next one are allowed for. Of a Look-Locker read-out
    (MOLLI) this is T1*, not T1. Voxels without signal above the floor are NaN, and so are those that recover out of
    range or from no inversion (b <= a): they count as `implausible`.
    Raises InputRefused: fewer than four inversion times, images of different shapes.
    """
    signals, times = stack(images, inversion_times, 4, "inversion times")
    if noise is None:
        noise = noise_sd(signals[int(np.argmin(signals.mean(axis=(1, 2, 3))))])
    signal = signals.max(axis=0) > FLOOR * (noise or 0.0)
    curves = signals[:, signal].T
    t1 = np.full(signal.shape, np.nan)
    t1[signal] = np.concatenate(
        [_inversion_recovery(curves[i : i + CHUNK], times) for i in range(0, len(curves), CHUNK)] or [np.empty(0)]
    )
    return result(t1, signal, T1_PLAUSIBLE, times, noise)


def t1_map_flip_angles(
    images: Sequence[Array], flip_angles: Sequence[float], repetition_time: float, noise: float | None = None
) -> FittedMap:
    """T1 in ms from spoiled gradient echoes of several flip angles (degrees) at one repetition time (ms).

    S / sin(a) = E1 S / tan(a) + M0 (1 - E1) is a line of slope E1 = exp(-TR / T1), fitted with the weights of
    Chang et al. 2008 (doi 10.1002/mrm.21669). The flip angles are taken as given: where the transmit field is x times
    the nominal one, T1 comes out about x^2 times too long. Voxels with a signal at the noise floor are NaN; those with
    a slope outside 0..1, or a T1 out of range, too, and count as `implausible`.
    Raises InputRefused: fewer than two flip angles, one outside 0..90 degrees, images of different shapes.
    """
    signals, degrees = stack(images, flip_angles, 2, "flip angles")
    if not (degrees[0] > 0 and degrees[-1] < 90 and repetition_time > 0):
        raise InputRefused("the fit needs flip angles between 0 and 90 degrees and a repetition time above 0 ms")
    if noise is None:
        noise = noise_sd(signals[int(np.argmin(signals.mean(axis=(1, 2, 3))))])
    signal = signals.min(axis=0) > FLOOR * (noise or 0.0)
    angle = np.radians(degrees)[:, None, None, None]
    x, y = signals / np.tan(angle), signals / np.sin(angle)
    slope = np.full(signal.shape, 0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(VFA_ROUNDS):
            weights = (np.sin(angle) / (1.0 - slope * np.cos(angle))) ** 2
            mean_x, mean_y = (weights * x).sum(axis=0), (weights * y).sum(axis=0)
            mean_x, mean_y = mean_x / weights.sum(axis=0), mean_y / weights.sum(axis=0)
            slope = (weights * (x - mean_x) * (y - mean_y)).sum(axis=0) / (weights * (x - mean_x) ** 2).sum(axis=0)
        t1 = -repetition_time / np.log(np.where((slope > 0) & (slope < 1), slope, np.nan))
    return result(t1, signal, T1_PLAUSIBLE, degrees, noise)


def _inversion_recovery(curves: Stack, times: Stack) -> Stack:
    """T1 in ms of magnitude curves [voxel, inversion time], NaN where the best one is at the end of the list or does
    not recover from an inversion.
    """
    smallest = curves.argmin(axis=1)[:, None]
    index = np.arange(len(times))
    before = np.where(index < smallest, -curves, curves)
    upto = np.where(index <= smallest, -curves, curves)
    one, other = _best(before, times), _best(upto, times)
    return np.where(one[1] <= other[1], one[0], other[0])


def _best(curves: Stack, times: Stack) -> tuple[Stack, Stack]:
    """T1 of signed curves [voxel, inversion time] and the residual sum of squares; NaN and inf without a fit."""
    level = curves.mean(axis=1, keepdims=True)
    deviations = curves - level
    at = (deviations @ _recoveries(times, CANDIDATES).T).argmax(axis=1)
    t1 = CANDIDATES[at]
    for step in STEPS:
        left, top, right = (
            (deviations * _recoveries(times, t1 * factor)).sum(axis=1) for factor in (1 - step, 1, 1 + step)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = np.nan_to_num((left - right) / (left - 2.0 * top + right) / 2.0)
        t1 = t1 * (1.0 + step * np.clip(shift, -1.0, 1.0))
    recovered = np.exp(-times / t1[:, None])
    centred = recovered - recovered.mean(axis=1, keepdims=True)
    b = -(deviations * centred).sum(axis=1) / (centred**2).sum(axis=1)
    a = level[:, 0] + b * recovered.mean(axis=1)
    fits = (at > 0) & (at < len(CANDIDATES) - 1) & (a > 0) & (b > a)
    residual = ((deviations + b[:, None] * centred) ** 2).sum(axis=1)
    return np.where(fits, t1, np.nan), np.where(fits, residual, np.inf)


def _recoveries(times: Stack, t1: Stack) -> Stack:
    """The course -exp(-TI / T1) of each T1 [T1, inversion time], about its mean and of length 1."""
    courses = -np.exp(-times / t1[:, None])
    courses -= courses.mean(axis=1, keepdims=True)
    return courses / np.linalg.norm(courses, axis=1, keepdims=True)
