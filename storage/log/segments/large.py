"""The files of large instances, beside the segments."""

import os
from pathlib import Path

from storage.log.files import BytesLike, sync_folder
from storage.log.segments.disk import DiskErrors, write_all


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
