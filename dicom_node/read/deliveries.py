"""Deliveries as the operator sees them."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from storage.records.deliveries import Delivery, DeliveryState


@dataclass(frozen=True)
class ListedDelivery:
    """A delivery with its object. The reason also says if the destination is not configured.

    `waited_seconds` is how long the destination gave no answer. `warning` is what it said of the object when it stored
    it.
    """

    id: int
    destination: str
    state: DeliveryState
    attempts: int
    reason: str
    created_at: datetime
    run_after: datetime
    sent_at: datetime | None
    resends: int
    waited_seconds: float
    warning: str
    job_id: int
    kind: str
    study_instance_uid: str
    sop_instance_uid: str


def list_delivery(delivery: Delivery, destinations: Collection[str] | None = None) -> ListedDelivery:
    """Return the row of a delivery. `destinations` are the configured ones; None if the caller does not know them."""
    reason = delivery.reason
    if destinations is not None and is_stranded(delivery, destinations):
        stranded = f"no destination {delivery.destination!r} is configured any more; add it again to have this sent"
        reason = "; ".join(filter(None, [stranded, reason]))
    return ListedDelivery(
        id=delivery.id,
        destination=delivery.destination,
        state=delivery.state,
        attempts=delivery.attempts,
        reason=reason,
        created_at=delivery.created_at,
        run_after=delivery.run_after,
        sent_at=delivery.sent_at,
        resends=delivery.resends,
        waited_seconds=delivery.waited_seconds,
        warning=delivery.warning,
        job_id=delivery.object.job_id,
        kind=delivery.object.kind,
        study_instance_uid=delivery.object.study_instance_uid,
        sop_instance_uid=delivery.object.sop_instance_uid,
    )


def is_stranded(delivery: Delivery, destinations: Collection[str]) -> bool:
    """Return True if the delivery waits for a destination that is not configured."""
    waits = delivery.state in (DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.RETRYING)
    return waits and delivery.destination not in destinations
