"""Problems: conditions that a person should know of and may have to act on."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class ProblemKind(StrEnum):
    """The kinds of problems. The value is what a person types, and what programs match."""

    # Each of these is a state of rows that have a purpose of their own.
    JOB_FAILED = "job_failed"
    DELIVERY_FAILED = "delivery_failed"
    NOT_COMMITTED = "not_committed"
    REPORT_FAILED = "report_failed"
    NEVER_COMPLETED = "never_completed"
    PEER_SILENT = "peer_silent"

    # These have a row in the table of problems, from when they are opened until they are over.
    PATIENTS_MIXED = "patients_mixed"
    CORRECTION_INCOMPLETE = "correction_incomplete"
    QUARANTINED = "quarantined"
    UNFILED = "unfiled"
    DAMAGED = "damaged"
    REFUSED = "refused"
    ROUTING_FAILED = "routing_failed"
    MACHINE_TROUBLE = "machine_trouble"
    DESTINATION_UNREACHABLE = "destination_unreachable"
    UNEXPECTED_DUPLICATE = "unexpected_duplicate"
    COERCED = "coerced"
    ELEMENTS_DISCARDED = "elements_discarded"
    CLOCK_STEPPED = "clock_stepped"


@dataclass(frozen=True)
class Problem:
    """A problem of one subject. `key` names the subject within the kind; `times` counts how often it was met.

    `study_instance_uid` is empty where no study is concerned. `acknowledged_at` and `note` are set once a person has
    acknowledged it, and the problem has not changed since.
    """

    kind: ProblemKind
    key: str
    text: str
    since: datetime
    last_at: datetime
    study_instance_uid: str = ""
    times: int = 1
    acknowledged_at: datetime | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """The name by which a person acknowledges the problem."""
        return f"{self.kind}/{self.key}"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": str(self.kind),
            "text": self.text,
            "study_instance_uid": self.study_instance_uid,
            "since": self.since.isoformat(),
            "last_at": self.last_at.isoformat(),
            "times": self.times,
            "acknowledged_at": self.acknowledged_at and self.acknowledged_at.isoformat(),
            "note": self.note,
        }


@dataclass(frozen=True)
class ProblemLimits:
    """The times from which rows are problems by their state.

    A study is one if its revision began before `unfinished_before` and is not routed. An object is one if it was sent
    before `unconfirmed_before` to one of the `confirming` destinations, and is not committed.
    """

    unfinished_before: datetime
    unconfirmed_before: datetime
    confirming: frozenset[str]


@dataclass(frozen=True)
class SendingDay:
    """A day (UTC) on which a peer opened associations that brought instances: the first and the last of them."""

    calling_ae_title: str
    first_at: datetime
    last_at: datetime
