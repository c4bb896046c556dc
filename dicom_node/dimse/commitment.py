"""Values and messages of storage commitment (PS3.4 annex J) that its SCP, its SCU and its reporter share.

An instance is committed once it is indexed: rows follow bytes that are durable, so a row is proof. The report stands
for the content that was acknowledged last under a SOP Instance UID. That may wait for the index, so the indexer sets a
mark (`filed_until`), and a request is decided once the mark has passed it.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from io import BytesIO

from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode

from dicom_node.dimse.status import DimseResponse, DimseStatus
from dicom_node.runtime.logs import fields, unexpected
from storage.errors import Retriable
from storage.records.commitments import Commitment, Item
from storage.records.deliveries import ConfirmationReport
from storage.records.instances import UID
from storage.tables.confirmations import Confirmations

log = logging.getLogger(__name__)

PUSH_MODEL = "1.2.840.10008.1.20.1"  # SOP class
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"  # its one well-known SOP instance
REQUEST_COMMITMENT = 1  # Action Type ID (PS3.4 table J.3-1)
ALL_COMMITTED, FAILURES_EXIST = 1, 2  # Event Type IDs (PS3.4 table J.3-2)
LONGEST_WAIT = timedelta(minutes=10)  # for the index; instances it has not got to by then have failed

FiledUntil = Callable[[], datetime | None]  # everything acknowledged before this time is indexed


class FailureReason(IntEnum):
    """Failure Reason (0008,1197) of an instance that is not committed (PS3.3 C.14.1.1)."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    DUPLICATE_TRANSACTION = 0x0131
    OUT_OF_RESOURCES = 0x0213


@dataclass(frozen=True)
class Addressee:
    """A peer as a storage commitment SCU.

    Without `port` the peer gets reports only on its own associations. Without `host` the peer is reached at the address
    from which it made the request.
    """

    ae_title: str
    host: str | None = None
    port: int | None = None
    same_association: bool = True  # while it is open


def addressee_of(ae_title: str, host: str, addressees: Sequence[Addressee]) -> Addressee:
    """Return the configured entry of a peer that made a request from `host`; several entries may share its AE title."""
    named = [a for a in addressees if a.ae_title == ae_title]
    here = [a for a in named if a.host in (None, host)]
    return next(iter(here or named), Addressee(ae_title))


# -- reports of the node -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FailedInstance:
    """An instance that the node does not commit to, with the reason."""

    sop_class_uid: str
    sop_instance_uid: str
    reason: FailureReason


@dataclass(frozen=True)
class OutgoingReport:
    """The content of an N-EVENT-REPORT that the node sends (PS3.4 table J.3-2)."""

    transaction_uid: str
    committed: tuple[Item, ...]
    failed: tuple[FailedInstance, ...]

    @property
    def event_type(self) -> int:
        return FAILURES_EXIST if self.failed else ALL_COMMITTED

    def dataset(self) -> Dataset:
        """Return the event information. It has no Retrieve AE Title, because the node answers no C-MOVE."""
        ds = Dataset()
        ds.TransactionUID = self.transaction_uid
        if self.failed:
            ds.FailedSOPSequence = Items([reference_item(f.sop_class_uid, f.sop_instance_uid) for f in self.failed])
            for item, failure in zip(ds.FailedSOPSequence, self.failed, strict=True):
                item.FailureReason = int(failure.reason)
        if self.committed:
            ds.ReferencedSOPSequence = Items([reference_item(*item) for item in self.committed])
        return ds

    def __str__(self) -> str:
        reasons = sorted({f"0x{f.reason:04X}" for f in self.failed})
        failed = f", {len(self.failed)} failed ({', '.join(reasons)})" if self.failed else ""
        return f"{len(self.committed)} committed{failed}"


def decide_report(
    commitment: Commitment,
    indexed: Mapping[str, str],
    aside: Collection[str],
    filed_until: datetime | None,
    now: datetime,
) -> OutgoingReport | None:
    """Decide the content of the report on a request; None while an instance may still wait for the index.

    `indexed` maps SOP instances to their SOP classes. `aside` are those whose content that was acknowledged last is
    part of no study. The caller must have read `filed_until` before both.
    """
    is_filed = filed_until is not None and filed_until >= commitment.requested_at
    if not is_filed and now - commitment.requested_at <= LONGEST_WAIT:
        return None
    committed: list[Item] = []
    failed: list[FailedInstance] = []
    for sop_class, instance in commitment.items:
        found = indexed.get(instance)
        if not is_filed or instance in aside:
            failed.append(FailedInstance(sop_class, instance, FailureReason.PROCESSING_FAILURE))
        elif found == sop_class:
            committed.append((sop_class, instance))
        else:
            reason = FailureReason.NO_SUCH_INSTANCE if found is None else FailureReason.CLASS_INSTANCE_CONFLICT
            failed.append(FailedInstance(sop_class, instance, reason))
    failed += [FailedInstance(*item, FailureReason.DUPLICATE_TRANSACTION) for item in commitment.duplicates]
    return OutgoingReport(commitment.transaction_uid, tuple(committed), tuple(failed))


