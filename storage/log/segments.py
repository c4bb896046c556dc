"""The segments of a journal: files of frames that follow one another, and the files of large instances beside them.

A frame that a crash cut off is short, or has a wrong checksum, and ends its segment. Such a frame was never
acknowledged, unless the device lost bytes that it had reported as written. Therefore damaged bytes are kept, unless
they are plainly the beginning of a frame.
"""

import errno
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from storage.errors import Retriable, StorageFull
from storage.log.files import BytesLike, sync_folder
from storage.log.frames import HEAD_BYTES, MAGIC, Frame, FrameKind, decode_content, decode_head

SEGMENT_SUFFIX = ".log"
LARGE_SUFFIX = ".large"
FLUSHES = 8  # that may run at once on one segment


def list_segments(folder: Path) -> list[Path]:
    """Return the segments of a journal, oldest first."""
    return sorted(folder.glob(f"[0-9]*{SEGMENT_SUFFIX}"))


def segment_number(segment: Path) -> int:
    return int(segment.name.removesuffix(SEGMENT_SUFFIX))


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"{number:08}{SEGMENT_SUFFIX}"


def large_file_path(folder: Path, segment: int, number: int) -> Path:
    """Return the path for a large file. Its name tells that the file is newer than all segments before `segment`."""
    return folder / f"{segment:08}-{number}{LARGE_SUFFIX}"


def remove_stray_files(folder: Path, retired: int, following: int | None) -> None:
    """Remove the files of large instances that no frame can name any more.

    All segments up to `retired` are filed and removed. The segment `following`, if there is one, must be the first one
    of a receiver that was started again; otherwise nothing is removed.
    """
    if following is not None:
        with SegmentReader(segment_path(folder, following)) as reader:
            frame = next(reader.frames(0), None)
        if frame is None or frame.kind is not FrameKind.STARTED:
            return
    for path in folder.glob(f"*{LARGE_SUFFIX}"):
        if int(path.name.split("-")[0]) <= retired:
            path.unlink(missing_ok=True)


