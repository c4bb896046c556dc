"""The writing of segments: frames are appended and flushed, and a segment that is finished is sealed."""

import errno
import fcntl
import logging
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.errors import Retriable
from storage.log.files import BytesLike
from storage.log.segments.disk import DiskErrors, write_all
from storage.log.segments.frames import NewFrame, encode_head
from storage.log.segments.holes import reserve
from storage.log.segments.layout import FIRST_FRAME, SALT_BYTES, FrameTable, encode_segment_head
from storage.log.segments.reader import SegmentReader

log = logging.getLogger(__name__)

FLUSHES = 8  # that may run at once on one segment
PLENTY = 16  # times as much as is reserved must be free
_FAILED_MODE = 0o440  # of a segment whose flush failed: nothing may be appended to it, by any process
_WRITABLE = 0o200
_FAILED_AND_OPENED = stat.S_ISVTX | 0o600  # the same, while it is opened to clear frames in it


class SegmentWriter:
    """The segment that a journal appends to.

    Frames are appended under the journal's lock. Up to FLUSHES threads flush at once, and further threads share the
    next flush. So a thread never waits for two flushes, one that began before it appended and another one.

    Each flush uses a file descriptor of its own, opened before the first write. Linux reports a failed write-back once
    to each descriptor, and the report must not go to a thread that waits for other frames.

    The file is locked as long as frames may be appended, which tells readers that they see all of each frame.

    Space for `reserved_bytes` is reserved. Each flush then has fewer changes of the file system to write.
    """

    def __init__(self, path: Path, reserved_bytes: int) -> None:
        self.path = path
        self.size = FIRST_FRAME
        self.failed = False  # nothing may be appended any more
        self.sealed = False
        self._salt = os.urandom(SALT_BYTES)
        self._table = FrameTable()
        self._flushed = 0
        self._noting = threading.Lock()
        self._flushing = threading.BoundedSemaphore(FLUSHES)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        self._idle: list[int] = []
        try:
            self._idle += [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for _ in range(FLUSHES)]
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self._reserve(reserved_bytes)
            write_all(self._descriptor, [encode_segment_head(self._salt)])
        except BaseException:
            self.discard()
            raise

    def append(self, frame: NewFrame) -> int:
        """Append a frame, and return the offset of its end. If this fails, cut off the part that was written."""
        offset = self.size
        self._append((encode_head(frame.head, offset, self._salt), *frame.content))
        self._table.add(frame.head, offset)
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
                self._fail()
                raise
            finally:
                self._idle.append(descriptor)
            with self._noting:
                self._flushed = max(self._flushed, written)

    def close(self) -> None:
        """Flush for the threads that still wait, seal the segment, and close it.

        After a failed flush nothing is flushed any more: the kernel reports dropped bytes only once, so a second flush
        would succeed without them. For the same reason such a segment is not sealed.
        """
        for _ in range(FLUSHES):  # wait until no flush runs any more
            self._flushing.acquire()
        try:
            if self._descriptor < 0:
                return
            if not self.failed:
                try:
                    os.fdatasync(self._idle[0])
                    self._flushed = self.size
                    self._seal()
                except OSError:
                    self._fail()
            self._close()
        finally:
            self._flushing.release(FLUSHES)

    def discard(self) -> None:
        """Remove a segment in which nothing was acknowledged."""
        self._close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _reserve(self, length: int) -> None:
        """Reserve space for the whole segment, unless the disk fills up or cannot do that. Nothing depends on it."""
        with suppress(OSError):
            found = os.fstatvfs(self._descriptor)
            if found.f_bavail * found.f_frsize >= PLENTY * length:
                reserve(self._descriptor, 0, length)

    def _append(self, parts: Sequence[BytesLike]) -> None:
        try:
            with DiskErrors():
                write_all(self._descriptor, parts)
        except Retriable:
            try:
                os.ftruncate(self._descriptor, self.size)
                os.lseek(self._descriptor, self.size, os.SEEK_SET)
            except OSError:
                self.failed = True  # its torn tail ends it; the next frame begins another segment
            raise
        self.size += sum(len(part) for part in parts)

    def _seal(self) -> None:
        """Append the table. On a full disk the segment stays without one until the receiver is started again."""
        try:
            self._append(self._table.seal(self.size, self._salt))
            with DiskErrors():
                os.ftruncate(self._descriptor, self.size)  # what is reserved behind the table is given back
                os.fdatasync(self._idle[0])
            self.sealed = True
        except Retriable as error:
            tell_unsealed(self.path, error)

    def _fail(self) -> None:
        self.failed = True
        _mark_failed(self._descriptor)

    def _close(self) -> None:
        for descriptor in (self._descriptor, *self._idle):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = -1
        self._idle = []


def seal_segment(path: Path) -> None:
    """Seal the segment of a process that is gone. Nothing is done if it is sealed, or may not be.

    What a crash cut off at the end is removed: it was never acknowledged, and no deletion would find it. The table
    names only whole frames; a segment of release 0.1 gets none. A segment whose flush failed is never sealed: the page
    cache may show bytes that are not on the disk.
    """
    with SegmentReader(path) as reader:
        found, size = reader.unsealed, reader.size
        if reader.is_sealed or _is_failed(os.fstat(reader.descriptor).st_mode):
            return
        try:
            reader.sync()
        except OSError:
            _mark_failed(reader.descriptor)
            raise
        table, end = FrameTable(), reader.first
        for frame in reader.all_frames():
            table.add(frame.head, frame.offset)
            end = frame.end
        if not reader.is_cut_off(end):
            end = size  # damaged bytes are kept
    if end < size:
        extra = {"action": "journal_cut_off", "journal": path.parent.name}
        log.warning("A journal ended in %d bytes that were never acknowledged", size - end, extra=extra)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, end)
        if found is not None:
            write_all(descriptor, table.seal(end, found.salt))
        os.fdatasync(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, end)
        raise
    finally:
        os.close(descriptor)


def tell_unsealed(segment: Path, error: Exception) -> None:
    """Log that a segment could not be sealed. Nothing is lost, and the next start tries it again."""
    reason = error.strerror if isinstance(error, OSError) else error
    extra = {"action": "segment_not_sealed", "journal": segment.parent.name}
    log.warning("The segment %s of a journal could not be sealed: %s", segment.name, reason, extra=extra)


@contextmanager
def open_to_clear(path: Path) -> Iterator[int]:
    """Yield a descriptor that may write into a segment, also into one whose flush failed. That one stays marked."""
    is_failed = _is_failed(path.stat().st_mode)
    if is_failed:
        path.chmod(_FAILED_AND_OPENED)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if is_failed:
            os.fchmod(descriptor, _FAILED_MODE)
        yield descriptor
    finally:
        os.close(descriptor)


def _is_failed(mode: int) -> bool:
    return not mode & _WRITABLE or bool(mode & stat.S_ISVTX)


def _mark_failed(descriptor: int) -> None:
    with suppress(OSError):
        os.fchmod(descriptor, _FAILED_MODE)
