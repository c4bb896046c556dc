"""The journal of a receiver: an append-only log that is flushed before a peer gets the status Success.

A journal is a folder of segments (`storage.log.segments`), and a segment is a sequence of frames. `dicom_node/index`
files the instances that a journal holds and removes segments that are filed.
Instances that are not filed yet are still in the journal after a crash, and are filed then.
"""

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from storage.errors import Permanent, Retriable, StorageFull
from storage.log.files import BytesLike, make_folder, sync_folder
from storage.log.segments.disk import DiskErrors
from storage.log.segments.frames import FrameKind, NewFrame, meta_of, new_frame
from storage.log.segments.large import LargeFile
from storage.log.segments.names import WRITER, WriterNote, large_file_path, read_note, segment_path
from storage.log.segments.store import Segments
from storage.log.segments.writer import SegmentWriter, tell_unsealed
from storage.machine import boot_id, host_name
from storage.records.evidence import AssociationEnd
from storage.records.instances import ReceivedInstance

SEGMENT_BYTES = 64 * 2**20
LOCK_SECONDS = 1.0
FILED = "filed"  # beside the journals: the mark that `filed_until` reads
MARK_BYTES = 512  # the same at any time, so that nothing of an earlier mark remains


class Journal:
    """The writing side of a journal. Each receiver process has one, and its threads may call the methods at once.

    `minimum_free_bytes` is the space that the device must keep free. With less, `ensure_space` raises StorageFull, so
    that acknowledged instances can still be filed. A segment that has `segment_bytes` (SEGMENT_BYTES if None) is full.
    """

    def __init__(self, folder: Path, minimum_free_bytes: int = 0, segment_bytes: int | None = None) -> None:
        self.folder = folder
        self._segment_bytes = segment_bytes
        self._segments = Segments(folder.parent)
        self._minimum_free_bytes = minimum_free_bytes
        self._lock = threading.Lock()  # held while a frame is written
        self._segment: SegmentWriter | None = None
        self._large = 0
        self._number = 0  # of the last segment that was begun
        self._sealed = 0  # all segments up to this one are sealed, or never will be
        self._all_sealed = False  # whether all segments before the one that is written are
        self._started = False  # whether the STARTED frame of this process is written
        self._lock_file: IO[bytes] | None = None

    def open(self) -> None:
        """Lock the journal, begin a new segment, and seal the segments that an earlier process left unsealed.

        Frames are never appended to the segments of an earlier process. On a full device the new segment begins with
        the first instance that fits. Raises Permanent if another process writes this journal, and Retriable.
        """
        with DiskErrors():
            make_folder(self.folder)
            descriptor = os.open(self.folder / WRITER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._lock_file = os.fdopen(descriptor, "r+b", buffering=0)
        deadline = time.monotonic() + LOCK_SECONDS  # the indexer holds the lock for a moment, in `is_written`
        while not _locked(self._lock_file):
            if time.monotonic() > deadline:
                raise Permanent(f"Another process writes the journal {self.folder.name}")
            time.sleep(0.01)
        with DiskErrors():
            self._number = self._segments.end(self.folder.name)
            self._sealed = read_note(self._lock_file.fileno()).sealed
        begun = self._number
        with self._lock, suppress(StorageFull):
            self._roll()
        self._seal_earlier(begun)

    def close(self) -> None:
        with self._lock:
            segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()
        if self._lock_file is not None:
            self._lock_file.close()

    def ensure_space(self) -> None:
        """Raise StorageFull if the device has less free space than the minimum."""
        if not self._minimum_free_bytes:
            return
        with DiskErrors():
            found = os.statvfs(self.folder)
        if found.f_bavail * found.f_frsize < self._minimum_free_bytes:
            raise StorageFull("The device of the data directory has less free than receive.minimum_free_megabytes")

    # -- for receivers -------------------------------------------------------------------------------------------------

    def opened(self, association: str, calling_ae_title: str, called_ae_title: str, peer_host: str) -> None:
        """Note that a peer opened an association. The note is durable at the latest when its first instance is."""
        meta = {
            "association": association,
            "calling_ae_title": calling_ae_title,
            "called_ae_title": called_ae_title,
            "peer_host": peer_host,
            "at": _now(),
        }
        with self._lock:
            self._write(new_frame(FrameKind.ASSOCIATION, meta))

    def ended(self, association: str, end: AssociationEnd) -> None:
        """Note the end of an association, without a flush.

        If a crash destroys the note, the association counts as aborted, and its studies wait longer.
        """
        meta = {"association": association, "end": end.value, "at": _now()}
        with self._lock:
            self._write(new_frame(FrameKind.ASSOCIATION_ENDED, meta))

    def refused(self, calling_ae_title: str, peer_host: str, counts: Mapping[str, int]) -> None:
        """Note, without a flush, how many instances of an ended association were refused, by the reason."""
        meta = {"calling_ae_title": calling_ae_title, "peer_host": peer_host, "counts": dict(counts), "at": _now()}
        with self._lock:
            self._write(new_frame(FrameKind.REFUSED, meta))

    def store(self, instance: ReceivedInstance, *parts: BytesLike, kept: bytes = b"") -> None:
        """Keep an instance whose Part 10 file is the concatenation of `parts`; durable on return.

        `kept` is its kept header, which can be read without the file. Raises StorageFull or Retriable. The instance
        must then not be acknowledged, although it may have been kept.
        """
        frame = new_frame(FrameKind.INSTANCE, meta_of(instance), parts, kept)
        with self._lock:
            segment, end = self._write(frame)
        self._flush(segment, end)

    def large(self) -> LargeFile:
        """Create a file beside the segments, to be filled while a large instance arrives."""
        with self._lock:
            if self._segment is None:
                self._roll()  # because the name of the file holds the number of a segment
            self._large += 1
            path = large_file_path(self.folder, self._number, self._large)
        return LargeFile(path)

    def store_large(self, instance: ReceivedInstance, file: LargeFile, kept: bytes = b"") -> None:
        """Keep an instance whose Part 10 file is `file`; durable on return. Raises as `store` does."""
        file.make_durable()
        meta = meta_of(instance) | {"file": file.path.name, "size": file.size}
        frame = new_frame(FrameKind.LARGE_INSTANCE, meta, kept=kept)
        with self._lock:
            segment, end = self._write(frame)
        self._flush(segment, end)

    def append(self, frame: NewFrame, flush: bool = False) -> None:
        """Append a frame of any other kind, durable on return if `flush`. Raises StorageFull or Retriable."""
        with self._lock:
            segment, end = self._write(frame)
        if flush:
            self._flush(segment, end)

    # -- frames --------------------------------------------------------------------------------------------------------

    def _write(self, frame: NewFrame) -> tuple[SegmentWriter, int]:
        """Append a frame while the lock is held.

        Return the segment, and the offset up to which it must be flushed for the frame to be durable.
        """
        segment, full = self._segment, self._segment_bytes or SEGMENT_BYTES
        if segment is None or segment.size >= full or segment.failed:
            segment = self._roll()
        return segment, segment.append(frame)

    def _flush(self, segment: SegmentWriter, end: int) -> None:
        with DiskErrors():
            segment.flush(end)

    def _roll(self) -> SegmentWriter:
        """Begin the next segment. Its name is durable before anything in it is acknowledged."""
        before, self._segment = self._segment, None
        if before is not None:
            before.close()
            self._all_sealed = self._all_sealed and before.sealed
        self._number += 1
        if self._all_sealed:
            self._sealed = self._number - 1
        with DiskErrors():
            self._note()
            path = segment_path(self.folder, self._number)
            segment = SegmentWriter(path, self._segment_bytes or SEGMENT_BYTES)
        try:
            with DiskErrors():
                sync_folder(self.folder)
            if not self._started:
                segment.append(new_frame(FrameKind.STARTED, {"at": _now()}))
        except Retriable:
            segment.discard()  # the next instance tries again
            raise
        self._started = True
        self._segment = segment
        return segment

    def _note(self) -> None:
        assert self._lock_file is not None
        WriterNote(self._number, self._sealed).write(self._lock_file.fileno())

    def _seal_earlier(self, last: int) -> None:
        """Seal the segments of earlier processes, whose last one has the number `last`."""
        unsealed = []
        number = self._sealed + 1
        while numbers := [at for at in self._segments.following(self.folder.name, number) if at <= last]:
            for number in numbers:
                try:
                    self._segments.seal(self.folder.name, number)
                except FileNotFoundError:  # removed in the meantime
                    continue
                except (Retriable, OSError) as error:
                    tell_unsealed(segment_path(self.folder, number), error)
                    unsealed.append(number)
            number += 1
        with self._lock:
            self._sealed = min(unsealed, default=last + 1) - 1
            self._all_sealed = not unsealed
            with suppress(StorageFull), DiskErrors():
                self._note()


def is_written(folder: Path) -> bool:
    """Return True if a receiver has this journal open."""
    with (folder / WRITER).open("ab") as lock:
        return not _locked(lock)


def mark_filed(journals: Path, until: datetime, monotonic: float) -> None:
    """Write the mark that all instances acknowledged before `until`, in all journals here, are filed and indexed.

    `monotonic` is the same time by the monotonic clock. It is written too, because the wall clock may be set before the
    mark is read.
    """
    journals.mkdir(parents=True, exist_ok=True)
    mark: dict[str, Any] = {"until": until.isoformat(), "monotonic": monotonic, "host": host_name(), "boot": boot_id()}
    descriptor = os.open(journals / FILED, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        os.pwrite(descriptor, json.dumps(mark).ljust(MARK_BYTES).encode(), 0)  # in one call, or a reader may see half
    finally:
        os.close(descriptor)


def unmark_filed(journals: Path) -> None:
    """Remove the mark, because rows that it stands for are lost."""
    (journals / FILED).unlink(missing_ok=True)


def filed_until(journals: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> datetime | None:
    """Return the time until which everything acknowledged is indexed, by the clock `now`, unless it was set aside.

    None if no indexer has run yet, or none since this machine was started.
    """
    try:
        mark: dict[str, Any] = json.loads((journals / FILED).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if mark["host"] != host_name():  # then only the wall clocks of both machines are comparable
        return now() - max(timedelta(), datetime.now(UTC) - datetime.fromisoformat(mark["until"]))
    if mark["boot"] != boot_id():
        return None
    return now() - timedelta(seconds=time.monotonic() - float(mark["monotonic"]))


def _locked(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat()
