"""Records of studies and their timelines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class StudyState(StrEnum):
    """State of one revision of a study."""

    RECEIVING = "RECEIVING"  # instances still arrive, or may
    COMPLETE = "COMPLETE"  # evidence says all of them are here; not routed yet
    ROUTED = "ROUTED"  # jobs are enqueued, or the results of an earlier revision stand
    IGNORED = "IGNORED"  # nothing applies; the reason says why


@dataclass(frozen=True)
class Study:
    """A study in its current revision."""

    study_instance_uid: str
    state: StudyState
    revision: int  # 1 for the first; a late instance that can feed an input adds one
    reason: str  # why it is in this state, readable: the completion evidence, or why nothing applies
    instances: int  # number stored
    first_received_at: datetime
    last_received_at: datetime
    priority: int = 0  # the highest Requested Procedure Priority of its instances: 2 STAT, 1 HIGH, 0 the rest


@dataclass(frozen=True)
class MarkedStudy:
    """A study whose report of no result is to be decided, and the time when something happened that asks for it."""

    study: Study
    marked_at: datetime


class Stage(StrEnum):
    """The step in the life of a study that a line of its timeline is about. A value has at most 16 characters."""

    RECEIVED = "received"  # an association opened or ended, a revision began, a procedure step was told
    ASKED = "asked"  # the source PACS was asked for the number of instances; the data holds its answer
    COMPLETE = "complete"  # evidence completed the study, or it is to be routed again
    EARLY = "early"  # an application starts before the study is complete
    ROUTED = "routed"  # it was decided which applications apply
    QUEUED = "queued"  # a job or a delivery entered the queue, or left it again
    RUNNING = "running"  # an attempt on a job began, or a running job was cancelled
    ENCODED = "encoded"  # a job's result objects were written
    DELIVERED = "delivered"  # a destination accepted or committed an object
    WITHDRAWN = "withdrawn"  # an operator took the results of a job back
    DELETED = "deleted"  # the study and all that was known of it was deleted
    WARNING = "warning"  # something needs attention


@dataclass(frozen=True)
class Event:
    """A line of a study's timeline. Neither `text` nor `data` names a patient."""

    at: datetime
    study_instance_uid: str
    revision: int
    stage: Stage
    text: str
    job_id: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
