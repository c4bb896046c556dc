"""Records of deliveries of result objects and of their confirmation by a destination."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from storage.records.results import ResultObject


class DeliveryState(StrEnum):
    """State of one result object on its way to one destination."""

    QUEUED = "QUEUED"  # waits for the dispatcher
    SENDING = "SENDING"  # a dispatcher holds it
    SENT = "SENT"  # the destination answered Success for this instance
    COMMITTED = "COMMITTED"  # the destination took responsibility (storage commitment or read-back)
    RETRYING = "RETRYING"  # failed; claimable again once run_after has passed
    FAILED = "FAILED"  # dead letter: the last attempt failed, or nothing stands for it; `retry` queues it again
    REPLACED = "REPLACED"  # not sent: the reason says what is sent instead, or that the result was withdrawn


class ConfirmationState(StrEnum):
    """State of the request to a destination to confirm the objects that it accepted."""

    ASKING = "ASKING"  # the request is on its way; at the deadline it is made anew
    REQUESTED = "REQUESTED"  # the destination took it; at the deadline its report is overdue
    READING = "READING"  # the destination takes no requests: at the deadline it is asked what it holds
    REPORTED = "REPORTED"  # the report came, and is to be acted upon
    CLOSED = "CLOSED"  # acted upon, or too late


@dataclass(frozen=True)
class Delivery:
    """A result object on its way to one destination."""

    id: int
    object: ResultObject
    destination: str
    state: DeliveryState
    attempts: int
    reason: str
    created_at: datetime
    run_after: datetime
    sent_at: datetime | None
    resends: int = 0  # after the destination accepted it and did not commit it


@dataclass(frozen=True)
class Undelivered:
    """The reason why a destination does not get an object. `replaced` is True if it gets a stand-in for the object."""

    reason: str
    replaced: bool


@dataclass(frozen=True)
class ConfirmationReport:
    """The destination's answer to a storage commitment request, by SOP Instance UIDs."""

    committed: tuple[str, ...]
    failed: Mapping[str, str]  # with the reason, such as 0x0112

    def to_json(self) -> dict[str, Any]:
        return {"committed": list(self.committed), "failed": [[uid, reason] for uid, reason in self.failed.items()]}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "ConfirmationReport":
        return cls(tuple(plain["committed"]), dict(plain["failed"]))


@dataclass(frozen=True)
class Confirmation:
    """A storage commitment request that this node makes of a destination (PS3.4 annex J).

    `items` are (SOP class, SOP instance). `report` is None until the destination has reported. `requested_at` is the
    time of the first request for these objects.
    """

    id: int
    transaction_uid: str
    destination: str
    items: tuple[tuple[str, str], ...]
    state: ConfirmationState
    requested_at: datetime
    deadline: datetime
    report: ConfirmationReport | None = None
