"""Series to volumes in patient space, or a reason why not.

Array axes are [slice, row, column]; space is the patient coordinate system of PS3.3 C.7.6.2.1.1 (LPS, mm).
Nothing is stacked silently: images are grouped by what tells them apart, and each group must lie on a regular grid.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from inference.planes import COMPONENT, Plane, functional, is_enhanced, planes_of
from storage.errors import InputRefused

Array = NDArray[np.float32]
Affine = NDArray[np.float64]

MINIMUM_SLICES = 3  # the fewest whose distances can be checked against one another
DIRECTION_TOLERANCE = 1e-3  # of a direction cosine: scanners round differently within one series
SPACING_TOLERANCE = 1e-3  # mm, pixel spacing
POSITION_TOLERANCE = 0.02  # of the slice distance: how far a slice may lie off the regular grid
SAME_POSITION = 0.01  # mm along the normal


@dataclass(frozen=True)
class FrameReference:
    """Where one slice of a volume came from. `frame_number` counts from 1; None for a single-frame instance."""

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    path: Path


@dataclass(frozen=True, eq=False)
class Geometry:
    """A regular grid: `affine` @ (slice, row, column, 1) is the centre of that voxel in LPS mm.

    `shape` is (slices, rows, columns). Columns of the affine are the steps along each array axis.
    """

    shape: tuple[int, int, int]
    affine: Affine

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between neighbouring voxel centres along (slice, row, column)."""
        s, r, c = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(s), float(r), float(c)

    @property
    def voxel_volume(self) -> float:
        """mm3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def to_lps(self, indices: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 3) array indices (slice, row, column) to (n, 3) LPS mm."""
        return indices @ self.affine[:3, :3].T + self.affine[:3, 3]


@dataclass(frozen=True, eq=False)
class Volume:
    """One 3D image with exact geometry. `array` is float32 [slice, row, column], after the modality LUT
    (rescale slope and intercept). `frames[k]` is where slice k came from."""

    array: Array
    geometry: Geometry
    frames: tuple[FrameReference, ...]
    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    modality: str


@dataclass(frozen=True, eq=False)
class Stack:
    """The planes of one volume, sorted along their normal, proven to lie on the regular grid `geometry`."""

    planes: tuple[Plane, ...]
    geometry: Geometry


@dataclass(frozen=True, eq=False)
class Header:
    """What stands in a file before the pixels, and at which byte that ends."""

    ds: Dataset
    end: int


def read_volume(paths: Iterable[Path]) -> Volume:
    """The one volume of a series. Raises InputRefused, naming what is wrong, unless there is exactly one."""
    headers = {path: _read_header(path) for path in paths}
    stacks = stacks_of([plane for path, header in headers.items() for plane in planes_of(header.ds, path)])
    if len(stacks) > 1:
        raise InputRefused(f"the series holds {len(stacks)} volumes: {differences(stacks)}")
    return _load(stacks[0], headers)


def stacks_of(planes: Sequence[Plane]) -> list[Stack]:
    """Groups planes by geometry and by what tells them apart; every group must be one regular stack.

    Raises InputRefused: no images, too few slices, two images in one place, a slice missing, slices off the grid.
    """
    if not planes:
        raise InputRefused("the series holds no image")
    groups: list[list[Plane]] = []
    for plane in planes:
        for group in groups:
            if _same_grid(plane, group[0]) and plane.told_apart == group[0].told_apart:
                group.append(plane)
                break
        else:
            groups.append([plane])
    groups = _without_per_slice_differences(groups)
    few = [group for group in groups if len(group) < MINIMUM_SLICES]
    if few and any(not _same_grid(group[0], groups[0][0]) for group in groups):
        raise InputRefused(
            "its images differ in orientation, matrix or pixel spacing and do not make one volume; "
            "send a series whose slices are parallel and alike"
        )
    return [_stack(group) for group in groups]


def differences(stacks: Sequence[Stack]) -> str:
    """What tells several volumes of a series apart, in words."""
    first = [stack.planes[0].told_apart for stack in stacks]
    found = [
        f"{key} {', '.join(_text(v) for v in sorted({d[key] for d in first if key in d}, key=str))}"
        for key in dict.fromkeys(key for d in first for key in d)
        if len({d.get(key) for d in first}) > 1
    ]
    if any(not _same_grid(stack.planes[0], stacks[0].planes[0]) for stack in stacks):
        found.append("orientation, matrix or pixel spacing")
    return "; ".join(found)


