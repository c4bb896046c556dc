"""Instances that cannot be read: told apart from trouble of the machine, and left out of their series."""

import errno
from collections.abc import Callable
from datetime import date
from io import BufferedReader, BytesIO
from pathlib import Path

import pytest

from dicom_node.read.visits import read_acquisition_date, read_visit
from inference.headers.reading import UnreadableHeader, read_beginning, read_header
from inference.series.kinds import Kind
from inference.series.recogniser import read_headers, recognise_headers
from inference.volumes.reading import read_volume
from storage.blobs import FileBlob, file_blobs
from storage.errors import InputRefused, MalformedObject
from storage.log.headers.patient_header import read_identity
from storage.records.patients import NOBODY
from tests.inference.volumes.test_odd_objects import SLICES, image, write
from tests.receive.test_odd_datasets import ITEM, OPEN, REFERENCE, SEQUENCE, SEQUENCE_DELIMITER, STUDY, element

OPEN_ITEM = SEQUENCE + ITEM + OPEN + REFERENCE + SEQUENCE_DELIMITER  # pydicom raises an OSError without a number
QUESTION = element(0x00091010, b"??", b"abcdef")  # it reads no further
CUT_OFF = element(0x00091010, b"OB", b"abc", length=b"\xf0\xff\xff\xff")


def insert(path: Path, odd: bytes, before: bytes = b"\x20\x00\x0d\x00") -> None:
    """Put bytes before an element of a file, which is that of the Study Instance UID unless another is named."""
    encoded = path.read_bytes()
    at = encoded.index(before)
    path.write_bytes(encoded[:at] + odd + encoded[at:])


def put_uid_last(path: Path) -> None:
    encoded = path.read_bytes()
    at = encoded.index(STUDY[:6])
    length = 8 + int.from_bytes(encoded[at + 6 : at + 8], "little")
    path.write_bytes(encoded[:at] + encoded[at + length :] + encoded[at : at + length])


ODD: dict[str, Callable[[Path], None]] = {
    "no end of an item": lambda path: insert(path, OPEN_ITEM),
    "a VR of question marks": lambda path: insert(path, QUESTION),
    "an element that is cut off": lambda path: insert(path, CUT_OFF),
    "a UID behind the pixels": put_uid_last,
    "no DICOM": lambda path: path.write_bytes(b"nothing"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_unreadable_object_is_left_out_of_its_series(name: str, tmp_path: Path) -> None:
    paths = write(tmp_path, *(image(number) for number in range(SLICES + 1)))
    ODD[name](paths[-1])
    blobs = file_blobs(paths)
    assert isinstance(read_beginning(blobs[-1]).header, UnreadableHeader)
    assert read_volume(blobs).array[:, 0, 0].tolist() == [*range(SLICES)]
    found = recognise_headers(read_headers(blobs))
    told = "an object without number is left out: it cannot be read as DICOM"
    assert (found.kind, found.slices, found.problem) == (Kind.T1W, SLICES, "")
    assert told in found.reasons

    ODD[name](paths[2])
    found = recognise_headers(read_headers(blobs))
    assert "1 slice(s) missing" in found.problem
    assert "2 objects are left out: each cannot be read as DICOM" in found.problem

    found = recognise_headers(read_headers([blobs[2], blobs[-1]]))
    assert (found.kind, found.reasons) == (Kind.UNKNOWN, ("2 objects are left out: each cannot be read as DICOM",))
    with pytest.raises(InputRefused, match="cannot be read as DICOM"):
        read_volume([blobs[-1]])


def test_malformed_bytes_are_no_trouble_of_the_machine(tmp_path: Path) -> None:
    (path,) = write(tmp_path, image(1))
    insert(path, OPEN_ITEM, before=b"\x08\x00\x16\x00")
    assert read_identity(FileBlob(path)) == NOBODY
    assert read_visit([FileBlob(path)]) is None
    with pytest.raises(MalformedObject):
        read_header(FileBlob(path))


def test_trouble_of_the_machine_is_no_malformed_object() -> None:
    class Failing(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, "the disk")

    class OnBrokenDisk(FileBlob):
        def open(self) -> BufferedReader:
            return Failing()  # type: ignore[return-value]

    for read in (read_header, read_beginning, read_identity, lambda blob: read_visit([blob])):
        with pytest.raises(OSError, match="the disk"):
            read(OnBrokenDisk(Path("x")))


def test_an_odd_value_of_a_date_costs_that_date_alone(tmp_path: Path) -> None:
    (path,) = write(tmp_path, image(1, AcquisitionDate="20260102"))
    insert(path, element(0x00080020, b"XY", b"20260101"), before=b"\x08\x00\x22\x00")
    visit = read_visit([FileBlob(path)])
    assert visit is not None
    assert (visit.day, visit.time) == (date(2026, 1, 2), "")
    assert read_acquisition_date([FileBlob(path)]) == date(2026, 1, 2)
