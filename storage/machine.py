"""The machine on which this process runs, and the present run of its kernel."""

import socket
from functools import cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def host_name() -> str:
    return socket.gethostname()


@cache
def boot_id() -> str:
    """Return what identifies the present run of the kernel; an empty text where nothing does.

    Only within one run of the kernel are the times of its monotonic clock comparable, for all processes.
    """
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
