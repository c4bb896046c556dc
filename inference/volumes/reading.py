"""The reading of volumes from the instances of a series."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from inference.headers.image_content import is_signal
from inference.headers.images import image_name, images_among
from inference.volumes.geometry import Array
from inference.volumes.planes import ASSUMED, B_VALUE, planes_of
from inference.volumes.stacks import SliceStack, confirm_unweighted, differences, stacks_of
from inference.volumes.values import FrameValues, refuse_mixed, values_of
from inference.volumes.volume import FrameReference, UnitValues, Volume
from storage.blobs import Blob
from storage.errors import InputRefused


@dataclass(frozen=True, eq=False)
class _Header:
    """The header of an instance before its pixels, and the byte of its file at which it ends."""

    blob: Blob
    ds: Dataset
    end: int


VolumeChoice = Callable[[Sequence[Mapping[str, Any]]], int | None]
"""Chooses one of several volumes by what tells each apart (`Volume.told_apart`): its index, None if none is meant."""


def read_volume(blobs: Iterable[Blob], choose: VolumeChoice | None = None) -> Volume:
    """Read the only volume of a series, or the volume among several that `choose` returns.

    Raises InputRefused, with the reason, if the series makes no volume, or several volumes and `choose` is None.
    """
    headers, stacks = _stacks_in(blobs)
    if len(stacks) > 1:
        chosen = choose([stack.told_apart for stack in stacks]) if choose is not None else None
        if chosen is None:
            raise InputRefused(f"the series holds {len(stacks)} volumes: {differences(stacks)}")
        if ASSUMED in stacks[chosen].told_apart:  # only the pixels of the others can confirm the b-value
            volume = confirm_unweighted(_load(stacks, headers))[chosen]
            if B_VALUE not in volume.told_apart:
                raise InputRefused(
                    "the images that state no b-value are not brighter than the weighted ones, so they are not those "
                    "without diffusion weighting"
                )
            return volume
        stacks = [stacks[chosen]]
    return confirm_unweighted(_load(stacks, headers))[0]


def read_volumes(blobs: Iterable[Blob]) -> tuple[Volume, ...]:
    """Read all volumes of a series, at least one, in the order of acquisition. Raises InputRefused as `stacks_of`."""
    headers, stacks = _stacks_in(blobs)
    return confirm_unweighted(_load(stacks, headers))


def _stacks_in(blobs: Iterable[Blob]) -> tuple[dict[int, _Header], list[SliceStack]]:
    """Return the headers of the images, numbered in the order of `blobs`, and the stacks that their planes make."""
    everything = list(map(_begin, blobs))
    chosen, odd = images_among([header.ds for header in everything])
    if not chosen and odd:
        raise InputRefused(f"the series holds no image: its first object {odd[0].reason}")
    headers = {n: everything[n] for n in sorted(chosen)}
    return headers, stacks_of([plane for n, header in headers.items() for plane in planes_of(header.ds, n)])


def _load(stacks: Sequence[SliceStack], headers: dict[int, _Header]) -> tuple[Volume, ...]:
    """Read the pixels, instance by instance, and remove each from `headers`, so that its pixels are freed after use."""
    blobs = {n: header.blob for n, header in headers.items()}
    any_header = next(iter(headers.values())).ds
    study_instance_uid, series_instance_uid = str(any_header.StudyInstanceUID), str(any_header.SeriesInstanceUID)
    modality = str(any_header.get("Modality", ""))
    values = [
        [values_of(headers[p.instance].ds, p.frame_number, stack.told_apart, p.label) for p in stack.planes]
        for stack in stacks
    ]
    refuse_mixed(
        (plane.label, stack.told_apart, found)
        for stack, frames in zip(stacks, values, strict=True)
        for plane, found in zip(stack.planes, frames, strict=True)
    )
    filled = [_Slices(stack, frames) for stack, frames in zip(stacks, values, strict=True)]
    wanted: dict[int, list[tuple[_Slices, int]]] = {}
    for slices in filled:
        for k, plane in enumerate(slices.stack.planes):
            wanted.setdefault(plane.instance, []).append((slices, k))
    for n in sorted(wanted):  # the order in which storage gives them is that in which they lie
        pixels = _pixels(_read_on(headers.pop(n)))
        for slices, k in wanted[n]:
            slices.fill(k, pixels)
    return tuple(
        Volume(
            array=slices.array,
            geometry=slices.stack.geometry,
            frames=tuple(
                FrameReference(p.sop_class_uid, p.sop_instance_uid, p.frame_number, blobs[p.instance], p.tile)
                for p in slices.stack.planes
            ),
            study_instance_uid=study_instance_uid,
            series_instance_uid=series_instance_uid,
            frame_of_reference_uid=slices.stack.planes[0].frame_of_reference_uid,
            modality=modality,
            told_apart=slices.stack.told_apart,
            unit=slices.unit,
            others=slices.others,
            display_scale=slices.display_scale,
        )
        for slices in filled
    )


class _Slices:
    """The arrays of one volume, which are filled slice by slice. Their unit is that of the first slice."""

    def __init__(self, stack: SliceStack, values: Sequence[FrameValues]) -> None:
        self.stack = stack
        self._values = values
        self._signal = is_signal(stack.told_apart)
        self.array = np.empty(stack.geometry.shape, np.float32)
        self.unit = values[0].numbers.unit
        self.others = tuple(
            UnitValues(other.unit, np.empty(stack.geometry.shape, np.float32))
            for other in values[0].others
            if other.unit is not None
        )
        scales = np.array([found.numbers.display_scale for found in values], np.float32)
        self.display_scale: Array | float = 1.0 if (scales == 1).all() else scales[:, None, None]

    def fill(self, k: int, pixels: NDArray[Any]) -> None:
        """Fill slice `k` from the `pixels` of its file, (frame, row, column)."""
        plane, found = self.stack.planes[k], self._values[k]
        stored = pixels[(plane.frame_number or 1) - 1]
        if plane.tile is not None:
            row, column = plane.tile
            stored = stored[row : row + plane.rows, column : column + plane.columns]
        found.check(stored, plane.label)
        if found.numbers.identity:
            self.array[k] = stored
        else:
            numbers = found.numbers.applied(stored, self.unit)
            # Neither a fit nor a network can use a signal without a number: it counts as none.
            self.array[k] = np.nan_to_num(numbers, copy=False) if self._signal and not self._measured else numbers
        for other, chosen in zip(self.others, found.others, strict=True):
            other.array[k] = chosen.applied(stored, other.unit)

    @property
    def _measured(self) -> bool:
        return self.unit is not None and not self.unit.arbitrary


def _begin(blob: Blob) -> _Header:
    with _readable(), blob.open() as file:
        return _Header(blob, dcmread(file, stop_before_pixels=True), file.tell())


def _read_on(header: _Header) -> Dataset:
    """Return the dataset of `header` with the rest of its file.

    Parsing a header again would take as long as reading its pixels. The file was closed in between, because a series
    may have more instances than a process may have open files.
    """
    with _readable(), header.blob.open() as file:
        if header.ds.file_meta.TransferSyntaxUID.is_deflated:  # its offsets in the file are not those in the dataset
            return dcmread(file)
        file.seek(header.end)
        implicit, little = header.ds.original_encoding
        header.ds.update(read_dataset(file, bool(implicit), bool(little)))
        return header.ds


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError):
        raise  # The machine failed, not the image: the caller may try again.
    except Exception as error:
        raise InputRefused(f"a file of the series cannot be read as DICOM ({type(error).__name__})") from None


def _pixels(ds: Dataset) -> NDArray[Any]:
    """Decode the pixels as (frame, row, column)."""
    if not ds.get("SamplesPerPixel"):
        ds.SamplesPerPixel = 1  # an image that states none is no colour image, but the decoder asks for a number
    try:
        return ds.pixel_array.reshape(-1, int(ds.Rows), int(ds.Columns))
    except MemoryError:
        raise
    except Exception as error:  # decoders raise errors of many kinds, and their texts may quote the header
        raise InputRefused(
            f"the pixels of {image_name(ds)} cannot be decoded ({type(error).__name__}, "
            f"transfer syntax {ds.file_meta.TransferSyntaxUID.name})"
        ) from None
