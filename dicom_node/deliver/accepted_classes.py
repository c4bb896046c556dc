"""The SOP classes that destinations are known to accept, so that no PACS is sent an object that it refuses."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from dicom_node.deliver.destinations.interface import Destination

# A refusal is forgotten sooner: an operator who has mended a PACS queues again what it refused, and waits for it.
ACCEPTED_SECONDS = 3600.0
REFUSED_SECONDS = 60.0


@dataclass(frozen=True)
class _KnownClasses:
    accepted: frozenset[str]
    at: float


class Acceptance:
    """A memory of the SOP classes in `written` that each destination accepts. It asks again after a while."""

    def __init__(self, written: frozenset[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._written = written
        self._clock = clock
        self._answers: dict[str, _KnownClasses] = {}

    def refused(self, destination: Destination, sop_class_uids: Collection[str]) -> frozenset[str]:
        """Return the given SOP classes that the destination does not accept; none if that cannot be known."""
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
        self._answers[destination.name] = _KnownClasses(accepted, self._clock())
        return wanted - accepted

    def forget(self, destination: Destination) -> None:
        """Forget what the destination accepts, so that it is asked again: its last answer differed, or did not come."""
        self._answers.pop(destination.name, None)
