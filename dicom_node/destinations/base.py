"""What every kind of destination offers to the dispatcher."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class SendResult:
    """What became of one instance. `reason` is a note where `ok`, and says what went wrong where not.

    `refused` says that the destination answered, and does not take this object: for good, or only now where
    `retriable`. It may take something else in its place.
    """

    sop_instance_uid: str  # empty where the file could not be read
    ok: bool
    retriable: bool = False
    reason: str = ""
    refused: bool = False


@dataclass(frozen=True)
class EchoResult:
    """Whether the other side answers. `reason` says why not."""

    ok: bool
    seconds: float
    reason: str = ""


class Destination(Protocol):
    """A place results go to. Sending an instance again is harmless: its SOP Instance UID stays the same."""

    @property
    def name(self) -> str: ...

    def send(self, paths: Sequence[Path]) -> list[SendResult]:
        """One result for each file, in their order. Does not raise for what a peer, a disk or a file does."""

    def accepted(self, sop_class_uids: Collection[str]) -> frozenset[str] | None:
        """Which of these SOP classes it takes. None where that cannot be known before something is sent."""

    def echo(self) -> EchoResult: ...
