"""A scanner that pushes series to a node as modalities do: one association per series, in any order, at any rate."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dicom_node.dimse.results import SendOutcome, SendResult
from dicom_node.dimse.scu import OutgoingInstance, StorageSCU, Target
from dicom_node.errors import PeerRefused, PeerUnavailable
from storage.blobs import FileBlob
from storage.errors import Permanent


class Associations(StrEnum):
    """The unit of sending: the scanner opens one association for each of these."""

    SERIES = "series"
    INSTANCE = "instance"
    STUDY = "study"


@dataclass(frozen=True)
class PushOptions:
    """The way in which a scanner pushes.

    `shuffle` is a seed that mixes the images within an association, and the associations. `rate` is the limit of images
    per second over all associations; `concurrency` is the number of associations that are open at once. `timeout`
    (seconds) limits the wait for each answer.
    """

    associations: Associations = Associations.SERIES
    shuffle: int | None = None
    rate: float | None = None
    concurrency: int = 1
    timeout: float = 30.0


@dataclass(frozen=True)
class PushReport:
    """The images that the receiving side acknowledged. `failures` holds the files that it did not, with the reason."""

    sent: int
    acknowledged: tuple[str, ...]  # SOP Instance UIDs, in the order of their responses
    failures: tuple[tuple[Path, str], ...]
    seconds: float

    @property
    def images_per_second(self) -> float:
        return len(self.acknowledged) / self.seconds if self.seconds > 0 else 0.0


class _Pace:
    """A pace for the images of all associations: `wait` returns no more often than `rate` times a second."""

    def __init__(self, rate: float | None) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._next = time.monotonic()
        self._lock = threading.Lock()

    def wait(self) -> None:
        if not self._interval:
            return
        with self._lock:
            due = self._next
            self._next = max(due, time.monotonic()) + self._interval
        time.sleep(max(0.0, due - time.monotonic()))


def push(
    series: Sequence[Sequence[Path]],
    target: Target,
    calling_ae_title: str = "SCANNER",
    options: PushOptions = PushOptions(),
    progress: Callable[[SendResult], None] = lambda result: None,
) -> PushReport:
    """Send every file once and wait for its status. `progress` is called from the threads of the associations."""
    groups = _group(series, options.associations)
    if options.shuffle is not None:
        mixer = random.Random(options.shuffle)  # noqa: S311 - a repeatable order, no secret
        mixer.shuffle(groups)
        for group in groups:
            mixer.shuffle(group)
    pace = _Pace(options.rate)
    start = time.monotonic()
    with ThreadPoolExecutor(max_workers=max(1, options.concurrency)) as pool:
        outcomes = [
            outcome
            for outcomes in pool.map(
                lambda group: _push_group(group, target, calling_ae_title, options.timeout, pace, progress), groups
            )
            for outcome in outcomes
        ]
    return PushReport(
        sent=len(outcomes),
        acknowledged=tuple(result.sop_instance_uid for _, result in outcomes if result.ok),
        failures=tuple((path, result.reason) for path, result in outcomes if not result.ok),
        seconds=time.monotonic() - start,
    )


def _group(series: Sequence[Sequence[Path]], associations: Associations) -> list[list[Path]]:
    match associations:
        case Associations.SERIES:
            return [list(paths) for paths in series if paths]
        case Associations.INSTANCE:
            return [[path] for paths in series for path in paths]
        case Associations.STUDY:
            return [[path for paths in series for path in paths]]


def _push_group(
    paths: Sequence[Path],
    target: Target,
    calling_ae_title: str,
    timeout: float,
    pace: _Pace,
    progress: Callable[[SendResult], None],
) -> list[tuple[Path, SendResult]]:
    """Send these files over one association. A file that could not be sent is reported as a failure, never raised."""
    try:
        instances = [OutgoingInstance.from_blob(FileBlob(path)) for path in paths]
    except OSError as error:
        raise Permanent(f"{error.filename} cannot be read: {error.strerror}") from None
    outcomes: list[tuple[Path, SendResult]] = []

    def note(result: SendResult) -> None:
        outcomes.append((paths[len(outcomes)], result))
        progress(result)

    try:
        contexts = [context for instance in instances for context in instance.contexts()]
        with StorageSCU(calling_ae_title, target, contexts, timeout) as scu:
            for instance in instances:
                pace.wait()
                note(scu.store(instance))
    except (PeerUnavailable, PeerRefused) as error:
        for instance in instances[len(outcomes) :]:
            outcome = SendOutcome.LOST if isinstance(error, PeerUnavailable) else SendOutcome.DENIED
            note(SendResult(instance.sop_instance_uid, outcome, str(error)))
    return outcomes