def report_request(report: OutgoingReport, message_id: int, transfer_syntax_uid: str) -> N_EVENT_REPORT:
    """Build the N-EVENT-REPORT-RQ, its event information encoded (PS3.7 10.1.1)."""
    syntax = uid.UID(transfer_syntax_uid)
    encoded = encode(report.dataset(), syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    if encoded is None:
        raise ValueError("the report cannot be encoded")
    request = N_EVENT_REPORT()
    request.MessageID = message_id
    request.AffectedSOPClassUID = PUSH_MODEL
    request.AffectedSOPInstanceUID = PUSH_MODEL_INSTANCE
    request.EventTypeID = report.event_type
    request.EventInformation = BytesIO(encoded)
    return request


def reference_item(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """Build an item of Referenced SOP Sequence."""
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def uid_of(ds: Dataset, keyword: str) -> str | None:
    """Return the UID that an attribute holds; None if it is absent or not a UID."""
    value = str(ds.get(keyword) or "").strip()
    return value if UID.fullmatch(value) else None


# -- reports to the node -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class IncomingReport:
    """The content of an N-EVENT-REPORT that a destination sends (PS3.4 table J.3-2).

    `committed` holds SOP Instance UIDs; `failed` maps the UIDs of failed instances to their Failure Reason (0008,1197).
    """

    transaction_uid: str
    committed: frozenset[str]
    failed: Mapping[str, int]


def read_incoming_report(event_type: int | None, sop_instance_uid: str, ds: Dataset) -> IncomingReport | DimseResponse:
    """Return the content of an N-EVENT-REPORT (PS3.4 table J.3-2), or the response that refuses it.

    An instance that the report lists both as failed and as committed counts as failed.
    """
    if event_type not in (ALL_COMMITTED, FAILURES_EXIST):
        return DimseResponse(DimseStatus.NO_SUCH_EVENT_TYPE, "The Event Type IDs are 1 and 2")
    if sop_instance_uid != PUSH_MODEL_INSTANCE:
        return DimseResponse(DimseStatus.NO_SUCH_SOP_INSTANCE, f"The SOP Instance UID is {PUSH_MODEL_INSTANCE}")
    transaction_uid = uid_of(ds, "TransactionUID")
    if transaction_uid is None:
        return DimseResponse(DimseStatus.INVALID_ARGUMENT_VALUE, "TransactionUID is missing or no UID")
    failed: dict[str, int] = {}
    for item in ds.get("FailedSOPSequence") or ():
        instance, reason = uid_of(item, "ReferencedSOPInstanceUID"), item.get("FailureReason")
        if instance is None:
            return DimseResponse(DimseStatus.INVALID_ARGUMENT_VALUE, "An item lacks a UID, or has one that is none")
        failed[instance] = reason if isinstance(reason, int) else FailureReason.PROCESSING_FAILURE
    named = {uid_of(item, "ReferencedSOPInstanceUID") for item in ds.get("ReferencedSOPSequence") or ()}
    return IncomingReport(transaction_uid, frozenset(uid for uid in named if uid is not None) - set(failed), failed)


def keep_incoming_report(confirmations: Confirmations, report: IncomingReport, peer: str) -> DimseResponse:
    """Keep a report and return the response to it. Does not raise: the peer may report again after a failure."""
    extra = {"peer": peer, "transaction": report.transaction_uid}
    failed = {uid: f"0x{reason:04X}" for uid, reason in report.failed.items()}
    kept = ConfirmationReport(tuple(sorted(report.committed)), failed)
    try:
        if not confirmations.report(report.transaction_uid, kept):
            log.warning(
                "A destination's storage commitment report is refused, because its transaction UID is not ours",
                extra=fields("commitment_report_refused", **extra),
            )
            return DimseResponse(DimseStatus.INVALID_ARGUMENT_VALUE, "TransactionUID is of no request of this node")
    except Retriable as error:
        log.warning(
            "A destination's storage commitment report was not kept; it is told to report again: %s",
            error,
            extra=fields("commitment_report_postponed", **extra),
        )
        return DimseResponse(DimseStatus.RESOURCE_LIMITATION, "Cannot be kept now, report it again later")
    except Exception as error:
        log.error(
            "A destination's storage commitment report could not be kept and is answered with a failure: %s",
            unexpected(error),
            extra=fields("commitment_report_failed", **extra),
        )
        return DimseResponse(DimseStatus.PROCESSING_FAILURE, "Unexpected failure, see the log of the node")
    log.info(
        "The destination reports %d instances as committed and %d as failed",
        len(report.committed),
        len(report.failed),
        extra=fields("commitment_report_received", **extra),
    )
    return DimseResponse(DimseStatus.SUCCESS)
