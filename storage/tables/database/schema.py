"""The tables. No column holds an attribute of a patient, but only a keyed hash of one.

`REVISION` is the migration that these classes correspond to, so that a role can compare it without loading Alembic.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from storage.errors import WhyNoResult
from storage.records.commitments import CommitmentState
from storage.records.deliveries import ConfirmationState, DeliveryState
from storage.records.evidence import AssociationEnd
from storage.records.jobs import JobKind, JobState
from storage.records.problems import ProblemKind
from storage.records.procedure_steps import ProcedureStepState
from storage.records.results import ObjectKind
from storage.records.studies import Stage, StudyState
from storage.tables.database.columns import Base
from storage.tables.database.instance_schema import AsideRow as AsideRow
from storage.tables.database.instance_schema import ContestedRow as ContestedRow
from storage.tables.database.instance_schema import InstanceRow as InstanceRow
from storage.tables.database.instance_schema import InstanceVersionRow as InstanceVersionRow
from storage.tables.database.instance_schema import JournalRow as JournalRow
from storage.tables.database.instance_schema import OwnInstanceRow as OwnInstanceRow
from storage.tables.database.instance_schema import RepeatedRow as RepeatedRow
from storage.tables.database.instance_schema import SegmentRow as SegmentRow
from storage.tables.database.instance_schema import SharedHeaderRow as SharedHeaderRow
from storage.tables.database.instance_schema import SubjectRow as SubjectRow

REVISION = "0006"

_UID = String(64)  # PS3.5 table 6.2-1
_AE = String(16)


class StudyRow(Base):
    """A study in the state of its current revision. Earlier revisions remain in events, routings and jobs.

    `subject` is the patient's identity, a keyed hash made by `storage.tables.patients`. It is null until the patient is
    identified. `routed_subject` is the one under which the study was routed last. `report_marked_at` is set while the
    report of no result is to be decided.
    """

    __tablename__ = "study"
    __table_args__ = (
        Index("ix_study_state", "state"),
        Index("ix_study_subject", "subject"),
        Index("ix_study_report", "report_marked_at"),
    )

    study_instance_uid: Mapped[str] = mapped_column(_UID, primary_key=True)
    revision: Mapped[int]
    state: Mapped[StudyState]
    reason: Mapped[str]
    instances: Mapped[int]
    revision_started_at: Mapped[datetime]
    first_received_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    subject: Mapped[str | None] = mapped_column(String(64))
    routed_subject: Mapped[str | None] = mapped_column(String(64))
    report_marked_at: Mapped[datetime | None]


class AssociationRow(Base):
    """An association that brought instances. `key` is the receiver's name for it; `ended` is null while it is open."""

    __tablename__ = "association"
    __table_args__ = (
        Index("ix_association_receiver_ended", "receiver", "ended"),
        Index("uq_association_key", "key", unique=True),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str | None] = mapped_column(String(64))
    calling_ae_title: Mapped[str] = mapped_column(_AE)
    called_ae_title: Mapped[str] = mapped_column(_AE)
    peer_host: Mapped[str] = mapped_column(String(255))
    receiver: Mapped[str] = mapped_column(String(64))
    opened_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    ended: Mapped[AssociationEnd | None]


