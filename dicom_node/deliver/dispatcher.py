"""The dispatcher: every destination has a queue and a thread of its own, so that a dead PACS delays nobody else."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

from pydicom.uid import UID

from dicom_node.deliver.accepted_classes import Acceptance
from dicom_node.deliver.destinations.interface import Destination
from dicom_node.deliver.stand_ins import Offer, choose
from dicom_node.dimse.results import SendResult
from dicom_node.objects.registry import WRITTEN_SOP_CLASSES
from dicom_node.runtime.backoff import Backoff
from dicom_node.runtime.logs import fields, unexpected
from dicom_node.runtime.serve import serve
from storage.records.deliveries import Delivery, DeliveryState, Undelivered
from storage.tables.deliveries import Deliveries

log = logging.getLogger(__name__)

_ARRIVED = (DeliveryState.SENT, DeliveryState.COMMITTED)
_GIVEN_UP = (DeliveryState.REPLACED, DeliveryState.FAILED)


class Dispatcher:
    """The loops that send the objects of jobs to destinations.

    `beside` are further loops of the role `dispatch`. Each has a thread of its own.
    """

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
        """Deliver until `stop` is set, first the deliveries that an earlier process of this dispatcher held."""
        self._deliveries.release_dispatcher(self._name)
        self._warn_of_stranded()
        threads = [
            threading.Thread(
                target=serve,
                args=("Delivery", partial(self.deliver_one, destination), stop, {"destination": destination.name}),
                name=f"dispatch-{destination.name}",
            )
            for destination in self._destinations
        ]
        threads += [threading.Thread(target=loop, args=(stop,), name="dispatch-beside") for loop in self._beside]
        for thread in threads:
            thread.start()
        stop.wait()  # the role runs even without any destination
        for thread in threads:
            thread.join()

    def _warn_of_stranded(self) -> None:
        """Warn of deliveries whose destination is not configured any more, because they would wait for ever."""
        served = {destination.name for destination in self._destinations}
        waiting = self._deliveries.list(states=(DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.RETRYING))
        for name, number in Counter(d.destination for d in waiting if d.destination not in served).items():
            log.error(
                "%d deliveries wait for destination %s, which is not configured any more; add it again to have them "
                "sent",
                number,
                name,
                extra=fields("delivery_stranded", destination=name),
            )

    def deliver_one(self, destination: Destination) -> bool:
        """Claim and send the next due delivery of this destination. Return False if there is none.

        If the destination refuses the object, choose what is sent in its place.
        """
        delivery = self._deliveries.claim(destination.name, self._name, datetime.now(UTC))
        if delivery is None:
            return False
        result = self._send(destination, delivery)
        now = datetime.now(UTC)
        identifiers = {"delivery": delivery.id, "destination": destination.name, "kind": delivery.object.kind}
        if result.ok:
            self._deliveries.sent(delivery.id, self._name, now)
            log.info(
                "The object was delivered",
                extra=fields("delivery_sent", study=delivery.object.study_instance_uid, **identifiers),
            )
            return True
        retry_at = self._backoff.retry_at(delivery.attempts, now) if result.retriable else None
        if result.refused and retry_at is None:
            self._choose_again(destination, delivery, result, now)
            return True
        self._deliveries.fail(delivery.id, self._name, result.reason, retry_at, now)
        if retry_at is None:
            message = "The delivery failed; only `dicom-node retry` sends it again: %s"
            log.error(message, result.reason, extra=fields("delivery_failed", **identifiers))
        else:
            log.warning(
                "The delivery will be retried: %s", result.reason, extra=fields("delivery_retried", **identifiers)
            )
        return True

    def _choose_again(self, destination: Destination, delivery: Delivery, result: SendResult, now: datetime) -> None:
        """Queue the stand-ins of an object that the destination refuses, and replace the objects that refer to it.

        Objects that were given up before are not tried again. An object that was refused at every attempt, but never
        for good, is FAILED nevertheless: the cause may be a full disk, and the operator can have it sent again later.
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
            identifiers = {"delivery": ended.id, "destination": destination.name, "kind": ended.object.kind}
            if ended.state is DeliveryState.REPLACED:
                extra = fields("delivery_replaced", **identifiers)
                log.warning("Another object is delivered in place of this one: %s", ended.reason, extra=extra)
            else:
                log.error(
                    "The object is not delivered and counts as failed: %s",
                    ended.reason,
                    extra=fields("delivery_failed", **identifiers),
                )

    def _send(self, destination: Destination, delivery: Delivery) -> SendResult:
        """Send the object. An unexpected failure is logged and ends only this attempt, which will be retried."""
        sop_class_uid, sop_instance_uid = delivery.object.sop_class_uid, delivery.object.sop_instance_uid
        try:
            if self._acceptance.refused(destination, {sop_class_uid}):
                reason = _not_accepted(destination, sop_class_uid)
                return SendResult(sop_instance_uid, ok=False, reason=reason, refused=True)
            (result,) = destination.send([delivery.object.path])
            if not result.ok:
                self._acceptance.forget(destination)  # its earlier answer may not hold any more
            return result
        except Exception as error:
            extra = fields("sending_interrupted", delivery=delivery.id)
            log.error("Sending an object failed unexpectedly: %s", unexpected(error), extra=extra)
            return SendResult(sop_instance_uid, ok=False, retriable=True, reason=f"unexpected {type(error).__name__}")


def _not_accepted(destination: Destination, sop_class_uid: str) -> str:
    return f"{destination.name} does not accept {UID(sop_class_uid).name}"
