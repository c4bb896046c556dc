"""What routing decided about a study, and why, as it is kept for `dicom-node explain`.

The decisions tell of no date and no patient. Their JSON is a row of the table `routing`, or the data of an event.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from storage.errors import WhyNoResult


@dataclass(frozen=True)
class RecognisedSeries:
    """A series as it was recognised. `confidence` is between 0 and 1, rounded to two digits.

    `description` is free text of the scanner: it may be shown to the operator, but no log may hold it. Rows of earlier
    versions have neither `number` nor `description`.
    """

    series_instance_uid: str
    modality: str
    kind: str  # one of `inference.series.kinds.Kind`
    body_part: str
    plane: str | None
    dimension: str | None
    slices: int
    confidence: float
    reasons: tuple[str, ...]
    number: int | None = None  # Series Number
    description: str = ""  # Series Description

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "RecognisedSeries":
        return cls(**{"body_part": "", **told, "reasons": tuple(told["reasons"])})


@dataclass(frozen=True)
class InputDecision:
    """What was decided about one series for one input of an application."""

    input: str
    series_instance_uid: str
    taken: bool
    reason: str


@dataclass(frozen=True)
class InputDecisions:
    """The series that feeds each input, by the input's name, and the decision about every series for every input."""

    inputs: Mapping[str, str]
    decisions: tuple[InputDecision, ...]

    def to_json(self) -> dict[str, Any]:
        return {"inputs": dict(self.inputs), "decisions": [vars(decision).copy() for decision in self.decisions]}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "InputDecisions | None":
        """Return None where the decisions end before the inputs were looked at."""
        if "inputs" not in told:
            return None
        return cls(told["inputs"], tuple(InputDecision(**decision) for decision in told["decisions"]))


@dataclass(frozen=True)
class TimePointDecision:
    """What was decided about an earlier study of the patient, `days` before; without an order there are no `days`.

    `time_point` counts from 1, the oldest study that is taken; it is None for a study that is not taken. `bound` is
    None where the study could not be used at all.
    """

    study_instance_uid: str
    days: int | None
    time_point: int | None
    reason: str
    bound: InputDecisions | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "study_instance_uid": self.study_instance_uid,
            "days": self.days,
            "time_point": self.time_point,
            "reason": self.reason,
            **({} if self.bound is None else self.bound.to_json()),
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "TimePointDecision":
        return cls(
            told["study_instance_uid"],
            told["days"],
            told["time_point"],
            told["reason"],
            InputDecisions.from_json(told),
        )


@dataclass(frozen=True)
class ApplicationDecision:
    """What was decided about one application, with the reason.

    `bound` is None where the application could not be asked. `wanted` says of each input what it takes. `lacking` are
    the required inputs that no series feeds; rows of earlier versions do not name them. `reported` is the reason that
    is reported to the destinations where there is no result; None where nothing is reported.
    """

    application: str
    applies: bool
    reason: str
    bound: InputDecisions | None = None
    wanted: Mapping[str, str] = field(default_factory=dict)
    earlier: tuple[TimePointDecision, ...] = ()
    reported: WhyNoResult | None = None
    lacking: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {"application": self.application, "applies": self.applies, "reason": self.reason}
        if self.bound is not None:
            told["wanted"] = dict(self.wanted)
            told |= self.bound.to_json()
            told["earlier"] = [time_point.to_json() for time_point in self.earlier]
        if self.lacking:
            told["lacking"] = list(self.lacking)
        if self.reported is not None:
            told["reported"] = str(self.reported)
        return told

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "ApplicationDecision":
        reported = told.get("reported")
        return cls(
            application=told["application"],
            applies=told["applies"],
            reason=told["reason"],
            bound=InputDecisions.from_json(told),
            wanted=told.get("wanted", {}),
            earlier=tuple(TimePointDecision.from_json(time_point) for time_point in told.get("earlier", ())),
            reported=None if reported is None else WhyNoResult(reported),
            lacking=tuple(told.get("lacking", ())),
        )


@dataclass(frozen=True)
class RoutingDecision:
    """What each series of a study was recognised as, and what was decided about each application.

    A study that could not be routed at all has neither.
    """

    series: tuple[RecognisedSeries, ...] = ()
    applications: tuple[ApplicationDecision, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "series": [series.to_json() for series in self.series],
            "applications": [application.to_json() for application in self.applications],
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "RoutingDecision":
        """Return the decision of a row. Rows of studies that could not be routed are empty."""
        return cls(
            tuple(RecognisedSeries.from_json(series) for series in told.get("series", ())),
            tuple(ApplicationDecision.from_json(application) for application in told.get("applications", ())),
        )


@dataclass(frozen=True)
class EarlyStart:
    """Why an application starts before its study is complete: `evidence` says for each input why its series is whole,
    `inputs` names these series, and `routing` is the decision about this application alone.
    """

    evidence: str
    inputs: Mapping[str, str]
    routing: ApplicationDecision

    def to_json(self) -> dict[str, Any]:
        """Return the data of the event in the study's timeline."""
        return {"evidence": self.evidence, "inputs": dict(self.inputs), "routing": self.routing.to_json()}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "EarlyStart":
        return cls(told["evidence"], told["inputs"], ApplicationDecision.from_json(told["routing"]))
