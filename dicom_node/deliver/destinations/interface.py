"""The interface of every kind of destination, as the dispatcher and the confirmer use it."""

from collections.abc import Collection, Sequence
from typing import Protocol

from dicom_node.dimse.commitment import IncomingReport
from dicom_node.dimse.results import EchoResult, InstanceReference, SendResult
from storage.blobs import Blob
from storage.records.deliveries import StoredAs


class Destination(Protocol):
    """A place to which results are sent. Sending an instance again is harmless: its SOP Instance UID stays the same."""

    @property
    def name(self) -> str: ...

    def send(self, blobs: Sequence[Blob]) -> list[SendResult]:
        """Send the objects, and return a result for each object, in the same order.

        A failure of the peer, of a disk or of an object is a result, never an exception.
        """

    def accepted(self, sop_class_uids: Collection[str]) -> frozenset[str] | None:
        """Return which of these SOP classes the destination takes; None if it cannot say before an object is sent."""

    def echo(self) -> EchoResult:
        """Test the connection, without sending an object."""


class Asker(Protocol):
    """The part of the confirmer that a destination calls while it is asked for storage commitment."""

    def taken(self) -> None:
        """Note that the destination has taken the request and will send a report."""

    def heard(self, report: IncomingReport) -> int:
        """Take a report that came on the requesting association, and return the status of the answer."""

    def waits(self) -> bool:
        """Return True if the requesting association must stay open for the report."""


class ConfirmingDestination(Destination, Protocol):
    """A destination that can be asked if it keeps the objects that it accepted."""

    def commit(self, transaction_uid: str, references: Sequence[InstanceReference], asker: Asker) -> None:
        """Ask for storage commitment.

        Raises PeerRefused if the destination has no such service or does not take the request, and PeerUnavailable.
        """

    def stored(self, references: Collection[InstanceReference]) -> set[str]:
        """Return the SOP Instance UIDs of all `references` that the destination holds.

        Raises PeerUnavailable, or PeerRefused if the destination refuses to answer.
        """

    def moved(self, references: Collection[InstanceReference]) -> dict[str, StoredAs]:
        """Return, by SOP Instance UID, where the destination keeps `references` that `stored` does not find.

        Some destinations change UIDs. Raises as `stored` does.
        """
