"""The volume: a 3D image with its geometry, and the slices that it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inference.headers.units import Unit
from inference.volumes.geometry import Array, Geometry
from storage.blobs import Blob


@dataclass(frozen=True)
class FrameReference:
    """The origin of one slice of a volume.

    `frame_number` counts from 1; it is None for a single-frame instance. `tile` is as in `Plane`.
    """

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    blob: Blob
    tile: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class UnitValues:
    """The same slices in another unit that their headers state; `array` as in `Volume`."""

    unit: Unit
    array: Array


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image with its exact geometry.

    `array` is float32 [slice, row, column], as `values` makes it: the numbers of a map in `unit`, NaN where there is
    none, or a signal that can be compared between the volumes of a series. `unit` is None if the header states none.
    `others` are the numbers in units that do not convert to `unit`. `frames[k]` is the origin of slice k. `told_apart`
    holds the attributes that distinguish the volume from others of its series: the keys of `Plane.told_apart`, and
    REPETITION, without keys that are None or differ between its slices.

    `display_scale` is 1, or [slice, 1, 1] for a signal by the Scale Slope of Philips: `array * display_scale` is what
    viewers show.
    """

    array: Array
    geometry: Geometry
    frames: tuple[FrameReference, ...]
    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    modality: str
    told_apart: Mapping[str, Any] = field(default_factory=dict)
    unit: Unit | None = None
    others: tuple[UnitValues, ...] = ()
    display_scale: Array | float = 1.0

    def in_unit(self, unit: Unit) -> Array | None:
        """Return the numbers in `unit`; None if the headers state no unit that converts to it."""
        stated = [(self.unit, self.array), *((other.unit, other.array) for other in self.others)]
        for own, array in stated:
            if own is not None and not own.arbitrary and own.converts_to(unit):
                factor = own.per(unit)
                return array if factor == 1.0 else array * np.float32(factor)
        return None

    @property
    def stated_units(self) -> tuple[str, ...]:
        """The units of measure that the headers state, as they write them."""
        units = (self.unit, *(other.unit for other in self.others))
        return tuple(unit.text for unit in units if unit is not None and not unit.arbitrary)
