"""Frozen values that pass between the stages. No SQL here, no DICOM encoding, no patient attributes.

All times are timezone-aware UTC.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

UID = re.compile(r"[0-9][0-9.]{0,63}")  # wider than PS3.5 9.1, but safe as the name of a file


class StudyState(StrEnum):
    """State of one revision of a study."""

    RECEIVING = "RECEIVING"  # instances still arrive, or may
    COMPLETE = "COMPLETE"  # evidence says all of them are here; not routed yet
    ROUTED = "ROUTED"  # jobs are enqueued, or the results of an earlier revision stand
    IGNORED = "IGNORED"  # nothing applies; the reason says why


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
    """State of the question to a destination whether it has committed what it accepted."""

    ASKING = "ASKING"  # the request is on its way; at the deadline it is made anew
    REQUESTED = "REQUESTED"  # the destination took it; at the deadline its report is overdue
    READING = "READING"  # the destination takes no requests: at the deadline it is asked what it holds
    REPORTED = "REPORTED"  # the report came, and is to be acted upon
    CLOSED = "CLOSED"  # acted upon, or too late


class AssociationEnd(StrEnum):
    """How an association that fed instances ended."""

    RELEASED = "RELEASED"
    ABORTED = "ABORTED"  # by the peer, by us, by a lost connection, or because the receiver died


class Stored(StrEnum):
    """What became of one received instance."""

    NEW = "NEW"  # filed and indexed
    DUPLICATE = "DUPLICATE"  # the same SOP Instance UID with the same content is already here; nothing stored twice
    REVISION = "REVISION"  # the same pixels under changed attributes of patient or study: both kept, the newer used
    CONFLICT = "CONFLICT"  # the same SOP Instance UID with other pixels: kept beside, in quarantine, never instead


class ProcedureStepState(StrEnum):
    """Performed Procedure Step Status (PS3.3 C.4.14); only the first may still change."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


class CommitmentState(StrEnum):
    """State of a storage commitment request that a peer made of us."""

    REQUESTED = "REQUESTED"  # accepted; the report is still to be sent, first on the association that asked
    RETRYING = "RETRYING"  # a report could not be delivered; due again once run_after has passed
    REPORTED = "REPORTED"  # the peer answered the N-EVENT-REPORT with Success
    FAILED = "FAILED"  # the last attempt failed, or nothing says where the peer listens


@dataclass(frozen=True)
class Facts:
    """What the header of an instance says about the acquisition it is part of; None where it says nothing.

    `position` and `orientation` are in LPS mm (PS3.3 C.7.6.2), `spacing` is Spacing Between Slices in mm.
    """

    instance_number: int | None = None
    acquisition_number: int | None = None
    images_in_acquisition: int | None = None
    temporal_position: int | None = None  # Temporal Position Identifier, from 1
    temporal_positions: int | None = None  # Number of Temporal Positions
    echo_number: int | None = None
    frames: int | None = None  # Number of Frames
    position: tuple[float, float, float] | None = None
    orientation: tuple[float, float, float, float, float, float] | None = None
    spacing: float | None = None
    priority: str | None = None  # Requested Procedure Priority: STAT, HIGH, ROUTINE, MEDIUM, LOW

    def plain(self) -> dict[str, Any]:
        """Without what is None, for JSON."""
        return {key: value for key, value in vars(self).items() if value is not None}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Facts":
        """The inverse of `plain`. Keys of another version are passed over."""
        known = {key: value for key, value in plain.items() if key in cls.__dataclass_fields__}
        for key in ("position", "orientation"):
            if key in known:
                known[key] = tuple(known[key])
        return cls(**known)


