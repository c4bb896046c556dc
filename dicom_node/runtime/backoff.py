"""The pause between attempts (backoff)."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Backoff:
    """An exponential backoff: `first` seconds after the first attempt, then doubled each time, up to `longest` seconds.

    There are at most `attempts` attempts in all.
    """

    first: float
    longest: float
    attempts: int

    def retry_at(self, attempts_made: int, now: datetime) -> datetime | None:
        """Return the time of the next attempt after `attempts_made` attempts; None if there is none left."""
        if attempts_made >= self.attempts:
            return None
        return now + timedelta(seconds=min(self.longest, self.first * 2 ** (attempts_made - 1)))
