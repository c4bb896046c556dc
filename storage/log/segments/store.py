"""The segments of all receivers, behind one seam: nothing above it knows that they are files."""

import os
from pathlib import Path

from storage.errors import DamagedFrame
from storage.log.segments.disk import read_all
from storage.log.segments.names import list_segments, segment_number, segment_path
from storage.log.segments.reader import SegmentReader
from storage.log.segments.writer import seal_segment
from storage.records.instances import Address


class Segments:
    """The segments below the folder `journals`, which has a folder for each receiver."""

    def __init__(self, journals: Path) -> None:
        self._journals = journals

    def receivers(self) -> list[str]:
        return sorted(folder.name for folder in self._journals.glob("*") if folder.is_dir())

    def numbers(self, receiver: str) -> list[int]:
        """Return the numbers of a receiver's segments, oldest first."""
        return [segment_number(path) for path in list_segments(self._journals / receiver)]

    def open(self, receiver: str, number: int) -> SegmentReader:
        """Open a segment for reading its frames."""
        return SegmentReader(self._path(receiver, number))

    def seal(self, receiver: str, number: int) -> None:
        """Seal a segment to which no process appends any more. Raises OSError and Retriable."""
        seal_segment(self._path(receiver, number))

    def read(self, address: Address) -> bytes:
        """Return the Part 10 file at this address. Raises DamagedFrame if it ends before its end, and OSError."""
        path = self._path(address.receiver, address.segment)
        path = path if address.file is None else path.with_name(address.file)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = read_all(descriptor, address.body_offset, address.length)
        finally:
            os.close(descriptor)
        if len(found) < address.length:
            raise DamagedFrame("A segment ends before the bytes that are read from it")
        return found

    def delete(self, receiver: str, number: int) -> None:
        """Remove a segment of which nothing is wanted any more."""
        self._path(receiver, number).unlink()

    def _path(self, receiver: str, number: int) -> Path:
        return segment_path(self._journals / receiver, number)
