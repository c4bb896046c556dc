"""The reporter of storage commitment on associations that the node opens itself (PS3.4 J.3.3).

It serves peers that are configured to get reports on such an association, and peers whose own association is over. It
runs in the `dispatch` role. Each peer has a thread of its own, so that a peer that is down delays no other.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

from pydicom.uid import ImplicitVRLittleEndian

from dicom_node.dimse.commitment import (
    PUSH_MODEL,
    Addressee,
    FiledUntil,
    OutgoingReport,
    addressee_of,
    decide_report,
    report_request,
)
from dicom_node.dimse.scu import Requestor, Target
from dicom_node.dimse.status import DimseStatus
from dicom_node.errors import PeerRefused, PeerUnavailable
from dicom_node.runtime.backoff import Backoff
from dicom_node.runtime.clock import StepWatch, Unchanged, wall_now
from dicom_node.runtime.logs import fields, unexpected
from dicom_node.runtime.serve import serve
from storage.records.commitments import Commitment
from storage.tables.commitments import Commitments

log = logging.getLogger(__name__)

LEASE_SECONDS = 30.0  # without a renewal by the receiver, which renews its hold every 10 s
CLAIM = timedelta(minutes=5)  # longer than an attempt takes; a dispatcher that dies delays its reports by so much

_CONTEXT = (PUSH_MODEL, str(ImplicitVRLittleEndian))

SendReport = Callable[[Target, OutgoingReport], int]
"""Sends a report, and returns the status of the answer. Raises PeerUnavailable and PeerRefused."""


class ReportingSCP(Requestor):
    """An association that the node opens and on which it proposes to be SCP of storage commitment (PS3.7 D.3.3.4)."""

    def __init__(self, calling_ae_title: str, target: Target, timeout: float) -> None:
        # There is one context, because some peers see the role of the first one only. It is in the syntax that every
        # peer has (PS3.5 10.1).
        super().__init__(calling_ae_title, target, [_CONTEXT], timeout, scp_of=[PUSH_MODEL])

    def report(self, report: OutgoingReport) -> int:
        """Send an N-EVENT-REPORT, and return the status of the peer's answer."""
        context_id = self._accepted.get(_CONTEXT)
        if context_id is None:
            raise PeerRefused(f"{self._target} does not accept storage commitment reports")
        return int(self._exchange(report_request(report, 1, _CONTEXT[1]), context_id).Status)


def send_report(calling_ae_title: str, timeout: float, target: Target, report: OutgoingReport) -> int:
    """Open an association for one report, and return the status of the answer."""
    with ReportingSCP(calling_ae_title, target, timeout) as scp:
        return scp.report(report)


