"""How large a mass is, as report measurements."""

from inference.concepts import CM3, LONG_AXIS, MAXIMUM_3D, MM, SHORT_AXIS, VOLUME
from inference.findings import Mask, Measurement
from inference.measurements import diameters, volume_ml
from inference.volume import Geometry


def size(mask: Mask, geometry: Geometry) -> tuple[Measurement, ...]:
    """Volume in mL and the three diameters of `inference.measurements.Diameters`. `mask` must not be empty."""
    found = diameters(mask, geometry)
    return (
        Measurement(VOLUME, volume_ml(mask, geometry), CM3),
        Measurement(LONG_AXIS, found.long_axis, MM),
        Measurement(SHORT_AXIS, found.short_axis, MM),
        Measurement(MAXIMUM_3D, found.maximum_3d, MM),
    )
