"""The urgency of jobs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Urgency:
    """The priorities of peers, by their AE titles."""

    peers: Mapping[str, int]

    def of(self, study_priority: int, callers: Iterable[str]) -> int:
        """Return the priority of a job: the highest of its study's priority and those of the peers that fed it."""
        return max(study_priority, *(self.peers.get(caller.strip(), 0) for caller in callers), 0)
