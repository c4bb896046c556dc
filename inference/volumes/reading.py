"""The reading of volumes from the files of a series."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from inference.headers.images import images_among
from inference.volumes.planes import planes_of
from inference.volumes.scaling import rescale, signal_scale
from inference.volumes.stacks import SliceStack, differences, stacks_of
from inference.volumes.volume import FrameReference, Volume
from storage.errors import InputRefused


@dataclass(frozen=True, eq=False)
class _Header:
    """A header before its pixels, and the byte of the file at which it ends."""

    ds: Dataset
    end: int


VolumeChoice = Callable[[Sequence[Mapping[str, Any]]], int]
"""Chooses one of several volumes by what tells each apart (`Volume.told_apart`), and returns its index."""


def read_volume(paths: Iterable[Path], choose: VolumeChoice | None = None) -> Volume:
    """Read the only volume of a series, or the volume among several that `choose` returns.

    Raises InputRefused, with the reason, if the series makes no volume, or several volumes and `choose` is None.
    """
    headers, stacks = _stacks_in(paths)
    if len(stacks) > 1:
        if choose is None:
            raise InputRefused(f"the series holds {len(stacks)} volumes: {differences(stacks)}")
        stacks = [stacks[choose([stack.told_apart for stack in stacks])]]
    return _load(stacks, headers)[0]


def read_volumes(paths: Iterable[Path]) -> tuple[Volume, ...]:
    """Read all volumes of a series, at least one, in the order of acquisition. Raises InputRefused as `stacks_of`."""
    headers, stacks = _stacks_in(paths)
    return _load(stacks, headers)


def _stacks_in(paths: Iterable[Path]) -> tuple[dict[Path, _Header], list[SliceStack]]:
    everything = {path: _read_header(path) for path in paths}
    chosen, odd = images_among([header.ds for header in everything.values()])
    if not chosen and odd:
        raise InputRefused(f"the series holds no image: its first object {odd[0].reason}")
    headers = {path: header for n, (path, header) in enumerate(everything.items()) if n in set(chosen)}
    return headers, stacks_of([plane for path, header in headers.items() for plane in planes_of(header.ds, path)])


def _load(stacks: Sequence[SliceStack], headers: dict[Path, _Header]) -> tuple[Volume, ...]:
    """Read the pixels, file by file, and remove each header from `headers`, so that its pixels are freed after use."""
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


def _read_header(path: Path) -> _Header:
    with _readable(path), path.open("rb") as file:
        return _Header(dcmread(file, stop_before_pixels=True), file.tell())


def _read_pixels(path: Path, header: _Header) -> Dataset:
    """Return the dataset of `header` with the rest of its file.

    Parsing a header again would take as long as reading its pixels.
    """
    with _readable(path), path.open("rb") as file:
        if header.ds.file_meta.TransferSyntaxUID.is_deflated:  # its offsets in the file are not those in the dataset
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
        raise  # The disk failed, not the image: the caller may try again.
    except Exception as error:
        raise InputRefused(f"file {path.name} cannot be read as DICOM ({type(error).__name__})") from None


def _pixels(ds: Dataset) -> NDArray[Any]:
    """Decode the pixels as (frame, row, column)."""
    try:
        return ds.pixel_array.reshape(-1, int(ds.Rows), int(ds.Columns))
    except Exception as error:  # decoders raise errors of many kinds, and their texts may quote the header
        raise InputRefused(
            f"the pixels of instance {ds.SOPInstanceUID} cannot be decoded ({type(error).__name__}, "
            f"transfer syntax {ds.file_meta.TransferSyntaxUID.name})"
        ) from None
