"""The confirmer: proof that destinations keep the objects for which they answered Success.

It runs in the `dispatch` role. Each destination has a thread of its own, so that one that is down delays no other.

The confirmer asks for storage commitment (PS3.4 annex J) if the destination offers it. The report comes on the same
association, or to a receiver of this node, and is acted upon here. If the destination does not offer it, or if no
report comes in time, the confirmer asks the destination which objects it holds.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from types import MappingProxyType

from pydicom.uid import generate_uid

from dicom_node.deliver.destinations.interface import ConfirmingDestination
from dicom_node.dimse.commitment import FailureReason, IncomingReport, keep_incoming_report
from dicom_node.dimse.results import InstanceReference
from dicom_node.errors import PeerRefused, PeerUnavailable
from dicom_node.runtime.backoff import Backoff
from dicom_node.runtime.clock import StepWatch, steady_now, wall_now
from dicom_node.runtime.logs import fields, unexpected
from dicom_node.runtime.serve import serve
from storage.errors import Retriable
from storage.records.deliveries import LOOK_BACK, Confirmation, ConfirmationState, DeliveryState, StoredAs
from storage.tables.confirmations import WAITING, Confirmations

log = logging.getLogger(__name__)

LINGER_SECONDS = 10.0  # for a report on the association that asked; PACSs that take longer open one of their own
ASKING = timedelta(minutes=5)  # longer than asking takes; a dispatcher that dies meanwhile loses so much time

_REASONS_IN_WORDS: dict[int, str] = {
    FailureReason.PROCESSING_FAILURE: "processing failure",
    FailureReason.NO_SUCH_INSTANCE: "no such instance",
    FailureReason.CLASS_INSTANCE_CONFLICT: "another SOP class",
    FailureReason.SOP_CLASS_NOT_SUPPORTED: "SOP class not supported",
    FailureReason.DUPLICATE_TRANSACTION: "duplicate transaction UID",
    FailureReason.OUT_OF_RESOURCES: "out of resources",
}


class Confirmer:
    """The loops that ask destinations if they keep the objects that they accepted, and that act on the answers.

    `patience` is the time in which a destination must commit an object, or show it in a query. `pauses` are the pauses
    before a destination that does not answer is asked again. `linger` is how many seconds the requesting association
    stays open for the report.
    """

    def __init__(
        self,
        confirmations: Confirmations,
        destinations: Sequence[ConfirmingDestination],
        patience: timedelta,
        pauses: Backoff,
        now: Callable[[], datetime] = wall_now,
        linger: float = LINGER_SECONDS,
    ) -> None:
        self._confirmations = confirmations
        self._destinations = destinations
        self._patience = patience
        self._pauses = pauses
        self._now = now
        self._linger = linger

    def run(self, stop: threading.Event) -> None:
        """Confirm until `stop` is set."""
        self._give_up_unserved()
        threads = [
            threading.Thread(
                target=serve,
                args=(
                    "Confirmation",
                    partial(self.confirm_next, destination, stop),
                    stop,
                    {"destination": destination.name},
                ),
                name=f"confirm-{destination.name}",
            )
            for destination in self._destinations
        ]
        for thread in threads:
            thread.start()
        stop.wait()
        for thread in threads:
            thread.join()

    def _give_up_unserved(self) -> None:
        """Give up confirmations whose destination is configured no longer, or no longer as one to be asked."""
        served = {destination.name for destination in self._destinations}
        for confirmation in self._confirmations.list(WAITING, limit=None):
            if confirmation.destination not in served:
                self._confirmations.give_up(confirmation.id, "the destination is not to be asked any more", self._now())
                log.warning(
                    "The objects stay unconfirmed, because the destination is not configured to be asked any more",
                    extra=_extra("confirmation_abandoned", confirmation),
                )

    def confirm_next(self, destination: ConfirmingDestination, stop: threading.Event) -> bool:
        """Take one step towards the next confirmation that is due. Return False if none is due."""
        confirmation = self._next(destination)
        if confirmation is None:
            return False
        try:
            match confirmation.state:
                case ConfirmationState.ASKING:
                    self._ask(destination, confirmation, stop)
                case ConfirmationState.REPORTED:
                    self._act(destination, confirmation)
                case _:
                    self._read_back(destination, confirmation)
        except PeerUnavailable as error:
            self._postpone(confirmation, str(error))
        except Retriable:
            raise  # a failure of the database, which the loop reports
        except Exception as error:
            extra = _extra("confirmation_interrupted", confirmation)
            log.error("Asking for confirmation failed unexpectedly: %s", unexpected(error), extra=extra)
            if not self._postpone(confirmation, f"unexpected {type(error).__name__}"):
                raise
        return True

    def _next(self, destination: ConfirmingDestination) -> Confirmation | None:
        """Return the next confirmation that is due. The time of its request is then by `steady_now`.

        If the clock was set while it was read, its times may be by the old clock, and it is left for the next look.
        """
        steps = StepWatch()
        found = self._due(destination)
        if found is None or steps.look():
            return None
        return replace(found, requested_at=steady_now() - (self._now() - found.requested_at))

    def _due(self, destination: ConfirmingDestination) -> Confirmation | None:
        now = self._now()
        transaction_uid = str(generate_uid(prefix=None))
        since = min(now, steady_now()) - LOOK_BACK  # a clock that was set ahead makes nothing old
        due = self._confirmations.due(destination.name, now)
        if due is None:
            return self._confirmations.begin(destination.name, transaction_uid, now, now + ASKING, since)
        if due.state is ConfirmationState.ASKING:
            return self._confirmations.renew(due.id, transaction_uid, now, now + ASKING)
        return due

    def _ask(self, destination: ConfirmingDestination, confirmation: Confirmation, stop: threading.Event) -> None:
        references = self._references(confirmation)
        if not references:  # a late report has committed everything
            self._settle(confirmation, set(), {}, "storage committed")
            return
        asker = _Asker(self._confirmations, confirmation, self._patience, self._now, self._linger, stop)
        try:
            destination.commit(confirmation.transaction_uid, list(references.values()), asker)
        except PeerRefused as error:
            extra = _extra("commitment_request_refused", confirmation)
            log.info("The destination offers no storage commitment and is queried instead: %s", error, extra=extra)
            self._confirmations.read_back(confirmation.id, self._now())
        except PeerUnavailable as error:  # some peers break off the association instead of refusing
            extra = _extra("commitment_request_failed", confirmation)
            log.warning("The destination could not be asked to commit, and is queried instead: %s", error, extra=extra)
            self._read_back(destination, confirmation, str(error))

    def _act(self, destination: ConfirmingDestination, confirmation: Confirmation) -> None:
        """Act on a report. An object that the report does not name counts as not committed."""
        report = confirmation.report
        assert report is not None
        own = {place.sop_instance_uid: uid for uid, place in self._confirmations.stored_as(confirmation.id).items()}
        committed = {own.get(uid, uid) for uid in report.committed}
        failed = {own.get(uid, uid): f"it reports {reason}{_in_words(reason)}" for uid, reason in report.failed.items()}
        asked = [uid for _, uid in confirmation.items]
        missed = {uid: failed.get(uid, "its report does not name it") for uid in asked if uid not in committed}
        _, moved = self._look_elsewhere(destination, confirmation, missed)
        self._settle(confirmation, committed.intersection(asked), missed, "storage committed", moved)

    def _read_back(self, destination: ConfirmingDestination, confirmation: Confirmation, trouble: str = "") -> None:
        """Ask the destination which of the objects it holds.

        `trouble` is the reason why the destination could not be asked for storage commitment. Until `patience` is over,
        it will be asked for that again.
        """
        references = self._references(confirmation)
        was_requested = confirmation.state is ConfirmationState.REQUESTED
        is_over = steady_now() - confirmation.requested_at >= self._patience
        overdue = f"no report came within {self._patience.total_seconds():g} s"
        asked = list(references)
        try:
            held = destination.stored(references.values()) if references else set()
            there = {uid for uid, reference in references.items() if reference.sop_instance_uid in held}
        except PeerRefused as error:
            if was_requested:
                self._settle(confirmation, set(), dict.fromkeys(asked, f"{overdue}, and {error}"), "")
            elif trouble and not is_over:
                self._postpone(confirmation, trouble)
            else:
                self._give_up(confirmation, f"{trouble or 'it offers no storage commitment'}, and {error}")
            return
        also_there, moved = self._look_elsewhere(destination, confirmation, set(asked) - there)
        there |= also_there
        missing = [uid for uid in asked if uid not in there and uid not in moved]
        if missing and not (was_requested or is_over):
            self._postpone(confirmation, "accepted, but not found there yet")
            return
        why = f"{overdue}, and a query does not find it" if was_requested else "a query does not find it"
        self._settle(confirmation, there, dict.fromkeys(missing, why), "found there by a query", moved)

    def _give_up(self, confirmation: Confirmation, reason: str) -> None:
        extra = _extra("confirmation_abandoned", confirmation)
        log.warning("The objects stay unconfirmed, and the destination is not asked again: %s", reason, extra=extra)
        self._confirmations.give_up(confirmation.id, reason, self._now())

    def _settle(
        self,
        confirmation: Confirmation,
        committed: set[str],
        missed: Mapping[str, str],
        how: str,
        moved: Mapping[str, StoredAs] = MappingProxyType({}),
    ) -> None:
        """End the confirmation. `missed` has the reason for each object that is not confirmed.

        `moved` are those that the destination keeps under other UIDs; they count as confirmed.
        """
        committed = committed | set(moved)
        missed = {uid: why for uid, why in missed.items() if uid not in moved}
        for uid, place in moved.items():
            extra = _extra("object_coerced", confirmation, instance=uid)
            log.error("The destination keeps an object under other UIDs: %s", place, extra=extra)
        for alarm in self._confirmations.settle(confirmation.id, committed, missed, how, self._now(), moved):
            delivery = {"delivery": alarm.id, "kind": alarm.object.kind}
            match alarm.state:
                case DeliveryState.QUEUED:
                    extra = _extra("delivery_requeued", confirmation, **delivery)
                    log.error("An object was not confirmed and is sent once more: %s", alarm.reason, extra=extra)
                case DeliveryState.FAILED:
                    extra = _extra("delivery_failed", confirmation, **delivery)
                    log.error(
                        "A delivery failed; only `dicom-node retry` sends it again: %s", alarm.reason, extra=extra
                    )
                case _:
                    extra = _extra("delivery_unconfirmed", confirmation, **delivery)
                    log.warning("An object was not confirmed, and is not sent again: %s", alarm.reason, extra=extra)
        if committed:
            extra = _extra("deliveries_confirmed", confirmation)
            log.info("The destination holds %d objects, as confirmed: %s", len(committed), how, extra=extra)

    def _postpone(self, confirmation: Confirmation, reason: str) -> bool:
        """Postpone the next question, by a pause that grows with the time since the objects were first asked for.

        Returns False if the confirmation has ended meanwhile.
        """
        now = self._now()
        elapsed = (steady_now() - confirmation.requested_at).total_seconds()
        pause = min(self._pauses.longest, max(self._pauses.first, elapsed))
        extra = _extra("confirmation_postponed", confirmation)
        log.warning(
            "The destination has not confirmed the objects yet and will be asked again: %s", reason, extra=extra
        )
        told = f"not confirmed yet: {reason}"
        return self._confirmations.postpone(confirmation.id, now + timedelta(seconds=pause), told)

    def _references(self, confirmation: Confirmation) -> dict[str, InstanceReference]:
        """Return, by SOP Instance UID, how the destination knows the objects that are not confirmed yet."""
        elsewhere = self._confirmations.stored_as(confirmation.id)
        references = {}
        for o in self._confirmations.objects(confirmation.id):
            place = elsewhere.get(o.sop_instance_uid, StoredAs(o.sop_instance_uid))
            references[o.sop_instance_uid] = InstanceReference(
                place.study_instance_uid or o.study_instance_uid,
                place.series_instance_uid or o.series_instance_uid,
                o.sop_class_uid,
                place.sop_instance_uid,
            )
        return references

    def _look_elsewhere(
        self, destination: ConfirmingDestination, confirmation: Confirmation, missing: Collection[str]
    ) -> tuple[set[str], dict[str, StoredAs]]:
        """Return the missing objects that are found in their own place, and where the destination keeps others.

        A destination that does not answer keeps none elsewhere, as far as this node can know.
        """
        references = self._references(confirmation)
        known = {reference.sop_instance_uid for uid, reference in references.items() if uid not in missing}
        sought = [reference for uid, reference in references.items() if uid in missing]
        if not sought:
            return set(), {}
        own = {reference.sop_instance_uid: uid for uid, reference in references.items()}
        try:
            found = {own[uid]: place for uid, place in destination.moved(sought).items()}
        except (PeerRefused, PeerUnavailable):
            return set(), {}
        there = {uid for uid, place in found.items() if references[uid].is_at(place)}
        return there, {
            uid: place for uid, place in found.items() if uid not in there and place.sop_instance_uid not in known
        }


class _Asker:
    """The `dicom_node.deliver.destinations.interface.Asker` of one confirmation."""

    def __init__(
        self,
        confirmations: Confirmations,
        confirmation: Confirmation,
        patience: timedelta,
        now: Callable[[], datetime],
        linger: float,
        stop: threading.Event,
    ) -> None:
        self._confirmations = confirmations
        self._confirmation = confirmation
        self._patience = patience
        self._now = now
        self._linger = linger
        self._stop = stop
        self._until = 0.0

    def taken(self) -> None:
        self._until = time.monotonic() + self._linger
        self._confirmations.taken(self._confirmation.id, self._now() + self._patience)

    def heard(self, report: IncomingReport) -> int:
        return int(keep_incoming_report(self._confirmations, report, self._confirmation.destination).status)

    def waits(self) -> bool:
        in_time = not self._stop.is_set() and time.monotonic() < self._until
        return in_time and self._confirmations.is_awaited(self._confirmation.id)


def _in_words(reason: str) -> str:
    words = _REASONS_IN_WORDS.get(int(reason, 16))
    return f", {words}" if words else ""


def _extra(action: str, confirmation: Confirmation, **more: object) -> dict[str, object]:
    identifiers = {"destination": confirmation.destination, "transaction": confirmation.transaction_uid}
    return fields(action, **identifiers, **more)
