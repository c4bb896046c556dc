"""Masks to polygons, against masks of every shape."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from dicom_node.objects.drawing.outline import Polygon, boundaries, contours


def winding(polygon: Polygon, shape: tuple[int, int]) -> NDArray[np.int64]:
    """How often a polygon along pixel edges goes round the centre of each pixel."""
    turns = np.zeros(shape, np.int64)
    for (x0, y0), (x1, y1) in zip(polygon[:-1].astype(int), polygon[1:].astype(int), strict=True):
        assert (x0 == x1) != (y0 == y1)
        turns[min(y0, y1) : max(y0, y1), x0:] += np.sign(y0 - y1)
    return turns


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.7, 0.95])
def test_polygons_enclose_the_mask_and_nothing_else(density: float) -> None:
    """However a reader fills them: even-odd or non-zero, united or exclusive-ored."""
    rng = np.random.default_rng(1)
    for shape in ((1, 1), (1, 20), (20, 1), (7, 9), (25, 25), (60, 40)):
        mask = rng.random(shape) < density
        turns = [winding(polygon, shape) for polygon in contours(mask)]
        assert len(turns) == ndimage.label(mask)[1]
        assert np.array_equal(sum(turns, np.zeros(shape, np.int64)), mask.astype(int))
        assert np.array_equal(sum((winding(p, shape) for p in boundaries(mask)), np.zeros(shape, np.int64)), mask)
