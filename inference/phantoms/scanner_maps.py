"""ADC, T2 and T1 maps as scanners compute them.

They do not use `inference.quantities`, because the fits of that package are tested against these maps. T1 from two flip
angles follows Deoni et al. 2003, doi 10.1002/mrm.10407. Images and maps are [slice, row, column].
"""

from collections.abc import Sequence

import numpy as np

from inference.volumes.geometry import Array

DARKEST_SIGNAL = 60.0  # Where the image is darker there is no signal to fit, and the map is 0.
LONGEST_T1, LONGEST_T2, LARGEST_ADC = 5000.0, 1000.0, 4000.0  # ms, ms, um2/s: larger values are cut to these


def scanner_adc_map(images: Sequence[Array], b_values: Sequence[float], floor: float = DARKEST_SIGNAL) -> Array:
    """Return the ADC in um2/s from images of several b-values (s/mm2): the slope of log signal on b by least squares.

    It is 0 where the first image is below `floor`.
    """
    b = np.asarray(b_values, dtype=np.float64)
    weights = (b - b.mean()) / np.sum((b - b.mean()) ** 2)
    slope = sum(w * np.log(np.maximum(image, 1.0)) for w, image in zip(weights, images, strict=True))
    return np.where(images[0] >= floor, np.clip(-1e6 * slope, 0.0, LARGEST_ADC), 0.0).astype(np.float32)


def scanner_t2_map(images: Sequence[Array], echo_times: Sequence[float], floor: float = DARKEST_SIGNAL) -> Array:
    """Return T2 in ms from spin echoes at several echo times (ms).

    The fit is that of log signal on time by least squares, weighted with the square of the signal. T2 is 0 where the
    first image is below `floor`.
    """
    echoes = np.stack([np.maximum(image, 1.0) for image in images])
    times = np.asarray(echo_times, dtype=np.float32)[:, None, None, None]
    weights = echoes**2
    weights /= weights.sum(axis=0)
    y = np.log(echoes)
    time = times - (weights * times).sum(axis=0)
    rate = -(weights * time * y).sum(axis=0) / (weights * time**2).sum(axis=0)
    t2 = np.where(rate > 1 / LONGEST_T2, 1 / np.maximum(rate, 1 / LONGEST_T2), LONGEST_T2)
    return np.where(images[0] >= floor, t2, 0.0).astype(np.float32)


def scanner_t1_map(
    images: Sequence[Array], flip_angles: Sequence[float], repetition_time: float, floor: float = DARKEST_SIGNAL
) -> Array:
    """Return T1 in ms, in closed form, from spoiled gradient echoes at two flip angles (degrees).

    `repetition_time` is in ms. T1 is 0 where the first image is below `floor`.
    """
    (first, second), (a, b) = images, np.radians(flip_angles)
    with np.errstate(divide="ignore", invalid="ignore"):
        e1 = (second / np.sin(b) - first / np.sin(a)) / (second / np.tan(b) - first / np.tan(a))
        longest = np.exp(-repetition_time / LONGEST_T1)
        t1 = -repetition_time / np.log(np.clip(np.nan_to_num(e1, nan=longest), 1e-6, longest))
    return np.where(first >= floor, t1, 0.0).astype(np.float32)
