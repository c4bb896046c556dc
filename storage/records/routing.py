"""Decisions of routing about a study, with their reasons, as they are kept for `dicom-node explain`.

The decisions hold no date and no name of a patient. Their JSON is a row of the table `routing`, or the data of an
event in the timeline.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from storage.errors import WhyNoResult
from storage.records.jobs import of_side


@dataclass(frozen=True)
class RecognisedSeries:
    """A series as it was recognised. `confidence` is between 0 and 1, rounded to two digits.

    `description` is free text of the scanner: it may be shown to the operator, but no log may hold it. Rows of earlier
    versions have neither `number`, `description` nor `laterality`.
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
    laterality: str = ""  # "L" or "R", if its images name one side

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "RecognisedSeries":
        return cls(**{"body_part": "", **plain, "reasons": tuple(plain["reasons"])})


@dataclass(frozen=True)
class InputDecision:
    """The decision on one series for one input of an application."""

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
    def from_json(cls, plain: Mapping[str, Any]) -> "InputDecisions | None":
        """Return the decisions; None if the application or study was refused before its inputs were examined."""
        if "inputs" not in plain:
            return None
        return cls(plain["inputs"], tuple(InputDecision(**decision) for decision in plain["decisions"]))


@dataclass(frozen=True)
class TimePointDecision:
    """The decision on an earlier study of the patient, acquired `days` before this one (None if the order is unknown).

    `time_point` counts from 1, the oldest study that is taken; it is None for a study that is not taken. `bound` is
    None if the study could not be used at all.
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
    def from_json(cls, plain: Mapping[str, Any]) -> "TimePointDecision":
        return cls(
            plain["study_instance_uid"],
            plain["days"],
            plain["time_point"],
            plain["reason"],
            InputDecisions.from_json(plain),
        )


@dataclass(frozen=True)
class ApplicationDecision:
    """The decision on one application.

    `bound` is None if the application could not be used. `wanted` describes the series that each input accepts.
    `lacking` are the required inputs that no series feeds; rows of earlier versions do not name them. `reported` is the
    kind of reason that the destinations get in a report of no result; None if nothing is reported. `side` is the side
    of the body that the inputs show; an application that analyses both sides of a study has a decision for each.
    `meant` tells if the application is meant for the study, and `meant_because` why; None in rows of earlier versions.
    """

    application: str
    applies: bool
    reason: str
    bound: InputDecisions | None = None
    wanted: Mapping[str, str] = field(default_factory=dict)
    earlier: tuple[TimePointDecision, ...] = ()
    reported: WhyNoResult | None = None
    lacking: tuple[str, ...] = ()
    side: str = ""
    meant: bool | None = None
    meant_because: str = ""

    @property
    def title(self) -> str:
        """The application, with the side that is analysed."""
        return of_side(self.application, self.side)

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"application": self.application, "applies": self.applies, "reason": self.reason}
        if self.bound is not None:
            plain["wanted"] = dict(self.wanted)
            plain |= self.bound.to_json()
            plain["earlier"] = [time_point.to_json() for time_point in self.earlier]
        if self.side:
            plain["side"] = self.side
        if self.lacking:
            plain["lacking"] = list(self.lacking)
        if self.reported is not None:
            plain["reported"] = str(self.reported)
        if self.meant is not None:
            plain |= {"meant": self.meant, "meant_because": self.meant_because}
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "ApplicationDecision":
        reported = plain.get("reported")
        return cls(
            application=plain["application"],
            applies=plain["applies"],
            reason=plain["reason"],
            bound=InputDecisions.from_json(plain),
            wanted=plain.get("wanted", {}),
            earlier=tuple(TimePointDecision.from_json(time_point) for time_point in plain.get("earlier", ())),
            reported=None if reported is None else WhyNoResult(reported),
            lacking=tuple(plain.get("lacking", ())),
            side=plain.get("side", ""),
            meant=plain.get("meant"),
            meant_because=plain.get("meant_because", ""),
        )


@dataclass(frozen=True)
class RoutingDecision:
    """The series of a study as they were recognised, and the decision on each application.

    No series is listed for a study whose routing failed. `contents` is a digest of the study's images.
    """

    series: tuple[RecognisedSeries, ...] = ()
    applications: tuple[ApplicationDecision, ...] = ()
    contents: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "series": [series.to_json() for series in self.series],
            "applications": [application.to_json() for application in self.applications],
            **({"contents": self.contents} if self.contents else {}),
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "RoutingDecision":
        """Return the decision that a row holds. A row of a study whose routing failed is empty."""
        return cls(
            tuple(RecognisedSeries.from_json(series) for series in plain.get("series", ())),
            tuple(ApplicationDecision.from_json(application) for application in plain.get("applications", ())),
            plain.get("contents", ""),
        )


@dataclass(frozen=True)
class EarlyStart:
    """The reasons for starting an application before its study is complete.

    `evidence` explains for each input why its series is whole, `inputs` names these series, and `routing` is the
    decision on this application alone.
    """

    evidence: str
    inputs: Mapping[str, str]
    routing: ApplicationDecision

    def to_json(self) -> dict[str, Any]:
        """Return the data of the event in the study's timeline."""
        return {"evidence": self.evidence, "inputs": dict(self.inputs), "routing": self.routing.to_json()}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "EarlyStart":
        return cls(plain["evidence"], plain["inputs"], ApplicationDecision.from_json(plain["routing"]))
