"""The dispatcher: every destination has a queue and a thread of its own, so that a dead PACS delays nobody else."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from pydicom.uid import UID

from dicom_node.deliver.accepted_classes import Acceptance
from dicom_node.deliver.destinations.interface import ConfirmingDestination as Destination
from dicom_node.deliver.reachability import Reachability
from dicom_node.deliver.stand_ins import Offer, choose
from dicom_node.deliver.verdict import DeliveryVerdict, judge, may_be_there
from dicom_node.dimse.results import InstanceReference, SendOutcome, SendResult
from dicom_node.errors import AnswerUnreadable, PeerRefused, PeerUnavailable
from dicom_node.objects.registry import WRITTEN_SOP_CLASSES
from dicom_node.runtime.backoff import Backoff
from dicom_node.runtime.clock import wall_now
from dicom_node.runtime.logs import fields, unexpected
from dicom_node.runtime.serve import serve
from storage.records.deliveries import Delivery, DeliveryState, Remark, Silence, Undelivered
from storage.records.results import ResultObject
from storage.tables.deliveries import Deliveries

log = logging.getLogger(__name__)

_ARRIVED = (DeliveryState.SENT, DeliveryState.COMMITTED)
_NO_CLEAR_ANSWER = (SendOutcome.LOST, SendOutcome.UNCLEAR)
_GIVEN_UP = (DeliveryState.REPLACED, DeliveryState.FAILED)
_NOT_ASKED = (SendOutcome.AWAY, SendOutcome.UNREADABLE, SendOutcome.UNSENDABLE)  # they say nothing of the destination


class Dispatcher:
    """The loops that send the objects of jobs to destinations.

    `beside` are further loops of the role `dispatch`. Each has a thread of its own. `backoff` limits the attempts that
    a destination answers. What it does not answer is tried until `give_up_after` has passed.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        destinations: Sequence[Destination],
        backoff: Backoff,
        name: str,
        beside: Sequence[Callable[[threading.Event], None]] = (),
        give_up_after: timedelta = timedelta(days=14),
        now: Callable[[], datetime] = wall_now,
    ) -> None:
        self._deliveries = deliveries
        self._destinations = destinations
        self._backoff = backoff
        self._name = name
        self._beside = beside
        self._give_up_after = give_up_after
        self._now = now
        self._acceptance = Acceptance(WRITTEN_SOP_CLASSES)
        self._reachability = Reachability(backoff.first, backoff.longest)

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set, first the deliveries that an earlier process of this dispatcher held."""
        self._deliveries.release_dispatcher(self._name)
        self._warn_of_stranded()
        for destination in self._destinations:
            if self._deliveries.is_missed(destination.name):  # an earlier process has told so
                self._reachability.miss(destination.name)
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
        """Claim and send the next due delivery of this destination.

        Return False if there is none, or if the destination gives no answer, so that it is left in peace for a while.
        If the destination refuses the object, choose what is sent in its place.
        """
        if self._reachability.is_paused(destination.name):
            return False
        delivery = self._deliveries.claim(destination.name, self._name, self._now())
        if delivery is None:
            if self._reachability.is_away(destination.name):  # nothing waits for it any more, so nothing else tells
                self._look_again(destination)
            return False
        result, held = self._try(destination, delivery)
        now = self._now()
        retry_at = self._backoff.retry_at(delivery.attempts, now)
        sent_before = delivery.may_have_arrived or delivery.sent_at is not None
        verdict = judge(result, sent_before, held, is_last=retry_at is None)
        if result.outcome not in _NOT_ASKED:
            self._answered(destination.name)
        identifiers = {"delivery": delivery.id, "destination": destination.name, "kind": delivery.object.kind}
        match verdict:
            case DeliveryVerdict.ARRIVED:
                self._arrived(delivery, result, held)
            case DeliveryVerdict.WAIT:
                self._wait(destination, delivery, result)
            case DeliveryVerdict.RETRY:
                self._deliveries.fail(delivery.id, self._name, result.reason, retry_at, now)
                extra = fields("delivery_retried", **identifiers)
                log.warning("The delivery will be retried: %s", result.reason, extra=extra)
            case DeliveryVerdict.GIVE_UP if result.outcome is SendOutcome.DENIED:
                self._deliveries.fail(delivery.id, self._name, result.reason, None, now)
                message = "The delivery failed; only `dicom-node retry` sends it again: %s"
                log.error(message, result.reason, extra=fields("delivery_failed", **identifiers))
            case DeliveryVerdict.CONFLICT:
                self._choose_again(destination, delivery, result, self._conflicts(destination, delivery))
            case _:
                alone = () if verdict is DeliveryVerdict.REPLACE else (delivery.object.id,)
                self._choose_again(destination, delivery, result, alone)
        return verdict is not DeliveryVerdict.WAIT

    def _try(self, destination: Destination, delivery: Delivery) -> tuple[SendResult, bool | None]:
        """Send the object, unless the destination is found to hold it. Return the result, and what it holds.

        An unexpected failure is logged and ends only this attempt, which will be retried.
        """
        target = delivery.object
        uid = target.sop_instance_uid
        try:
            if delivery.may_have_arrived:
                earlier = SendResult(uid, SendOutcome.UNCLEAR, "no clear answer came to an earlier try")
                found, held = self._look_for(destination, delivery, earlier)
                if held or found.outcome is SendOutcome.AWAY:
                    return found, held
            if self._acceptance.refused(destination, {target.sop_class_uid}):
                reason = _not_accepted(destination, target.sop_class_uid)
                return SendResult(uid, SendOutcome.REFUSED, reason), None
            (result,) = destination.send([target.blob])
        except Exception as error:
            extra = fields("sending_interrupted", delivery=delivery.id)
            log.error("Sending an object failed unexpectedly: %s", unexpected(error), extra=extra)
            result = SendResult(uid, SendOutcome.UNCLEAR, f"unexpected {type(error).__name__}")
        if not result.ok:
            self._acceptance.forget(destination)  # its earlier answer may not hold any more
        if result.outcome in _NO_CLEAR_ANSWER:
            self._deliveries.may_have_arrived(delivery.id, self._name)
        return self._look_for(destination, delivery, result) if may_be_there(result) else (result, None)

    def _look_for(
        self, destination: Destination, delivery: Delivery, result: SendResult
    ) -> tuple[SendResult, bool | None]:
        """Ask the destination if it holds the object after a try with this result; None if it does not say.

        Where no clear answer came, the object is looked for under other UIDs too, which the result then tells. If no
        answer came and none comes to any question, the destination is away.
        """
        target = delivery.object
        reference = _reference(target)
        no_clear_answer = delivery.may_have_arrived or result.outcome in _NO_CLEAR_ANSWER
        try:
            if target.sop_instance_uid in destination.stored([reference]):
                return result, True
        except (PeerRefused, AnswerUnreadable):
            return result, None
        except PeerUnavailable as error:
            if result.outcome is SendOutcome.LOST and not destination.echo().ok:
                return SendResult(target.sop_instance_uid, SendOutcome.AWAY, str(error)), None
            return result, None
        if not no_clear_answer:
            return result, False
        try:
            place = destination.moved([reference]).get(target.sop_instance_uid)
        except (PeerRefused, PeerUnavailable):
            return result, None
        if place is not None and reference.is_at(place):
            return result, True
        others = self._deliveries.offered(target.job_id, destination.name)
        if place is None or place.sop_instance_uid in {
            other.sop_instance_uid for other, _ in others if other.id != target.id
        }:
            return result, False
        return replace(result, remark=Remark(stored_as=place)), True

    def _arrived(self, delivery: Delivery, result: SendResult, held: bool | None) -> None:
        how = "arrived"
        if result.outcome is not SendOutcome.STORED:
            found = "found there by a query" if held else "it is there already"
            how = f"arrived: {found}, although the last try ended so: {result.reason}"
        if not self._deliveries.sent(delivery.id, self._name, self._now(), result.remark, how):
            return
        study = delivery.object.study_instance_uid
        identifiers = {
            "delivery": delivery.id, "destination": delivery.destination, "kind": delivery.object.kind, "study": study,
        }  # fmt: skip
        log.info("The object was delivered", extra=fields("delivery_sent", **identifiers))
        if result.remark.discarded:
            message = "The destination stored the object and discarded a part of it: %s"
            log.error(message, result.remark, extra=fields("elements_discarded", **identifiers))
        elif result.remark.coerced:
            message = "The destination stored the object and changed it: %s"
            log.error(message, result.remark, extra=fields("object_coerced", **identifiers))
        elif str(result.remark):
            message = "The destination stored the object with a warning: %s"
            log.warning(message, result.remark, extra=fields("warning_received", **identifiers))

    def _wait(self, destination: Destination, delivery: Delivery, result: SendResult) -> None:
        """Let the delivery wait for an answer, and all others too if the destination was not reached."""
        was_sent = result.outcome is SendOutcome.LOST
        pause = (
            self._reachability.pause(delivery.waited_seconds)
            if was_sent
            else self._reachability.missed(destination.name)
        )
        silence = Silence(result.reason, was_sent, pause, self._give_up_after.total_seconds())
        waited = self._deliveries.wait(delivery.id, self._name, silence, self._now())
        extra = fields("delivery_postponed", delivery=delivery.id, destination=destination.name)
        log.warning("The delivery waits for an answer of its destination: %s", result.reason, extra=extra)
        if waited.alarm:
            extra = fields("destination_unreachable", delivery=delivery.id, destination=destination.name)
            log.error("Results wait for a destination: %s", waited.alarm, extra=extra)
        for ended in waited.given_up:
            extra = fields("delivery_failed", delivery=ended.id, destination=destination.name, kind=ended.object.kind)
            message = "The delivery failed; only `dicom-node retry` sends it again: %s"
            log.error(message, ended.reason, extra=extra)

    def _answered(self, destination: str) -> None:
        """End the problem that a destination is away, if there is one, with its first answer."""
        if self._reachability.answered(destination) and self._deliveries.reached(destination):
            log.info("The destination is reached again", extra=fields("destination_reached", destination=destination))

    def _look_again(self, destination: Destination) -> None:
        if destination.echo().ok:
            self._answered(destination.name)
        else:
            self._reachability.missed(destination.name)

    def _conflicts(self, destination: Destination, delivery: Delivery) -> list[int]:
        """Report that the UID of an object is taken at the destination. Return the ids of all such objects of the job.

        A node that has lost its database makes the same objects again. Then the destination holds the rest of the job
        too, and nothing may be sent beside it.
        """
        offered = self._deliveries.offered(delivery.object.job_id, destination.name)
        unsent = [sent for _, sent in offered if sent is not None and sent.state is DeliveryState.QUEUED] + [delivery]
        held = _held(destination, [sent.object for sent in unsent])
        taken = [sent for sent in unsent if sent.id == delivery.id or sent.object.sop_instance_uid in held]
        for sent in taken:
            self._deliveries.conflict(sent)
            log.error(
                "The destination has an object of this UID that this node has not sent",
                extra=fields(
                    "duplicate_found",
                    study=sent.object.study_instance_uid,
                    delivery=sent.id,
                    destination=sent.destination,
                    kind=sent.object.kind,
                ),
            )
        return [sent.object.id for sent in taken]

    def _choose_again(
        self, destination: Destination, delivery: Delivery, result: SendResult, alone: Collection[int]
    ) -> None:
        """Queue the stand-ins of an object that is not delivered, and replace the objects that refer to it.

        Nothing is sent in place of the objects in `alone`, and of those that are FAILED and may arrive yet, or have
        arrived. Objects that were given up before are not tried again. An object that was refused at every attempt, but
        never for good, is FAILED nevertheless: the cause may be a full disk, and the operator can have it sent again
        later.
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
        refusals |= dict.fromkeys((*alone, delivery.object.id), result.reason)
        offers = [Offer(target.id, target.kind, target.stands_for, target.id in arrived) for target, _ in offered]
        choice = choose(offers, refusals, {*alone, *_failed_alone(offered)})
        unsent = dict(choice.unsent)
        if result.retriable or delivery.object.id in alone:
            unsent[delivery.object.id] = Undelivered(unsent[delivery.object.id].reason, replaced=False)
        now = self._now()
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


def _reference(target: ResultObject) -> InstanceReference:
    return InstanceReference(
        target.study_instance_uid, target.series_instance_uid, target.sop_class_uid, target.sop_instance_uid
    )


def _failed_alone(offered: Sequence[tuple[ResultObject, Delivery | None]]) -> set[int]:
    """Return the ids of the objects that FAILED, and that may be there or in whose place nothing was sent."""
    replaced = {kind for target, sent in offered if sent is not None for kind in target.stands_for}
    return {
        target.id
        for target, sent in offered
        if sent is not None
        and sent.state is DeliveryState.FAILED
        and (sent.may_have_arrived or target.kind not in replaced)
    }


def _held(destination: Destination, objects: Sequence[ResultObject]) -> set[str]:
    """Return the SOP Instance UIDs of the objects that the destination says to hold."""
    held: set[str] = set()
    for target in objects:  # one by one, because a folder says nothing of several if one is missing
        with suppress(PeerRefused, PeerUnavailable):
            held |= destination.stored([_reference(target)])
    return held


def _not_accepted(destination: Destination, sop_class_uid: str) -> str:
    return f"{destination.name} does not accept {UID(sop_class_uid).name}"
