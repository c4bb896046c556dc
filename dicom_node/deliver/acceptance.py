"""What destinations are known to accept, so that what a PACS refuses is not even sent to it."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from dicom_node.deliver.destinations.base import Destination

# Whoever mended a PACS, and queues again what it refused, is believed soon.
ACCEPTED_SECONDS = 3600.0
REFUSED_SECONDS = 60.0


@dataclass(frozen=True)
class _Answer:
    accepted: frozenset[str]
    at: float


class Acceptance:
    """Asks destinations which of the SOP classes in `written` they accept, and remembers the answer for a while."""

    def __init__(self, written: frozenset[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._written = written
        self._clock = clock
        self._answers: dict[str, _Answer] = {}

    def refused(self, destination: Destination, sop_class_uids: Collection[str]) -> frozenset[str]:
        """Those of these SOP classes that the destination does not accept; none where it cannot be known."""
        wanted = self._written.intersection(sop_class_uids)
        answer = self._answers.get(destination.name)
        if answer is not None:
            seconds = ACCEPTED_SECONDS if wanted <= answer.accepted else REFUSED_SECONDS
            if self._clock() - answer.at <= seconds:
                return wanted - answer.accepted
        accepted = destination.accepted(self._written)
        if accepted is None:
            self.forget(destination)
            return frozenset()
        self._answers[destination.name] = _Answer(accepted, self._clock())
        return wanted - accepted

    def forget(self, destination: Destination) -> None:
        """For when it answered otherwise, or not at all: it is asked again."""
        self._answers.pop(destination.name, None)
