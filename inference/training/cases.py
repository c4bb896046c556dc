"""A case that a network is trained on or measured with: an image and its true mask."""

from dataclasses import dataclass

from inference.volumes.geometry import Array, Geometry, Mask


@dataclass(frozen=True, eq=False)
class Case:
    """An image `array` and its true `mask`, both [slice, row, column] on `geometry`."""

    name: str
    array: Array
    mask: Mask
    geometry: Geometry