class FeedRow(Base):
    """A link: the association brought instances of this revision of this study."""

    __tablename__ = "feed"

    study_instance_uid: Mapped[str] = mapped_column(_UID, ForeignKey("study.study_instance_uid"), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    association_id: Mapped[int] = mapped_column(ForeignKey("association.id"), primary_key=True, index=True)


class RoutingRow(Base):
    """The decision of routing on one revision of a study."""

    __tablename__ = "routing"

    study_instance_uid: Mapped[str] = mapped_column(_UID, ForeignKey("study.study_instance_uid"), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    decisions: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class JobRow(Base):
    """A job. `superseded` marks a running job whose result must not be delivered, and a failed one that is replaced.

    `why` is the kind of reason for which an analysis failed.
    """

    __tablename__ = "job"
    __table_args__ = (
        Index("ix_job_state_run_after", "state", "run_after"),
        Index("ix_job_study_application", "study_instance_uid", "application"),
        Index("ix_job_study_state", "study_instance_uid", "state"),
        {
            "sqlite_autoincrement": True
        },  # an id must never be used twice, because folders of results and deliveries refer to it
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(_UID, ForeignKey("study.study_instance_uid"))
    revision: Mapped[int]
    application: Mapped[str]
    inputs: Mapped[dict[str, str]]
    fingerprint: Mapped[str]
    state: Mapped[JobState]
    superseded: Mapped[bool]
    attempts: Mapped[int]
    reason: Mapped[str]
    created_at: Mapped[datetime]
    run_after: Mapped[datetime]
    started_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    worker: Mapped[str | None]
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    kind: Mapped[JobKind] = mapped_column(default=JobKind.ANALYSIS, server_default="ANALYSIS")
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    side: Mapped[str] = mapped_column(String(1), default="", server_default="")
    beside: Mapped[str] = mapped_column(String(1), default="", server_default="")
    why: Mapped[WhyNoResult | None]


class ResultObjectRow(Base):
    """A result object, whose file is durable."""

    __tablename__ = "result_object"
    __table_args__ = (
        UniqueConstraint("sop_instance_uid", name="uq_result_object_sop_instance_uid"),
        Index("ix_result_object_job", "job_id"),
        Index("ix_result_object_study", "study_instance_uid"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"))
    sop_instance_uid: Mapped[str] = mapped_column(_UID)
    sop_class_uid: Mapped[str] = mapped_column(_UID)
    series_instance_uid: Mapped[str] = mapped_column(_UID)
    study_instance_uid: Mapped[str] = mapped_column(_UID)
    kind: Mapped[ObjectKind]
    path: Mapped[str]
    sequence: Mapped[int]
    created_at: Mapped[datetime]
    destinations: Mapped[list[str]] = mapped_column(default=list, server_default="[]")
    stands_for: Mapped[str] = mapped_column(String(16), default="", server_default="")


class DeliveryRow(Base):
    """A delivery. `job_id` and `sequence` are copies of the object's, because each claim orders by them."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("object_id", "destination", name="uq_delivery_object_destination"),
        # A destination has nearly all rows, so it must not come first: SQLite would search by it alone.
        Index("ix_delivery_state_destination", "state", "destination", "run_after"),
        Index("ix_delivery_job_destination", "job_id", "destination", "sequence"),
        Index("ix_delivery_confirmation", "confirmation_id", "destination", "state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    object_id: Mapped[int] = mapped_column(ForeignKey("result_object.id"))
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"))
    sequence: Mapped[int]
    destination: Mapped[str]
    state: Mapped[DeliveryState]
    attempts: Mapped[int]
    reason: Mapped[str]
    created_at: Mapped[datetime]
    run_after: Mapped[datetime]
    claimed_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    committed_at: Mapped[datetime | None]
    dispatcher: Mapped[str | None]
    confirmation_id: Mapped[int | None] = mapped_column(ForeignKey("confirmation.id", name="fk_delivery_confirmation"))
    resends: Mapped[int] = mapped_column(default=0, server_default="0")
    may_have_arrived: Mapped[bool] = mapped_column(default=False, server_default=false())
    waited_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")
    warning: Mapped[str] = mapped_column(default="", server_default="")
    coerced: Mapped[bool] = mapped_column(default=False, server_default=false())
    stored_as: Mapped[list[str] | None]


class ConfirmationRow(Base):
    """A storage commitment request of this node. A delivery refers to the request that will confirm it."""

    __tablename__ = "confirmation"
    __table_args__ = (
        UniqueConstraint("transaction_uid", name="uq_confirmation_transaction"),
        Index("ix_confirmation_state", "state", "destination"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(_UID)
    destination: Mapped[str]
    items: Mapped[list[list[str]]]
    state: Mapped[ConfirmationState]
    requested_at: Mapped[datetime]
    deadline: Mapped[datetime]
    report: Mapped[dict[str, Any] | None]


class EventRow(Base):
    """An event of a timeline. There is no foreign key, because a warning may concern a study without a row."""

    __tablename__ = "event"
    __table_args__ = (Index("ix_event_study", "study_instance_uid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    study_instance_uid: Mapped[str] = mapped_column(_UID)
    revision: Mapped[int]
    stage: Mapped[Stage]
    text: Mapped[str]
    job_id: Mapped[int | None]
    data: Mapped[dict[str, Any]]


class ProcedureStepRow(Base):
    """A Modality Performed Procedure Step. Its dataset is a file; `version` guards against racing N-SETs."""

    __tablename__ = "procedure_step"

    sop_instance_uid: Mapped[str] = mapped_column(_UID, primary_key=True)
    state: Mapped[ProcedureStepState]
    source_ae_title: Mapped[str] = mapped_column(_AE)
    referenced: Mapped[list[str]]
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    version: Mapped[int]
    path: Mapped[str]


class ProcedureStepStatementRow(Base):
    """The last word of one host about a procedure step. An empty `host` stands for the configured peers."""

    __tablename__ = "procedure_step_statement"

    sop_instance_uid: Mapped[str] = mapped_column(_UID, ForeignKey("procedure_step.sop_instance_uid"), primary_key=True)
    host: Mapped[str] = mapped_column(String(255), primary_key=True)
    state: Mapped[ProcedureStepState]
    referenced: Mapped[list[str]]
    at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    sequence: Mapped[int]  # of all words about the step, which the wall clock does not tell
    created: Mapped[bool]  # whether this host created the step


class ProcedureStepStudyRow(Base):
    """A link: the procedure step is part of this study."""

    __tablename__ = "procedure_step_study"
    __table_args__ = (Index("ix_procedure_step_study", "study_instance_uid"),)

    sop_instance_uid: Mapped[str] = mapped_column(_UID, ForeignKey("procedure_step.sop_instance_uid"), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(_UID, primary_key=True)


class CommitmentRow(Base):
    """A storage commitment request of a peer. `association` is the receiver's name for the requesting association."""

    __tablename__ = "commitment"
    __table_args__ = (
        UniqueConstraint("peer_ae_title", "transaction_uid", name="uq_commitment_transaction"),
        Index("ix_commitment_state", "state", "run_after"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(_UID)
    peer_ae_title: Mapped[str] = mapped_column(_AE)
    peer_host: Mapped[str] = mapped_column(String(255))
    items: Mapped[list[list[str]]]
    state: Mapped[CommitmentState]
    attempts: Mapped[int]
    reason: Mapped[str]
    requested_at: Mapped[datetime]
    run_after: Mapped[datetime]
    association: Mapped[str] = mapped_column(String(64))
    waited_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")


class InstallationRow(Base):
    """The identity of the installation that the database belongs to. There is one row, whose number is 1."""

    __tablename__ = "installation"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    identity: Mapped[str] = mapped_column(String(32))


class ProblemRow(Base):
    """A condition that a person should know of, as long as it lasts. `key` names its subject within the kind.

    Rows that are problems by their state, such as a failed job, have no row here.
    """

    __tablename__ = "problem"
    __table_args__ = (Index("ix_problem_study", "study_instance_uid"),)

    kind: Mapped[ProblemKind] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(_UID)
    text: Mapped[str]
    since: Mapped[datetime]
    last_at: Mapped[datetime]
    times: Mapped[int]


class AcknowledgementRow(Base):
    """A problem that a person has seen, with a note. It covers the problem as long as its text stays the same."""

    __tablename__ = "acknowledgement"

    kind: Mapped[ProblemKind] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    at: Mapped[datetime]
    text: Mapped[str]
    note: Mapped[str]


class MachineClockRow(Base):
    """The clock of a machine: the wall clock minus the monotonic clock, which is comparable within one `boot`."""

    __tablename__ = "machine_clock"

    host: Mapped[str] = mapped_column(String(255), primary_key=True)
    boot: Mapped[str] = mapped_column(String(64))
    offset_seconds: Mapped[float]