class SegmentWriter:
    """The segment that a journal appends to.

    Frames are appended under the journal's lock. Up to FLUSHES threads flush at once, and further threads share the
    next flush. So a thread never waits for two flushes, one that began before it appended and another one.

    Each flush uses a file descriptor of its own, opened before the first write. Linux reports a failed write-back once
    to each descriptor, and the report must not go to a thread that waits for other frames.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.failed = False  # nothing may be appended any more
        self._flushed = 0
        self._noting = threading.Lock()
        self._flushing = threading.BoundedSemaphore(FLUSHES)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        self._idle = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for _ in range(FLUSHES)]

    def append(self, parts: Sequence[BytesLike]) -> int:
        """Append a frame, and return the offset of its end. If this fails, cut off the part that was written."""
        try:
            with DiskErrors():
                _write_all(self._descriptor, parts)
        except Retriable:
            try:
                os.ftruncate(self._descriptor, self.size)
                os.lseek(self._descriptor, self.size, os.SEEK_SET)
            except OSError:
                self.failed = True  # its torn tail ends it; the next frame begins another segment
            raise
        self.size += sum(len(part) for part in parts)
        return self.size

    def flush(self, end: int) -> None:
        """Make everything up to `end` durable. Raises OSError; the kernel may then have dropped written bytes."""
        with self._flushing:
            if self._flushed >= end:
                return
            if self.failed:
                raise OSError(errno.EIO, "an earlier flush of the segment failed")
            written = self.size
            descriptor = self._idle.pop()
            try:
                os.fdatasync(descriptor)
            except OSError:
                self.failed = True
                raise
            finally:
                self._idle.append(descriptor)
            with self._noting:
                self._flushed = max(self._flushed, written)

    def close(self) -> None:
        """Flush for the threads that still wait, and close.

        After a failed flush nothing is flushed any more: the kernel reports dropped bytes only once, so a second flush
        would succeed without them.
        """
        for _ in range(FLUSHES):  # wait until no flush runs any more
            self._flushing.acquire()
        try:
            if self._descriptor < 0:
                return
            try:
                if not self.failed:
                    os.fdatasync(self._idle[0])
                    self._flushed = self.size
            except OSError:
                self.failed = True
            for descriptor in (self._descriptor, *self._idle):
                os.close(descriptor)
            self._descriptor = -1
        finally:
            self._flushing.release(FLUSHES)


class SegmentReader:
    """A reader of the frames of a segment that may still grow. `path` must exist.

    Only the bytes that were there at the start are read, because a reader that follows the writer would get one frame
    at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self.descriptor).st_size

    def __enter__(self) -> "SegmentReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self.descriptor)

    def sync(self) -> None:
        """Make the bytes that were read durable: a row must never refer to bytes that a loss of power destroys."""
        os.fdatasync(self.descriptor)

    def frames(self, start: int) -> Iterator[Frame]:
        """Yield the whole frames from `start` on, up to the first one that is unfinished or damaged."""
        while True:
            frame = self._frame(start)
            if frame is None:
                return
            yield frame
            start = frame.end

    def next_frame(self, start: int) -> int | None:
        """Return the offset of the next whole frame, at `start` or after damaged bytes; None if there is none.

        Frames are appended one after another. Therefore bytes before a whole frame are damaged, and not a frame that is
        still being written.
        """
        if self._frame(start) is not None:
            return start
        if self.size - start < HEAD_BYTES:
            return None
        with mmap.mmap(self.descriptor, self.size, access=mmap.ACCESS_READ) as content:
            at = content.find(MAGIC, start + 1)
            while at >= 0:
                if self._frame(at) is not None:
                    return at
                at = content.find(MAGIC, at + 1)
        return None

    def is_cut_off(self, start: int) -> bool:
        """Return True if the bytes from `start` on were certainly never flushed.

        They are then the beginning of a frame without its end, or space that was reserved and not written.
        """
        left = _read(self.descriptor, start, min(self.size - start, HEAD_BYTES))
        head = decode_head(left)
        if head is not None:
            return start + HEAD_BYTES + head.content_bytes > self.size
        return len(left) < HEAD_BYTES or not any(_read(self.descriptor, start, self.size - start))

    def rest(self, start: int) -> bytes:
        return _read(self.descriptor, start, self.size - start)

    def _frame(self, start: int) -> Frame | None:
        if start + HEAD_BYTES > self.size:
            return None
        head = decode_head(_read(self.descriptor, start, HEAD_BYTES))
        if head is None:
            return None
        end = start + HEAD_BYTES + head.content_bytes
        if end > self.size:
            return None
        return decode_content(head, _read(self.descriptor, start + HEAD_BYTES, head.content_bytes), end)


class LargeFile:
    """A Part 10 file that is written while it arrives, so that a large instance never has to fit in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        with DiskErrors():
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    def write(self, part: BytesLike) -> None:
        """Append bytes. Raises StorageFull or Retriable; the file must then be discarded."""
        with DiskErrors():
            _write_all(self._descriptor, [part])
        self.size += len(part)

    def make_durable(self) -> None:
        """Make the file and its name durable, and close it."""
        with DiskErrors():
            os.fsync(self._descriptor)
            sync_folder(self.path.parent)
        self._close()

    def discard(self) -> None:
        self._close()
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class DiskErrors:
    """A context that turns errors of the file system into StorageFull and Retriable.

    It is a class, and not a generator, because it is entered for every instance that arrives.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("No space left on the device of the data directory") from None
        raise Retriable(
            f"The data directory cannot be written ({errno.errorcode.get(error.errno or 0, 'unknown')})"
        ) from None


def _write_all(descriptor: int, parts: Sequence[BytesLike]) -> None:
    """Write all parts, in one system call unless the device is full."""
    waiting = [memoryview(part) for part in parts if len(part)]
    while waiting:
        written = os.writev(descriptor, waiting)
        while waiting and written >= len(waiting[0]):
            written -= len(waiting.pop(0))
        if waiting:
            waiting[0] = waiting[0][written:]


def _read(descriptor: int, offset: int, length: int) -> bytes:
    parts = []
    while length > 0:
        part = os.pread(descriptor, length, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)
