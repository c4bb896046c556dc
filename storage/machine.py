"""The machine on which this process runs, and the present run of its kernel."""

import errno
import socket
from functools import cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TROUBLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
)  # fmt: skip


def host_name() -> str:
    return socket.gethostname()


def is_trouble_of_the_machine(error: Exception) -> bool:
    """Return True if an error is one of the device, says nothing about a file, and may be gone later.

    Decoders of images raise OSError too, but without a number.
    """
    return isinstance(error, OSError) and error.errno in _TROUBLE


@cache
def boot_id() -> str:
    """Return what identifies the present run of the kernel; an empty text where nothing does.

    Only within one run of the kernel are the times of its monotonic clock comparable, for all processes.
    """
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
