"""The cost of a piece of work in this process: time, processor time, memory."""

import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peak import memory


@dataclass(frozen=True)
class Measured:
    """One case, one contender, one round."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int  # resident memory of the process
    growth_bytes: int  # above what it held before; of a program that is started for the case, all
    first_seconds: float | None = None  # the node's first object of a process, which loads what later ones share


class Meter:
    """Time and memory from the end of the preparations to the end of the work."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the highest resident memory counts anew
        self._held = memory("VmRSS")
        self._cpu, self._start = time.process_time(), time.perf_counter()

    def read(self) -> Measured:
        seconds, cpu, peak = time.perf_counter() - self._start, time.process_time() - self._cpu, memory("VmHWM")
        return Measured(seconds, cpu, peak, peak - self._held)
