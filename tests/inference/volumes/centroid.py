"""The centroid of a mask, by which tests find it in other programs."""

import numpy as np

from inference.volumes.geometry import Geometry, Mask


def centroid_lps(mask: Mask, geometry: Geometry) -> tuple[float, float, float]:
    """Return the mean position of the voxel centres, in LPS mm."""
    x, y, z = geometry.to_lps(np.argwhere(mask).mean(axis=0, keepdims=True))[0]
    return float(x), float(y), float(z)
