"""The volume: a 3D image with its geometry, and the slices that it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference.volumes.geometry import Array, Geometry


@dataclass(frozen=True)
class FrameReference:
    """The origin of one slice of a volume.

    `frame_number` counts from 1; it is None for a single-frame instance. `tile` is as in `Plane`.
    """

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    path: Path
    tile: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image with its exact geometry.

    `array` is float32 [slice, row, column], after the modality LUT (rescale slope and intercept). `frames[k]` is the
    origin of slice k. `told_apart` holds the attributes that distinguish the volume from others of its series: the keys
    of `Plane.told_apart`, and REPETITION, without keys that are None or differ between its slices. `array /
    signal_scale` can be compared between the series and volumes of a Philips scanner, whose modality LUT is made for
    display (see `scaling`); elsewhere it is 1.
    """

    array: Array
    geometry: Geometry
    frames: tuple[FrameReference, ...]
    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    modality: str
    told_apart: Mapping[str, Any] = field(default_factory=dict)
    signal_scale: float = 1.0
