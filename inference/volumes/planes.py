"""Image planes from DICOM headers: one per single-frame instance, per frame of an Enhanced object, or per tile.

No pixels are read. Classic and Enhanced MR keep the same facts in different places (PS3.3 C.7.6.2 against the
functional groups of C.7.6.16); later modules get only `Plane`.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from inference.headers.attributes import values, vector
from inference.headers.decoding import pattern_of, varying_values
from inference.headers.diffusion import direction, weighting
from inference.headers.image_content import COMPONENT, FRAME_TYPE, ONE_DIRECTION, TRACE, content_of
from inference.headers.images import image_name
from inference.headers.pepolar import stored_upside_down
from inference.headers.private import PrivateElements
from inference.volumes.tiles import TileFormat, tiled_as, tiling_of
from storage.errors import InputRefused

LpsVector = NDArray[np.float64]
ECHO_TIME = "EchoTime"
B_VALUE = "b-value"
ASSUMED = "assumed"  # True if the b-value is 0 because the header states none, see `stacks.assume_unweighted`
DIRECTION = "gradient direction"  # (x, y, z), as the vendor writes it
POSITION = "ImagePositionPatient"
TIME = "TemporalPositionIdentifier"
TRIGGER_TIME = "TriggerTime"
LABELLING = "spin labelling"  # LABEL or CONTROL
PHASE_NUMBER = "phase number"  # Philips: of the heart, or after the labelling of spins
NOT_COMPLEX = frozenset({"CT", "PT"})  # modalities whose images are no part of a complex signal
SPATIAL = frozenset(Tag(k) for k in ("StackID", "InStackPositionNumber", POSITION, "PlanePositionSequence"))


@dataclass(frozen=True, eq=False)
class Plane:
    """An image plane in patient space (LPS, mm).

    `row_direction` points along a row (increasing column), `column_direction` down a column (increasing row). `spacing`
    is (between rows, between columns). `told_apart` holds the attributes by which images of the same place differ:
    times (ms), flip angle (degrees), b-value (s/mm2), number of the time point and the like; a value is None if the
    header does not state it. `order` is the order of acquisition, as far as numbers tell it. `label` helps a reader to
    find the plane. `tile` is the row and column, counted from 0, of its first pixel in an image that several slices are
    tiled into; it is None for an image that is one slice. `instance` is the number of the instance among its series, if
    the caller of `planes_of` gave it one.
    """

    instance: int
    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    frame_of_reference_uid: str
    rows: int
    columns: int
    position: LpsVector
    row_direction: LpsVector
    column_direction: LpsVector
    spacing: tuple[float, float]
    told_apart: Mapping[str, Any]
    order: tuple[float, ...]
    label: str
    tile: tuple[int, int] | None = None
    repetition_time: float | None = None  # ms
    derived: bool = False  # computed from other images, as ImageType or FrameType says

    @property
    def normal(self) -> LpsVector:
        """Unit normal; row direction, column direction and normal are right-handed."""
        normal: LpsVector = np.cross(self.row_direction, self.column_direction)
        return normal


def functional(ds: Dataset, frame: int, group: str) -> Dataset | None:
    """Return the functional group macro `group` of frame `frame` (from 0): its own, or else the shared one."""
    for groups in (ds.PerFrameFunctionalGroupsSequence[frame], shared_groups(ds)):
        if groups.get(group):
            item: Dataset = groups[group][0]
            return item
    return None


def shared_groups(ds: Dataset) -> Dataset:
    """Return the functional groups that all frames share; an empty dataset if every group is per frame."""
    items = ds.get("SharedFunctionalGroupsSequence")
    return items[0] if items else Dataset()


def is_enhanced(ds: Dataset) -> bool:
    return bool(ds.get("PerFrameFunctionalGroupsSequence"))


def planes_of(ds: Dataset, instance: int = 0) -> Iterator[Plane]:
    """Yield the planes of one instance, in frame order. Raises InputRefused, which names what the header lacks."""
    name = image_name(ds)
    if not (ds.get("Rows") and ds.get("Columns")):
        raise InputRefused(f"{name} is not an image: it has no Rows and Columns")
    if not ds.get("SOPClassUID"):
        raise InputRefused(f"{name} has no SOPClassUID, so no result could refer to it")
    private = PrivateElements(ds)
    if reason := stored_upside_down(ds, private):
        raise InputRefused(f"{name} {reason}")
    if int(ds.get("SamplesPerPixel") or 1) != 1:
        raise InputRefused(f"{name} is a colour image, which is no measured signal")
    if is_enhanced(ds):
        count = len(ds.PerFrameFunctionalGroupsSequence)
        if int(ds.get("NumberOfFrames") or 1) != count:
            raise InputRefused(f"{name} says NumberOfFrames {ds.get('NumberOfFrames')} but describes {count} frames")
        dimensions = _other_dimensions(ds)
        for frame in range(count):
            yield _enhanced_plane(ds, instance, frame, name, dimensions)
    elif int(ds.get("NumberOfFrames") or 1) != 1:
        raise InputRefused(f"{name} has several frames without the functional groups that place them in space")
    elif tile_format := tiled_as(ds):
        yield from _tiled_planes(ds, instance, tile_format, name, _classic_differences(ds, private))
    else:
        told_apart = _classic_differences(ds, private)
        yield _plane(ds, instance, None, name, vector(ds, POSITION, 3, name), ds, ds, told_apart)


def planes_of_each(images: Iterable[Dataset]) -> Iterator[Plane]:
    """Yield the planes of several instances, which are numbered in their order, as `planes_of` does."""
    known: dict[Hashable, Plane] = {}
    for instance, ds in enumerate(images):
        pattern = pattern_of(ds)
        if pattern in known:
            yield _plane_like(known[pattern], ds, instance)
            continue
        for plane in planes_of(ds, instance):
            if pattern is not None and plane.tile is None and plane.frame_number is None:
                known[pattern] = plane
            yield plane


def _plane_like(known: Plane, ds: Dataset, instance: int) -> Plane:
    """Return the plane of a classic image whose header has the pattern of that of `known`."""
    varying = varying_values(ds)
    times = {TIME: number(varying.get(TIME)), TRIGGER_TIME: number(varying.get(TRIGGER_TIME)) or None}
    return replace(
        known,
        instance=instance,
        sop_instance_uid=str(varying["SOPInstanceUID"]),
        position=vector(varying, POSITION, 3, image_name(varying)),
        told_apart={**known.told_apart, **times},
        order=_order(varying),
        label=_label(varying),
    )


def _tiled_planes(
    ds: Dataset, instance: int, tile_format: TileFormat, name: str, told_apart: Mapping[str, Any]
) -> Iterator[Plane]:
    tiling = tiling_of(ds, tile_format, name)
    plane = _plane(ds, instance, None, name, tiling.positions[0], ds, ds, told_apart)
    for k, (corner, position) in enumerate(zip(tiling.corners, tiling.positions, strict=True), 1):
        yield replace(
            plane,
            rows=tiling.rows,
            columns=tiling.columns,
            position=position,
            order=(*plane.order, k),
            label=f"tile {k} of {plane.label}",
            tile=corner,
        )


def _enhanced_plane(ds: Dataset, instance: int, frame: int, name: str, dimensions: list[int]) -> Plane:
    at, orientation, measures = (
        functional(ds, frame, f"{g}Sequence") for g in ("PlanePosition", "PlaneOrientation", "PixelMeasures")
    )
    if at is None or orientation is None or measures is None:
        raise InputRefused(f"{name}, frame {frame + 1}: position, orientation or pixel measures are missing")
    position = vector(at, POSITION, 3, f"{name}, frame {frame + 1}")
    plane = _plane(ds, instance, frame + 1, name, position, orientation, measures, _enhanced_differences(ds, frame))
    content = functional(ds, frame, "FrameContentSequence")
    index = values(content.get("DimensionIndexValues")) if content is not None else []
    others = [float(index[d]) for d in dimensions if d < len(index)]
    timing = functional(ds, frame, "MRTimingAndRelatedParametersSequence") or Dataset()
    frame_type = functional(ds, frame, "MRImageFrameTypeSequence") or Dataset()
    return replace(
        plane,
        order=(*plane.order, *others, frame + 1),
        label=f"frame {frame + 1} of {plane.label}",
        repetition_time=number(timing.get("RepetitionTime")),
        derived="DERIVED" in values(frame_type.get("FrameType") or ds.get("ImageType")),
    )


def _other_dimensions(ds: Dataset) -> list[int]:
    """Return the indices of the dimensions (PS3.3 C.7.6.17) that are not the position of a frame."""
    pointers = [item.get("DimensionIndexPointer") for item in ds.get("DimensionIndexSequence") or []]
    return [d for d, pointer in enumerate(pointers) if pointer not in SPATIAL]


def _plane(
    ds: Dataset,
    instance: int,
    frame_number: int | None,
    name: str,
    position: LpsVector,
    orientation: Dataset,
    measures: Dataset,
    told_apart: Mapping[str, Any],
) -> Plane:
    where = name if frame_number is None else f"{name}, frame {frame_number}"
    directions = vector(orientation, "ImageOrientationPatient", 6, where)
    spacing = vector(measures, "PixelSpacing", 2, where)
    row, column = directions[:3], directions[3:]
    row_length, column_length = np.linalg.norm(row), np.linalg.norm(column)
    if abs(row_length - 1) > 1e-3 or abs(column_length - 1) > 1e-3 or abs(float(row @ column)) > 1e-3:
        raise InputRefused(f"{where}: ImageOrientationPatient is not two perpendicular unit vectors")
    if not np.all(spacing > 0):
        raise InputRefused(f"{where}: PixelSpacing is not positive")
    return Plane(
        instance=instance,
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        frame_number=frame_number,
        frame_of_reference_uid=str(ds.get("FrameOfReferenceUID", "")),
        rows=int(ds.Rows),
        columns=int(ds.Columns),
        position=position,
        row_direction=row / row_length,
        column_direction=column / column_length,
        spacing=(float(spacing[0]), float(spacing[1])),
        told_apart=told_apart,
        order=_order(ds),
        label=_label(ds),
        repetition_time=number(ds.get("RepetitionTime")),
        derived="DERIVED" in values(ds.get("ImageType")),
    )


def _order(ds: Dataset | Mapping[str, Any]) -> tuple[float, float]:
    return number(ds.get("AcquisitionNumber")) or 0, number(ds.get("InstanceNumber")) or 0


def _label(ds: Dataset | Mapping[str, Any]) -> str:
    return f"image {ds.get('InstanceNumber') or '?'}"


def _classic_differences(ds: Dataset, private: PrivateElements) -> dict[str, Any]:
    diffusion = weighting(ds, private)
    content = content_of(ds.get("ImageType"), ds.get("ComplexImageComponent"), private)
    return {
        ECHO_TIME: number(ds.get(ECHO_TIME)),
        "InversionTime": number(ds.get("InversionTime")) or None,
        COMPONENT: None if ds.get("Modality") in NOT_COMPLEX else content.component,
        FRAME_TYPE: content.frame_type or _directions(ds, diffusion.b_value),
        B_VALUE: number(diffusion.b_value),
        DIRECTION: diffusion.direction,
        LABELLING: private.text(0x2005, "Philips MR Imaging DD 005", 0x29, "PHILIPS").upper() or None,
        PHASE_NUMBER: number(private.text(0x2001, "Philips Imaging DD 001", 0x08, "PHILIPS")),
        TIME: number(ds.get(TIME)),
        TRIGGER_TIME: number(ds.get(TRIGGER_TIME)) or None,
        "FlipAngle": number(ds.get("FlipAngle")),
    }


def _enhanced_differences(ds: Dataset, frame: int) -> dict[str, Any]:
    def found(group: str, keyword: str) -> Any:
        item = functional(ds, frame, group)
        return None if item is None else item.get(keyword)

    gradient = found("MRDiffusionSequence", "DiffusionGradientDirectionSequence")
    b_value = number(found("MRDiffusionSequence", "DiffusionBValue"))
    content = content_of(
        found("MRImageFrameTypeSequence", "FrameType") or ds.get("ImageType"),
        found("MRImageFrameTypeSequence", "ComplexImageComponent") or ds.get("ComplexImageComponent"),
    )
    return {
        ECHO_TIME: number(found("MREchoSequence", "EffectiveEchoTime")),
        "InversionTime": number(next(iter(values(found("MRModifierSequence", "InversionTimes"))), None)) or None,
        COMPONENT: None if ds.get("Modality") in NOT_COMPLEX else content.component,
        FRAME_TYPE: content.frame_type or _directions(functional(ds, frame, "MRDiffusionSequence"), b_value),
        B_VALUE: b_value,
        DIRECTION: direction(gradient[0].get("DiffusionGradientOrientation")) if gradient else None,
        LABELLING: found("MRArterialSpinLabelingSequence", "ASLContext") or None,
        TIME: number(found("FrameContentSequence", "TemporalPositionIndex")),
        TRIGGER_TIME: number(found("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime")) or None,
        "FlipAngle": number(found("MRTimingAndRelatedParametersSequence", "FlipAngle")),
    }


def _directions(source: Dataset | None, b_value: float | None) -> str | None:
    """Return the frame type that DiffusionDirectionality of a diffusion weighted image tells; None if it tells none."""
    told = source.get("DiffusionDirectionality") if source is not None and b_value else None
    return {"ISOTROPIC": TRACE, "DIRECTIONAL": ONE_DIRECTION}.get(str(told))


def number(value: Any) -> float | None:
    """Return a header's number, rounded so that the scanner's rounding splits no series; None if there is none."""
    try:
        return round(float(value), 2)
    except (TypeError, ValueError):
        return None
