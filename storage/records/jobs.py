"""Records of jobs: one run of an application over one revision of a study.

The classes that end in Detail hold the data of a job of each kind; `to_json` and `detail_from_json` convert them to and
from the JSON in the database.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from storage.errors import WhyNoResult


class JobKind(StrEnum):
    """The task of a worker for a job."""

    ANALYSIS = "ANALYSIS"  # run the application over its inputs
    NO_RESULT = "NO_RESULT"  # write the report that says why there is no result
    WITHDRAWAL = "WITHDRAWAL"  # write the rejection notes for the results of another job


SIDE_NAMES = {"L": "left", "R": "right"}


def of_side(name: str, side: str) -> str:
    """Add to a name the side of the body in words, as in `knee (left)`; nothing if no side is known."""
    return f"{name} ({SIDE_NAMES[side]})" if side else name


class JobState(StrEnum):
    """State of one application's run over one study revision."""

    QUEUED = "QUEUED"  # waits for a worker
    RUNNING = "RUNNING"  # a worker holds it and sends heartbeats
    SUCCEEDED = "SUCCEEDED"  # objects are stored, deliveries enqueued
    RETRYING = "RETRYING"  # failed, or its worker died; claimable again once run_after has passed
    FAILED = "FAILED"  # dead letter: permanent error, or the last attempt failed; `retry` queues it again
    CANCELLED = "CANCELLED"  # superseded by a newer revision before it ended


@dataclass(frozen=True)
class NotCompared:
    """An earlier study of the patient that routing did not take. `days` is None if the order is unknown."""

    study_instance_uid: str
    days: int | None  # between that study and the one of the job
    reason: str  # for the reader of the report

    def to_json(self) -> dict[str, Any]:
        return {"study_instance_uid": self.study_instance_uid, "days": self.days, "reason": self.reason}


@dataclass(frozen=True)
class AnalysisDetail:
    """The earlier studies of the patient that are compared, and those that are not.

    `earlier` are the Study Instance UIDs of the time points 1, 2, ... `used` names the series that feed the inputs, and
    `left_out` are sentences on series that fit as well and are not used. Both are for the reader of the report, and
    quote descriptions of series, which no log may hold.
    """

    kind: ClassVar[JobKind] = JobKind.ANALYSIS

    earlier: tuple[str, ...] = ()
    not_taken: tuple[NotCompared, ...] = ()
    used: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            **({"earlier": list(self.earlier)} if self.earlier else {}),
            **({"not_taken": [study.to_json() for study in self.not_taken]} if self.not_taken else {}),
            **({"used": list(self.used)} if self.used else {}),
            **({"left_out": list(self.left_out)} if self.left_out else {}),
        }


@dataclass(frozen=True)
class WithoutResult:
    """An application without a result. `job` is the failed analysis; None if routing gave the reason.

    `side` is the side of the body that the job was to analyse, "L" or "R"; empty if there is no result for any.
    """

    application: str
    why: WhyNoResult
    explanation: str  # a sentence for the reader of the report
    job: int | None = None
    side: str = ""

    @property
    def title(self) -> str:
        """The application, with the side that was to be analysed."""
        return of_side(self.application, self.side)

    def to_json(self) -> dict[str, Any]:
        failed = {} if self.job is None else {"job": self.job}
        side = {"side": self.side} if self.side else {}
        said = {"application": self.application, "why": str(self.why), "explanation": self.explanation}
        return {**said, **failed, **side}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "WithoutResult":
        why = WhyNoResult(plain["why"])
        return cls(plain["application"], why, plain["explanation"], plain.get("job"), plain.get("side", ""))


@dataclass(frozen=True)
class NoResultDetail:
    """The applications that give no result for a study, each with the reason.

    Without any application, the earlier report is withdrawn, because each application has a result now. `contents`
    stands for the images of the study: a report on other images is another report.
    """

    kind: ClassVar[JobKind] = JobKind.NO_RESULT

    applications: tuple[WithoutResult, ...] = ()
    contents: str = ""

    def names(self, application: str, beside: str = "") -> bool:
        """Return True if the report says that this application gives no result, for another side than `beside`."""
        return any(one.application == application and (not beside or one.side != beside) for one in self.applications)

    def same_report(self, other: "NoResultDetail") -> bool:
        """Return True if both say the same of the same images. Two withdrawals are the same, whatever the images."""
        return self.applications == other.applications and (not self.applications or self.contents == other.contents)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON. Programs read `why`, `explanation` and `job` of the first application beside the list."""
        first = self.applications[0].to_json() if self.applications else {}
        first.pop("application", None)
        return {**first, "applications": [one.to_json() for one in self.applications], "contents": self.contents}


@dataclass(frozen=True)
class WithdrawalDetail:
    """The job whose results are withdrawn, and the ids of its objects that each destination got, or may have got."""

    kind: ClassVar[JobKind] = JobKind.WITHDRAWAL

    job: int
    objects: Mapping[str, tuple[int, ...]]  # by the name of the destination
    reason: str  # the operator's; empty where none was given

    def to_json(self) -> dict[str, Any]:
        objects = {destination: list(ids) for destination, ids in self.objects.items()}
        return {"job": self.job, "reason": self.reason, "objects": objects}


JobDetail = AnalysisDetail | NoResultDetail | WithdrawalDetail


def detail_from_json(kind: JobKind, plain: Mapping[str, Any]) -> JobDetail:
    """Return the detail of a job of this kind from what `to_json` made of it."""
    match kind:
        case JobKind.ANALYSIS:
            studies = (NotCompared(s["study_instance_uid"], s["days"], s["reason"]) for s in plain.get("not_taken", ()))
            earlier, used, left_out = (tuple(plain.get(key, ())) for key in ("earlier", "used", "left_out"))
            return AnalysisDetail(earlier, tuple(studies), used, left_out)
        case JobKind.NO_RESULT:
            return NoResultDetail(tuple(map(WithoutResult.from_json, plain["applications"])), plain["contents"])
        case JobKind.WITHDRAWAL:
            objects = {destination: tuple(ids) for destination, ids in plain["objects"].items()}
            return WithdrawalDetail(plain["job"], objects, plain["reason"])


@dataclass(frozen=True)
class NewJob:
    """A job to enqueue.

    `inputs` maps each input of the application to the series that feeds it: "t1w@1" is the input t1w of the first of
    the earlier studies that the detail lists. `fingerprint` names the exact instances and the application's version:
    the same fingerprint means the same result. `side` is the side of the body that the inputs show, "L" or "R"; empty
    if they name none, or both. `beside` is the other side if another job of the application analyses it at the same
    time; these two jobs do not supersede each other.
    """

    study_instance_uid: str
    revision: int
    application: str  # the configured application's name; of a report of no result, the names of all that it is about
    inputs: Mapping[str, str]
    fingerprint: str
    priority: int = 0  # the higher one is claimed first
    detail: JobDetail = AnalysisDetail()
    side: str = ""
    beside: str = ""

    @property
    def kind(self) -> JobKind:
        return self.detail.kind


@dataclass(frozen=True)
class Job:
    """A job as it is in the queue. `side` and `beside` are as in `NewJob`."""

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
    detail: JobDetail = AnalysisDetail()
    side: str = ""
    beside: str = ""
    why: WhyNoResult | None = None  # the kind of reason for which an analysis FAILED

    @property
    def title(self) -> str:
        """The application, with the side that is analysed."""
        return of_side(self.application, self.side)
