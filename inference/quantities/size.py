"""The size of a mass as report measurements, and a check that the images show all of it."""

import numpy as np
from scipy import ndimage

from inference.contract.concepts import CM3, LONG_AXIS, MAXIMUM_3D, MM, SHORT_AXIS, VOLUME
from inference.contract.findings import Measurement
from inference.volumes.geometry import Geometry, Mask
from inference.volumes.measurements import diameters, volume_ml


def is_cut_off(mask: Mask, searched: Mask | None = None) -> bool:
    """Return True if `mask` reaches the edge of the images, or of the part of them that was `searched`.

    The mass may go on beyond the edge, so every size is then a lower bound. Both masks are [slice, row, column].
    """
    seen = np.ones(mask.shape, bool) if searched is None else searched
    inner = ndimage.binary_erosion(seen, np.ones((3, 3, 3)))
    return bool((mask & ~inner).any())


def size_measurements(mask: Mask, geometry: Geometry) -> tuple[Measurement, ...]:
    """Measure the volume in mL and the three diameters of `Diameters` in mm. `mask` must not be empty."""
    found = diameters(mask, geometry)
    return (
        Measurement(VOLUME, volume_ml(mask, geometry), CM3),
        Measurement(LONG_AXIS, found.long_axis, MM),
        Measurement(SHORT_AXIS, found.short_axis, MM),
        Measurement(MAXIMUM_3D, found.maximum_3d, MM),
    )