@dataclass(frozen=True)
class Instance:
    """One stored composite instance. `path` is a DICOM Part 10 file whose dataset bytes are as received."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    modality: str
    path: Path
    size: int  # bytes of the file
    sha256: str  # of the dataset's bytes as received, without the file meta information
    received_at: datetime
    revision: int  # the study revision this instance arrived in
    facts: Facts = Facts()


@dataclass(frozen=True)
class ReceivedInstance:
    """What is known of one C-STORE request when its bytes go into the journal.

    `association` is the receiver's own name for the association, unique for ever.
    """

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    modality: str
    source_ae_title: str
    association: str
    received_at: datetime
    facts: Facts = Facts()


@dataclass(frozen=True)
class Series:
    series_instance_uid: str
    study_instance_uid: str
    modality: str
    instances: tuple[Instance, ...]


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
class FeedingAssociation:
    """An association that fed a revision of a study. `end` and `ended_at` are None while it is open."""

    calling_ae_title: str
    opened_at: datetime
    ended_at: datetime | None = None
    end: AssociationEnd | None = None


@dataclass(frozen=True)
class SourceAnswer:
    """What the source PACS answered when it was asked for the number of a study's instances.

    `own` of them are results of this node that the PACS is known to hold. `count` is None where it gave none, and
    `problem` says why.
    """

    at: datetime
    source: str
    count: int | None
    own: int = 0
    problem: str = ""


@dataclass(frozen=True)
class StudyEvidence:
    """What is known about a study in RECEIVING, for `dicom_node.complete.decide` to decide on: cheap to read.

    `steps` are the procedure steps it is part of; `associations` and `answers` those of this revision, oldest first.
    `noticed_at` is when the one who decides saw this state first: instances may be indexed long after they came.
    """

    study_instance_uid: str
    revision: int
    instances: int  # of all revisions
    revision_started_at: datetime  # first instance of this revision
    last_received_at: datetime
    associations: tuple[FeedingAssociation, ...] = ()
    steps: tuple[tuple[str, ProcedureStepState], ...] = ()
    answers: tuple[SourceAnswer, ...] = ()
    noticed_at: datetime | None = None

    @property
    def open_associations(self) -> int:
        return sum(a.end is None for a in self.associations)

    @property
    def aborted_associations(self) -> int:
        return sum(a.end is AssociationEnd.ABORTED for a in self.associations)

    @property
    def last_association_ended_at(self) -> datetime | None:
        return max((a.ended_at for a in self.associations if a.ended_at is not None), default=None)

    @property
    def contents_key(self) -> tuple[object, ...]:
        """Changes whenever `Studies.contents` would, but for what is here of other studies."""
        return self.study_instance_uid, self.revision, self.instances, self.last_received_at, self.steps


@dataclass(frozen=True)
class InstanceEvidence:
    """One instance of a study in RECEIVING. `own` marks a result of this node that came back."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    received_at: datetime
    facts: Facts = Facts()
    own: bool = False


@dataclass(frozen=True)
class StepEvidence:
    """A procedure step and the SOP Instance UIDs its Performed Series Sequence lists."""

    state: ProcedureStepState
    referenced: frozenset[str]
    ended_at: datetime | None = None


@dataclass(frozen=True)
class StudyContents:
    """Every instance of a study, and its procedure steps: as large as the study is.

    `elsewhere` are the instances that the steps list and that are here as part of another study: a procedure step may
    be for several (PS3.3 C.4.13, the group case).
    """

    instances: tuple[InstanceEvidence, ...]
    steps: tuple[StepEvidence, ...] = ()
    elsewhere: frozenset[str] = frozenset()


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


@dataclass(frozen=True)
class NewObject:
    """A result object whose file is already durable."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    kind: str  # one of `dicom_node.objects.build.Kind`
    path: Path
    destinations: tuple[str, ...]  # for which it was made
    stands_for: str = ""  # the kinds in whose place it may be sent, a space between them; "" for what is sent itself


@dataclass(frozen=True)
class ResultObject:
    id: int
    job_id: int
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    kind: str
    path: Path
    sequence: int  # order of delivery within its job, from 0
    created_at: datetime
    destinations: tuple[str, ...] = ()
    stands_for: str = ""


@dataclass(frozen=True)
class Delivery:
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
    """Why a destination does not get an object; `replaced` says that it gets something in its place."""

    reason: str
    replaced: bool


@dataclass(frozen=True)
class Confirmation:
    """A storage commitment request that this node makes of a destination (PS3.4 annex J). `items` are (SOP class, SOP
    instance); `report` is what the destination said: {"committed": [uid, ...], "failed": [[uid, reason], ...]}.

    `requested_at` is when these objects were first asked for.
    """

    id: int
    transaction_uid: str
    destination: str
    items: tuple[tuple[str, str], ...]
    state: ConfirmationState
    requested_at: datetime
    deadline: datetime
    report: Mapping[str, Any] | None = None


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


@dataclass(frozen=True)
class ProcedureStep:
    """A Modality Performed Procedure Step (PS3.4 annex F). Its dataset, which names the patient, is the file `path`.

    `referenced` are the SOP instances its Performed Series Sequence lists; final once the state is.
    """

    sop_instance_uid: str
    state: ProcedureStepState
    source_ae_title: str
    study_instance_uids: tuple[str, ...]
    referenced: tuple[str, ...]
    created_at: datetime
    ended_at: datetime | None
    path: Path
    version: int = 1  # one more with each N-SET


@dataclass(frozen=True)
class Commitment:
    """A storage commitment request of a peer (PS3.4 annex J). `items` are (SOP class, SOP instance); `duplicates` are
    those of another request that the peer made under the same transaction UID before it had its report.
    """

    id: int
    transaction_uid: str
    peer_ae_title: str
    peer_host: str
    items: tuple[tuple[str, str], ...]
    state: CommitmentState
    attempts: int
    reason: str
    requested_at: datetime
    run_after: datetime
    duplicates: tuple[tuple[str, str], ...] = ()
