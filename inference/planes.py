"""Image planes from DICOM headers: one per single-frame instance, one per frame of an Enhanced object. No pixels.

Classic and Enhanced MR keep the same facts in different places (PS3.3 C.7.6.2 against the functional groups of
C.7.6.16); everything after this module sees `Plane` only.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from inference.diffusion import b_value
from storage.errors import InputRefused

Vector = NDArray[np.float64]
COMPONENT = "image component"
COMPONENTS = {
    "M": "magnitude", "P": "phase", "R": "real", "I": "imaginary",
    "MAGNITUDE": "magnitude", "PHASE": "phase", "REAL": "real", "IMAGINARY": "imaginary",
    "W": "water", "F": "fat", "IP": "in phase", "OP": "opposed phase",
    "WATER": "water", "FAT": "fat", "IN_PHASE": "in phase", "OPP_PHASE": "opposed phase",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Plane:
    """One image plane in patient space (LPS, mm).

    `row_direction` points along a row (increasing column), `column_direction` down a column (increasing row).
    `spacing` is (between rows, between columns). `told_apart` holds what makes one image of a place differ from
    another: echo time, b-value, time point and the like; None where the header is silent.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    frame_of_reference_uid: str
    rows: int
    columns: int
    position: Vector
    row_direction: Vector
    column_direction: Vector
    spacing: tuple[float, float]
    told_apart: Mapping[str, Any]

    @property
    def normal(self) -> Vector:
        """Unit vector; with it, row and column direction are right-handed."""
        normal: Vector = np.cross(self.row_direction, self.column_direction)
        return normal


def functional(ds: Dataset, frame: int, group: str) -> Dataset | None:
    """The functional group macro `group` of frame `frame` (from 0): its own, or else the shared one."""
    for groups in (ds.PerFrameFunctionalGroupsSequence[frame], ds.SharedFunctionalGroupsSequence[0]):
        if groups.get(group):
            item: Dataset = groups[group][0]
            return item
    return None


def is_enhanced(ds: Dataset) -> bool:
    return bool(ds.get("PerFrameFunctionalGroupsSequence")) and bool(ds.get("SharedFunctionalGroupsSequence"))


def planes_of(ds: Dataset, path: Path) -> Iterator[Plane]:
    """The planes of one instance, in frame order. Raises InputRefused naming what the header lacks."""
    name = f"instance {ds.get('SOPInstanceUID', 'without SOPInstanceUID')}"
    if "Rows" not in ds or "Columns" not in ds:
        raise InputRefused(f"{name} is not an image: it has no Rows and Columns")
    if int(ds.get("SamplesPerPixel", 1)) != 1:
        raise InputRefused(f"{name} is a colour image, which is no measured signal")
    image_type = {str(v).upper() for v in _values(ds.get("ImageType"))}
    if tiled := image_type & {"MOSAIC", "VFRAME"}:
        raise InputRefused(f"{name} holds several slices tiled into one image ({tiled.pop()}), which is not supported")
    if is_enhanced(ds):
        count = len(ds.PerFrameFunctionalGroupsSequence)
        if int(ds.get("NumberOfFrames", 1)) != count:
            raise InputRefused(f"{name} says NumberOfFrames {ds.get('NumberOfFrames')} but describes {count} frames")
        for frame in range(count):
            yield _enhanced_plane(ds, path, frame, name)
        return
    if int(ds.get("NumberOfFrames") or 1) != 1:
        raise InputRefused(f"{name} has several frames without the functional groups that place them in space")
    yield _plane(ds, path, None, name, ds, ds, ds, _classic_differences(ds))


def _enhanced_plane(ds: Dataset, path: Path, frame: int, name: str) -> Plane:
    parts = [functional(ds, frame, f"{g}Sequence") for g in ("PlanePosition", "PlaneOrientation", "PixelMeasures")]
    if any(part is None for part in parts):
        raise InputRefused(f"{name}, frame {frame + 1}: position, orientation or pixel measures are missing")
    position, orientation, measures = parts
    return _plane(ds, path, frame + 1, name, position, orientation, measures, _enhanced_differences(ds, frame))


