"""Series to volumes in patient space, or a reason why not.

Array axes are [slice, row, column]; space is the patient coordinate system of PS3.3 C.7.6.2.1.1 (LPS, mm).
Nothing is stacked silently: images are grouped by what tells them apart, and each group must lie on a regular grid.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from inference.volumes.grouping import Group, groups_of, same_grid, text_of
from inference.volumes.planes import DIRECTION, Plane, is_image, planes_of
from inference.volumes.scaling import rescale, signal_scale
from storage.errors import InputRefused

Array = NDArray[np.float32]
Affine = NDArray[np.float64]

MINIMUM_SLICES = 3  # the fewest whose distances can be checked against one another
POSITION_TOLERANCE = 0.02  # of the slice distance: how far a slice may lie off the regular grid
SAME_POSITION = 0.01  # mm along the normal


@dataclass(frozen=True)
class FrameReference:
    """Where one slice of a volume came from. `frame_number` counts from 1; None for a single-frame instance. `tile`
    is as in `Plane`.
    """

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    path: Path
    tile: tuple[int, int] | None = None


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

    @property
    def normal(self) -> NDArray[np.float64]:
        """Of the slices: the unit vector across rows and columns, in LPS."""
        across = np.cross(self.affine[:3, 1], self.affine[:3, 2])
        return np.asarray(across / np.linalg.norm(across))

    def to_lps(self, indices: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 3) array indices (slice, row, column) to (n, 3) LPS mm."""
        return indices @ self.affine[:3, :3].T + self.affine[:3, 3]


