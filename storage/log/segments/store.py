"""The segments of all receivers, behind one seam: nothing above it knows that they are files."""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from storage.blobs import Blob
from storage.errors import DamagedFrame
from storage.log.files import sync_folder
from storage.log.segments.disk import read_all
from storage.log.segments.frames import Frame, FrameKind
from storage.log.segments.holes import clear
from storage.log.segments.judged import FrameVerdict, judge_frames
from storage.log.segments.names import LARGE_SUFFIX, WRITER, list_numbers, read_note, segment_path
from storage.log.segments.ranges import InstanceFile, SegmentRange
from storage.log.segments.reader import NOTHING_DELETED, SegmentReader
from storage.log.segments.writer import open_to_clear, seal_segment
from storage.records.instances import Address

LOOKED_FOR = 256  # numbers, one by one, before a folder is listed


class Segments:
    """The segments below the folder `journals`, which has a folder for each receiver.

    `deleted(receiver, number)` returns the end of each deleted frame of a segment, by its offset.
    """

    def __init__(
        self, journals: Path, deleted: Callable[[str, int], Mapping[int, int]] = lambda *_: NOTHING_DELETED
    ) -> None:
        self._journals = journals
        self._deleted = deleted
        self._listed: dict[str, int] = {}  # the largest number of each folder when it was first needed

    def receivers(self) -> list[str]:
        return sorted(folder.name for folder in self._journals.glob("*") if folder.is_dir())

    def numbers(self, receiver: str) -> list[int]:
        """Return the numbers of all of a receiver's segments, oldest first. This lists the whole folder."""
        return list_numbers(self._journals / receiver)

    def following(self, receiver: str, number: int) -> list[int]:
        """Return the numbers from `number` on, oldest first: all, or the first ones if there are many.

        If there are two at least, at least two are returned. The cost does not grow with the number of older segments.
        """
        end = self.end(receiver)
        found = [at for at in range(number, min(end, number + LOOKED_FOR) + 1) if self._path(receiver, at).exists()]
        if len(found) > 1 or end <= number + LOOKED_FOR:
            return found
        return [at for at in self.numbers(receiver) if at >= number][:LOOKED_FOR]  # many numbers are missing

    def last(self, receiver: str) -> int:
        """Return the number of a receiver's last segment; -1 if it has none."""
        end = self.end(receiver)
        for number in range(end, max(0, end - LOOKED_FOR), -1):
            if self._path(receiver, number).exists():
                return number
        return max(self.numbers(receiver), default=-1)

    def end(self, receiver: str) -> int:
        """Return the largest number that a receiver's segment may have so far. It is never used again.

        The folder is listed once, because the note of its writer may be lost, or be older than the segments.
        """
        if receiver not in self._listed:
            self._listed[receiver] = max(self.numbers(receiver), default=0)
        try:
            descriptor = os.open(self._journals / receiver / WRITER, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return self._listed[receiver]
        try:
            return max(self._listed[receiver], read_note(descriptor).last)
        finally:
            os.close(descriptor)

    def exists(self, receiver: str, number: int) -> bool:
        return self._path(receiver, number).exists()

    def size(self, receiver: str, number: int) -> int:
        """Return the length of a segment. Raises FileNotFoundError."""
        return self._path(receiver, number).stat().st_size

    def open(self, receiver: str, number: int) -> SegmentReader:
        """Open a segment for reading its frames."""
        return SegmentReader(self._path(receiver, number), self._deleted(receiver, number))

    def seal(self, receiver: str, number: int) -> None:
        """Seal a segment to which no process appends any more. Raises OSError and Retriable."""
        seal_segment(self._path(receiver, number))

    def has_file(self, receiver: str, frame: Frame) -> bool:
        """Return True if the file of a large instance is beside the segments, as long as its frame says."""
        path = self._journals / receiver / str(frame.meta["file"])
        return path.is_file() and path.stat().st_size == frame.meta["size"]

    def begins_a_life(self, receiver: str, number: int) -> bool:
        """Return True if a segment is the first one of a receiver that was started again."""
        with self.open(receiver, number) as reader:
            frame = next(reader.frames(0), None)
        return frame is not None and frame.kind is FrameKind.STARTED

    def remove_stray_files(self, receiver: str, life: range) -> None:
        """Remove the files of large instances that an ended life of a receiver left, and that none of its frames names.

        `life` are the numbers of its segments.
        """
        strays = {path.name: path for path in (self._journals / receiver).glob(f"*{LARGE_SUFFIX}")}
        strays = {name: path for name, path in strays.items() if int(name.split("-")[0]) in life}
        if not strays:
            return
        for number in self.numbers(receiver):
            if number in life:
                with self.open(receiver, number) as reader:
                    for part in judge_frames(reader, bodies=False):
                        if part.verdict is FrameVerdict.DAMAGED:
                            return  # it may be the frame of one of them
                        if part.frame is not None and part.frame.kind is FrameKind.LARGE_INSTANCE:
                            strays.pop(part.frame.meta["file"], None)
        for path in strays.values():
            path.unlink(missing_ok=True)

    def blob(self, address: Address, checksum: str) -> Blob:
        """Return the blob of an instance. `checksum` is that of its content hashes, which the index has kept."""
        path = self._path(address.receiver, address.segment)
        if address.file is not None:
            return InstanceFile(path.with_name(address.file), address.length, checksum)
        return SegmentRange(path, address.frame_offset, address.body_offset, address.length, checksum)

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

    def punch(self, receiver: str, number: int, ranges: Iterable[tuple[int, int]]) -> None:
        """Destroy the bytes of these ranges, each from its start to its end. They are gone for good on return.

        The segment may still be written. Raises OSError, FileNotFoundError too.
        """
        with open_to_clear(self._path(receiver, number)) as descriptor:
            for start, end in ranges:
                clear(descriptor, start, end)
            os.fsync(descriptor)

    def delete(self, receiver: str, number: int) -> None:
        """Remove a segment of which nothing is wanted any more."""
        self._path(receiver, number).unlink()

    def delete_file(self, receiver: str, name: str) -> None:
        """Remove the file of a large instance, if it is there."""
        (self._journals / receiver / name).unlink(missing_ok=True)

    def sync_names(self, receiver: str) -> None:
        """Make removals of segments and of large files durable. Raises OSError."""
        sync_folder(self._journals / receiver)

    def _path(self, receiver: str, number: int) -> Path:
        return _segment_path(self._journals, receiver, number)


@lru_cache(maxsize=1024)  # all instances of a study lie in a few segments
def _segment_path(journals: Path, receiver: str, number: int) -> Path:
    return segment_path(journals / receiver, number)


def address_of(frame: Frame, receiver: str, segment: int) -> Address:
    """Return the address of what a frame of this segment holds."""
    file = frame.meta.get("file")
    if file is not None:
        return Address(receiver, segment, frame.offset, 0, int(frame.meta["size"]), str(file))
    return Address(receiver, segment, frame.offset, frame.body_offset, frame.head.body_bytes)
