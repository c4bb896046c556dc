"""What every kind of destination offers to the dispatcher, and to the confirmer."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from dicom_node.dimse.commitment import IncomingReport
from dicom_node.dimse.results import EchoResult, InstanceReference, SendResult


class Destination(Protocol):
    """A place results go to. Sending an instance again is harmless: its SOP Instance UID stays the same."""

    @property
    def name(self) -> str: ...

    def send(self, paths: Sequence[Path]) -> list[SendResult]:
        """One result for each file, in their order. Does not raise for what a peer, a disk or a file does."""

    def accepted(self, sop_class_uids: Collection[str]) -> frozenset[str] | None:
        """Which of these SOP classes it takes. None where that cannot be known before something is sent."""

    def echo(self) -> EchoResult: ...


class Asker(Protocol):
    """Who asks for storage commitment, as far as a destination needs them."""

    def taken(self) -> None:
        """The destination has taken the request: its report is to come."""

    def heard(self, report: IncomingReport) -> int:
        """A report came on the association that asked; the status to answer."""

    def waits(self) -> bool:
        """Whether that association is to be kept open for it."""


class ConfirmingDestination(Destination, Protocol):
    """A destination that is asked whether it keeps what it accepted."""

    def commit(self, transaction_uid: str, references: Sequence[InstanceReference], asker: Asker) -> None:
        """Ask for storage commitment.

        Raises PeerRefused where there is no such service, or where it does not take the request, and PeerUnavailable.
        """

    def stored(self, references: Collection[InstanceReference]) -> set[str]:
        """Return the SOP Instance UIDs of those of `references` that the destination holds.

        Raises PeerUnavailable, or PeerRefused where it does not say.
        """
