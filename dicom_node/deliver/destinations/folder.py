"""A folder that others read: a share of the hospital, or the inbox of another program."""

import errno
import hashlib
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dicom_node.deliver.destinations.instance_files import not_read, read_instance
from dicom_node.deliver.destinations.interface import Asker
from dicom_node.deliver.destinations.settings import DestinationSettings
from dicom_node.dimse.results import EchoResult, InstanceReference, SendOutcome, SendResult
from dicom_node.errors import PeerRefused, PeerUnavailable
from storage.blobs import Blob
from storage.errors import Permanent, StorageFull
from storage.log.files import copy_durable
from storage.records.deliveries import StoredAs


@dataclass(frozen=True)
class FolderDestination:
    """A folder that gets each object as `<path>/<study>/<series>/<SOP Instance UID>.dcm`.

    A file appears whole, and is durable. `path` itself is never made: while a share is not mounted, objects wait, and
    do not fill the disk below it.
    """

    name: str
    path: Path

    def send(self, blobs: Sequence[Blob]) -> list[SendResult]:
        return [self._write(blob) for blob in blobs]

    def accepted(self, sop_class_uids: Collection[str]) -> frozenset[str] | None:
        return frozenset(sop_class_uids)

    def echo(self) -> EchoResult:
        start = time.monotonic()
        reason = self._trouble()
        return EchoResult(ok=not reason, seconds=time.monotonic() - start, reason=reason)

    def commit(self, transaction_uid: str, references: Sequence[InstanceReference], asker: Asker) -> None:
        raise PeerRefused("a folder takes no requests for storage commitment")

    def stored(self, references: Collection[InstanceReference]) -> set[str]:
        """Return the SOP Instance UIDs of `references`, if all of them are there.

        Raises PeerUnavailable if the folder is absent. Raises PeerRefused if a file is absent, because the reader of an
        inbox may have taken it away; nothing can be told from its absence.
        """
        if trouble := self._trouble():
            raise PeerUnavailable(trouble)
        if not all(
            self._file(r.study_instance_uid, r.series_instance_uid, r.sop_instance_uid).is_file() for r in references
        ):
            raise PeerRefused(f"files that were written to the folder {self.path} are not there any more")
        return {r.sop_instance_uid for r in references}

    def moved(self, references: Collection[InstanceReference]) -> dict[str, StoredAs]:
        return {}

    def _file(self, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str) -> Path:
        return self.path / study_instance_uid / series_instance_uid / f"{sop_instance_uid}.dcm"

    def _write(self, blob: Blob) -> SendResult:
        try:
            ds = read_instance(blob, header_only=True)
        except Permanent as error:
            return SendResult("", SendOutcome.UNSENDABLE, str(error))
        except OSError as error:
            return SendResult("", SendOutcome.UNREADABLE, not_read(blob, error))
        uid = str(ds.SOPInstanceUID)
        if reason := self._trouble():
            return SendResult(uid, SendOutcome.AWAY, reason)
        target = self._file(ds.StudyInstanceUID, ds.SeriesInstanceUID, uid)
        try:
            if target.exists() and not _is_same(blob, target):
                return SendResult(uid, SendOutcome.EXISTS, "another file of this SOP Instance UID is there")
            copy_durable(blob, target)
        except StorageFull:
            return SendResult(uid, SendOutcome.AWAY, f"the folder {self.path} is full: make room there")
        except OSError as error:
            return SendResult(uid, SendOutcome.AWAY, self._told(error))
        return SendResult(uid, SendOutcome.STORED)

    def _trouble(self) -> str:
        """Return the reason why the node cannot write there; an empty text if it can."""
        if not self.path.is_dir():
            return f"the folder {self.path} is not there: make it, or mount the share that it is on"
        if not os.access(self.path, os.W_OK | os.X_OK):
            return self._told(PermissionError(errno.EACCES, "Permission denied"))
        return ""

    def _told(self, error: OSError) -> str:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"the folder {self.path} cannot be written by this user: change its owner, or how it is mounted"
        return f"the folder {self.path} cannot be written ({error.strerror})"


def _is_same(blob: Blob, target: Path) -> bool:
    """Return True if the file has the bytes of the blob."""
    if target.stat().st_size != blob.size:
        return False
    with blob.open() as one, target.open("rb") as other:
        return hashlib.file_digest(one, "sha256").digest() == hashlib.file_digest(other, "sha256").digest()


class FolderSettings(DestinationSettings):
    """A `[[destinations]]` entry of kind "folder"."""

    kind: Literal["folder"]
    path: Path

    @property
    def address(self) -> str:
        return str(self.path)

    def build(self, calling_ae_title: str, timeout: float) -> FolderDestination:
        return FolderDestination(self.name, self.path)

    def local_problems(self) -> list[str]:
        answer = FolderDestination(self.name, self.path).echo()
        return [] if answer.ok else [answer.reason]
