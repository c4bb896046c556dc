"""The node as a Storage Commitment Push Model SCP (PS3.4 annex J): what it commits to, and what it tells the peer.

An instance is committed once it is indexed: rows follow bytes that are durable, so a row is proof. Instances that were
acknowledged a moment ago may wait for the index; the mark that the indexer leaves says when it has got to them. Only
then does a missing row mean a missing instance.

The report goes out on the association that asked, as long as it is open (`AssociationReports`); else, or where a peer
is configured so, on an association of our own (`dicom_node.deliver.reporter`). Both leave their trace in the same
row: whoever holds it reports.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from io import BytesIO
from typing import Any, Protocol

from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pynetdicom import evt
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode

from dicom_node.runtime.backoff import Backoff
from dicom_node.runtime.logs import fields, printable, unexpected
from storage.errors import Retriable
from storage.records.commitments import Commitment
from storage.records.instances import UID
from storage.tables.commitments import CommitmentRequest, Commitments, Item

log = logging.getLogger(__name__)

PUSH_MODEL = "1.2.840.10008.1.20.1"  # SOP class
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"  # its one well-known SOP instance
REQUEST_COMMITMENT = 1  # Action Type ID (PS3.4 table J.3-1)
ALL_COMMITTED, FAILURES_EXIST = 1, 2  # Event Type IDs (PS3.4 table J.3-2)
ERROR_COMMENT_LENGTH = 64  # (0000,0902) is LO
LARGEST_MESSAGE_ID = 65535

LONGEST_WAIT = timedelta(minutes=10)  # for the index; then what it has not got to has failed
LEASE = timedelta(seconds=30)  # a receiver that dies hands over so late
RENEWAL = timedelta(seconds=10)
LONGEST_PAUSE_SECONDS = 5.0  # between looks that fail; leases are renewed in time
LOOK_SECONDS = 0.1  # between looks at the indexer's mark
IMPATIENCE = timedelta(seconds=1)  # between looks at the index itself while the mark is behind
SETTLING = timedelta(seconds=0.2)  # from a request to its report at the least: the response comes first

Filed = Callable[[], datetime | None]  # everything acknowledged before this time is indexed


class Status(IntEnum):
    """N-ACTION and N-EVENT-REPORT response statuses (PS3.7 annex C)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_INSTANCE = 0x0112
    NO_SUCH_EVENT_TYPE = 0x0113
    INVALID_ARGUMENT = 0x0115
    NO_SUCH_ACTION = 0x0123
    UNRECOGNIZED_OPERATION = 0x0211
    RESOURCE_LIMITATION = 0x0213


