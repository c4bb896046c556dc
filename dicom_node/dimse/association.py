"""What passes between the network and the policy when a peer asks for an association. No pynetdicom objects of a
connection here: the same service stands behind the node's own data path and behind the stock one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pynetdicom.presentation import PresentationContext

from dicom_node.dimse.data_path import StoreRequest
from dicom_node.dimse.status import DimseResponse, RejectReason
from storage.records.evidence import AssociationEnd


@dataclass(frozen=True)
class Proposal:
    """An A-ASSOCIATE-RQ (PS3.8 9.3.2): texts as they came, but for padding."""

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
    """What the node offers on an association. `session` is whatever the service keeps for it; handlers of further
    DIMSE services find it as `event.assoc.session`.
    """

    session: Any
    contexts: list[PresentationContext]
    maximum_pdu_bytes: int


class LargeInstance(Protocol):
    """An instance on its way to disk while it arrives. Its methods do not raise: the status tells what went wrong."""

    def write(self, part: memoryview) -> None: ...

    def finish(self) -> DimseResponse: ...

    def discard(self) -> None:
        """Its sender is gone."""


class Service(Protocol):
    """What the network needs to know about the node. Called in the association's own thread."""

    def admit(self, proposal: Proposal) -> Admission | Rejection: ...

    def store(self, session: Any, request: StoreRequest, dataset: memoryview) -> DimseResponse:
        """Answers one C-STORE. `dataset` is valid until this returns. Does not raise."""

    def begin_large(self, session: Any, request: StoreRequest, beginning: memoryview) -> LargeInstance:
        """The same for a dataset that is too large to be gathered. Does not raise."""

    def ended(self, session: Any, end: AssociationEnd, reason: str) -> None:
        """An admitted association is over, in whatever way. Called once for each; does not raise."""

    def failed(self, host: str, opening: bytes) -> None:
        """A connection ended without an association, after these first bytes."""
