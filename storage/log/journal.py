"""The journal of a receiver: an append-only log that is flushed once before a peer is told Success.

A journal is a folder of segments, `00000001.log` and on. A segment is a row of frames; a frame is

    magic "DNJ1", kind (u8), 3 bytes of zero, length of the meta (u32), length of the body (u64), CRC-32 of meta and
    body (u32), CRC-32 of all of this (u32), little endian; then the meta, JSON in UTF-8; then the body.

The body of an instance is its Part 10 file as it will be filed. Instances that are too large for a frame lie beside
as files of their own, which their frame names. `dicom_node/index` files what a journal holds and removes segments
that are filed; whatever it has not got to is still here after a crash, and is filed then.

A frame that a crash cut off is short, or has a wrong checksum, and ends its segment. It was never acknowledged, unless
the device has lost what it said it had written; so whatever is not plainly short is kept.
"""

import errno
import fcntl
import json
import mmap
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from storage.errors import Permanent, Retriable, StorageFull
from storage.log.files import make_folder, sync_folder
from storage.records.evidence import AssociationEnd
from storage.records.instances import Facts, ReceivedInstance

MAGIC = b"DNJ1"
SEGMENT_BYTES = 64 * 2**20
LOCK_SECONDS = 1.0
FLUSHES = 8  # of one segment at once
SUFFIX = ".log"
LARGE_SUFFIX = ".large"
FILED = "filed"  # beside the journals: its time of modification is the mark of `filed_until`
WRITER = "writer.lock"  # held by the receiver as long as it has the journal open; holds the last segment's number

_HEAD = struct.Struct("<4sB3xIQI")
_CRC = struct.Struct("<I")
HEAD_BYTES = _HEAD.size + _CRC.size

Bytes = bytes | bytearray | memoryview


class Kind(IntEnum):
    """What a frame tells."""

    UNKNOWN = 0  # written by another version of this node
    STARTED = 1  # the receiver begins a new life: associations that are still open have broken off
    ASSOCIATION = 2
    INSTANCE = 3
    LARGE_INSTANCE = 4  # the body is the file that the meta names
    ASSOCIATION_ENDED = 5


@dataclass(frozen=True)
class Frame:
    """One whole frame of a segment."""

    kind: Kind
    meta: dict[str, Any]
    body: bytes
    end: int  # where the next frame begins


