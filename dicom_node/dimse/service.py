"""The interface between the network and the services of the node: the questions of an acceptor, and the answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pynetdicom.presentation import PresentationContext

from dicom_node.dimse.pdu import StoreRequest
from dicom_node.dimse.status import DimseResponse, RejectReason
from storage.records.evidence import AssociationEnd


@dataclass(frozen=True)
class Proposal:
    """An A-ASSOCIATE-RQ (PS3.8 9.3.2). Texts are as they came, without padding."""

    calling_ae_title: str
    called_ae_title: str
    host: str
    contexts: Sequence[PresentationContext]


@dataclass(frozen=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 table 9-21). `explanation` completes the sentence in the log."""

    reason: RejectReason
    explanation: str


@dataclass(frozen=True)
class Admission:
    """The node's offer on an association.

    `session` is the service's own object for it; handlers of further DIMSE services find it as `event.assoc.session`.
    """

    session: Any
    contexts: list[PresentationContext]
    maximum_pdu_bytes: int


class LargeInstance(Protocol):
    """An instance that is written to disk while it arrives. Its methods do not raise: failures are responses."""

    def write(self, part: memoryview) -> None: ...

    def finish(self) -> DimseResponse: ...

    def discard(self) -> None:
        """Remove what was written, because the sender is gone."""


class AssociationService(Protocol):
    """The methods of the node that an acceptor calls, always in the thread of the association."""

    def admit(self, proposal: Proposal) -> Admission | Rejection: ...

    def store(self, session: Any, request: StoreRequest, dataset: memoryview) -> DimseResponse:
        """Answer one C-STORE. `dataset` is valid until the method returns. Does not raise."""

    def begin_large(self, session: Any, request: StoreRequest, beginning: memoryview) -> LargeInstance:
        """Begin a C-STORE whose dataset is too large to be kept in memory. Does not raise."""

    def ended(self, session: Any, end: AssociationEnd, reason: str) -> None:
        """Note the end of an admitted association. Called once for each; does not raise."""

    def failed(self, host: str, opening: bytes) -> None:
        """Note that a connection ended without an association, after these first bytes."""
