"""The `dispatch` role: every destination has a queue and a thread of its own, so a dead PACS delays nobody else."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from pydicom.uid import UID

from dicom_node.deliver.acceptance import Acceptance
from dicom_node.deliver.choice import Offer, choose
from dicom_node.deliver.destinations.base import Destination
from dicom_node.dimse.results import SendResult
from dicom_node.objects.registry import WRITTEN_SOP_CLASSES
from dicom_node.runtime.backoff import Backoff
from dicom_node.runtime.logs import fields, unexpected
from storage.errors import Retriable
from storage.records.deliveries import Delivery, DeliveryState, Undelivered
from storage.tables.deliveries import Deliveries

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.5
TROUBLE_SECONDS = 10.0
_ARRIVED = (DeliveryState.SENT, DeliveryState.COMMITTED)
_GIVEN_UP = (DeliveryState.REPLACED, DeliveryState.FAILED)


class Dispatcher:
    """`beside` are further loops of the role, each with a thread of its own until `stop` is set."""

    def __init__(
        self,
        deliveries: Deliveries,
        destinations: Sequence[Destination],
        backoff: Backoff,
        name: str,
        beside: Sequence[Callable[[threading.Event], None]] = (),
    ) -> None:
        self._deliveries = deliveries
        self._destinations = destinations
        self._backoff = backoff
        self._name = name
        self._beside = beside
        self._acceptance = Acceptance(WRITTEN_SOP_CLASSES)

    def run(self, stop: threading.Event) -> None:
        """Delivers until `stop` is set. What an earlier life of this dispatcher held is taken up again first."""
        self._deliveries.release_dispatcher(self._name)
        self._tell_stranded()
        threads = [
            threading.Thread(target=self._serve, args=(destination, stop), name=f"dispatch-{destination.name}")
            for destination in self._destinations
        ]
        threads += [threading.Thread(target=loop, args=(stop,), name="dispatch-beside") for loop in self._beside]
        for thread in threads:
            thread.start()
        stop.wait()  # also with nothing to send to
        for thread in threads:
            thread.join()

    def _tell_stranded(self) -> None:
        """Deliveries whose destination was taken out of the configuration wait for ever: that must be heard of."""
        served = {destination.name for destination in self._destinations}
        waiting = self._deliveries.list(states=(DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.RETRYING))
        for name, number in Counter(d.destination for d in waiting if d.destination not in served).items():
            log.error(
                "%d deliveries wait for destination %s, which is not configured any more; add it again to have them "
                "sent",
                number,
                name,
                extra=fields("deliver", destination=name),
            )

    def _serve(self, destination: Destination, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                worked = self.deliver_one(destination)
            except Retriable as error:
                log.warning("Delivery is put off: %s", error, extra=fields("deliver", destination=destination.name))
                worked = False
            except Exception as error:  # this queue goes on; what is claimed comes back when it has stalled
                extra = fields("deliver", destination=destination.name)
                log.error("Delivery broke off: %s", unexpected(error), extra=extra)
                stop.wait(TROUBLE_SECONDS)
                worked = False
            if not worked:
                stop.wait(IDLE_SECONDS)

    def deliver_one(self, destination: Destination) -> bool:
        """Claims and sends the next due delivery of this destination, or chooses what to send in its place where the
        destination does not take it. False when there is none.
        """
        delivery = self._deliveries.claim(destination.name, self._name, datetime.now(UTC))
        if delivery is None:
            return False
        result = self._send(destination, delivery)
        now = datetime.now(UTC)
        identifiers = {"delivery": delivery.id, "destination": destination.name, "kind": delivery.object.kind}
        if result.ok:
            self._deliveries.sent(delivery.id, self._name, now)
            log.info("Delivered", extra=fields("deliver", study=delivery.object.study_instance_uid, **identifiers))
            return True
        retry_at = self._backoff.retry_at(delivery.attempts, now) if result.retriable else None
        if result.refused and retry_at is None:
            self._choose_again(destination, delivery, result, now)
            return True
        self._deliveries.fail(delivery.id, self._name, result.reason, retry_at, now)
        if retry_at is None:
            log.error("Delivery failed for good: %s", result.reason, extra=fields("deliver", **identifiers))
        else:
            log.warning("Delivery will be retried: %s", result.reason, extra=fields("deliver", **identifiers))
        return True

    def _choose_again(self, destination: Destination, delivery: Delivery, result: SendResult, now: datetime) -> None:
        """The destination does not take this object: what takes its place is queued, and what referred to it is
        replaced. What was given up before is not tried again.

        One that the destination did not refuse for good, but at every attempt, is FAILED all the same: it may be a full
        disk, and the operator then has it sent after all.
        """
        offered = self._deliveries.offered(delivery.object.job_id, destination.name)
        arrived = {target.id for target, sent in offered if sent is not None and sent.state in _ARRIVED}
        refused = self._acceptance.refused(destination, {target.sop_class_uid for target, _ in offered})
        refusals = {
            target.id: _not_accepted(destination, target.sop_class_uid)
            for target, _ in offered
            if target.sop_class_uid in refused and target.id not in arrived
        }
        refusals |= {target.id: sent.reason for target, sent in offered if sent is not None and sent.state in _GIVEN_UP}
        refusals[delivery.object.id] = result.reason
        offers = [Offer(target.id, target.kind, target.stands_for, target.id in arrived) for target, _ in offered]
        choice = choose(offers, refusals)
        unsent = dict(choice.unsent)
        if result.retriable:
            unsent[delivery.object.id] = Undelivered(unsent[delivery.object.id].reason, replaced=False)
        for ended in self._deliveries.choose_again(delivery.id, self._name, choice.sent, unsent, now):
            extra = fields("deliver", delivery=ended.id, destination=destination.name, kind=ended.object.kind)
            level = logging.WARNING if ended.state is DeliveryState.REPLACED else logging.ERROR
            log.log(level, "Not delivered: %s", ended.reason, extra=extra)

    def _send(self, destination: Destination, delivery: Delivery) -> SendResult:
        """A failure nobody foresaw is one delivery's failure, said and retried; the queue goes on."""
        sop_class_uid, sop_instance_uid = delivery.object.sop_class_uid, delivery.object.sop_instance_uid
        try:
            if self._acceptance.refused(destination, {sop_class_uid}):
                reason = _not_accepted(destination, sop_class_uid)
                return SendResult(sop_instance_uid, ok=False, reason=reason, refused=True)
            (result,) = destination.send([delivery.object.path])
            if not result.ok:
                self._acceptance.forget(destination)  # whatever it said before
            return result
        except Exception as error:
            log.error("Sending broke off: %s", unexpected(error), extra=fields("deliver", delivery=delivery.id))
            return SendResult(sop_instance_uid, ok=False, retriable=True, reason=f"unexpected {type(error).__name__}")


def _not_accepted(destination: Destination, sop_class_uid: str) -> str:
    return f"{destination.name} does not accept {UID(sop_class_uid).name}"
