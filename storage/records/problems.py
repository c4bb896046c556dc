"""Problems: conditions that a person should know of and may have to act on."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class ProblemKind(StrEnum):
    """The kinds of problems. The value is what a person types, and what programs match."""

    # Each of these is a state of rows that have a purpose of their own.
    JOB_FAILED = "job_failed"
    DELIVERY_FAILED = "delivery_failed"
    NOT_COMMITTED = "not_committed"
    NEVER_COMPLETED = "never_completed"
    PEER_SILENT = "peer_silent"

    # These have a row in the table of problems, from when they are opened until they are over.
    PATIENTS_MIXED = "patients_mixed"
    CORRECTION_INCOMPLETE = "correction_incomplete"
    QUARANTINED = "quarantined"
    UNFILED = "unfiled"
    REFUSED = "refused"
    MACHINE_TROUBLE = "machine_trouble"
    DESTINATION_UNREACHABLE = "destination_unreachable"
    UNEXPECTED_DUPLICATE = "unexpected_duplicate"
    COERCED = "coerced"
    ELEMENTS_DISCARDED = "elements_discarded"
    CLOCK_STEPPED = "clock_stepped"
    RESULT_OLDER_THAN_IMAGES = "result_older_than_images"


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