class FailureReason(IntEnum):
    """Why an instance is not committed (PS3.3 C.14.1.1)."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119
    DUPLICATE_TRANSACTION = 0x0131


@dataclass(frozen=True)
class Answer:
    """What the peer is told of its N-ACTION or N-EVENT-REPORT."""

    status: Status
    comment: str = ""

    def dataset(self) -> Dataset:
        ds = Dataset()
        ds.Status = int(self.status)
        if self.comment:
            ds.ErrorComment = self.comment[:ERROR_COMMENT_LENGTH]
        return ds


NOT_IN_THIS_ROLE = Answer(Status.UNRECOGNIZED_OPERATION, "Not in the role that was negotiated")


@dataclass(frozen=True)
class Wanted:
    """What an N-ACTION asks for, in its order, each instance once."""

    transaction_uid: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Failure:
    sop_class_uid: str
    sop_instance_uid: str
    reason: FailureReason


@dataclass(frozen=True)
class Report:
    """What an N-EVENT-REPORT tells (PS3.4 table J.3-2)."""

    transaction_uid: str
    committed: tuple[Item, ...]
    failed: tuple[Failure, ...]

    @property
    def event_type(self) -> int:
        return FAILURES_EXIST if self.failed else ALL_COMMITTED

    def dataset(self) -> Dataset:
        """The event information. There is no Retrieve AE Title: the node answers no C-MOVE."""
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


@dataclass(frozen=True)
class Addressee:
    """A peer as a storage commitment SCU. Without `port` it hears of us only on its own associations, and without
    `host` at the address it asked from.
    """

    ae_title: str
    host: str | None = None
    port: int | None = None
    same_association: bool = True  # while it is open


# -- decisions ---------------------------------------------------------------------------------------------------------


def judge_request(action_type: int | None, sop_instance_uid: str, ds: Dataset) -> Wanted | Answer:
    """What an N-ACTION asks for, or why it is refused (PS3.4 J.3.2)."""
    if action_type != REQUEST_COMMITMENT:
        return Answer(Status.NO_SUCH_ACTION, "The only Action Type ID is 1")
    if sop_instance_uid != PUSH_MODEL_INSTANCE:
        return Answer(Status.NO_SUCH_INSTANCE, f"The SOP Instance UID is {PUSH_MODEL_INSTANCE}")
    transaction_uid = uid_of(ds, "TransactionUID")
    if transaction_uid is None:
        return Answer(Status.INVALID_ARGUMENT, "TransactionUID is missing or no UID")
    items = []
    for item in ds.get("ReferencedSOPSequence") or ():
        sop_class, instance = uid_of(item, "ReferencedSOPClassUID"), uid_of(item, "ReferencedSOPInstanceUID")
        if sop_class is None or instance is None:
            return Answer(Status.INVALID_ARGUMENT, "An item lacks a UID, or has one that is none")
        items.append((sop_class, instance))
    if not items:
        return Answer(Status.INVALID_ARGUMENT, "ReferencedSOPSequence is missing or empty")
    return Wanted(transaction_uid, tuple(dict.fromkeys(items)))


def judge(
    commitment: Commitment, indexed: Mapping[str, str], filed_until: datetime | None, now: datetime
) -> Report | None:
    """What to report, or None while an instance may still be on its way into the index.

    `indexed` maps SOP instances to their SOP classes. The order matters: `filed_until` must have been asked for
    before `indexed` was.
    """
    is_filed = filed_until is not None and filed_until >= commitment.requested_at
    committed: list[Item] = []
    failed: list[Failure] = []
    for sop_class, instance in commitment.items:
        found = indexed.get(instance)
        if found == sop_class:
            committed.append((sop_class, instance))
        elif found is not None:
            failed.append(Failure(sop_class, instance, FailureReason.CLASS_INSTANCE_CONFLICT))
        elif is_filed:
            failed.append(Failure(sop_class, instance, FailureReason.NO_SUCH_INSTANCE))
        elif now - commitment.requested_at > LONGEST_WAIT:
            failed.append(Failure(sop_class, instance, FailureReason.PROCESSING_FAILURE))
        else:
            return None
    failed += [Failure(*item, FailureReason.DUPLICATE_TRANSACTION) for item in commitment.duplicates]
    return Report(commitment.transaction_uid, tuple(committed), tuple(failed))


def addressee_of(ae_title: str, host: str, addressees: Sequence[Addressee]) -> Addressee:
    """How a peer that asked from `host` is configured: the entry with that host where several have its AE title."""
    named = [a for a in addressees if a.ae_title == ae_title]
    here = [a for a in named if a.host in (None, host)]
    return next(iter(here or named), Addressee(ae_title))


def report_request(report: Report, message_id: int, transfer_syntax_uid: str) -> N_EVENT_REPORT:
    """The N-EVENT-REPORT-RQ, its event information encoded (PS3.7 10.1.1)."""
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
    """An item of Referenced SOP Sequence."""
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def uid_of(ds: Dataset, keyword: str) -> str | None:
    """The UID that an attribute holds; None where it is absent or none."""
    value = str(ds.get(keyword) or "").strip()
    return value if UID.fullmatch(value) else None


# -- reports on the association that asked -----------------------------------------------------------------------------


class Link(Protocol):
    """An association, as far as a report needs it."""

    @property
    def is_open(self) -> bool: ...

    def deliver(self, report: Report, message_id: int, done: Callable[[int | None], None]) -> None:
        """Has the association send the report between two messages, and calls `done` with the status of the peer's
        answer, None without one. May never call it when the association ends. Does not wait.
        """


@dataclass
class _Watch:
    commitment: Commitment
    link: Link
    held_until: datetime
    next_look: datetime
    is_sent: bool = False


class AssociationReports:
    """Waits until what an open association has asked for is decided, and has it reported there.

    It has a thread while it waits for something, and none otherwise. What it cannot report it hands over; what it
    holds when the process dies is taken over once the lease ends.
    """

    def __init__(
        self,
        commitments: Commitments,
        filed: Filed,
        retry: Backoff,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._commitments = commitments
        self._filed = filed
        self._retry = retry
        self._now = now
        self._watches: dict[int, _Watch] = {}
        self._message_ids = itertools.count()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, commitment: Commitment, link: Link) -> None:
        """Reports on `commitment`, whose row is held for LEASE from now, through `link`."""
        now = self._now()
        with self._lock:
            self._watches[commitment.id] = _Watch(commitment, link, now + LEASE, now + SETTLING)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="commitment", daemon=True)
                self._thread.start()

    @property
    def waiting(self) -> int:
        with self._lock:
            return len(self._watches)

    def advance(self) -> None:
        """One look at everything that is waited for. Raises Retriable when the database is busy or gone."""
        with self._lock:
            watches = list(self._watches.values())
        for watch in watches:
            now = self._now()
            if not watch.link.is_open:
                if self._finish(watch):
                    self._commitments.hand_over(watch.commitment.id, now)
            elif not watch.is_sent and now >= watch.next_look:
                self._look(watch, now)
            if watch.held_until - now < LEASE - RENEWAL and self._watches.get(watch.commitment.id) is watch:
                self._commitments.hold(watch.commitment.id, now + LEASE)
                watch.held_until = now + LEASE

    def _look(self, watch: _Watch, now: datetime) -> None:
        filed_until = self._filed()
        commitment = watch.commitment
        if filed_until is None or filed_until < commitment.requested_at:
            # The mark moves ten times a second, unless so much comes in that the indexer is never at the end.
            if now - commitment.requested_at < IMPATIENCE:
                return
            watch.next_look = now + IMPATIENCE
        report = judge(commitment, self._commitments.indexed(i for _, i in commitment.items), filed_until, now)
        if report is None:
            return
        watch.is_sent = True
        message_id = next(self._message_ids) % LARGEST_MESSAGE_ID + 1
        watch.link.deliver(report, message_id, lambda status: self._done(watch, report, status))

    def _done(self, watch: _Watch, report: Report, status: int | None) -> None:
        """Called in the association's own thread."""
        if not self._finish(watch):
            return
        commitment = watch.commitment
        extra = fields("commitment", peer=commitment.peer_ae_title, transaction=commitment.transaction_uid)
        try:
            if status == 0x0000:
                self._commitments.reported(commitment.id, str(report))
                log.info("Reported on a storage commitment: %s", report, extra=extra)
            elif status is None:
                self._commitments.hand_over(commitment.id, self._now())
            else:
                retry_at = self._retry.retry_at(1, self._now())
                self._commitments.fail(commitment.id, f"answered 0x{status:04X}", retry_at, attempts=1)
                log.warning("A storage commitment report was answered with 0x%04X", status, extra=extra)
        except Retriable as error:  # the row is taken up again once its lease ends
            log.warning("What became of a storage commitment report could not be noted: %s", error, extra=extra)

    def _finish(self, watch: _Watch) -> bool:
        """Whether it was still waited for: only one of those who end a watch notes how."""
        with self._lock:
            if self._watches.get(watch.commitment.id) is not watch:
                return False
            del self._watches[watch.commitment.id]
            return True

    def _run(self) -> None:
        pause = threading.Event()
        seconds = LOOK_SECONDS
        while True:
            try:
                self.advance()
                seconds = LOOK_SECONDS
            except Retriable as error:
                seconds = min(2 * seconds, LONGEST_PAUSE_SECONDS)
                log.warning("Storage commitment reports are put off: %s", error, extra=fields("commitment"))
            except Exception as error:
                seconds = min(2 * seconds, LONGEST_PAUSE_SECONDS)
                extra = fields("commitment")
                log.error("Looking after storage commitments broke off: %s", unexpected(error), extra=extra)
            with self._lock:
                if not self._watches:
                    self._thread = None
                    return
            pause.wait(seconds)


