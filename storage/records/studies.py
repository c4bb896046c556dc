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
    study_instance_uid: str
    state: StudyState
    revision: int  # 1 for the first; a late instance that can feed an input adds one
    reason: str  # why it is in this state, readable: the completion evidence, or why nothing applies
    instances: int  # number stored
    first_received_at: datetime
    last_received_at: datetime
    priority: int = 0  # the highest Requested Procedure Priority of its instances: 2 STAT, 1 HIGH, 0 the rest


@dataclass(frozen=True)
class Event:
    """One line of a study's timeline."""

    at: datetime
    study_instance_uid: str
    revision: int
    stage: str  # received, asked, complete, early, routed, queued, running, encoded, delivered, withdrawn, warning
    text: str
    job_id: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
