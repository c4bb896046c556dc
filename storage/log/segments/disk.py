"""Reads and writes of whole pieces, and the errors of the disk."""

import errno
import os
from collections.abc import Sequence
from types import TracebackType

from storage.errors import Retriable, StorageFull
from storage.log.files import BytesLike

_PAGE = os.sysconf("SC_PAGESIZE")


class DiskErrors:
    """A context that turns errors of the file system into StorageFull and Retriable.

    It is a class, and not a generator, because it is entered for every instance that arrives.
    """

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


def write_all(descriptor: int, parts: Sequence[BytesLike]) -> None:
    """Write all parts, in one system call unless the device is full."""
    waiting = [memoryview(part) for part in parts if len(part)]
    while waiting:
        written = os.writev(descriptor, waiting)
        while waiting and written >= len(waiting[0]):
            written -= len(waiting.pop(0))
        if waiting:
            waiting[0] = waiting[0][written:]


def read_all(descriptor: int, offset: int, length: int) -> bytes:
    """Return the bytes from `offset` on, up to `length` of them or to the end of the file."""
    found = os.pread(descriptor, length, offset)
    if len(found) == length:
        return found
    parts = [found]
    while found:  # a read may be cut short before the end
        offset += len(found)
        length -= len(found)
        found = os.pread(descriptor, length, offset)
        parts.append(found)
    return b"".join(parts)


def drop_cached(descriptor: int, start: int, end: int) -> None:
    """Have the bytes from `start` to `end` read from the disk the next time, and not from the page cache."""
    start -= start % _PAGE  # of a page that is named in part, nothing would be dropped
    os.posix_fadvise(descriptor, start, end - start + -end % _PAGE, os.POSIX_FADV_DONTNEED)
