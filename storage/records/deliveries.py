"""Records of deliveries of result objects and of their confirmation by a destination."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from storage.records.results import ResultObject

LOOK_BACK = timedelta(days=7)  # objects sent before that are not asked for, since the PACS may have moved them


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


_COERCED = 0xB000
_DISCARDED = 0xB006
_WARNINGS_IN_WORDS = {
    _COERCED: "coercion of data elements",
    _DISCARDED: "elements discarded",
    0xB007: "the dataset does not match its SOP class",
}


@dataclass(frozen=True)
class StoredAs:
    """The UIDs under which a destination keeps an object, if these are not its own; empty ones are not known."""

    sop_instance_uid: str
    series_instance_uid: str = ""
    study_instance_uid: str = ""

    def __str__(self) -> str:
        named = zip(("instance", "series", "study"), vars(self).values(), strict=True)
        return ", ".join(f"{name} {uid}" for name, uid in named if uid)


@dataclass(frozen=True)
class Remark:
    """The remark of a destination on an object that it stored: a warning, and what it changed of the object.

    `warning` is a status of PS3.4 table B.2-1 or a warning reason of PS3.18; 0 stands for none. `attributes` are the
    keywords of those that it names as changed or left out, without values.
    """

    warning: int = 0
    attributes: tuple[str, ...] = ()
    stored_as: StoredAs | None = None

    @property
    def coerced(self) -> bool:
        """True where the destination changed what it stored."""
        named = bool(self.attributes) and not self.warning
        return self.warning == _COERCED or named or self.stored_as is not None

    @property
    def discarded(self) -> bool:
        """True where the destination left out elements of what it stored."""
        return self.warning == _DISCARDED

    def __str__(self) -> str:
        texts = []
        if self.warning:
            words = _WARNINGS_IN_WORDS.get(self.warning)
            texts.append(f"warning 0x{self.warning:04X}" + (f", {words}" if words else ""))
        if self.attributes:
            texts.append(f"{'it names' if self.warning else 'it changed'} {', '.join(self.attributes)}")
        if self.stored_as is not None:
            texts.append(f"kept there as {self.stored_as}")
        return "; ".join(texts)


NO_REMARK = Remark()


@dataclass(frozen=True)
class Silence:
    """A try of a delivery that ended without an answer to it.

    `sent` is True if the object was sent, so that it may have arrived; it is False if the destination was not reached,
    so that everything that waits for the destination waits longer. The next try is due after `pause` seconds. What has
    waited for `limit` seconds in all is given up.
    """

    reason: str
    sent: bool
    pause: float
    limit: float


@dataclass(frozen=True)
class Delivery:
    """A result object on its way to one destination.

    `attempts` counts tries that the destination answered with a failure, and the one under way. `waited_seconds` is how
    long the destination gave no answer while the delivery waited. `warning` is what the destination said of the object
    when it stored it.
    """

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
    may_have_arrived: bool = False  # a try ended without a clear answer
    waited_seconds: float = 0.0
    warning: str = ""
    stored_as: StoredAs | None = None


@dataclass(frozen=True)
class Waited:
    """The outcome of waiting for a destination: deliveries that are given up, and the text of a problem that is new."""

    given_up: tuple[Delivery, ...] = ()
    alarm: str = ""


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
