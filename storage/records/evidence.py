"""Records of the evidence from which a study is judged complete."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from storage.records.instances import Facts
from storage.records.patients import StudyIdentities
from storage.records.procedure_steps import ProcedureStepState


class AssociationEnd(StrEnum):
    """The way in which an association ended that had brought instances."""

    RELEASED = "RELEASED"
    ABORTED = "ABORTED"  # by the peer, by us, by a lost connection, or because the receiver died


@dataclass(frozen=True)
class FeedingAssociation:
    """An association that brought instances of a revision of a study.

    `end` and `ended_at` are None while it is open.
    """

    calling_ae_title: str
    opened_at: datetime
    ended_at: datetime | None = None
    end: AssociationEnd | None = None


@dataclass(frozen=True)
class SourceAnswer:
    """The answer of the source PACS to the question how many instances a study has.

    `count` is None if the PACS gave no number, and `problem` then says why. `own` is the number of results of this node
    that the PACS is known to hold. `asked_at` is the time of the question by the clock of the process that measures the
    waiting; without it, that is `at`.
    """

    at: datetime
    source: str
    count: int | None
    own: int = 0
    problem: str = ""
    asked_at: datetime | None = None

    @property
    def since(self) -> datetime:
        """The time from which the answer says nothing."""
        return self.at if self.asked_at is None else self.asked_at


@dataclass(frozen=True)
class StudyEvidence:
    """The evidence about a study in RECEIVING, on which its completion is decided. It is cheap to read.

    `steps` are the procedure steps that the study is part of, as far as they are evidence, and `strangers` the hosts
    whose word about procedure steps is none, because they sent no image of the study. `associations` and `answers` are
    those of this revision, oldest first. `noticed_at` is the time when the completion sweep first saw this state:
    instances may be indexed long after they came.
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
    strangers: tuple[str, ...] = ()

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
        """A key that changes whenever `Studies.contents` would, except for instances of other studies."""
        return self.study_instance_uid, self.revision, self.instances, self.last_received_at, self.steps


@dataclass(frozen=True)
class InstanceEvidence:
    """An instance of a study in RECEIVING. `own` marks a result of this node that came back."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    received_at: datetime
    facts: Facts = field(default_factory=Facts)
    own: bool = False


@dataclass(frozen=True)
class StepEvidence:
    """A procedure step and the SOP Instance UIDs its Performed Series Sequence lists."""

    state: ProcedureStepState
    referenced: frozenset[str]
    ended_at: datetime | None = None


@dataclass(frozen=True)
class StudyContents:
    """The evidence of every instance of a study, and of its procedure steps. It may be large.

    `elsewhere` are instances that the steps list and that the node holds as part of another study. A procedure step may
    be for several studies (PS3.3 C.4.13, the group case).
    """

    instances: tuple[InstanceEvidence, ...]
    steps: tuple[StepEvidence, ...] = ()
    elsewhere: frozenset[str] = frozenset()
    identities: StudyIdentities = field(default_factory=StudyIdentities)