def _plane(
    ds: Dataset,
    path: Path,
    number: int | None,
    name: str,
    position: Any,
    orientation: Any,
    measures: Any,
    told_apart: Mapping[str, Any],
) -> Plane:
    where = name if number is None else f"{name}, frame {number}"
    at = _vector(position, "ImagePositionPatient", 3, where)
    directions = _vector(orientation, "ImageOrientationPatient", 6, where)
    spacing = _vector(measures, "PixelSpacing", 2, where)
    row, column = directions[:3], directions[3:]
    if abs(np.linalg.norm(row) - 1) > 1e-3 or abs(np.linalg.norm(column) - 1) > 1e-3 or abs(float(row @ column)) > 1e-3:
        raise InputRefused(f"{where}: ImageOrientationPatient is not two perpendicular unit vectors")
    if not np.all(spacing > 0):
        raise InputRefused(f"{where}: PixelSpacing is not positive")
    return Plane(
        path=path,
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        frame_number=number,
        frame_of_reference_uid=str(ds.get("FrameOfReferenceUID", "")),
        rows=int(ds.Rows),
        columns=int(ds.Columns),
        position=at,
        row_direction=row / np.linalg.norm(row),
        column_direction=column / np.linalg.norm(column),
        spacing=(float(spacing[0]), float(spacing[1])),
        told_apart=told_apart,
    )


def _vector(ds: Dataset, keyword: str, length: int, where: str) -> Vector:
    try:
        vector = np.array([float(v) for v in _values(ds.get(keyword))])
    except (TypeError, ValueError):
        vector = np.array([])
    if vector.shape != (length,) or not np.isfinite(vector).all():
        raise InputRefused(f"{where}: {keyword} is missing or is not {length} numbers")
    return vector


def _classic_differences(ds: Dataset) -> dict[str, Any]:
    return {
        "EchoTime": number(ds.get("EchoTime")),
        "InversionTime": number(ds.get("InversionTime")),
        COMPONENT: _component(ds.get("ImageType")),
        "b-value": b_value(ds),
        "TemporalPositionIdentifier": number(ds.get("TemporalPositionIdentifier")),
        "TriggerTime": number(ds.get("TriggerTime")) if number(ds.get("TriggerTime")) else None,
    }


def _enhanced_differences(ds: Dataset, frame: int) -> dict[str, Any]:
    echo = functional(ds, frame, "MREchoSequence")
    content = functional(ds, frame, "FrameContentSequence")
    frame_type = functional(ds, frame, "MRImageFrameTypeSequence")
    diffusion = functional(ds, frame, "MRDiffusionSequence")
    modifier = functional(ds, frame, "MRModifierSequence")
    inversion = modifier.get("InversionTimes") if modifier is not None else None
    return {
        "EchoTime": number(echo.get("EffectiveEchoTime")) if echo is not None else None,
        "InversionTime": number(_values(inversion)[0]) if _values(inversion) else None,
        COMPONENT: _component(frame_type.get("FrameType") if frame_type is not None else ds.get("ImageType")),
        "b-value": number(diffusion.get("DiffusionBValue")) if diffusion is not None else None,
        "TemporalPositionIndex": number(content.get("TemporalPositionIndex")) if content is not None else None,
    }


def _component(image_type: Any) -> str | None:
    """Magnitude, phase, water ... from ImageType or FrameType (PS3.3 C.8.13.3.1.1), value 3 onwards."""
    found = [COMPONENTS[v] for v in (str(value).upper() for value in _values(image_type)[2:]) if v in COMPONENTS]
    return found[0] if found else None


def number(value: Any) -> float | None:
    """A header's number, so rounded that the scanner's own rounding does not split a series; None if there is none."""
    try:
        return round(float(value), 2)
    except (TypeError, ValueError):
        return None


def _values(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    if isinstance(value, str | bytes | int | float):
        return [value]
    try:
        return list(value)
    except TypeError:
        return [value]