class PostingLink:
    """An association that does what others post between two messages, in its own thread."""

    def __init__(self, assoc: Any) -> None:
        self._assoc = assoc

    @property
    def is_open(self) -> bool:
        return bool(self._assoc.is_established)

    def deliver(self, report: Report, message_id: int, done: Callable[[int | None], None]) -> None:
        def task(assoc: Any) -> None:
            status = None
            try:
                context = next(c for c in assoc.accepted_contexts if c.abstract_syntax == PUSH_MODEL)
                request = report_request(report, message_id, str(context.transfer_syntax[0]))
                assoc.dimse.send_msg(request, context.context_id)
                _, response = assoc.dimse.get_msg(block=True)
                is_answer = isinstance(response, N_EVENT_REPORT) and response.MessageIDBeingRespondedTo == message_id
                if is_answer and response.Status is not None:
                    status = int(response.Status)
            finally:
                done(status)

        self._assoc.post(task)


def context_of(event: Any) -> Any:
    """The presentation context of a request, with the roles that were negotiated for this node (PS3.7 D.3.3.4)."""
    return next(c for c in event.assoc.accepted_contexts if c.context_id == event.context.context_id)


# -- the service -------------------------------------------------------------------------------------------------------


class CommitmentService:
    """Takes requests for storage commitment. Does not raise: whatever goes wrong becomes an answer."""

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
        link: Link,
    ) -> Answer:
        """N-ACTION (PS3.4 J.3.2). Success means that the request is kept, and will be reported on."""
        wanted = judge_request(action_type, sop_instance_uid, ds)
        transaction = wanted.transaction_uid if isinstance(wanted, Wanted) else None
        extra = fields("commitment", peer=calling, transaction=transaction)
        if isinstance(wanted, Answer):
            log.warning("Refused a request for storage commitment: %s", wanted.comment, extra=extra)
            return wanted
        try:
            self._keep(wanted, calling, host, association, link)
        except Retriable as error:
            log.warning("A request for storage commitment was not kept: %s", error, extra=extra)
            return Answer(Status.RESOURCE_LIMITATION, "Cannot be kept now, send it again later")
        except Exception as error:
            log.error(
                "Keeping a request for storage commitment failed unexpectedly: %s", unexpected(error), extra=extra
            )
            return Answer(Status.PROCESSING_FAILURE, "Unexpected failure, see the log of the node")
        log.info("Storage commitment is requested for %d instances", len(wanted.items), extra=extra)
        return Answer(Status.SUCCESS)

    def _keep(self, wanted: Wanted, calling: str, host: str, association: str, link: Link) -> None:
        now = self._now()
        same = addressee_of(calling, host, self._addressees).same_association
        request = CommitmentRequest(wanted.transaction_uid, calling, host, wanted.items, association if same else "")
        commitment = self._commitments.request(request, now, now + LEASE if same else now)
        if same:
            self._reports.watch(commitment, link)

    # -- as handler of pynetdicom's event --

    def handlers(self) -> list[tuple[Any, Callable[[Any], Any]]]:
        return [(evt.EVT_N_ACTION, self._on_action)]

    def _on_action(self, event: Any) -> tuple[Dataset, None]:
        assoc = event.assoc
        if not context_of(event).as_scp:
            return NOT_IN_THIS_ROLE.dataset(), None
        try:
            ds = event.action_information
            for _ in ds.iterall():
                pass
        except Exception:
            return Answer(Status.PROCESSING_FAILURE, "The dataset cannot be read").dataset(), None
        answer = self.request(
            event.action_type,
            str(event.request.RequestedSOPInstanceUID or ""),
            ds,
            calling=printable(str(assoc.requestor.primitive.calling_ae_title)),
            host=str(assoc.requestor.address_info.address),
            association=str(getattr(getattr(assoc, "session", None), "association", "")),
            link=PostingLink(assoc),
        )
        return answer.dataset(), None
