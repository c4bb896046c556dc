"""Durable files, which are written under a temporary name, flushed and renamed, before their folder is flushed."""

import errno
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import Dataset

from storage.blobs import PREAMBLE, Blob, FileBlob
from storage.errors import StorageFull

BytesLike = bytes | bytearray | memoryview

IMPLEMENTATION_CLASS_UID = "2.25.183557818718648495613969241002425635108"
IMPLEMENTATION_VERSION_NAME = "DICOM_NODE_0_1"  # SH, at most 16 characters

STALE_SECONDS = 600.0  # no writer needs longer for one file
_TEMPORARY = ".writing-"  # how the names of temporary files begin
_COPIED_AT_ONCE = 2**20


def write_durable(path: Path, ds: Dataset) -> FileBlob:
    """Write `ds` as a Part 10 file (PS3.10 7.1) to `path`, which is replaced. The file is durable on return.

    Raises StorageFull, and then leaves no file behind.
    """
    with _space():
        make_folder(path.parent)
        with _temporary(path.parent) as (file, temporary):
            ds.save_as(file, enforce_file_format=True)
            _flush(file)
            os.replace(temporary, path)
            sync_folder(path.parent)
    return FileBlob(path)


def copy_durable(source: Blob, path: Path) -> None:
    """Copy a blob to `path`, which is replaced. The copy is durable on return, and readable as the umask says.

    Raises StorageFull and OSError, and then leaves no file behind. A crash may leave a file whose name begins with a
    dot; the next attempt overwrites it.
    """
    temporary = path.with_name(f".{path.name}.part")
    with _space():
        make_folder(path.parent)
        try:
            with source.open() as content, temporary.open("wb") as file:
                shutil.copyfileobj(content, file, _COPIED_AT_ONCE)
                _flush(file)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def create_once(path: Path, content: bytes) -> None:
    """Create a file that its owner alone can read, unless it exists. It is durable on return.

    If several threads or processes do so at once, the file of the first one stays.
    """
    with suppress(FileExistsError), _temporary(path.parent) as (file, temporary):
        file.write(content)
        _flush(file)
        os.link(temporary, path)
    sync_folder(path.parent)


def remove_stale(root: Path) -> int:
    """Remove the temporary files below a folder whose writers died; return their number."""
    removed = 0
    oldest = time.time() - STALE_SECONDS
    for temporary in root.rglob(f"{_TEMPORARY}*"):
        with suppress(FileNotFoundError):  # its writer has just removed or renamed it
            if temporary.stat().st_mtime < oldest:
                temporary.unlink()
                removed += 1
    return removed


def make_folder(folder: Path) -> None:
    """Create a folder and its parents. New folders are durable on return."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FileMeta:
    """The start of Part 10 files (PS3.10 7.1): preamble, prefix and file meta information.

    This start is encoded once for all instances of the same SOP class, transfer syntax and source; only the SOP
    Instance UID is filled in for each instance.
    """

    def __init__(self, sop_class_uid: str, transfer_syntax_uid: str, source_ae_title: str) -> None:
        self._before = (
            struct.pack("<HH2sHL", 0x0002, 0x0001, b"OB", 0, 2)  # File Meta Information Version
            + b"\x00\x01"
            + _element(0x0002, b"UI", sop_class_uid, b"\0")  # Media Storage SOP Class UID
        )
        self._after = (
            _element(0x0010, b"UI", transfer_syntax_uid, b"\0")
            + _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID, b"\0")
            + _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME, b" ")
            + (_element(0x0016, b"AE", source_ae_title[:16], b" ") if source_ae_title else b"")
        )

    def header(self, sop_instance_uid: str) -> bytes:
        """Return the bytes that precede the dataset of this instance."""
        instance = _element(0x0003, b"UI", sop_instance_uid, b"\0")  # Media Storage SOP Instance UID
        length = len(self._before) + len(instance) + len(self._after)
        group_length = struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, length)
        return b"".join((PREAMBLE, group_length, self._before, instance, self._after))


def _element(element: int, vr: bytes, value: str, padding: bytes) -> bytes:
    encoded = value.encode("ascii", "replace")
    if len(encoded) % 2:
        encoded += padding
    return struct.pack("<HH2sH", 0x0002, element, vr, len(encoded)) + encoded


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _temporary(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Yield a file that is removed afterwards unless it was renamed. Only the node's own user may read it."""
    descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=folder)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _space() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cause: BaseException | None = error  # pydicom wraps errors in others that have no number
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull("No space left in the data directory") from None
            cause = cause.__cause__
        raise
