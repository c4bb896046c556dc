"""Segmentations (PS3.3 A.51, A.90) of any writer, read back as masks in patient space: BINARY, FRACTIONAL, LABELMAP.

Reading is strict about what a later comparison relies on (identity, geometry), and tolerant of everything else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import SegmentationStorage

from dicom_node.objects.profiles import SegmentationForm
from dicom_node.objects.reading.codes import code_of, first_code, same
from dicom_node.objects.registry import LABEL_MAP_SEGMENTATION_STORAGE
from inference.contract.findings import Code
from inference.headers.reading import read_object
from inference.volumes.geometry import Geometry, Mask
from inference.volumes.grouping import DIRECTION_TOLERANCE
from inference.volumes.planes import Plane, functional, planes_of
from inference.volumes.stacks import SAME_POSITION
from storage.blobs import Blob
from storage.errors import InputRefused

OFF_GRID = 0.05  # voxels: how far a frame may lie off the grid; writers round positions to a few digits
MAXIMUM_SLICES = 4096  # of a grid that the distances of frames imply: two frames can imply any number of slices


@dataclass(frozen=True, eq=False)
class ReadSegment:
    """A segment. `mask` is boolean, `fraction` float32 from 0 to 1; both [slice, row, column] on the same grid.

    The mask of a FRACTIONAL segmentation is True where the fraction is at least one half; `fraction` is None for other
    types. `mask` has no voxel if the segment is described but no frame shows it.
    """

    number: int
    label: str
    category: Code | None
    type: Code | None
    anatomic_regions: tuple[Code, ...]
    tracking_id: str
    tracking_uid: str
    mask: Mask
    fraction: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class ReadSegmentation:
    """A segmentation read back. `geometry` is the grid of all masks.

    `sources` are (SOP Class UID, SOP Instance UID) of the images that it names as its source, in order of mention.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    frame_of_reference_uid: str
    form: SegmentationForm
    geometry: Geometry
    segments: tuple[ReadSegment, ...]
    sources: tuple[tuple[str, str], ...]


def read_segmentation(source: Blob | Dataset, grid: Geometry | None = None) -> ReadSegmentation:
    """Read the segments of `source` on `grid`, or on the grid on which its own frames lie.

    Frames may cover only a part of `grid`. They are placed, never resampled. Raises InputRefused if `source` is no
    segmentation or has no place in space, if its frames lie off the grid or are turned against it, and if its pixels
    cannot be decoded.
    """
    ds = source if isinstance(source, Dataset) else read_object(source)
    if ds.get("SOPClassUID") not in (SegmentationStorage, LABEL_MAP_SEGMENTATION_STORAGE):
        raise InputRefused(f"instance {ds.get('SOPInstanceUID', '?')} is no segmentation")
    name = f"segmentation {ds.SOPInstanceUID}"
    try:
        form = SegmentationForm(str(ds.get("SegmentationType")))
    except ValueError:
        raise InputRefused(f"{name}: Segmentation Type is none of {', '.join(SegmentationForm)}") from None
    if not ds.get("PerFrameFunctionalGroupsSequence") or not ds.get("SharedFunctionalGroupsSequence"):
        raise InputRefused(f"{name} has no functional groups, which would place its frames")
    planes = list(planes_of(ds))
    geometry = grid or _own_grid(ds, planes, name)
    pixels = _pixels(ds, len(planes), name)
    frames = [
        _Frame(pixels[k], _number(ds, k, form, name), *_offset(plane, geometry, f"{name}, frame {k + 1}"))
        for k, plane in enumerate(planes)
    ]
    maximum = float(ds.get("MaximumFractionalValue") or 1) if form is SegmentationForm.FRACTIONAL else None
    segments = [
        _segment(item, frames, geometry.shape, maximum)
        for item in ds.get("SegmentSequence") or []
        # Label maps describe the background too, which is no segment.
        if not same(first_code(item, "SegmentedPropertyTypeCodeSequence"), codes.DCM.Background)
    ]
    return ReadSegmentation(
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        study_instance_uid=str(ds.StudyInstanceUID),
        frame_of_reference_uid=planes[0].frame_of_reference_uid,
        form=form,
        geometry=geometry,
        segments=tuple(segments),
        sources=_sources(ds, len(planes)),
    )


@dataclass(frozen=True, eq=False)
class _Frame:
    """The pixels of a frame, the number of their segment (None if the pixels hold it), and their place."""

    pixels: NDArray[np.uint16]
    number: int | None
    slice: int
    row: int
    column: int

    def place(self, values: NDArray[Any], array: NDArray[Any]) -> None:
        rows, columns = values.shape
        part = array[self.slice, self.row : self.row + rows, self.column : self.column + columns]
        np.maximum(part, values, out=part)


