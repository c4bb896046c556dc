"""Classic images are read by a few elements of their headers, as if by all of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from inference.headers.decoding import pattern_of
from inference.headers.images import images_among
from inference.headers.pixels import read_pixels
from inference.headers.private import PrivateElements
from inference.headers.reading import Beginning, read_beginning, read_beginnings
from inference.headers.trimmed.elements import FUNCTIONAL_GROUPS, SPECIFIC_CHARACTER_SET, TILED, UIDS, VOLUME_ELEMENTS
from inference.headers.trimmed.scanning import read_trimmed_header
from inference.volumes.planes import planes_of
from inference.volumes.reading import read_volume
from inference.volumes.tiles import TileFormat
from inference.volumes.values import values_of
from storage.blobs import Blob, FileBlob, file_blobs
from storage.errors import InputRefused
from tests.inference.volumes.test_odd_objects import SLICES, image, write
from tests.receive.test_odd_datasets import element

FEW = 3  # images of each series
SERIES = Tag("SeriesInstanceUID")


def is_trimmed(beginning: Beginning) -> bool:
    return pattern_of(beginning.header) is not None


def few_of_each_series(folder: Path) -> Iterator[list[Blob]]:
    series: dict[tuple[Path, bytes], list[Blob]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            trimmed = read_trimmed_header(file)
        if trimmed is not None:
            blobs = series.setdefault((path.parent, trimmed.elements[SERIES]), [])
            if len(blobs) < FEW:
                blobs.append(FileBlob(path))
    yield from series.values()


def element_of(ds: Dataset, tag: int) -> tuple[str, str] | None:
    return (str(ds[tag].VR), repr(ds[tag].value)) if tag in ds else None


def test_a_trimmed_header_has_the_listed_elements_of_the_whole_one(test_data: Path) -> None:
    trimmed = 0
    for blobs in few_of_each_series(test_data):
        for found in filter(is_trimmed, read_beginnings(blobs)):
            whole = read_beginning(found.blob)
            name = str(found.blob)
            assert found.end == whole.end, name
            assert found.header.file_meta.TransferSyntaxUID == whole.header.file_meta.TransferSyntaxUID, name
            assert found.header.original_encoding == whole.header.original_encoding, name
            for tag in VOLUME_ELEMENTS & {*whole.header.keys(), *found.header.keys()}:
                assert element_of(found.header, tag) == element_of(whole.header, tag), (name, Tag(tag))
            trimmed += 1
    assert trimmed > 200


# -- the list ----------------------------------------------------------------------------------------------------------


class Asked(Dataset):
    """A dataset that notes which of its elements anyone asked for, absent ones too."""

    noted: ClassVar[set[int]] = set()

    def _note(self, key: Any) -> None:
        try:
            self.noted.add(int(Tag(key)))
        except Exception:  # an attribute of Python
            return

    def get(self, key: Any, default: Any = None) -> Any:
        self._note(key)
        return super().get(key, default)

    def __getattr__(self, name: str) -> Any:
        self._note(name)
        return super().__getattr__(name)

    def __contains__(self, key: Any) -> bool:
        self._note(key)
        return super().__contains__(key)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, slice):
            self._note(key)
        return super().__getitem__(key)


def test_the_list_has_what_volumes_are_made_of_and_nothing_else(
    test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epi = file_blobs(write(tmp_path, image(1, PulseSequenceName="epi_pepolar")))
    private: set[tuple[int, int]] = set()
    value = PrivateElements.value

    def noting(self: PrivateElements, group: int, creator: str, element: int, vendor: str = "") -> Any:
        private.add((group, element))
        return value(self, group, creator, element, vendor)

    monkeypatch.setattr(PrivateElements, "value", noting)
    Asked.noted.clear()
    for blobs in [*few_of_each_series(test_data / "mr"), epi]:
        asked = []
        for beginning in (read_beginning(found.blob) for found in read_beginnings(blobs) if is_trimmed(found)):
            list(beginning.header)  # pydicom asks for Pixel Representation where it converts a value the first time
            ds = Asked(beginning.header)
            ds.file_meta = beginning.header.file_meta
            ds.set_original_encoding(*beginning.header.original_encoding)
            asked.append(Beginning(beginning.blob, ds, beginning.end))
        chosen, _ = images_among([beginning.header for beginning in asked])
        for beginning in (asked[n] for n in chosen):
            ds = beginning.header
            try:
                for plane in planes_of(ds):
                    values_of(ds, plane.frame_number, plane.told_apart, plane.label)
                if ds.file_meta.TransferSyntaxUID in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
                    read_pixels(beginning)
            except InputRefused:
                continue
    assert private == {(tag >> 16, tag & 0xFF) for tag in VOLUME_ELEMENTS if tag & 0x10000 and tag >> 8 & 0xFF == 0x10}
    public = {tag for tag in Asked.noted if not tag & 0x10000}
    listed = {tag for tag in VOLUME_ELEMENTS if not tag & 0x10000}
    assert public - FUNCTIONAL_GROUPS | {SPECIFIC_CHARACTER_SET, *UIDS} == listed
    assert {tiled.decode() for tiled in TILED} == {*TileFormat}


# -- what is not as the standard says ----------------------------------------------------------------------------------


def odd(folder: Path, change: Callable[[bytes], bytes]) -> list[Blob]:
    """A series of SLICES images, the bytes of which are changed."""
    paths = write(folder, *(image(number, RescaleSlope=2, RescaleIntercept=0) for number in range(SLICES)))
    for path in paths:
        path.write_bytes(change(path.read_bytes()))
    return list(file_blobs(paths))


def inserted(odd: bytes) -> Callable[[bytes], bytes]:
    """Insert bytes before Scanning Sequence."""
    return lambda encoded: encoded.replace(b"\x18\0\x20\0CS", odd + b"\x18\0\x20\0CS", 1)


OPEN, ITEM_END, END = b"\xff" * 4, b"\xfe\xff\x0d\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
ITEM = b"\xfe\xff\x00\xe0"
INSIDE = element(0x00080100, b"SH", b"12")
SEQUENCE = b"\x18\0\x12\0SQ\0\0" + OPEN
USUAL = {
    "nothing": b"",
    "a long header": element(0x00170010, b"LO", b"CREATOR ") + element(0x00171010, b"OB", bytes(2**17)),
    "an open sequence": SEQUENCE + ITEM + OPEN + INSIDE + ITEM_END + ITEM + bytes((10, 0, 0, 0)) + INSIDE + END,
    "an empty open sequence": SEQUENCE + END,
}
UNUSUAL = {
    "an element out of order": element(0x00180050, b"DS", b"3 "),
    "an unknown VR": element(0x00180010, b"XX", b"ab"),
    "an open element of bytes": b"\x17\0\x10\x10OB\0\0" + OPEN + ITEM + bytes(4) + END,
    "an item that ends too early": SEQUENCE + ITEM + bytes((9, 0, 0, 0)) + INSIDE + END,
    "an item without end": SEQUENCE + ITEM + OPEN + INSIDE + END,
}


@pytest.mark.parametrize("name", USUAL | UNUSUAL)
def test_headers_as_the_standard_says_are_trimmed_and_others_read_by_pydicom(name: str, tmp_path: Path) -> None:
    blobs = odd(tmp_path, inserted((USUAL | UNUSUAL)[name]))
    found = read_beginnings(blobs)
    assert list(map(is_trimmed, found)) == [name in USUAL] * SLICES
    whole = list(map(read_beginning, blobs))
    assert [type(one.header) for one in whole if name in UNUSUAL] == [type(b.header) for b in found if name in UNUSUAL]
    if name in USUAL:
        assert [beginning.end for beginning in found] == [beginning.end for beginning in whole]
        assert read_volume(blobs).array[:, 0, 0].tolist() == [2 * number for number in range(SLICES)]


def test_a_foreign_group_in_the_file_meta_information_is_left_to_pydicom(tmp_path: Path) -> None:
    blobs = odd(tmp_path, lambda encoded: encoded.replace(b"\x02\0\x13\0SH", b"\x02a\x13\0SH", 1))
    assert not any(map(is_trimmed, read_beginnings(blobs)))


PHILIPS = element(0x20050010, b"LO", b"Philips MR Imaging DD 001 ")
PIXELS = b"\xe0\x7f\x10\0OW"
UNREADABLE: dict[str, Callable[[bytes], bytes]] = {
    "letters": lambda encoded: encoded.replace(b"DS\x04\x002.0 ", b"DS\x04\0x.0 ", 1),
    "a Scale Slope of six bytes": lambda encoded: encoded.replace(
        PIXELS, PHILIPS + element(0x2005100E, b"FL", bytes(6)) + PIXELS, 1
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_value_that_cannot_be_read_is_refused_and_never_taken_for_absent(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="the mapping of its stored values cannot be read"):
        read_volume(odd(tmp_path, UNREADABLE[name]))


def test_compressed_images_are_decoded_by_all_of_their_elements(tmp_path: Path) -> None:
    paths = write(tmp_path, *(image(number) for number in range(SLICES)))
    for path in paths:
        ds = dcmread(path)
        ds.compress(RLELossless)
        ds.save_as(path)
    blobs = file_blobs(paths)
    found = read_beginnings(blobs)
    assert all(map(is_trimmed, found))
    assert np.array_equal(read_pixels(found[1]), dcmread(paths[1]).pixel_array[None])
    assert read_volume(blobs).array[:, 0, 0].tolist() == [*range(SLICES)]
