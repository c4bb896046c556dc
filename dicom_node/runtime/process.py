"""The life of a role in a process of its own: signals, readiness, watchdog, and the end with its supervisor."""

import ctypes
import fcntl
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from dicom_node.runtime.clock import StepWatch
from dicom_node.runtime.logs import fields
from dicom_node.runtime.notify import notify, watchdog_interval
from storage.errors import Permanent

log = logging.getLogger(__name__)

SUPERVISOR_VARIABLE = "DICOM_NODE_SUPERVISOR"
_PR_SET_PDEATHSIG = 1
_M_ARENA_MAX = -8
_LOCKS: list[IO[str]] = []  # open as long as the process lives; the kernel frees them however it ends


def keep_files_private() -> None:
    """Deny other users the files of this process and its children, whatever the umask: images are patients' data."""
    os.umask(os.umask(0o077) | 0o027)


def die_with_parent() -> None:
    """Ask Linux for SIGTERM when the supervisor ends, even by SIGKILL, because no orphan may hold the port or a job."""
    supervisor = os.environ.get(SUPERVISOR_VARIABLE)
    if supervisor is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(supervisor):  # it ended before the request was in place
        sys.exit(1)


def role_name(role: str) -> str:
    """Return the name under which a role of this machine holds rows of a database that machines may share."""
    return f"{socket.gethostname()}/{role}"


def claim_role(data_dir: Path, role: str, of: str | None = None) -> None:
    """Make this process the only one of its `role` on `data_dir` on this machine, as long as it lives.

    Otherwise a second process would take the jobs of the first for jobs of its own earlier process. `of` replaces the
    machine's name if a role must be unique among several machines. Raises Permanent if the role is claimed already.
    """
    folder = data_dir / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f"{of or socket.gethostname()}-{role.replace('/', '-')}").open("w")
    except OSError as error:
        raise Permanent(f"node.data_dir = '{data_dir}': cannot be written ({error.strerror}); name another") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Permanent(
            f"another process already runs the role {role} on {data_dir}; stop it, or give this one its own data_dir"
        ) from None
    _LOCKS.append(lock)


def share_memory_between_threads() -> None:
    """Make glibc keep one memory pool for all threads, because a pool for each would waste memory."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def run_role(work: Callable[[threading.Event], None], prepare: Callable[[], None] | None = None) -> int:
    """Run `work(stop)` in a thread until a signal comes. Return the exit status, 1 if `work` ended by itself.

    `prepare` runs before, and then readiness is announced. The watchdog is fed only while `work` is alive.
    """
    die_with_parent()
    stop = stop_on_signals()
    if prepare is not None:
        prepare()
    thread = threading.Thread(target=work, args=(stop,), name="role")
    thread.start()
    notify("READY=1")
    hold(stop, thread.is_alive)
    died = not stop.is_set()
    if died:
        log.error("The role ended unexpectedly", extra=fields("role_failed"))
    stop.set()
    notify("STOPPING=1")
    thread.join()
    return 1 if died else 0


def hold(stop: threading.Event, alive: Callable[[], bool]) -> None:
    """Wait until `stop` is set, or until `alive` returns False; meanwhile feed the watchdog, and watch the clock."""
    interval = watchdog_interval()
    pause = min(1.0, interval / 2) if interval else 1.0
    steps = StepWatch()
    while alive() and not stop.wait(pause):
        steps.tell()
        if interval:
            notify("WATCHDOG=1")
