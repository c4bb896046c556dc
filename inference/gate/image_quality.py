"""The quality of a volume, measured without knowing what it shows: noise, ghosts, coverage, resolution, values.

Everything is measured on the voxels as they were acquired. A measurement that is impossible in an image, such as noise
in air if there is no air, is NaN. Arrays are [slice, row, column].
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal.windows import tukey

from inference.volumes.canonical import canonical
from inference.volumes.geometry import Array, Geometry, Mask
from inference.volumes.volume import Volume

AIR = 0.1  # part of the range of intensities; darker voxels are air
BLOCK = 8  # pixels, edge of the squares in which noise is estimated
FEWEST_BLOCKS = 20
RAYLEIGH = 0.655  # standard deviation of the magnitude of pure noise, relative to that of either channel
GHOST_DISTANCE = 20.0  # mm; nearer copies cannot be told from the anatomy
GHOST_SLICES = 32  # evenly spread slices that are enough to find copies


class BadSide(Enum):
    """The side of its limit on which a measurement is bad."""

    LOW = "low"
    HIGH = "high"


@dataclass(frozen=True)
class Metric:
    """A measurement, and the limit beyond which it is bad.

    The limit comes from the training images: `tolerance` times their extreme, but never stricter than `lenient`.
    """

    label: str
    unit: str
    bad: BadSide
    tolerance: float
    lenient: float | None = None

    def limit(self, values: NDArray[np.float64]) -> float | None:
        """Return the limit from values of training images; None if there are none, or if any value is acceptable."""
        known = values[np.isfinite(values)]
        if not known.size:
            return None
        extreme = float(known.min() if self.bad is BadSide.LOW else known.max()) * self.tolerance
        if self.lenient is not None:
            extreme = min(extreme, self.lenient) if self.bad is BadSide.LOW else max(extreme, self.lenient)
        return None if self.unit == "%" and extreme >= 100 else extreme

    def fails(self, value: float, limit: float) -> bool:
        return (
            value < limit if self.bad is BadSide.LOW else value > limit
        )  # NaN, which was not measured, fails neither way


METRICS = {
    "snr_air": Metric("signal-to-noise ratio, noise measured in air", "", BadSide.LOW, 0.5),
    "snr_body": Metric("signal-to-noise ratio, noise measured in the body", "", BadSide.LOW, 0.5),
    "ghost": Metric("strength of a displaced copy of the image (ghost)", "%", BadSide.HIGH, 1.25, lenient=5.0),
    "correlation": Metric("correlation of neighbouring pixels", "", BadSide.LOW, 0.6),
    "slices": Metric("number of images, or of pixels along the shorter edge of an image", "", BadSide.LOW, 0.5),
    "field_of_view_feet_head": Metric("field of view from feet to head", "mm", BadSide.LOW, 0.8),
    "field_of_view_front_back": Metric("field of view from front to back", "mm", BadSide.LOW, 0.8),
    "field_of_view_right_left": Metric("field of view from right to left", "mm", BadSide.LOW, 0.8),
    "covered": Metric("part of the field of view that shows the body", "%", BadSide.LOW, 0.5),
    "cut": Metric("part of the border of the images at which the body is cut off", "%", BadSide.HIGH, 1.2),
    "voxel_edge": Metric("longest edge of a voxel", "mm", BadSide.HIGH, 1.5),
    "voxel_volume": Metric("volume of a voxel", "mm3", BadSide.HIGH, 2.0),
    "saturated": Metric("part of the body at the greatest value", "%", BadSide.HIGH, 2.0, lenient=1.0),
    "same_value": Metric("part of the body that has one and the same value", "%", BadSide.HIGH, 2.0, lenient=5.0),
    "negative": Metric("part of the voxels that are negative, as in phase images", "%", BadSide.HIGH, 2.0, lenient=0.1),
}  # fmt: skip


def measure_image_quality(volume: Volume) -> dict[str, float]:
    """Return the value of each of METRICS."""
    array, spacing = volume.array, volume.geometry.spacing
    low, high = np.percentile(array, [0.5, 99.5])
    smooth = ndimage.uniform_filter(array, (0, 3, 3)) if min(array.shape[1:]) > 3 else array
    body = smooth > low + AIR * (high - low)
    inside = array[body]
    signal = float(np.median(inside) - low) if inside.size else np.nan
    covered = ndimage.binary_fill_holes(body)
    extents = np.array(canonical(array, volume.geometry.affine)[0].shape) * _canonical_spacing(volume.geometry)
    return {
        "snr_air": _ratio(signal, _noise_in_air(array, body)),
        "snr_body": _ratio(signal, _noise_in_body(array, body)),
        "ghost": 100 * float(np.fmax(_ghost(array, 1, spacing[1]), _ghost(array, 2, spacing[2]))),
        "correlation": _neighbours(array),
        "slices": float(min(array.shape)),
        "field_of_view_feet_head": float(extents[0]),
        "field_of_view_front_back": float(extents[1]),
        "field_of_view_right_left": float(extents[2]),
        "covered": 100 * float(covered.mean()),
        "cut": 100 * float(_border(covered).mean()),
        "voxel_edge": max(spacing),
        "voxel_volume": volume.geometry.voxel_volume,
        "saturated": 100 * float(np.mean(inside == array.max())) if inside.size else np.nan,
        "same_value": 100 * _commonest(inside) if inside.size else 100.0,
        "negative": 100 * float(np.mean(array < 0)),
    }


def _canonical_spacing(geometry: Geometry) -> NDArray[np.float64]:
    _, affine = canonical(np.zeros((1, 1, 1), np.float32), geometry.affine)
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def _ratio(signal: float, noise: float) -> float:
    return signal / noise if noise > 0 else np.nan  # also NaN if the noise is NaN


def _blocks(array: NDArray[Any]) -> NDArray[Any]:
    """Return the squares of every slice as (n, BLOCK x BLOCK)."""
    rows, columns = (n // BLOCK * BLOCK for n in array.shape[1:])
    tiles = array[:, :rows, :columns].reshape(array.shape[0], rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    return tiles.swapaxes(2, 3).reshape(-1, BLOCK * BLOCK)


def _noise_in_air(array: Array, body: Mask) -> float:
    """Measure the noise of one channel in squares of air (Rayleigh).

    Squares that the scanner set to a single value are left out. The lower quartile is taken, because ghosts do not
    change it.
    """
    tiles = _blocks(array)
    air = ~_blocks(body).any(axis=1) & (np.mean(tiles == array.min(), axis=1) < 0.05)
    if np.count_nonzero(air) < FEWEST_BLOCKS:
        return np.nan
    return float(np.percentile(tiles[air].std(axis=1), 25)) / RAYLEIGH


def _noise_in_body(array: Array, body: Mask) -> float:
    """Measure noise by the diagonal differences inside the body (Immerkaer 1996, doi 10.1006/cviu.1996.0060).

    The lower tenth of all squares is taken, so that edges do not count. Fine texture does count: the result may exceed
    the noise, but is never much less.
    """
    detail = (array[:, :-1, :-1] - array[:, 1:, :-1] - array[:, :-1, 1:] + array[:, 1:, 1:]) / 2
    inside = _blocks(body[:, :-1, :-1]).all(axis=1)
    if np.count_nonzero(inside) < FEWEST_BLOCKS:
        return np.nan
    return float(np.percentile(np.sqrt(np.mean(_blocks(detail)[inside] ** 2, axis=1)), 10))


def _ghost(array: Array, axis: int, spacing: float) -> float:
    """Measure the strength of the strongest copy of the image displaced along `axis`, relative to the image.

    A copy of strength a at distance d multiplies the spectrum by 1 + a exp(-i k d), whose logarithm is a wave of
    amplitude a along k: a peak of the cepstrum (Bogert, Healy and Tukey 1963). Neither air nor a body that ends inside
    the image is needed.
    """
    count, n = array.shape[0], array.shape[axis]
    nearest = max(round(GHOST_DISTANCE / spacing), n // 5, 1)
    if nearest >= n - 1:
        return np.nan
    chosen = array[np.linspace(0, count - 1, min(count, GHOST_SLICES)).round().astype(int)]
    lines = np.moveaxis(chosen, axis, -1).reshape(-1, n)
    lines = (lines - lines.mean(axis=1, keepdims=True)) * tukey(n, 0.5).astype(np.float32)
    power = np.mean(np.abs(rfft(lines, next_fast_len(2 * n, real=True), axis=1)) ** 2, axis=0, dtype=np.float64)
    if not power.max() > 0:
        return np.nan
    cepstrum = irfft(np.log(power + 1e-9 * power.max()))
    return float(np.abs(cepstrum[nearest:n]).max())


def _neighbours(array: Array) -> float:
    """Return the correlation of pixels next to one another in a slice; it is near 0 for pure noise."""
    centred = array - array.mean(dtype=np.float64).astype(np.float32)
    variance = float(np.mean(centred**2))
    if variance <= 0:
        return np.nan
    pairs = (centred[:, 1:] * centred[:, :-1]).mean(), (centred[:, :, 1:] * centred[:, :, :-1]).mean()
    return float(np.mean(pairs)) / variance


def _border(body: Mask) -> Mask:
    """Return the pixels along the four edges of all slices, in one row."""
    return np.concatenate([body[:, 0].ravel(), body[:, -1].ravel(), body[:, :, 0].ravel(), body[:, :, -1].ravel()])


def _commonest(values: NDArray[np.float32]) -> float:
    _, counts = np.unique(values, return_counts=True)
    return float(counts.max()) / values.size