class Journal:
    """The writing side; one for each receiver process. Its methods may be called by several threads at once.

    `minimum_free_bytes` is what the device must keep free: below it `ensure_space` raises StorageFull, so that there
    is room for what has been acknowledged to be filed.
    """

    def __init__(self, folder: Path, minimum_free_bytes: int = 0) -> None:
        self.folder = folder
        self._minimum_free_bytes = minimum_free_bytes
        self._lock = threading.Lock()  # held while a frame is written
        self._segment: _Segment | None = None
        self._large = 0
        self._number = 0  # of the last segment that was begun
        self._started = False  # whether this life is noted
        self._lock_file: IO[bytes] | None = None

    def open(self) -> None:
        """Takes the journal, and begins a new segment: what an earlier life left is never appended to.

        On a full device the segment begins with the first instance that fits. Raises Permanent when another process
        writes this journal, and Retriable.
        """
        with _translated():
            make_folder(self.folder)
            descriptor = os.open(self.folder / WRITER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._lock_file = os.fdopen(descriptor, "r+b", buffering=0)
        deadline = time.monotonic() + LOCK_SECONDS  # the indexer holds the lock for a moment to see whether we do
        while not _locked(self._lock_file):
            if time.monotonic() > deadline:
                raise Permanent(f"Another process writes the journal {self.folder.name}")
            time.sleep(0.01)
        with self._lock, suppress(StorageFull):
            self._roll()

    def close(self) -> None:
        with self._lock:
            segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()
        if self._lock_file is not None:
            self._lock_file.close()

    def ensure_space(self) -> None:
        """Raises StorageFull when the device has less free than the watermark."""
        if not self._minimum_free_bytes:
            return
        with _translated():
            found = os.statvfs(self.folder)
        if found.f_bavail * found.f_frsize < self._minimum_free_bytes:
            raise StorageFull("The device of the data directory has less free than receive.minimum_free_megabytes")

    # -- what receivers say --------------------------------------------------------------------------------------------

    def opened(self, association: str, calling_ae_title: str, called_ae_title: str, peer_host: str) -> None:
        """Notes an association. It is durable at the latest with its first instance."""
        meta = {
            "association": association,
            "calling_ae_title": calling_ae_title,
            "called_ae_title": called_ae_title,
            "peer_host": peer_host,
            "at": _now(),
        }
        with self._lock:
            self._write(Kind.ASSOCIATION, meta, ())

    def ended(self, association: str, end: AssociationEnd) -> None:
        """Not flushed: after a crash the association counts as aborted, which makes its studies wait longer."""
        with self._lock:
            self._write(Kind.ASSOCIATION_ENDED, {"association": association, "end": end.value, "at": _now()}, ())

    def store(self, instance: ReceivedInstance, *parts: Bytes) -> None:
        """Keeps an instance whose Part 10 file is the concatenation of `parts`; durable on return.

        Raises StorageFull or Retriable; nothing is kept then, or it is kept without having been acknowledged.
        """
        meta = _meta(instance)
        with self._lock:
            segment, end = self._write(Kind.INSTANCE, meta, parts)
        self._flush(segment, end)

    def large(self) -> "LargeFile":
        """A file beside the segments, to be filled while a large instance arrives."""
        with self._lock:
            if self._segment is None:
                self._roll()  # the name says which segments are older than the file
            self._large += 1
            name = f"{self._number:08}-{self._large}{LARGE_SUFFIX}"
        return LargeFile(self.folder / name)

    def store_large(self, instance: ReceivedInstance, file: "LargeFile") -> None:
        """Keeps an instance whose Part 10 file is `file`; durable on return. Raises as `store` does."""
        file.settle()
        meta = _meta(instance) | {"file": file.path.name, "size": file.size}
        with self._lock:
            segment, end = self._write(Kind.LARGE_INSTANCE, meta, ())
        self._flush(segment, end)

    # -- frames --------------------------------------------------------------------------------------------------------

    def _write(self, kind: Kind, meta: dict[str, Any], parts: Sequence[Bytes]) -> tuple["_Segment", int]:
        """Appends a frame; the lock is held. The segment, and how far it must be flushed for the frame to be safe."""
        encoded = json.dumps(meta, separators=(",", ":"), ensure_ascii=False).encode()
        crc = zlib.crc32(encoded)
        for part in parts:
            crc = zlib.crc32(part, crc)
        head = _HEAD.pack(MAGIC, kind, len(encoded), sum(len(part) for part in parts), crc)
        segment = self._segment
        if segment is None or segment.size >= SEGMENT_BYTES or segment.failed:
            segment = self._roll()
        return segment, segment.append((head, _CRC.pack(zlib.crc32(head)), encoded, *parts))

    def _flush(self, segment: "_Segment", end: int) -> None:
        with _translated():
            segment.flush(end)

    def _roll(self) -> "_Segment":
        """Begins the next segment; its name is durable before anything in it is acknowledged."""
        assert self._lock_file is not None
        before, self._segment = self._segment, None
        if before is not None:
            before.close()
        with _translated():
            # No number is used twice while anybody may remember it, also when all segments are filed and gone.
            noted = os.pread(self._lock_file.fileno(), 20, 0).strip(b"\0")
            numbers = [int(noted) if noted.isdigit() else 0, *map(number_of, segments(self.folder))]
            self._number = max(numbers) + 1
            os.pwrite(self._lock_file.fileno(), f"{self._number:020}".encode(), 0)
            os.fdatasync(self._lock_file.fileno())
            segment = _Segment(path_of(self.folder, self._number))
            sync_folder(self.folder)
        self._segment = segment
        if not self._started:
            self._started = True
            self._write(Kind.STARTED, {"at": _now()}, ())
        return segment


class LargeFile:
    """A Part 10 file that is written while it arrives, so that a large instance never lies in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        with _translated():
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    def write(self, part: Bytes) -> None:
        """Raises StorageFull or Retriable; the file is then to be discarded."""
        with _translated():
            _write_all(self._descriptor, [part])
        self.size += len(part)

    def settle(self) -> None:
        """Makes the file and its name durable."""
        with _translated():
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


class _Segment:
    """One file. Frames are appended under the journal's lock; a few threads flush at once, the others share the next
    flush: none waits for one that began before it appended, and then for another.

    Each flush has an opening of the file to itself, made before the first write: Linux tells of a failed write-back
    once for each opening, and it must not be told to a thread that waits for other frames.
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

    def append(self, parts: Sequence[Bytes]) -> int:
        """Where the frame ends. What a failure has written of it is cut off again."""
        try:
            with _translated():
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
        """Makes everything up to `end` durable. Raises OSError; the kernel may then have dropped what was written."""
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
        """Flushes for those that still wait, and closes. Never after a flush that failed: the kernel tells of what it
        dropped only once, and a second flush would succeed without it.
        """
        for _ in range(FLUSHES):  # until nobody flushes any more
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


# -- the reading side --------------------------------------------------------------------------------------------------


def note_filed(journals: Path, until: datetime) -> None:
    """Marks that everything acknowledged before `until`, in all journals of this folder, is filed and indexed."""
    mark = journals / FILED
    journals.mkdir(parents=True, exist_ok=True)
    mark.touch()
    nanoseconds = int(until.timestamp()) * 10**9 + until.microsecond * 1000
    os.utime(mark, ns=(nanoseconds, nanoseconds))


def filed_until(journals: Path) -> datetime | None:
    """Until when everything acknowledged is indexed, by the indexer's clock; None where no indexer has run yet.

    What was acknowledged before that time and has no row is not there, or was set aside.
    """
    try:
        seconds, nanoseconds = divmod((journals / FILED).stat().st_mtime_ns, 10**9)
    except FileNotFoundError:
        return None
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanoseconds // 1000)


def segments(folder: Path) -> list[Path]:
    """The segments of a journal, oldest first."""
    return sorted(folder.glob(f"[0-9]*{SUFFIX}"))


def number_of(segment: Path) -> int:
    return int(segment.name.removesuffix(SUFFIX))


def path_of(folder: Path, number: int) -> Path:
    return folder / f"{number:08}{SUFFIX}"


def is_written(folder: Path) -> bool:
    """Whether a receiver has this journal open."""
    with (folder / WRITER).open("ab") as lock:
        return not _locked(lock)


def remove_stray_files(folder: Path, retired: int, following: int | None) -> None:
    """Removes files of large instances that no frame can name any more: everything up to the segment `retired` is filed
    and gone, and the segment `following`, if there is one, begins a receiver's new life.
    """
    if following is not None:
        with SegmentReader(path_of(folder, following)) as reader:
            frame = next(reader.frames(0), None)
        if frame is None or frame.kind is not Kind.STARTED:
            return
    for path in folder.glob(f"*{LARGE_SUFFIX}"):
        if int(path.name.split("-")[0]) <= retired:
            path.unlink(missing_ok=True)


class SegmentReader:
    """Reads the frames of a segment that may still grow, as far as it reaches now. `path` must exist.

    What is appended meanwhile is not looked at: a reader that followed the writer would find one frame at a time.
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
        """Makes what was read durable: rows must never speak of bytes that a loss of power takes away."""
        os.fdatasync(self.descriptor)

    def frames(self, start: int) -> Iterator[Frame]:
        """The whole frames from `start` on, up to the first one that is not there yet, or damaged."""
        while True:
            frame = self._frame(start, self.size)
            if frame is None:
                return
            yield frame
            start = frame.end

    def next_frame(self, start: int) -> int | None:
        """Where the next whole frame begins: at `start`, or behind bytes there that are none. None when there is none.

        Frames are appended one after another: with a whole one behind them, bytes that are none are no frame that is
        still being written, but damage.
        """
        size = self.size
        if self._frame(start, size) is not None:
            return start
        if size - start < HEAD_BYTES:
            return None
        with mmap.mmap(self.descriptor, size, access=mmap.ACCESS_READ) as content:
            at = content.find(MAGIC, start + 1)
            while at >= 0:
                if self._frame(at, size) is not None:
                    return at
                at = content.find(MAGIC, at + 1)
        return None

    def is_cut_off(self, start: int) -> bool:
        """Whether what is left from `start` on was certainly never flushed: the beginning of a frame without its end,
        or a length that was reserved and not written.
        """
        size = self.size
        left = _read(self.descriptor, start, min(size - start, HEAD_BYTES))
        if len(left) == HEAD_BYTES and _CRC.unpack_from(left, _HEAD.size)[0] == zlib.crc32(left[: _HEAD.size]):
            _, _, meta_length, body_length, _ = _HEAD.unpack_from(left)
            return bool(start + HEAD_BYTES + meta_length + body_length > size)
        return len(left) < HEAD_BYTES or not any(_read(self.descriptor, start, size - start))

    def rest(self, start: int) -> bytes:
        return _read(self.descriptor, start, self.size - start)

    def _frame(self, start: int, size: int) -> Frame | None:
        if start + HEAD_BYTES > size:
            return None
        head = _read(self.descriptor, start, HEAD_BYTES)
        magic, kind, meta_length, body_length, crc = _HEAD.unpack_from(head)
        if magic != MAGIC or _CRC.unpack_from(head, _HEAD.size)[0] != zlib.crc32(head[: _HEAD.size]):
            return None
        if start + HEAD_BYTES + meta_length + body_length > size:
            return None
        content = _read(self.descriptor, start + HEAD_BYTES, meta_length + body_length)
        if zlib.crc32(content) != crc:
            return None
        return Frame(
            kind=Kind(kind) if kind in Kind._value2member_map_ else Kind.UNKNOWN,
            meta=json.loads(content[:meta_length]),
            body=content[meta_length:],
            end=start + HEAD_BYTES + meta_length + body_length,
        )


def instance_of(meta: dict[str, Any]) -> ReceivedInstance:
    """The instance that the meta of an INSTANCE or LARGE_INSTANCE frame tells of."""
    return ReceivedInstance(
        **{key: meta[key] for key in _PLAIN_FIELDS},
        received_at=datetime.fromisoformat(meta["received_at"]),
        facts=Facts.of(meta["facts"]),
    )


_PLAIN_FIELDS = tuple(set(ReceivedInstance.__dataclass_fields__) - {"received_at", "facts"})


def _meta(instance: ReceivedInstance) -> dict[str, Any]:
    return {key: getattr(instance, key) for key in _PLAIN_FIELDS} | {
        "received_at": instance.received_at.isoformat(),
        "facts": instance.facts.plain(),
    }


def _locked(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _write_all(descriptor: int, parts: Sequence[Bytes]) -> None:
    """One system call where the kernel takes all of it, which it does unless the device is full."""
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


class _translated:  # noqa: N801 - reads as a statement; a class, since it stands in the way of every instance
    """Errors of the file system as errors of ours."""

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
