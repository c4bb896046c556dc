"""The node as a Storage Commitment Push Model SCP (PS3.4 annex J): the service that takes requests.

The report is sent on the requesting association while it is open (`AssociationReports`). Afterwards, or if the peer is
configured so, it is sent on an association of our own (`dicom_node.deliver.commitment_reporter`). Both use the same
row, and only the holder of the row reports.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt

from dicom_node.dimse.commitment import PUSH_MODEL_INSTANCE, REQUEST_COMMITMENT, Addressee, addressee_of, uid_of
from dicom_node.dimse.status import DimseResponse, DimseStatus
from dicom_node.receive.association_reports import LEASE, AssociationLink, AssociationReports
from dicom_node.receive.events import NOT_IN_THIS_ROLE, UNREADABLE, calling_ae_title, context_of, readable
from dicom_node.runtime.logs import fields, unexpected
from storage.errors import Retriable
from storage.records.commitments import CommitmentRequest, Item
from storage.tables.commitments import Commitments

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequestedInstances:
    """The instances for which an N-ACTION requests commitment, in its order, without duplicates."""

    transaction_uid: str
    items: tuple[Item, ...]


def read_request(action_type: int | None, sop_instance_uid: str, ds: Dataset) -> RequestedInstances | DimseResponse:
    """Return the instances that an N-ACTION asks for, or the response that refuses it (PS3.4 J.3.2)."""
    if action_type != REQUEST_COMMITMENT:
        return DimseResponse(DimseStatus.NO_SUCH_ACTION, "The only Action Type ID is 1")
    if sop_instance_uid != PUSH_MODEL_INSTANCE:
        return DimseResponse(DimseStatus.NO_SUCH_SOP_INSTANCE, f"The SOP Instance UID is {PUSH_MODEL_INSTANCE}")
    transaction_uid = uid_of(ds, "TransactionUID")
    if transaction_uid is None:
        return DimseResponse(DimseStatus.INVALID_ARGUMENT_VALUE, "TransactionUID is missing or no UID")
    items = []
    for item in ds.get("ReferencedSOPSequence") or ():
        sop_class, instance = uid_of(item, "ReferencedSOPClassUID"), uid_of(item, "ReferencedSOPInstanceUID")
        if sop_class is None or instance is None:
            return DimseResponse(DimseStatus.INVALID_ARGUMENT_VALUE, "An item lacks a UID, or has one that is none")
        items.append((sop_class, instance))
    if not items:
        return DimseResponse(DimseStatus.INVALID_ARGUMENT_VALUE, "ReferencedSOPSequence is missing or empty")
    return RequestedInstances(transaction_uid, tuple(dict.fromkeys(items)))


class CommitmentService:
    """A service that takes requests for storage commitment. It does not raise: every failure becomes a response."""

    def __init__(
        self,
        commitments: Commitments,
        addressees: Sequence[Addressee],
        reports: AssociationReports,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._commitments = commitments
        self._addressees = addressees
        self._reports = reports
        self._now = now

    def request(
        self,
        action_type: int | None,
        sop_instance_uid: str,
        ds: Dataset,
        *,
        calling: str,
        host: str,
        association: str,
        link: AssociationLink,
    ) -> DimseResponse:
        """Answer an N-ACTION (PS3.4 J.3.2). Success means that the request is kept and that a report will follow."""
        wanted = read_request(action_type, sop_instance_uid, ds)
        if isinstance(wanted, DimseResponse):
            log.warning(
                "Refused a request for storage commitment: %s",
                wanted.comment,
                extra=fields("commitment_refused", peer=calling),
            )
            return wanted
        extra = {"peer": calling, "transaction": wanted.transaction_uid}
        try:
            self._keep(wanted, calling, host, association, link)
        except Retriable as error:
            log.warning(
                "A request for storage commitment was not kept: %s",
                error,
                extra=fields("commitment_postponed", **extra),
            )
            return DimseResponse(DimseStatus.RESOURCE_LIMITATION, "Cannot be kept now, send it again later")
        except Exception as error:
            log.error(
                "A request for storage commitment could not be kept: %s",
                unexpected(error),
                extra=fields("commitment_failed", **extra),
            )
            return DimseResponse(DimseStatus.PROCESSING_FAILURE, "Unexpected failure, see the log of the node")
        log.info(
            "A peer requests storage commitment for %d instances",
            len(wanted.items),
            extra=fields("commitment_requested", **extra),
        )
        return DimseResponse(DimseStatus.SUCCESS)

    def _keep(
        self, wanted: RequestedInstances, calling: str, host: str, association: str, link: AssociationLink
    ) -> None:
        now = self._now()
        same = addressee_of(calling, host, self._addressees).same_association
        request = CommitmentRequest(wanted.transaction_uid, calling, host, wanted.items, association if same else "")
        commitment = self._commitments.request(request, now, now + LEASE if same else now)
        if same:
            self._reports.watch(commitment, link)

    # -- as handler of pynetdicom's event --

    def handlers(self) -> list[tuple[Any, Callable[[Any], Any]]]:
        """Return the handler of N-ACTION for pynetdicom."""
        return [(evt.EVT_N_ACTION, self._on_action)]

    def _on_action(self, event: Any) -> tuple[Dataset, None]:
        assoc = event.assoc
        if not context_of(event).as_scp:
            return NOT_IN_THIS_ROLE.dataset(), None
        ds = readable(lambda: event.action_information)
        if ds is None:
            return UNREADABLE.dataset(), None
        response = self.request(
            event.action_type,
            str(event.request.RequestedSOPInstanceUID or ""),
            ds,
            calling=calling_ae_title(event),
            host=str(assoc.requestor.address_info.address),
            association=str(assoc.session.association),
            link=AssociationLink(assoc),
        )
        return response.dataset(), None
