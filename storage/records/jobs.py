"""Records of jobs: one run of an application over one revision of a study."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class JobKind(StrEnum):
    """What a worker is to do for a job."""

    ANALYSIS = "ANALYSIS"  # run the application over its inputs
    NO_RESULT = "NO_RESULT"  # write the report that says why there is none; `detail` holds `why` and `explanation`
    WITHDRAWAL = "WITHDRAWAL"  # write the rejection note for the objects of the job that `detail` names


class JobState(StrEnum):
    """State of one application's run over one study revision."""

    QUEUED = "QUEUED"  # waits for a worker
    RUNNING = "RUNNING"  # a worker holds it and sends heartbeats
    SUCCEEDED = "SUCCEEDED"  # objects are stored, deliveries enqueued
    RETRYING = "RETRYING"  # failed, or its worker died; claimable again once run_after has passed
    FAILED = "FAILED"  # dead letter: permanent error, or the last attempt failed; `retry` queues it again
    CANCELLED = "CANCELLED"  # superseded by a newer revision before it ended


@dataclass(frozen=True)
class NewJob:
    """A job to enqueue.

    `inputs` maps each input of the application to the series that feeds it, "t1w@1" being input t1w of the first of the
    earlier studies, which `detail["earlier"]` lists; `detail["not_taken"]` says of others why they are not.
    `fingerprint` names the exact instances and the application's version: the same fingerprint means the same result.
    """

    study_instance_uid: str
    revision: int
    application: str  # the configured application's name
    inputs: Mapping[str, str]
    fingerprint: str
    priority: int = 0  # the higher one is claimed first
    kind: JobKind = JobKind.ANALYSIS
    detail: Mapping[str, Any] = field(default_factory=dict)  # of an ANALYSIS: `earlier`, the study of each time point


@dataclass(frozen=True)
class Job:
    id: int
    study_instance_uid: str
    revision: int
    application: str
    inputs: Mapping[str, str]
    fingerprint: str
    state: JobState
    attempts: int  # started so far, this one included while RUNNING
    reason: str  # of the last failure or cancellation; empty otherwise
    created_at: datetime
    run_after: datetime
    started_at: datetime | None
    finished_at: datetime | None
    worker: str | None
    priority: int = 0
    kind: JobKind = JobKind.ANALYSIS
    detail: Mapping[str, Any] = field(default_factory=dict)
