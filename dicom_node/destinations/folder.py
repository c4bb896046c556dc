"""A folder, for those who collect results with other means than DICOM networking."""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_node.destinations.base import EchoResult, SendResult
from dicom_node.scu import Outgoing
from storage.errors import Permanent


@dataclass(frozen=True)
class FolderDestination:
    """Copies each instance to `<path>/<SOP Instance UID>.dcm`. A file appears complete and durable, or not at all."""

    name: str
    path: Path

    def send(self, paths: Sequence[Path]) -> list[SendResult]:
        return [self._copy(path) for path in paths]

    def echo(self) -> EchoResult:
        start = time.monotonic()
        writable = self.path.is_dir() and os.access(self.path, os.W_OK)
        reason = "" if writable else f"{self.path} is not a folder that can be written to"
        return EchoResult(ok=writable, seconds=time.monotonic() - start, reason=reason)

    def _copy(self, source: Path) -> SendResult:
        try:
            uid = Outgoing.from_file(source).sop_instance_uid
        except (Permanent, OSError) as error:
            return SendResult("", ok=False, reason=str(error))
        partial = self.path / f".{uid}.part"
        try:
            with source.open("rb") as read, partial.open("wb") as written:
                shutil.copyfileobj(read, written)
                written.flush()
                os.fsync(written.fileno())
            partial.replace(self.path / f"{uid}.dcm")
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            partial.unlink(missing_ok=True)
            return SendResult(uid, ok=False, retriable=True, reason=f"{self.path}: {error.strerror}")
        return SendResult(uid, ok=True)