def _segment(
    item: Dataset, frames: Sequence[_Frame], shape: tuple[int, int, int], maximum: float | None
) -> ReadSegment:
    """Place the frames of a segment. `maximum` is the Maximum Fractional Value, or None if not FRACTIONAL."""
    number = int(item.SegmentNumber)
    array: NDArray[Any] = np.zeros(shape, np.bool_ if maximum is None else np.float32)
    for frame in frames:
        if frame.number is None:
            frame.place(frame.pixels == number, array)
        elif frame.number == number:
            frame.place(frame.pixels > 0 if maximum is None else frame.pixels / np.float32(maximum), array)
    return ReadSegment(
        number=number,
        label=str(item.get("SegmentLabel") or ""),
        category=first_code(item, "SegmentedPropertyCategoryCodeSequence"),
        type=first_code(item, "SegmentedPropertyTypeCodeSequence"),
        anatomic_regions=tuple(map(code_of, item.get("AnatomicRegionSequence") or [])),
        tracking_id=str(item.get("TrackingID") or ""),
        tracking_uid=str(item.get("TrackingUID") or ""),
        mask=array if maximum is None else array >= 0.5,
        fraction=None if maximum is None else array,
    )


def _pixels(ds: Dataset, count: int, name: str) -> NDArray[np.uint16]:
    """Return the pixels as [frame, row, column]."""
    try:
        pixels: NDArray[np.uint16] = ds.pixel_array.reshape(count, int(ds.Rows), int(ds.Columns))
    except Exception as error:  # decoders raise anything
        raise InputRefused(
            f"{name}: the pixels cannot be decoded ({type(error).__name__}, "
            f"transfer syntax {ds.file_meta.TransferSyntaxUID.name})"
        ) from None
    return pixels


def _number(ds: Dataset, frame: int, form: SegmentationForm, name: str) -> int | None:
    """Return the segment number of a frame; None if its pixels hold it."""
    if form is SegmentationForm.LABELMAP:
        return None
    identification = functional(ds, frame, "SegmentIdentificationSequence")
    if identification is None:
        raise InputRefused(f"{name}, frame {frame + 1}: it is not said which segment it shows")
    return int(identification.ReferencedSegmentNumber)


def _own_grid(ds: Dataset, planes: Sequence[Plane], name: str) -> Geometry:
    """Return the smallest grid on which all frames lie. Empty frames between others may have been left out."""
    first = min(planes, key=lambda plane: float(plane.position @ planes[0].normal))
    along = np.array([float((plane.position - first.position) @ first.normal) for plane in planes])
    steps = np.diff(np.unique(along))
    steps = steps[steps > SAME_POSITION]
    step = float(steps.min()) if steps.size else _declared_step(ds)
    count = round(float(along.max()) / step) + 1
    if count > MAXIMUM_SLICES:
        raise InputRefused(f"{name}: its frames lie on no common grid of slices")
    affine = np.eye(4)
    # Divide the whole length, so that the rounding of single positions does not add up.
    affine[:3, 0] = first.normal * (float(along.max()) / (count - 1) if count > 1 else step)
    affine[:3, 1] = first.column_direction * first.spacing[0]
    affine[:3, 2] = first.row_direction * first.spacing[1]
    affine[:3, 3] = first.position
    return Geometry((count, first.rows, first.columns), affine)


def _declared_step(ds: Dataset) -> float:
    """Return the declared distance between slices in mm, which is needed if all frames lie in one plane."""
    measures = functional(ds, 0, "PixelMeasuresSequence")
    assert measures is not None  # planes_of has read it
    return float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 1.0)


def _offset(plane: Plane, grid: Geometry, where: str) -> tuple[int, int, int]:
    """Return the index (slice, row, column) of the frame's first pixel in `grid`."""
    steps = np.stack([plane.column_direction * plane.spacing[0], plane.row_direction * plane.spacing[1]], axis=1)
    to_index = np.linalg.inv(grid.affine)
    turned = to_index[:3, :3] @ steps - np.array([[0, 0], [1, 0], [0, 1]])
    # Directions are rounded, but the last pixel must still lie on the grid.
    if np.abs(turned).max() > DIRECTION_TOLERANCE:
        raise InputRefused(f"{where}: it has another orientation or pixel spacing than the grid")
    index = (to_index @ np.append(plane.position, 1.0))[:3]
    nearest = np.round(index)
    if np.abs(index - nearest).max() > OFF_GRID:
        raise InputRefused(f"{where}: it lies {np.abs(index - nearest).max():.2f} voxels off the grid")
    s, r, c = (int(value) for value in nearest)
    last = (s, r + plane.rows - 1, c + plane.columns - 1)
    if min(s, r, c) < 0 or any(end >= size for end, size in zip(last, grid.shape, strict=True)):
        raise InputRefused(f"{where}: it lies outside the grid")
    return s, r, c


def _sources(ds: Dataset, count: int) -> tuple[tuple[str, str], ...]:
    """Return the source images by the derivation of the frames (PS3.3 C.7.6.16.2.6), else by referenced series."""
    derivations = [functional(ds, k, "DerivationImageSequence") for k in range(count)]
    items = [i for d in derivations if d is not None for i in d.get("SourceImageSequence") or []]
    if not items:
        items = [i for s in ds.get("ReferencedSeriesSequence") or [] for i in s.get("ReferencedInstanceSequence") or []]
    return tuple(dict.fromkeys((str(i.ReferencedSOPClassUID), str(i.ReferencedSOPInstanceUID)) for i in items))
