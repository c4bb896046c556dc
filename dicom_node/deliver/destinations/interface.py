"""The interface of every kind of destination, as the dispatcher and the confirmer use it."""

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
        """Send each file, and return one result for each, in their order.

        A failure of the peer, of a disk or of a file is a result, never an exception.
        """

    def accepted(self, sop_class_uids: Collection[str]) -> frozenset[str] | None:
        """Return which of these SOP classes it takes; None if that cannot be known before something is sent."""

    def echo(self) -> EchoResult:
        """Test the connection, without sending an object."""


class Asker(Protocol):
    """The one who asks for storage commitment, as a destination sees them."""

    def taken(self) -> None:
        """Take note that the destination has taken the request, so that its report is to come."""

    def heard(self, report: IncomingReport) -> int:
        """Take a report that came on the association that asked, and return the status to answer."""

    def waits(self) -> bool:
        """Return whether that association is to be kept open for the report."""


class ConfirmingDestination(Destination, Protocol):
    """A destination that is asked whether it keeps what it accepted."""

    def commit(self, transaction_uid: str, references: Sequence[InstanceReference], asker: Asker) -> None:
        """Ask for storage commitment.

        Raises PeerRefused if there is no such service, or where it does not take the request, and PeerUnavailable.
        """

    def stored(self, references: Collection[InstanceReference]) -> set[str]:
        """Return the SOP Instance UIDs of those of `references` that the destination holds.

        Raises PeerUnavailable, or PeerRefused if it does not say.
        """