def _text(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _same_grid(one: Plane, other: Plane) -> bool:
    return (
        (one.rows, one.columns) == (other.rows, other.columns)
        and one.frame_of_reference_uid == other.frame_of_reference_uid
        and np.allclose(one.spacing, other.spacing, atol=SPACING_TOLERANCE)
        and np.allclose(one.row_direction, other.row_direction, atol=DIRECTION_TOLERANCE)
        and np.allclose(one.column_direction, other.column_direction, atol=DIRECTION_TOLERANCE)
    )


def _without_per_slice_differences(groups: list[list[Plane]]) -> list[list[Plane]]:
    """Merges groups of one grid that share no position: their difference belongs to the slice, not to the volume.

    Some scanners write a trigger or echo time of its own into every slice of an ordinary stack.
    """
    by_grid: list[list[list[Plane]]] = []
    for group in groups:
        for others in by_grid:
            if _same_grid(group[0], others[0][0]):
                others.append(group)
                break
        else:
            by_grid.append([group])
    merged: list[list[Plane]] = []
    for parts in by_grid:
        together = [plane for part in parts for plane in part]
        alike = len({p.told_apart[COMPONENT] for p in together}) == 1  # never stack magnitude onto phase
        if len(parts) > 1 and alike and _positions_differ(together):
            merged.append(together)
        else:
            merged += parts
    return merged


def _positions_differ(planes: Sequence[Plane]) -> bool:
    along = np.sort([float(plane.position @ planes[0].normal) for plane in planes])
    return bool(np.all(np.diff(along) > SAME_POSITION))


def _stack(planes: Sequence[Plane]) -> Stack:
    normal = planes[0].normal
    ordered = sorted(planes, key=lambda plane: float(plane.position @ normal))
    if len(ordered) < MINIMUM_SLICES:
        raise InputRefused(
            f"only {len(ordered)} slice{'s' if len(ordered) > 1 else ''} in one orientation; "
            f"a volume needs at least {MINIMUM_SLICES}: send the missing slices again"
        )
    steps = np.diff([float(plane.position @ normal) for plane in ordered])
    if np.any(steps < SAME_POSITION):
        n = int(np.sum(steps < SAME_POSITION))
        raise InputRefused(
            f"{n} images lie where another one lies, and nothing in their headers tells them apart; "
            "send each volume as a series of its own"
        )
    step = float(np.median(steps))
    if np.any(wide := steps > 1.5 * step):
        missing = int(np.sum(np.round(steps[wide] / step) - 1))
        raise InputRefused(
            f"{missing} slice(s) missing: distances from {steps.min():.2f} to {steps.max():.2f} mm; "
            "send the missing slices again"
        )
    first, last = ordered[0], ordered[-1]
    affine = np.eye(4)
    affine[:3, 0] = (last.position - first.position) / (len(ordered) - 1)
    affine[:3, 1] = first.column_direction * first.spacing[0]
    affine[:3, 2] = first.row_direction * first.spacing[1]
    affine[:3, 3] = first.position
    expected = first.position + np.arange(len(ordered))[:, None] * affine[:3, 0]
    off = float(np.max(np.linalg.norm(np.array([p.position for p in ordered]) - expected, axis=1)))
    if off > max(POSITION_TOLERANCE * step, SAME_POSITION):
        raise InputRefused(
            f"the slices are not evenly spaced on a line: one lies {off:.2f} mm off; send the whole series again"
        )
    return Stack(tuple(ordered), Geometry((len(ordered), first.rows, first.columns), affine))


def _load(stack: Stack, headers: dict[Path, Header]) -> Volume:
    """Reads the pixels, file by file, and takes each header out of `headers`: none is kept with its pixels."""
    any_header = next(iter(headers.values())).ds
    study_instance_uid, series_instance_uid = str(any_header.StudyInstanceUID), str(any_header.SeriesInstanceUID)
    modality = str(any_header.get("Modality", ""))
    array = np.empty(stack.geometry.shape, np.float32)
    wanted: dict[Path, list[int]] = {}
    for k, plane in enumerate(stack.planes):
        wanted.setdefault(plane.path, []).append(k)
    for path, slices in wanted.items():
        ds = _read_pixels(path, headers.pop(path))
        pixels = _pixels(ds)
        for k in slices:
            number = stack.planes[k].frame_number
            slope, intercept = _rescale(ds, number)
            image = pixels[(number or 1) - 1]
            array[k] = image if (slope, intercept) == (1, 0) else image * np.float32(slope) + np.float32(intercept)
    first = stack.planes[0]
    return Volume(
        array=array,
        geometry=stack.geometry,
        frames=tuple(FrameReference(p.sop_class_uid, p.sop_instance_uid, p.frame_number, p.path) for p in stack.planes),
        study_instance_uid=study_instance_uid,
        series_instance_uid=series_instance_uid,
        frame_of_reference_uid=first.frame_of_reference_uid,
        modality=modality,
    )


def _read_header(path: Path) -> Header:
    with _readable(path), path.open("rb") as file:
        return Header(dcmread(file, stop_before_pixels=True), file.tell())


def _read_pixels(path: Path, header: Header) -> Dataset:
    """The dataset of `header`, with the rest of its file. Parsing a header again would take as long as its pixels."""
    with _readable(path), path.open("rb") as file:
        if header.ds.file_meta.TransferSyntaxUID.is_deflated:  # bytes of the file are none of the dataset
            return dcmread(file)
        file.seek(header.end)
        implicit, little = header.ds.original_encoding
        header.ds.update(read_dataset(file, bool(implicit), bool(little)))
        return header.ds


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError:
        raise  # the disk's trouble, not the image's: worth another try
    except Exception as error:
        raise InputRefused(f"file {path.name} cannot be read as DICOM ({type(error).__name__})") from None


def _pixels(ds: Dataset) -> NDArray[Any]:
    """(frame, row, column)."""
    try:
        return ds.pixel_array.reshape(-1, int(ds.Rows), int(ds.Columns))
    except Exception as error:  # decoders raise anything; what they say may quote the header
        raise InputRefused(
            f"the pixels of instance {ds.SOPInstanceUID} cannot be decoded ({type(error).__name__}, "
            f"transfer syntax {ds.file_meta.TransferSyntaxUID.name})"
        ) from None


def _rescale(ds: Dataset, frame_number: int | None) -> tuple[float, float]:
    """Slope and intercept of the modality LUT (PS3.3 C.11.1, C.7.6.16.2.9)."""
    source: Dataset | None = ds
    if frame_number is not None and is_enhanced(ds):
        source = functional(ds, frame_number - 1, "PixelValueTransformationSequence")
    if source is None:
        return 1.0, 0.0
    return float(source.get("RescaleSlope", 1) or 1), float(source.get("RescaleIntercept", 0) or 0)
