"""The files of large instances, beside the segments."""

import os
from pathlib import Path

from storage.log.files import BytesLike, sync_folder
from storage.log.segments.disk import DiskErrors, write_all
from storage.log.segments.frames import FrameKind
from storage.log.segments.names import LARGE_SUFFIX, segment_path
from storage.log.segments.reader import SegmentReader


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
            write_all(self._descriptor, [part])
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
