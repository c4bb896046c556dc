"""Reports on the storage commitment that this node asked for (PS3.4 J.3.3), whichever association they come on.

What a report says is kept, and answered with Success, whatever it says: the dispatcher acts upon it
(`dicom_node.deliver.confirmer`). A transaction UID that is not ours is an invalid argument (0x0115).
"""

import logging
from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt

from dicom_node.dimse.commitment import IncomingReport
from dicom_node.receive.commitment import (
    ALL_COMMITTED,
    FAILURES_EXIST,
    NOT_IN_THIS_ROLE,
    PUSH_MODEL_INSTANCE,
    Answer,
    FailureReason,
    Status,
    context_of,
    uid_of,
)
from dicom_node.runtime.logs import fields, printable, unexpected
from storage.errors import Retriable
from storage.tables.confirmations import Confirmations

log = logging.getLogger(__name__)


def read_report(event_type: int | None, sop_instance_uid: str, ds: Dataset) -> IncomingReport | Answer:
    """What an N-EVENT-REPORT says (PS3.4 table J.3-2), or why it is refused. What it lists as failed is not committed,
    whatever else it lists.
    """
    if event_type not in (ALL_COMMITTED, FAILURES_EXIST):
        return Answer(Status.NO_SUCH_EVENT_TYPE, "The Event Type IDs are 1 and 2")
    if sop_instance_uid != PUSH_MODEL_INSTANCE:
        return Answer(Status.NO_SUCH_INSTANCE, f"The SOP Instance UID is {PUSH_MODEL_INSTANCE}")
    transaction_uid = uid_of(ds, "TransactionUID")
    if transaction_uid is None:
        return Answer(Status.INVALID_ARGUMENT, "TransactionUID is missing or no UID")
    failed: dict[str, int] = {}
    for item in ds.get("FailedSOPSequence") or ():
        uid, reason = uid_of(item, "ReferencedSOPInstanceUID"), item.get("FailureReason")
        if uid is None:
            return Answer(Status.INVALID_ARGUMENT, "An item lacks a UID, or has one that is none")
        failed[uid] = reason if isinstance(reason, int) else FailureReason.PROCESSING_FAILURE
    named = {uid_of(item, "ReferencedSOPInstanceUID") for item in ds.get("ReferencedSOPSequence") or ()}
    return IncomingReport(transaction_uid, frozenset(uid for uid in named if uid is not None) - set(failed), failed)


def keep_report(confirmations: Confirmations, report: IncomingReport, peer: str) -> Answer:
    """Does not raise: whatever goes wrong becomes an answer, and the peer may report again."""
    extra = fields("confirm", peer=peer, transaction=report.transaction_uid)
    kept = {"committed": sorted(report.committed), "failed": [[u, f"0x{r:04X}"] for u, r in report.failed.items()]}
    try:
        if not confirmations.report(report.transaction_uid, kept):
            log.warning("A storage commitment report is for a request that is not ours", extra=extra)
            return Answer(Status.INVALID_ARGUMENT, "TransactionUID is of no request of this node")
    except Retriable as error:
        log.warning("A storage commitment report was not kept: %s", error, extra=extra)
        return Answer(Status.RESOURCE_LIMITATION, "Cannot be kept now, report it again later")
    except Exception as error:
        log.error("Keeping a storage commitment report failed unexpectedly: %s", unexpected(error), extra=extra)
        return Answer(Status.PROCESSING_FAILURE, "Unexpected failure, see the log of the node")
    log.info("%d instances are reported as committed, %d not", len(report.committed), len(report.failed), extra=extra)
    return Answer(Status.SUCCESS)


class ConfirmationService:
    """Takes reports on associations that peers open to the receiver, in which they are SCP (PS3.7 D.3.3.4)."""

    def __init__(self, confirmations: Confirmations) -> None:
        self._confirmations = confirmations

    def handlers(self) -> list[tuple[Any, Callable[[Any], Any]]]:
        return [(evt.EVT_N_EVENT_REPORT, self._on_report)]

    def _on_report(self, event: Any) -> tuple[Dataset, None]:
        if not context_of(event).as_scu:
            return NOT_IN_THIS_ROLE.dataset(), None
        try:
            ds = event.event_information
            for _ in ds.iterall():
                pass
        except Exception:
            return Answer(Status.PROCESSING_FAILURE, "The dataset cannot be read").dataset(), None
        answer = read_report(event.event_type, str(event.request.AffectedSOPInstanceUID or ""), ds)
        if isinstance(answer, IncomingReport):
            peer = printable(str(event.assoc.requestor.primitive.calling_ae_title))
            answer = keep_report(self._confirmations, answer, peer)
        return answer.dataset(), None
