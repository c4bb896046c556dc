"""The grid a site's network wants to see, laid over the source volume."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from inference.bundle import Normalization, Preprocessing
from inference.volume import Geometry

DIRECTIONS = {
    "L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1),
}  # fmt: skip
SMALLEST_RANGE = 1e-3


def model_grid(source: Geometry, preprocessing: Preprocessing) -> Geometry:
    """A grid with its axes along the patient's, centred on the centre of `source`.

    Array axis n of the result points where letter n of `orientation` says. Without a configured shape it covers all
    of `source`.
    """
    spacing = np.array(preprocessing.spacing, float)
    directions = np.array([DIRECTIONS[letter] for letter in preprocessing.orientation], float).T  # columns are axes
    last = np.array(source.shape) - 1
    centre = source.to_lps(last[None] / 2)[0]
    if preprocessing.shape is not None:
        shape = preprocessing.shape
    else:
        corners = source.to_lps(np.array(list(product(*((-0.5, n + 0.5) for n in last)))))
        extent = np.ptp(corners @ directions, axis=0)
        i, j, k = (int(n) for n in np.ceil(extent / spacing))
        shape = (i, j, k)
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, affine)


def normalize(image: NDArray[np.float32], how: Normalization) -> NDArray[np.float32]:
    """Intensities as the network was trained on."""
    values = image[image > 0] if how.nonzero else image
    if how.method == "none" or values.size == 0:
        return image
    if how.method == "zscore":
        return ((image - values.mean()) / max(float(values.std()), SMALLEST_RANGE)).astype(np.float32)
    lower, upper = how.lower, how.upper
    if how.method == "percentile":
        lower, upper = (float(q) for q in np.percentile(values, [how.lower, how.upper]))
    return np.clip((image - lower) / max(upper - lower, SMALLEST_RANGE), 0, 1).astype(np.float32)


def foreground(image: NDArray[np.float32], threshold: float, margin: int) -> tuple[slice, slice, slice]:
    """The box round everything above `threshold`, with `margin` voxels more on each side."""
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        inside = np.flatnonzero((image > threshold).any(axis=others))
        if inside.size == 0:
            return slice(None), slice(None), slice(None)
        box.append(slice(max(0, int(inside[0]) - margin), int(inside[-1]) + margin + 1))
    i, j, k = box
    return i, j, k
