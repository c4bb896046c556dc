"""The embedding of a volume: a short vector of numbers that says what kind of picture it is.

The numbers are of brightness, texture and shape. Nothing is learned, so the vector means the same for every
application. The volume is brought to canonical axes and GRID mm, its intensities to 0 in air and 1 in the brightest
hundredth of the body. The edges of the field of view do not count as surface of the body, so that a crop and the whole
examination from which it was cut give similar vectors. An image and its mirror image, left to right or front to back,
give the same vector. Arrays are [slice, row, column], slices towards the head.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.volumes.canonical import canonical
from inference.volumes.geometry import Array, Mask
from inference.volumes.resampling import resample_to_spacing
from inference.volumes.volume import Volume

Embedding = NDArray[np.float64]

GRID = 3.0  # mm
AIR = 0.1  # part of the range of intensities; darker voxels that no body encloses are air
SMALLEST_PART = 0.02  # of the body; smaller components do not belong to it
FEWEST = 200  # voxels that a statistic needs
LEVELS = (0.2, 0.35, 0.5, 0.65, 0.8)  # normalised intensities between the bins of the histogram
SHELLS = (0.0, 4.0, 8.0, 14.0, 22.0, 34.0, np.inf)  # mm below the surface, between the shells of the profile
DEEP = 6.0  # mm below the surface, beyond skin and the blur of the surface
ALONG = (6, 12, 24)  # mm between slices that are compared
SHIFTS = 6  # half voxels by which the plane of mirroring may miss the middle of the body

# The kinds of features, with their numbers. Each kind counts the same in a distance, however many features it has.
FEATURES = {
    "brightness of the tissues": 6,
    "brightness by depth below the skin": 5,
    "texture and edges": 6,
    "likeness of neighbouring slices": 3,
    "likeness of left and right": 2,
    "shape of the outline": 3,
}


@dataclass(frozen=True, eq=False)
class Coarse:
    """A volume on a grid of GRID mm.

    In `image`, air is 0 and the brightest tissue about 1. `body` is what is not air, its holes filled, and `depth` the
    depth below the surface in mm.
    """

    image: Array
    body: Mask
    depth: Array


def kinds() -> NDArray[np.int_]:
    """Return for each number of a vector the index in FEATURES of the kind of feature to which it belongs."""
    return np.repeat(np.arange(len(FEATURES)), list(FEATURES.values()))


def embed(volume: Volume) -> Embedding:
    """Return the vector, in the order of FEATURES; all NaN if the volume shows hardly any body."""
    seen = coarse(volume)
    if np.count_nonzero(seen.body) < FEWEST:
        return np.full(len(kinds()), np.nan)
    deep = _or_body(seen.body & (seen.depth >= DEEP), seen.body)
    rest = _without_profile(seen)
    return np.array(
        [
            *_histogram(seen.image[deep]),
            *_profile(seen, float(seen.image[deep].mean())),
            *_texture(seen, float(rest[deep].std())),
            *(_angle(_likeness_along(rest, deep, distance)) for distance in ALONG),
            _angle(_mirror_likeness(ndimage.gaussian_filter(rest, 1.5), deep)),
            _angle(_mirror_likeness(ndimage.gaussian_filter(seen.image, 1.5), seen.body)),
            *_shape(seen.body),
        ]
    )


def coarse(volume: Volume) -> Coarse:
    """Bring a volume to canonical axes, GRID mm and normalised intensities, and find the body."""
    turned, affine = canonical(volume.array, volume.geometry.affine)
    image, _ = resample_to_spacing(turned, affine, GRID)
    low, high = np.percentile(image, [0.5, 99.5])
    body = _body(image > low + AIR * (high - low))
    brightest = float(np.percentile(image[body], 99.0)) if body.any() else float(high)
    scaled = np.clip((image - low) / max(brightest - low, 1e-6), 0.0, 1.6)
    return Coarse(scaled.astype(np.float32), body, _depth(body))


def _body(bright: Mask) -> Mask:
    found = ndimage.binary_opening(bright)
    labels, _ = ndimage.label(found)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    large = (sizes > 0) & (sizes >= SMALLEST_PART * sizes.sum())
    return np.stack([ndimage.binary_fill_holes(plane) for plane in large[labels]])


def _depth(body: Mask) -> Array:
    if body.all():
        return np.full(body.shape, 1e3, np.float32)
    padded = np.pad(body, 1, mode="edge")
    return np.asarray(ndimage.distance_transform_edt(padded)[1:-1, 1:-1, 1:-1] * GRID, np.float32)


def _or_body(part: Mask, body: Mask) -> Mask:
    return part if np.count_nonzero(part) >= FEWEST else body


def _shells(seen: Coarse) -> list[Mask]:
    return [seen.body & (seen.depth >= near) & (seen.depth < far) for near, far in pairwise(SHELLS)]


def _without_profile(seen: Coarse) -> Array:
    """Return the image minus the mean of the voxels at the same depth below the surface; 0 outside the body."""
    rest = np.zeros_like(seen.image)
    for shell in _shells(seen):
        if shell.any():
            rest[shell] = seen.image[shell] - seen.image[shell].mean()
    return rest


def _histogram(deep: NDArray[np.float32]) -> NDArray[np.float64]:
    counts = np.histogram(deep, bins=[-np.inf, *LEVELS, np.inf])[0]
    return np.sqrt(counts / counts.sum())  # the root of a share varies alike for rare and frequent levels


def _profile(seen: Coarse, otherwise: float) -> list[float]:
    """Return the mean brightness of every shell but the outermost, which the surface blurs."""
    means = []
    for shell in _shells(seen)[1:]:
        means.append(float(seen.image[shell].mean()) if np.count_nonzero(shell) >= 50 else otherwise)
    return means


def _texture(seen: Coarse, unevenness: float) -> list[float]:
    inside = _or_body(ndimage.binary_erosion(seen.body, iterations=2, border_value=1), seen.body)
    finer = [seen.image, *(ndimage.gaussian_filter(seen.image, sigma) for sigma in (1, 2, 4))]
    edges = [float(np.hypot(*np.gradient(image, axis=(1, 2)))[inside].mean()) for image in finer[1:3]]
    between = [float((a - b)[inside].std()) for a, b in pairwise(finer)]
    return [float(np.log(value + 1e-3)) for value in (unevenness + 9e-3, *edges, *between)]


def _likeness_along(rest: Array, inside: Mask, distance: int) -> float:
    """Return the correlation between slices `distance` mm apart.

    The correlation is high if the body has the same structure along its axis.
    """
    step = round(distance / GRID)
    if rest.shape[0] <= step + 2:
        return 0.0
    both = inside[step:] & inside[:-step]
    return _correlation(rest[step:][both], rest[:-step][both])


def _mirror_likeness(image: Array, inside: Mask) -> float:
    """Correlate the left and the right half, for the best plane of mirroring near the middle of the body."""
    columns = image.shape[2]
    middle = round(2 * float(np.nonzero(inside)[2].mean()))  # the sum of two columns that mirror each other
    best = -0.5
    for total in range(middle - SHIFTS, middle + SHIFTS + 1):
        seen = slice(max(0, total - columns + 1), min(columns - 1, total) + 1)
        half, part = image[:, :, seen], inside[:, :, seen]
        both = part & part[:, :, ::-1]
        if np.count_nonzero(both) < 0.5 * np.count_nonzero(inside):
            continue
        either = part | part[:, :, ::-1]
        best = max(best, _correlation(half[either], half[:, :, ::-1][either]))
    return best


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    if one.size < 100:
        return 0.0
    a, b = one - one.mean(), other - other.mean()
    return float(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b) + 1e-9))


def _angle(correlation: float) -> float:
    """Apply Fisher's transform, so that correlations near 0 and near 1 have a similar variance."""
    return float(np.arctanh(np.clip(correlation, -0.98, 0.98)))


def _shape(body: Mask) -> tuple[float, float, float]:
    """Return three numbers of the outline.

    They are the extent to which the surface faces the head or feet, the area of a slice, and the length of its outline.
    """
    smooth = ndimage.gaussian_filter(body.astype(np.float32), 1.0, mode="nearest")
    slopes = np.gradient(smooth)
    steep = np.sqrt(sum(slope**2 for slope in slopes))
    surface = steep > 0.15
    facing = float(np.mean((slopes[0][surface] / steep[surface]) ** 2)) if np.count_nonzero(surface) > 50 else 0.0
    areas, outlines = [], []
    for plane in body:
        if (area := np.count_nonzero(plane)) >= 20:
            steps = np.count_nonzero(plane[1:] != plane[:-1]) + np.count_nonzero(plane[:, 1:] != plane[:, :-1])
            areas.append(np.log(area))
            outlines.append((steps + 4) / np.sqrt(area))
    if not areas:
        return np.sqrt(facing), 0.0, 0.0
    return float(np.sqrt(facing)), float(np.mean(areas)), float(np.log(np.mean(outlines)))
