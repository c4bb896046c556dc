"""How long to wait before the next attempt."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Backoff:
    """Exponential: `first` seconds after the first attempt, doubled each time up to `longest`, `attempts` in all."""

    first: float
    longest: float
    attempts: int

    def retry_at(self, attempts_made: int, now: datetime) -> datetime | None:
        """When to try again after `attempts_made` attempts; None when that was the last."""
        if attempts_made >= self.attempts:
            return None
        return now + timedelta(seconds=min(self.longest, self.first * 2 ** (attempts_made - 1)))
