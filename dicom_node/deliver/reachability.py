"""The pauses while a destination is not reached: they grow, and end with its first answer."""

import time
from collections.abc import Callable


class Reachability:
    """A memory of how long each destination has not been reached, by the monotonic clock.

    A pause lasts as long as the destination has been away so far, but at least `first` and at most `longest` seconds.
    """

    def __init__(self, first: float, longest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first = first
        self._longest = longest
        self._clock = clock
        self._away_since: dict[str, float] = {}
        self._next_try: dict[str, float] = {}
        self._reached: set[str] = set()

    def is_paused(self, destination: str) -> bool:
        """Return True while the destination is not to be tried."""
        return self._clock() < self._next_try.get(destination, 0.0)

    def missed(self, destination: str) -> float:
        """Note that the destination was not reached, and return the seconds until it is tried again."""
        self._reached.discard(destination)
        now = self._clock()
        pause = self.pause(now - self._away_since.setdefault(destination, now))
        self._next_try[destination] = now + pause
        return pause

    def miss(self, destination: str) -> None:
        """Take the destination for away, and try it at once."""
        self._away_since.setdefault(destination, self._clock())

    def is_away(self, destination: str) -> bool:
        """Return True if the last try did not reach the destination."""
        return destination in self._away_since

    def pause(self, waited: float) -> float:
        """Return the seconds between two tries of what has waited for so many seconds."""
        return min(self._longest, max(self._first, waited))

    def answered(self, destination: str) -> bool:
        """Note that the destination was reached. Return True if it was away, or if it is not known that it was not."""
        self._away_since.pop(destination, None)
        self._next_try.pop(destination, None)
        is_news = destination not in self._reached
        self._reached.add(destination)
        return is_news
