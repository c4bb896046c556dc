"""The space of files: holes, which are given back to the file system and read as zeros, and space behind the end."""

import ctypes
import errno
import os
import tempfile
from pathlib import Path

_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # of fallocate(2)
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS)
_CLEARED_AT_ONCE = 2**20
_LIBC = ctypes.CDLL(None, use_errno=True)


def clear(descriptor: int, start: int, end: int) -> None:
    """Make the bytes from `start` to `end` zeros, and give their space back where the file system can do that.

    Nothing else changes: the kernel writes zeros into blocks that belong to the range in part. The caller flushes.
    Raises OSError.
    """
    if end <= start:
        return
    try:
        _punch(descriptor, start, end - start)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        _write_zeros(descriptor, start, end)


def has_holes(folder: Path) -> bool:
    """Return True if the file system of a folder can give parts of files back. Raises OSError."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_CLEARED_AT_ONCE))
        file.flush()
        try:
            _punch(file.fileno(), 0, _CLEARED_AT_ONCE)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return False
            raise
    return True


def reserve(descriptor: int, start: int, end: int) -> None:
    """Reserve the space from `start` to `end` of a file, whose size stays as it is.

    The kernel gives the part behind the end back when the file is truncated, also to the size that it has. Raises
    OSError, also where the file system cannot do that.
    """
    _allocate(descriptor, _KEEP_SIZE, start, end - start)


def _punch(descriptor: int, start: int, length: int) -> None:
    _allocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, start, length)


def _allocate(descriptor: int, mode: int, start: int, length: int) -> None:
    offset, size = ctypes.c_int64(start), ctypes.c_int64(length)
    while _LIBC.fallocate(descriptor, mode, offset, size) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def _write_zeros(descriptor: int, start: int, end: int) -> None:
    zeros = bytes(min(_CLEARED_AT_ONCE, end - start))
    while start < end:
        start += os.pwrite(descriptor, memoryview(zeros)[: end - start], start)
