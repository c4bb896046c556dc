"""The distance between two structures in mm."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from inference.volumes.geometry import Geometry, Mask
from inference.volumes.measurements import faces
from storage.errors import InputRefused

NEIGHBOURS = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Gap:
    """The gap between two surfaces: `distance` in mm, and the closest points of both surfaces in LPS mm."""

    distance: float
    first: tuple[float, float, float]
    second: tuple[float, float, float]


def shortest_distance(first: Mask, second: Mask, geometry: Geometry) -> Gap:
    """Measure the gap between the surfaces of two masks [slice, row, column] on `geometry`.

    It is 0 where the masks overlap or touch: a voxel of one is a voxel of the other, or one of its 26 neighbours.
    Otherwise it is measured between the centres of surface faces, as diameters are: an interpolated mask has the value
    one half there. Between curved surfaces the distance is too short by less than a voxel.

    Raises InputRefused for an empty mask and for a mask of another shape than that of `geometry`.
    """
    for mask in (first, second):
        if mask.shape != geometry.shape:
            raise InputRefused(f"a mask of shape {mask.shape} does not lie on a grid of shape {geometry.shape}")
        if not mask.any():
            raise InputRefused("there is no distance to a structure that was not found; its mask is empty")
    contact = np.argwhere(ndimage.binary_dilation(first, NEIGHBOURS) & second).astype(np.float64)
    if len(contact):
        middle = contact[np.linalg.norm(contact - contact.mean(axis=0), axis=1).argmin()]
        point = _point(geometry.to_lps(middle[None])[0])
        return Gap(0.0, point, point)
    one, other = (geometry.to_lps(faces(mask, axes=(0, 1, 2))) for mask in (first, second))
    distances, nearest = KDTree(one).query(other)
    at = int(distances.argmin())
    return Gap(float(distances[at]), _point(one[nearest[at]]), _point(other[at]))


def _point(lps: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = lps
    return float(x), float(y), float(z)
