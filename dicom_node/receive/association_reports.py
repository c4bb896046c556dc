"""Storage commitment reports on the requesting association (PS3.4 J.3.3)."""

import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from pynetdicom.dimse_primitives import N_EVENT_REPORT

from dicom_node.dimse.commitment import PUSH_MODEL, FiledUntil, OutgoingReport, decide_report, report_request
from dicom_node.dimse.status import LARGEST_MESSAGE_ID, DimseStatus
from dicom_node.runtime.backoff import Backoff
from dicom_node.runtime.clock import steady_now, wall_now
from dicom_node.runtime.logs import fields, unexpected
from storage.errors import Retriable
from storage.records.commitments import Commitment
from storage.tables.commitments import Commitments

log = logging.getLogger(__name__)

LEASE = timedelta(seconds=30)  # of a row; if it is not renewed for so long, the dispatch role takes the request over
RENEWAL = timedelta(seconds=10)
LONGEST_PAUSE_SECONDS = 5.0  # between looks that fail; short enough to renew the leases
LOOK_SECONDS = 0.1  # between looks at the indexer's mark
IMPATIENCE = timedelta(seconds=1)  # between looks at the index itself while the mark is behind
SETTLING = timedelta(seconds=0.2)  # at least, from a request to its report, so that the response comes first


class AssociationLink:
    """The part of an accepted association that a report needs."""

    def __init__(self, assoc: Any) -> None:
        self._assoc = assoc

    @property
    def is_open(self) -> bool:
        return bool(self._assoc.is_established)

    def deliver(self, report: OutgoingReport, message_id: int, done: Callable[[int | None], None]) -> None:
        """Have the association send the report between two messages, in its own thread.

        `done` is then called in that thread with the status of the peer's answer, or with None if there is no answer.
        If the association ends before the report is sent, `done` may never be called. This method does not wait.
        """

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


@dataclass
class _Watch:
    commitment: Commitment
    link: AssociationLink
    held_until: datetime
    next_look: datetime
    is_sent: bool = False


class AssociationReports:
    """The requests of associations that are still open, each waiting for its report, by a clock that nobody sets.

    A thread runs as long as there are requests. If an association ends, its request is handed over to the dispatch
    role. If this process dies, the dispatch role takes over its requests when their leases have ended.
    """

    def __init__(
        self,
        commitments: Commitments,
        filed: FiledUntil,
        retry: Backoff,
        now: Callable[[], datetime] = steady_now,
        wall: Callable[[], datetime] = wall_now,
    ) -> None:
        self._commitments = commitments
        self._filed = filed
        self._retry = retry
        self._now = now
        self._wall = wall
        self._watches: dict[int, _Watch] = {}
        self._message_ids = itertools.count()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, commitment: Commitment, link: AssociationLink) -> None:
        """Report on `commitment` through `link` when the report is decided. Its row must be held for LEASE from now."""
        now = self._now()
        commitment = replace(commitment, requested_at=now)
        with self._lock:
            self._watches[commitment.id] = _Watch(commitment, link, now + LEASE, now + SETTLING)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="commitment", daemon=True)
                self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a report or for the answer to it."""
        with self._lock:
            return len(self._watches)

    def advance(self) -> None:
        """Look once at every request that waits. Raises Retriable when the database is busy or gone."""
        with self._lock:
            watches = list(self._watches.values())
        for watch in watches:
            now = self._now()
            if not watch.link.is_open:
                if self._finish(watch):
                    self._commitments.hand_over(watch.commitment.id, self._wall())
            elif not watch.is_sent and now >= watch.next_look:
                self._look(watch, now)
            if watch.held_until - now < LEASE - RENEWAL and self._watches.get(watch.commitment.id) is watch:
                self._commitments.hold(watch.commitment.id, self._wall() + LEASE)
                watch.held_until = now + LEASE

    def _look(self, watch: _Watch, now: datetime) -> None:
        filed_until = self._filed()
        commitment = watch.commitment
        if filed_until is None or filed_until < commitment.requested_at:
            # The mark moves ten times a second, except under a load that never lets the indexer reach the end.
            if now - commitment.requested_at < IMPATIENCE:
                return
            watch.next_look = now + IMPATIENCE
        uids = [instance for _, instance in commitment.items]
        indexed, aside = self._commitments.indexed(uids), self._commitments.aside(uids)
        report = decide_report(commitment, indexed, aside, filed_until, now)
        if report is None:
            return
        watch.is_sent = True
        message_id = next(self._message_ids) % LARGEST_MESSAGE_ID + 1
        watch.link.deliver(report, message_id, lambda status: self._done(watch, report, status))

    def _done(self, watch: _Watch, report: OutgoingReport, status: int | None) -> None:
        """Note the peer's answer; called in the association's own thread."""
        if not self._finish(watch):
            return
        commitment = watch.commitment
        extra = {"peer": commitment.peer_ae_title, "transaction": commitment.transaction_uid}
        try:
            if status == DimseStatus.SUCCESS:
                self._commitments.reported(commitment.id, str(report))
                log.info("Reported on a storage commitment: %s", report, extra=fields("commitment_reported", **extra))
            elif status is None:
                self._commitments.hand_over(commitment.id, self._wall())
            else:
                retry_at = self._retry.retry_at(1, self._wall())
                self._commitments.fail(commitment.id, f"answered 0x{status:04X}", retry_at, attempts=1)
                log.warning(
                    "A storage commitment report was answered with 0x%04X and will be sent again",
                    status,
                    extra=fields("commitment_report_rejected", **extra),
                )
        except Retriable as error:  # the row is taken up again once its lease ends
            log.warning(
                "The outcome of a storage commitment report could not be noted, so it may be sent again: %s",
                error,
                extra=fields("commitment_outcome_lost", **extra),
            )

    def _finish(self, watch: _Watch) -> bool:
        """Remove a watch. Return False if another thread did so first, which then notes the outcome."""
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
                message = "Storage commitment reports to peers are put off for %.1f s: %s"
                log.warning(message, seconds, error, extra=fields("work_postponed"))
            except Exception as error:
                seconds = min(2 * seconds, LONGEST_PAUSE_SECONDS)
                log.error(
                    "Reporting on storage commitments broke off and will be tried again in %.1f s: %s",
                    seconds,
                    unexpected(error),
                    extra=fields("work_interrupted"),
                )
            with self._lock:
                if not self._watches:
                    self._thread = None
                    return
            pause.wait(seconds)
