"""What every kind of destination offers to the dispatcher, and to the confirmer."""

from collections.abc import Collection, Mapping, Sequence
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


@dataclass(frozen=True)
class Reference:
    """An instance by its UIDs."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class CommitmentReport:
    """What a destination tells in an N-EVENT-REPORT (PS3.4 table J.3-2): SOP Instance UIDs, those that failed with
    their Failure Reason (0008,1197).
    """

    transaction_uid: str
    committed: frozenset[str]
    failed: Mapping[str, int]


class Asker(Protocol):
    """Who asks for storage commitment, as far as a destination needs them."""

    def taken(self) -> None:
        """The destination has taken the request: its report is to come."""

    def heard(self, report: CommitmentReport) -> int:
        """A report came on the association that asked; the status to answer."""

    def waits(self) -> bool:
        """Whether that association is to be kept open for it."""


class Confirms(Protocol):
    """A destination that is asked whether it keeps what it accepted."""

    @property
    def name(self) -> str: ...

    def commit(self, transaction_uid: str, references: Sequence[Reference], asker: Asker) -> None:
        """Asks for storage commitment. Raises PeerRefused where there is no such service, or where it does not take
        the request, and PeerUnavailable.
        """

    def stored(self, references: Collection[Reference]) -> set[str]:
        """Which of these SOP instances it holds. Raises PeerUnavailable, or PeerRefused where it does not say."""