class CommitmentReporter:
    """The loops that send the reports that are due.

    `filed` returns the time up to which everything that was acknowledged is indexed. `backoff` limits the attempts that
    a peer answers. A peer that gives no answer is tried until `give_up_after` has passed.
    """

    def __init__(
        self,
        commitments: Commitments,
        filed: FiledUntil,
        addressees: Sequence[Addressee],
        send: SendReport,
        backoff: Backoff,
        now: Callable[[], datetime] = wall_now,
        give_up_after: timedelta = timedelta(days=14),
    ) -> None:
        self._commitments = commitments
        self._filed = filed
        self._addressees = addressees
        self._send = send
        self._backoff = backoff
        self._give_up_after = give_up_after
        self._now = now
        self._leases = Unchanged[int, datetime](LEASE_SECONDS)
        self._reachable = sorted({a.ae_title for a in addressees if a.port is not None})

    def run(self, stop: threading.Event) -> None:
        """Report until `stop` is set."""
        threads = [
            threading.Thread(
                target=serve,
                args=("Storage commitment reporting", partial(self.report_next, peer), stop, {"peer": peer}),
                name=f"commitment-{peer}",
            )
            for peer in self._reachable
        ]
        for thread in threads:
            thread.start()
        serve("Storage commitment reporting", self._look_after, stop)
        for thread in threads:
            thread.join()

    def _look_after(self) -> bool:
        self.release_silent()
        return self.give_up_unreachable()

    def release_silent(self) -> None:
        """Take over the requests whose receiver shows no life any more."""
        silent = self._leases.among(self._commitments.leases())
        if silent:
            self._commitments.release_silent(silent, self._now())

    def report_next(self, peer_ae_title: str) -> bool:
        """Report on one request of this peer that is due and decided. Return False if there is no such request."""
        for commitment in self._commitments.due(self._now(), [peer_ae_title]):
            target = self._target(commitment)
            if target is None:
                continue
            steps = StepWatch()
            filed_until = self._filed()
            uids = [instance for _, instance in commitment.items]
            indexed, aside = self._commitments.indexed(uids), self._commitments.aside(uids)
            report = decide_report(commitment, indexed, aside, filed_until, self._now())
            if report is None or steps.look():  # the request and the mark of the index may be by different clocks
                continue
            now = self._now()
            claimed = self._commitments.claim(commitment.id, now, now + CLAIM)
            if claimed is None:
                continue
            self._report(claimed, target, report)
            return True
        return False

    def give_up_unreachable(self) -> bool:
        """End the requests of peers that the node does not know how to reach. Return False if there is none."""
        ended = False
        for commitment in self._commitments.due(self._now(), limit=1000):
            if self._target(commitment) is None:
                before = f"{commitment.reason}; " if commitment.reason else ""
                reason = f"{before}its association ended, and no port is configured for {commitment.peer_ae_title}"
                if self._commitments.fail(commitment.id, reason, None):
                    extra = _extra("commitment_report_abandoned", commitment)
                    log.error(
                        "The peer of a storage commitment cannot be reached, which ends it: %s", reason, extra=extra
                    )
                ended = True
        return ended

    def _report(self, commitment: Commitment, target: Target, report: OutgoingReport) -> None:
        try:
            status = self._send(target, report)
            reason = f"answered 0x{status:04X}"
        except PeerUnavailable as error:
            self._wait(commitment, str(error))
            return
        except PeerRefused as error:
            status, reason = -1, str(error)
        except Exception as error:
            extra = _extra("commitment_report_interrupted", commitment)
            log.error("Sending a storage commitment report failed unexpectedly: %s", unexpected(error), extra=extra)
            status, reason = -1, f"unexpected {type(error).__name__}"
        if status == DimseStatus.SUCCESS:
            self._commitments.reported(commitment.id, str(report))
            extra = _extra("commitment_report_sent", commitment)
            log.info("A storage commitment report was sent: %s", report, extra=extra)
            return
        retry_at = self._backoff.retry_at(commitment.attempts, self._now())
        self._commitments.fail(commitment.id, reason, retry_at)
        if retry_at is None:
            extra = _extra("commitment_report_failed", commitment)
            log.error(
                "A storage commitment report failed; only `dicom-node retry` sends it again: %s", reason, extra=extra
            )
        else:
            extra = _extra("commitment_report_retried", commitment)
            log.warning("A storage commitment report will be retried: %s", reason, extra=extra)

    def _wait(self, commitment: Commitment, reason: str) -> None:
        """Let the report wait for its peer, which gave no answer. This uses up no attempt."""
        pause = min(self._backoff.longest, max(self._backoff.first, commitment.waited_seconds))
        retry_at = self._now() + timedelta(seconds=pause)
        limit = self._give_up_after.total_seconds()
        if self._commitments.wait(commitment.id, reason, retry_at, pause, limit):
            extra = _extra("commitment_report_retried", commitment)
            log.warning("A storage commitment report waits for its peer: %s", reason, extra=extra)
        else:
            extra = _extra("commitment_report_failed", commitment)
            log.error(
                "A storage commitment report failed; only `dicom-node retry` sends it again: %s", reason, extra=extra
            )

    def _target(self, commitment: Commitment) -> Target | None:
        addressee = addressee_of(commitment.peer_ae_title, commitment.peer_host, self._addressees)
        if addressee.port is None:
            return None
        return Target(addressee.ae_title, addressee.host or commitment.peer_host, addressee.port)


def _extra(action: str, commitment: Commitment) -> dict[str, object]:
    return fields(action, peer=commitment.peer_ae_title, transaction=commitment.transaction_uid)