@dataclass(frozen=True, eq=False)
class Volume:
    """One 3D image with exact geometry. `array` is float32 [slice, row, column], after the modality LUT
    (rescale slope and intercept). `frames[k]` is where slice k came from.

    `told_apart` is what its headers say and tells it from other volumes of its series: the keys of `Plane.told_apart`,
    and REPETITION, but for those that are None or differ between its slices. `array / signal_scale` can be compared
    between the series and volumes of a Philips scanner, whose modality LUT is made for display (`scaling`);
    it is 1 elsewhere.
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


@dataclass(frozen=True, eq=False)
class Stack:
    """The planes of one volume, sorted along their normal, proven to lie on the regular grid `geometry`.

    `told_apart` as in `Volume`.
    """

    planes: tuple[Plane, ...]
    geometry: Geometry
    told_apart: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Header:
    """What stands in a file before the pixels, and at which byte that ends."""

    ds: Dataset
    end: int


def read_volume(paths: Iterable[Path]) -> Volume:
    """The one volume of a series. Raises InputRefused, naming what is wrong, unless there is exactly one."""
    headers, stacks = _stacks_in(paths)
    if len(stacks) > 1:
        raise InputRefused(f"the series holds {len(stacks)} volumes: {differences(stacks)}")
    return _load(stacks, headers)[0]


def read_volumes(paths: Iterable[Path]) -> tuple[Volume, ...]:
    """All volumes of a series, at least one, in the order of acquisition. Raises InputRefused, as `stacks_of`."""
    headers, stacks = _stacks_in(paths)
    return _load(stacks, headers)


def _stacks_in(paths: Iterable[Path]) -> tuple[dict[Path, Header], list[Stack]]:
    everything = {path: _read_header(path) for path in paths}
    # Philips puts raw data into the series of its images. Of a series without any image, the first object says what is.
    headers = {path: header for path, header in everything.items() if is_image(header.ds)} or everything
    return headers, stacks_of([plane for path, header in headers.items() for plane in planes_of(header.ds, path)])


def stacks_of(planes: Sequence[Plane]) -> list[Stack]:
    """The stacks of a series in the order of acquisition. Every one must be regular, and those on one grid alike.

    Raises InputRefused: no images, too few slices, two images in one place, a slice missing, slices off the grid.
    """
    if not planes:
        raise InputRefused("the series holds no image")
    groups = groups_of(planes)
    few = [group for group in groups if len(group.planes) < MINIMUM_SLICES]
    if few and any(not same_grid(group.planes[0], groups[0].planes[0]) for group in groups):
        raise InputRefused(
            "its images differ in orientation, matrix or pixel spacing and do not make one volume; "
            "send a series whose slices are parallel and alike"
        )
    return sorted(map(_stack, groups), key=lambda stack: min(plane.order for plane in stack.planes))


def differences(stacks: Sequence[Stack]) -> str:
    """What tells several volumes of a series apart, in words."""
    told = [stack.told_apart for stack in stacks]
    found = []
    for key in dict.fromkeys(key for d in told for key in d):
        present = sorted({d[key] for d in told if key in d}, key=lambda v: (isinstance(v, str), v))
        if key == DIRECTION and len(present) > 1:
            found.append(f"{len(present)} gradient directions")
        elif len({d.get(key) for d in told}) > 1:
            found.append(f"{key} {', '.join(map(text_of, present))}")
    if any(not same_grid(stack.planes[0], stacks[0].planes[0]) for stack in stacks):
        found.append("orientation, matrix or pixel spacing")
    return "; ".join(found)


def _stack(group: Group) -> Stack:
    normal = group.planes[0].normal
    ordered = sorted(group.planes, key=lambda plane: float(plane.position @ normal))
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
        k = int(np.argmax(wide))
        raise InputRefused(
            f"{missing} slice(s) missing: distances from {steps.min():.2f} to {steps.max():.2f} mm, the first gap "
            f"between {ordered[k].label} and {ordered[k + 1].label}; send the missing slices again"
        )
    first, last = ordered[0], ordered[-1]
    affine = np.eye(4)
    affine[:3, 0] = (last.position - first.position) / (len(ordered) - 1)
    affine[:3, 1] = first.column_direction * first.spacing[0]
    affine[:3, 2] = first.row_direction * first.spacing[1]
    affine[:3, 3] = first.position
    expected = first.position + np.arange(len(ordered))[:, None] * affine[:3, 0]
    off = np.linalg.norm(np.array([p.position for p in ordered]) - expected, axis=1)
    if off.max() > max(POSITION_TOLERANCE * step, SAME_POSITION):
        raise InputRefused(
            f"the slices are not evenly spaced on a line: {ordered[int(off.argmax())].label} lies {off.max():.2f} mm "
            "off; send the whole series again"
        )
    return Stack(tuple(ordered), Geometry((len(ordered), first.rows, first.columns), affine), group.told_apart)


def _load(stacks: Sequence[Stack], headers: dict[Path, Header]) -> tuple[Volume, ...]:
    """Reads the pixels, file by file, and takes each header out of `headers`: none is kept with its pixels."""
    any_header = next(iter(headers.values())).ds
    study_instance_uid, series_instance_uid = str(any_header.StudyInstanceUID), str(any_header.SeriesInstanceUID)
    modality = str(any_header.get("Modality", ""))
    arrays = [np.empty(stack.geometry.shape, np.float32) for stack in stacks]
    scales = [1.0 for _ in stacks]
    wanted: dict[Path, list[tuple[int, int]]] = {}
    for n, stack in enumerate(stacks):
        for k, plane in enumerate(stack.planes):
            wanted.setdefault(plane.path, []).append((n, k))
    for path, slices in wanted.items():
        ds = _read_pixels(path, headers.pop(path))
        pixels = _pixels(ds)
        for n, k in slices:
            plane = stacks[n].planes[k]
            slope, intercept = rescale(ds, plane.frame_number)
            image = pixels[(plane.frame_number or 1) - 1]
            if plane.tile is not None:
                row, column = plane.tile
                image = image[row : row + plane.rows, column : column + plane.columns]
            same = (slope, intercept) == (1, 0)
            arrays[n][k] = image if same else image * np.float32(slope) + np.float32(intercept)
            if k == 0:
                scales[n] = signal_scale(ds, plane.frame_number)
    return tuple(
        Volume(
            array=array,
            geometry=stack.geometry,
            frames=tuple(
                FrameReference(p.sop_class_uid, p.sop_instance_uid, p.frame_number, p.path, p.tile)
                for p in stack.planes
            ),
            study_instance_uid=study_instance_uid,
            series_instance_uid=series_instance_uid,
            frame_of_reference_uid=stack.planes[0].frame_of_reference_uid,
            modality=modality,
            told_apart=stack.told_apart,
            signal_scale=scale,
        )
        for stack, array, scale in zip(stacks, arrays, scales, strict=True)
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
