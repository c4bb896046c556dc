"""Memory of processes, and the highest of a value that changes while something runs."""

import threading
from collections.abc import Callable
from pathlib import Path


class Peak:
    """Looks every `seconds` while a block runs; `highest` is the most that `read` gave."""

    def __init__(self, read: Callable[[], int], seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.highest = 0

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.highest = max(self.highest, self._read())
            if self._stop.wait(self._seconds):
                return


def memory(of: str, process: int | str = "self") -> int:
    """Bytes: VmRSS, resident now, or VmHWM, the most there was. 0 when the process has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{of}:")), 0)
