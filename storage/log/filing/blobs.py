"""The bytes of instances as the index finds them: in the log, or in the files of release 0.1."""

import errno
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from storage.blobs import Blob, FileBlob, seek_dataset
from storage.errors import Permanent
from storage.log.filing.comparison import Content, Difference, compare, has_same_pixels
from storage.log.filing.decision import Comparisons
from storage.log.filing.entries import IndexEntry, usual_file
from storage.log.headers.instance_reader import InstanceReader, read_whole
from storage.log.segments.ranges import InstanceFile
from storage.log.segments.store import Segments
from storage.records.instances import Address, ReceivedInstance

_T = TypeVar("_T")


class StoredBlobs:
    """The makers of blobs: of addresses in the `journals`, and of files below `root`, where release 0.1 filed."""

    def __init__(self, journals: Path, root: Path) -> None:
        self.root = root
        self._segments = Segments(journals)

    def at(self, address: Address, checksum: str = "") -> Blob:
        return self._segments.blob(address, checksum)

    def file(self, file: str) -> FileBlob:
        return FileBlob(self.root / file)

    def of(self, entry: IndexEntry) -> Blob:
        """Return the blob of an instance that has a row, or is about to have one."""
        if entry.address is not None:
            return self.at(entry.address, entry.sha256)
        usual = usual_file(entry.study_instance_uid, entry.series_instance_uid, entry.sop_instance_uid)
        return self.old(entry.file or usual, entry.size, entry.sha256, is_hashed=entry.hashes is not None)

    def old(self, file: str, size: int | None, sha256: str, is_hashed: bool) -> Blob:
        """Return the blob of a file of release 0.1: its checksum is that of its hashes, or of its dataset."""
        path = self.root / file
        return InstanceFile(path, size or 0, sha256) if is_hashed else FileBlob(path, size, sha256)

    def read_again(self, received: ReceivedInstance, place: Address | str) -> tuple[ReceivedInstance, bytes]:
        """Read what release 0.1 did not note of an instance: its hashes, and its kept header, which is returned too."""
        blob = self.at(place) if isinstance(place, Address) else self.file(place)
        reader = _read(blob, received.transfer_syntax_uid)
        return replace(received, hashes=reader.hashes()), reader.kept_header()

    # -- comparisons ---------------------------------------------------------------------------------------------------

    def comparisons(self) -> Comparisons:
        return Comparisons(self._difference, self._has_same_pixels, self._is_intact)

    def _difference(self, known: IndexEntry, newcomer: IndexEntry) -> Difference:
        if known.hashes is None and _dataset_sha256(self.of(newcomer)) == known.sha256:
            return Difference.NONE  # also if the file of the known one is damaged or gone
        return self._compared(known, newcomer, compare, Difference.IMAGE)

    def _has_same_pixels(self, known: IndexEntry, newcomer: IndexEntry) -> bool:
        return self._compared(known, newcomer, has_same_pixels, False)

    def _is_intact(self, known: IndexEntry) -> bool:
        try:
            return self.of(known).is_intact()
        except (FileNotFoundError, Permanent):
            return False
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False  # a bad sector, which no later attempt would read either

    def _compared(
        self, known: IndexEntry, newcomer: IndexEntry, compared: Callable[[Content, Content], _T], unreadable: _T
    ) -> _T:
        try:
            return compared(self._content(known), self._content(newcomer))
        except (FileNotFoundError, Permanent):
            return unreadable
        except OSError as error:
            if error.errno != errno.EIO or not (self._is_intact(newcomer) or self._is_intact(known)):
                raise
            return unreadable  # a bad sector: the disk reads one of the two, and no later attempt reads the other

    def _content(self, entry: IndexEntry) -> Content:
        blob = self.of(entry)
        hashes = entry.hashes or _read(blob, entry.transfer_syntax_uid).hashes()
        return Content(blob, entry.transfer_syntax_uid, hashes)


def _read(blob: Blob, transfer_syntax_uid: str) -> InstanceReader:
    """Read a whole instance for its hashes. Raises OSError, and Permanent if this is no Part 10 file."""
    with blob.open() as file:
        seek_dataset(file)
        return read_whole(file, transfer_syntax_uid)


def _dataset_sha256(blob: Blob) -> str:
    with blob.open() as file:
        seek_dataset(file)
        return hashlib.file_digest(file, "sha256").hexdigest()
