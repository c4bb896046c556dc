"""Blobs: stored DICOM files as their readers see them, wherever the bytes lie."""

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from storage.errors import MalformedObject, Permanent

PREAMBLE = bytes(128) + b"DICM"
_START = len(PREAMBLE) + 12  # the preamble, the prefix and File Meta Information Group Length


class Blob(Protocol):
    """A DICOM Part 10 file (PS3.10 7.1) that is stored and never changes.

    Blobs are frozen, equal if they lie at the same place, hashable, and picklable because workers are other processes.
    The text of a blob says where it lies: it is the path of a file that holds nothing else.
    """

    def open(self) -> BufferedReader:
        """Open the file to be read from its beginning, as a context manager that can seek. Raises OSError."""

    @property
    def size(self) -> int:
        """The length of the file in bytes."""

    @property
    def checksum(self) -> str:
        """A SHA-256 of the dataset without the file meta information, in hexadecimal. It tells contents apart."""

    def is_intact(self) -> bool:
        """Read the blob from the disk, and return True if it is what the index knows.

        Raises OSError and Permanent.
        """


@dataclass(frozen=True)
class FileBlob:
    """A blob that is a file of its own. Size and checksum are read from the file unless the index has kept them.

    Its checksum is the SHA-256 of the dataset's bytes.
    """

    path: Path
    kept_size: int | None = field(default=None, compare=False)
    kept_checksum: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return str(self.path)

    def open(self) -> BufferedReader:
        return self.path.open("rb")

    @property
    def size(self) -> int:
        """The length of the file in bytes. Raises OSError."""
        return self.path.stat().st_size if self.kept_size is None else self.kept_size

    @property
    def checksum(self) -> str:
        """The SHA-256 of the dataset's bytes. Raises OSError, and Permanent as `dataset_offset` does."""
        if self.kept_checksum is not None:
            return self.kept_checksum
        with self.open() as file:
            return _dataset_sha256(file)

    def is_intact(self) -> bool:
        """Read the file from the disk, and return True if it has the size and the checksum that the index has kept.

        Raises OSError, and Permanent as `dataset_offset` does.
        """
        with self.open() as file:
            return file.seek(0, os.SEEK_END) == self.size and _dataset_sha256(file) == self.checksum


def file_blobs(paths: Iterable[Path]) -> tuple[FileBlob, ...]:
    """Return the blobs of these files, which are not read."""
    return tuple(map(FileBlob, paths))


@contextmanager
def open_to_parse(blob: Blob) -> Iterator[BufferedReader]:
    """Open a blob for a parser, and raise MalformedObject for whatever the parser raises.

    An error of the machine says nothing about the bytes, and passes as it is: MemoryError, and OSError with a number.
    pydicom raises OSError for malformed bytes too, but without a number.
    """
    with blob.open() as file:
        try:
            yield file
        except Exception as error:
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
                raise
            raise MalformedObject(f"an object cannot be read as DICOM ({type(error).__name__})") from None


def dataset_offset(start: bytes) -> int:
    """Return the offset of the dataset in a Part 10 file that begins with `start`.

    Raises Permanent if this is not how such a file begins.
    """
    if len(start) < _START or start[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00":
        raise Permanent("not a DICOM Part 10 file")
    (length,) = struct.unpack_from("<L", start, len(PREAMBLE) + 8)
    return _START + int(length)


def seek_dataset(file: BufferedReader) -> None:
    """Move to the dataset of a Part 10 file that is at its beginning. Raises Permanent as `dataset_offset` does."""
    file.seek(dataset_offset(file.read(_START)))


def _dataset_sha256(file: BufferedReader) -> str:
    # Read from the disk, and not from the page cache.
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    file.seek(0)
    seek_dataset(file)
    return hashlib.file_digest(file, "sha256").hexdigest()
