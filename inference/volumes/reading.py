"""The reading of volumes from the instances of a series."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.headers.decoding import pattern_of
from inference.headers.image_content import is_signal
from inference.headers.images import images_among
from inference.headers.pixels import read_pixels
from inference.headers.reading import Beginning, read_beginnings
from inference.volumes.geometry import Array
from inference.volumes.planes import ASSUMED, B_VALUE, planes_of_each
from inference.volumes.stacks import SliceStack, confirm_unweighted, differences, stacks_of
from inference.volumes.values import FrameValues, refuse_mixed, values_of
from inference.volumes.volume import FrameReference, UnitValues, Volume
from storage.blobs import Blob
from storage.errors import InputRefused

VolumeChoice = Callable[[Sequence[Mapping[str, Any]]], int | None]
"""Chooses one of several volumes by what tells each apart (`Volume.told_apart`): its index, None if none is meant."""


def read_volume(blobs: Iterable[Blob], choose: VolumeChoice | None = None) -> Volume:
    """Read the only volume of a series, or the volume among several that `choose` returns.

    Raises InputRefused, with the reason, if the series makes no volume, or several volumes and `choose` is None.
    """
    images, stacks = _stacks_in(blobs)
    if len(stacks) > 1:
        chosen = choose([stack.told_apart for stack in stacks]) if choose is not None else None
        if chosen is None:
            raise InputRefused(f"the series holds {len(stacks)} volumes: {differences(stacks)}")
        if ASSUMED in stacks[chosen].told_apart:  # only the pixels of the others can confirm the b-value
            volume = confirm_unweighted(_load(stacks, images))[chosen]
            if B_VALUE not in volume.told_apart:
                raise InputRefused(
                    "the images that state no b-value are not brighter than the weighted ones, so they are not those "
                    "without diffusion weighting"
                )
            return volume
        stacks = [stacks[chosen]]
    return confirm_unweighted(_load(stacks, images))[0]


def read_volumes(blobs: Iterable[Blob]) -> tuple[Volume, ...]:
    """Read all volumes of a series, at least one, in the order of acquisition. Raises InputRefused as `stacks_of`."""
    images, stacks = _stacks_in(blobs)
    return confirm_unweighted(_load(stacks, images))


def _stacks_in(blobs: Iterable[Blob]) -> tuple[dict[int, Beginning], list[SliceStack]]:
    """Return the beginnings of the images, numbered in the order of `blobs`, and the stacks that their planes make."""
    everything = read_beginnings(blobs)
    chosen, odd = images_among([beginning.header for beginning in everything])
    if not chosen and odd:
        raise InputRefused(f"the series holds no image: its first object {odd[0].reason}")
    images = dict(enumerate(everything[n] for n in sorted(chosen)))
    return images, stacks_of(list(planes_of_each(image.header for image in images.values())))


def _load(stacks: Sequence[SliceStack], images: dict[int, Beginning]) -> tuple[Volume, ...]:
    """Read the pixels, instance by instance, and remove each from `images`, so that its pixels are freed after use."""
    blobs = {n: image.blob for n, image in images.items()}
    any_header = next(iter(images.values())).header
    study_instance_uid, series_instance_uid = str(any_header.StudyInstanceUID), str(any_header.SeriesInstanceUID)
    modality = str(any_header.get("Modality", ""))
    values = [_values_of_each(stack, images) for stack in stacks]
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
        pixels = read_pixels(images.pop(n))
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


def _values_of_each(stack: SliceStack, images: Mapping[int, Beginning]) -> list[FrameValues]:
    """Return what `values_of` returns for each plane of a stack. It is called once for each pattern of headers."""
    known: dict[Hashable, FrameValues] = {}
    found = []
    for plane in stack.planes:
        header = images[plane.instance].header
        key = pattern_of(header) or (plane.instance, plane.frame_number, plane.tile)
        if key not in known:
            known[key] = values_of(header, plane.frame_number, stack.told_apart, plane.label)
        found.append(known[key])
    return found


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
