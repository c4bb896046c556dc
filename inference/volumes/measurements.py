"""Measurements of masks: volumes in mL, lengths in mm.

Arrays are [slice, row, column]; affines map (slice, row, column, 1) to LPS mm.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist, squareform

from inference.volumes.geometry import Geometry, Mask

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Diameters:
    """Diameters of a mask in mm.

    `long_axis` is the longest diameter in any one slice, `short_axis` the width of that slice's outline perpendicular
    to it, `maximum_3d` the longest distance between any two points of the surface (IBSI L0JK).
    """

    long_axis: float
    short_axis: float
    maximum_3d: float


def volume_ml(mask: Mask, geometry: Geometry) -> float:
    """Return the number of voxels times the volume of a voxel, in mL."""
    return float(np.count_nonzero(mask)) * geometry.voxel_volume / 1000.0


def diameters(mask: Mask, geometry: Geometry) -> Diameters:
    """Measure the diameters between the centres of surface faces, where an interpolated mask would be one half.

    `mask` must not be empty.
    """
    long_axis, short_axis = 0.0, 0.0
    for k in np.flatnonzero(mask.any(axis=(1, 2))):
        corners = _hull(faces(mask[k : k + 1], axes=(1, 2)) + np.array([k, 0, 0]), geometry)
        distances = squareform(pdist(corners))
        if distances.max() > long_axis:
            long_axis = float(distances.max())
            i, j = np.unravel_index(int(distances.argmax()), distances.shape)
            along = (corners[j] - corners[i]) / long_axis
            across = np.cross(geometry.normal, along)
            short_axis = float(np.ptp(corners @ across))
    return Diameters(long_axis, short_axis, float(pdist(_hull(faces(mask, axes=(0, 1, 2)), geometry)).max()))


def largest_component(mask: Mask) -> Mask:
    """Return the largest 26-connected component; an empty mask stays empty."""
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count <= 1:
        return mask
    largest: Mask = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return largest


def faces(mask: Mask, axes: tuple[int, ...]) -> Points:
    """Return (n, 3) indices of the centres of the faces between inside and outside, along `axes`."""
    padded = np.pad(mask, 1)
    found = []
    for axis in axes:
        change = np.argwhere(np.diff(padded.astype(np.int8), axis=axis) != 0).astype(float)
        change[:, axis] += 0.5
        found.append(change - 1.0)
    return np.concatenate(found)


def _hull(indices: Points, geometry: Geometry) -> Points:
    """Return the LPS points that span the convex hull, or all of them if they are flat."""
    points = geometry.to_lps(indices)
    spread = indices[:, np.ptp(indices, axis=0) > 0]
    try:
        return points[ConvexHull(spread).vertices]
    except (QhullError, ValueError):
        return points
