"""The two clocks of a process: the wall clock, which can be set, and the monotonic clock, which measures intervals.

Rows hold wall-clock times, because they outlive processes and are shared by machines. But no interval may end early, or
an hour late, because somebody sets the clock. So

- what a process measures in its memory, it measures by `steady_now`;
- a row that must be left alone while its holder lives is watched by `Unchanged`;
- a time in a row that lies ahead is compared with `MachineClock.now`, which moves the rows along when the clock is set.

CLOCK_MONOTONIC stands still while the machine is suspended. CLOCK_BOOTTIME does not, and is not used: no image can
arrive and no worker can send its heartbeat in that time, so it must not count as silence. After a suspension the wall
clock seems to have been set forward, and is told as such.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from dicom_node.runtime.logs import fields
from storage.machine import boot_id, host_name
from storage.tables.database.clock import Clocks
from storage.tables.database.connection import Database

log = logging.getLogger(__name__)

TOLERANCE_SECONDS = 2.0  # NTP slews both clocks alike, so that only a step makes them differ
SETTLE_SECONDS = 30.0  # between two looks of a process at the rows whose times lie too far ahead

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def wall_now() -> datetime:
    """Return the time of the wall clock, for records and for people."""
    return datetime.now(UTC)


def steady_now() -> datetime:
    """Return the wall-clock time at which the process started, plus the monotonic time since.

    It is for intervals within one process. It equals the wall clock until that is set, and is never written anywhere.
    """
    return _STARTED_AT + timedelta(seconds=time.monotonic() - _STARTED)


_STARTED_AT, _STARTED = wall_now(), time.monotonic()


class Unchanged(Generic[K, V]):
    """The rows that have not changed for a while, as this process has seen them.

    A holder shows that it lives by changing its row. The times in the row say nothing: the clock of the holder, or that
    of this machine, may have been set.
    """

    def __init__(self, seconds: float, now: Callable[[], datetime] = steady_now) -> None:
        self._span = timedelta(seconds=seconds)
        self._now = now
        self._seen: dict[K, tuple[V, datetime]] = {}

    def among(self, rows: Mapping[K, V]) -> dict[K, V]:
        """Return the rows that have had the same value for the whole time. Rows that are gone are forgotten."""
        now = self._now()
        before, self._seen = self._seen, {}
        for key, value in rows.items():
            known = before.get(key)
            self._seen[key] = known if known is not None and known[0] == value else (value, now)
        return {key: value for key, (value, since) in self._seen.items() if now - since >= self._span}


class StepWatch:
    """The difference of the two clocks of this process, which only a step of the wall clock changes."""

    def __init__(
        self, wall: Callable[[], datetime] = wall_now, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._offset = self._read()

    def _read(self) -> float:
        return self._wall().timestamp() - self._monotonic()

    def look(self) -> float:
        """Return the seconds by which the wall clock was set since the last look; 0 if it was not."""
        before, self._offset = self._offset, self._read()
        step = self._offset - before
        return step if abs(step) > TOLERANCE_SECONDS else 0.0

    def tell(self) -> None:
        """Look, and log a step."""
        if step := self.look():
            message = (
                "The clock of this machine was set %s by %s, or the machine was suspended; intervals go on as before"
            )
            log.error(message, *words_of_step(step), extra=fields("clock_stepped", seconds=round(step)))


Settle = Callable[[str, str, float, datetime], tuple[float, int]]
"""Moves the times of waiting rows by a step, as `storage.tables.database.clock.Clocks.settle` does."""


class MachineClock:
    """The wall clock of this machine, for comparison with times of rows that lie ahead.

    The database keeps the difference of the two clocks for each machine. Whoever first sees it change, in any role, has
    the times of all waiting rows moved by as much, in one transaction. This also works for a step that happened
    while a role did not run. After a restart of the machine nothing is known but the wall clock; then only times that
    lie too far ahead are brought back.
    """

    def __init__(
        self, settle: Settle, wall: Callable[[], datetime] = wall_now, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settle = settle
        self._wall = wall
        self._monotonic = monotonic
        self._machine = host_name(), boot_id()
        self._lock = threading.Lock()
        self._offset: float | None = None
        self._settled = 0.0

    def now(self) -> datetime:
        """Return the wall-clock time, by which the times of rows are right. Raises Retriable as the database does."""
        with self._lock:
            now, monotonic = self._wall(), self._monotonic()
            offset = now.timestamp() - monotonic
            stepped = self._offset is None or abs(offset - self._offset) > TOLERANCE_SECONDS
            if stepped or monotonic - self._settled > SETTLE_SECONDS:
                step, brought_back = self._settle(*self._machine, offset, now)
                self._offset, self._settled = offset, monotonic
                if step:
                    way, size = words_of_step(step)
                    message = "The clock was set %s by %s; the times of everything that waits are moved along"
                    log.warning(message, way, size, extra=fields("waiting_times_moved", seconds=round(step)))
                if brought_back:
                    message = "%d times lay further ahead than anything waits, so that they are due now"
                    log.error(message, brought_back, extra=fields("waiting_times_clamped"))
            return now


def machine_clock(database: Database, longest_wait_seconds: float) -> MachineClock:
    """Return the clock of this machine. No row may be put off for longer than `longest_wait_seconds`."""
    return MachineClock(Clocks(database, timedelta(seconds=longest_wait_seconds)).settle)


def words_of_step(seconds: float) -> tuple[str, str]:
    """Return the direction of a step and its size, for people."""
    size = abs(seconds)
    for name, unit in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if size >= unit or unit == 1:
            number = f"{size / unit:.3g}"
            return ("forward" if seconds > 0 else "back"), f"{number} {name}{'' if number == '1' else 's'}"
    raise AssertionError("a second is the smallest unit")
