"""The supervisor, which keeps the roles of one machine alive, each in a process of its own.

It starts the roles in order and stops them in reverse. A role that dies is started again, after a pause that grows
while it keeps dying. Children announce readiness as they would to systemd (sd_notify), on a socket of the supervisor.
"""

import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dicom_node.runtime.logs import fields
from dicom_node.runtime.notify import notify
from dicom_node.runtime.process import SUPERVISOR_VARIABLE, die_with_parent, hold, stop_on_signals

log = logging.getLogger(__name__)

READY_SECONDS = 120.0
STOP_SECONDS = 20.0
LONGEST_PAUSE_SECONDS = 30.0
STABLE_SECONDS = 60.0  # a role that lived this long starts again without a pause


@dataclass(frozen=True)
class Role:
    """A child process: `python -m <arguments>`."""

    name: str
    arguments: tuple[str, ...]


class Supervisor:
    def __init__(self, roles: Sequence[Role]) -> None:
        self._roles = roles

    def run(self) -> int:
        """Run until SIGTERM or SIGINT. Return the exit status, 1 if a role did not start at all."""
        die_with_parent()
        stop = stop_on_signals()
        with tempfile.TemporaryDirectory(prefix="dicom-node-") as folder:
            children = [_Child(role, Path(folder)) for role in self._roles]
            try:
                if not self._start(children, stop):
                    return 0 if stop.is_set() else 1
                notify("READY=1")
                names = ", ".join(role.name for role in self._roles)
                log.info("All roles are up: %s", names, extra=fields("roles_started"))
                hold(stop, lambda: _revive(children))
                notify("STOPPING=1")
            finally:
                for child in reversed(children):
                    child.stop()
        return 0

    def _start(self, children: Sequence["_Child"], stop: threading.Event) -> bool:
        for child in children:
            child.start()
            if not child.wait_ready(stop):
                if not stop.is_set():
                    log.error("Role %s does not start", child.role.name, extra=fields("role_failed"))
                return False
        return True


def _revive(children: Sequence["_Child"]) -> bool:
    for child in children:
        child.revive()
    return True


class _Child:
    def __init__(self, role: Role, folder: Path) -> None:
        self.role = role
        self._socket_path = folder / f"{role.name.replace('/', '-')}.sock"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._socket_path))
        self._socket.settimeout(0.2)
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._revive_at: float | None = None
        self._pause = 0.0

    def start(self) -> None:
        environment = {
            **os.environ,
            SUPERVISOR_VARIABLE: str(os.getpid()),
            "NOTIFY_SOCKET": str(self._socket_path),
        }
        environment.pop("WATCHDOG_USEC", None)  # systemd's watchdog is the supervisor's to feed
        self._process = subprocess.Popen([sys.executable, "-m", *self.role.arguments], env=environment)
        self._started_at = time.monotonic()
        self._revive_at = None

    def wait_ready(self, stop: threading.Event) -> bool:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and not stop.is_set():
            try:
                if b"READY=1" in self._socket.recv(4096):
                    return True
            except TimeoutError:
                if self._process is not None and self._process.poll() is not None:
                    return False
        return False

    def revive(self) -> None:
        """Start the process again if it has died and the pause is over."""
        self._drain()
        now = time.monotonic()
        if self._revive_at is not None:
            if now >= self._revive_at:
                self.start()
            return
        assert self._process is not None
        status = self._process.poll()
        if status is None:
            return
        stable = now - self._started_at > STABLE_SECONDS
        self._pause = 0.0 if stable else min(LONGEST_PAUSE_SECONDS, max(0.5, self._pause * 2))
        self._revive_at = now + self._pause
        log.error(
            "Role %s ended with status %s; starting it again in %.1f s",
            self.role.name,
            status,
            self._pause,
            extra=fields("role_restarted"),
        )

    def _drain(self) -> None:
        """Read the announcements of a restarted child, because a full socket would block it."""
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(4096)

    def stop(self) -> None:
        self._socket.close()
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("Role %s does not stop; it is killed", self.role.name, extra=fields("role_killed"))
            self._process.kill()
            self._process.wait()
