"""The highest of a value that changes while something runs, such as the memory of another process."""

import threading
from collections.abc import Callable


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
