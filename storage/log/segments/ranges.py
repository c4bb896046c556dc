"""The blobs of logged instances: a range of a segment, and a file of its own.

Many readers may read the ranges of one segment, so that it is opened once and read with `pread`. It is not mapped into
memory, because an error of the disk would then be a signal that ends the process.
"""

import errno
import io
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from pydicom.filereader import _read_file_meta_info, read_preamble

from storage.blobs import open_to_parse
from storage.errors import MalformedObject
from storage.log.headers.instance_reader import read_whole
from storage.log.segments.disk import drop_cached, read_all
from storage.log.segments.reader import frame_at, is_whole
from storage.records.instances import ContentHashes

OPEN_SEGMENTS = 16  # that a process keeps open for the next range, at most
_BUFFERED = 64 * 1024
_PREFIX_AT = 128  # of a Part 10 file (PS3.10 7.1)
_PUNCHED = bytes(4)  # instead of the prefix DICM


@dataclass(frozen=True)
class SegmentRange:
    """The `size` bytes from `offset` of a segment on, which are the body of the frame at `frame_offset`."""

    path: Path
    frame_offset: int = field(compare=False)
    offset: int
    size: int
    checksum: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.path}:{self.offset}+{self.size}"

    def open(self) -> io.BufferedReader:
        """Open the range. A read raises FileNotFoundError if the instance was deleted, and never returns zeros."""
        return io.BufferedReader(_Window(self), _BUFFERED)

    def is_intact(self) -> bool:
        """Read the frame from the disk, and return True if it is the one that was written."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            drop_cached(descriptor, self.frame_offset, self.offset + self.size)
            frame = frame_at(descriptor, self.frame_offset)
            body = read_all(descriptor, self.offset, self.size)
        finally:
            os.close(descriptor)
        whole = frame is not None and is_whole(frame, body)
        return whole and _hashes(io.BytesIO(body)).checksum == self.checksum


@dataclass(frozen=True)
class InstanceFile:
    """An instance that is a file of its own: a large one beside the segments, or one that release 0.1 filed."""

    path: Path
    size: int = field(compare=False)
    checksum: str = field(compare=False)

    def __str__(self) -> str:
        return str(self.path)

    def open(self) -> io.BufferedReader:
        return self.path.open("rb")

    def is_intact(self) -> bool:
        """Read the file from the disk, and return True if it has the size and the hashes that the index has kept."""
        try:
            with open_to_parse(self) as file:
                length = file.seek(0, os.SEEK_END)
                drop_cached(file.fileno(), 0, length)
                file.seek(0)
                return length == self.size and _hashes(file).checksum == self.checksum
        except MalformedObject:
            return False


class _Segment:
    """A segment that is open for reading. It is closed once no reader has it any more."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


@lru_cache(OPEN_SEGMENTS)
def _opened(path: Path) -> _Segment:
    return _Segment(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def _segment(path: Path) -> _Segment:
    segment = _opened(path)
    if os.fstat(segment.descriptor).st_nlink == 0:  # removed, or replaced by another file, since it was opened
        _opened.cache_clear()
        segment = _opened(path)
    return segment


class _Window(io.RawIOBase):
    """The bytes of a range. It has no `fileno`, because whoever asks for one would read other instances too."""

    def __init__(self, blob: SegmentRange) -> None:
        super().__init__()
        self.name = str(blob)
        self._begin, self._size, self._at = blob.offset, blob.size, 0
        self._segment: _Segment | None = _segment(blob.path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence] + offset
        if at < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self.name)
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = memoryview(buffer)[: max(0, self._size - self._at)]
        if not wanted or self._segment is None:
            return 0
        descriptor = self._segment.descriptor
        try:
            read = os.preadv(descriptor, [wanted], self._begin + self._at)
            prefix = os.pread(descriptor, len(_PUNCHED), self._begin + _PREFIX_AT)
        except OSError:
            _opened.cache_clear()  # the next attempt opens the segment anew: its file system may be mounted again
            raise
        # The prefix is looked at after the read. So a deletion, which zeroes it first, cannot come between unnoticed.
        if prefix == _PUNCHED:
            raise FileNotFoundError(errno.ENOENT, "The instance was deleted", self.name)
        if not read:
            raise OSError(errno.EIO, "The segment ends before the instance does", self.name)
        self._at += read
        return read

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(max(0, self._size - self._at)), b""))

    def close(self) -> None:
        self._segment = None
        super().close()


def _hashes(file: BinaryIO) -> ContentHashes:
    """Return the hashes of a Part 10 file. Raises errors of many kinds if it is none."""
    read_preamble(file, force=False)
    return read_whole(file, str(_read_file_meta_info(file).TransferSyntaxUID)).hashes()
