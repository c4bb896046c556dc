"""Decisions on the completeness of a study, with the evidence and its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Evidence(StrEnum):
    """The evidence that ends the waiting for a study, the strongest first."""

    PROCEDURE_STEP = "MPPS"
    SOURCE_COUNT = "count of the source PACS"
    DECLARED = "declared counts"
    GEOMETRY = "regular geometry"
    RELEASED = "associations released"
    QUIET = "quiet period"
    MAXIMUM_AGE = "maximum age"


class Grade(StrEnum):
    """The strength of the statement of a series' images about their number."""

    SHORT = "incomplete"  # a declared count is not reached, or slices are missing between others
    SILENT = "silent"  # the images say nothing about their number
    REGULAR = "regular geometry"  # evenly spaced slices without a gap, but the stack may continue at either end
    MULTI_FRAME = "multi-frame"  # each instance is whole by itself, but another one may follow
    DECLARED = "declared count"  # as many images as declared


@dataclass(frozen=True)
class AssociationNumbers:
    """The associations that fed this revision of a study, by how they ended."""

    open: int = 0
    aborted: int = 0
    released: int = 0


@dataclass(frozen=True)
class SeriesNumbers:
    """The number of images of one series, and what they say about it in words.

    `declared` is None if no count was declared, or if the declared count cannot be true.
    """

    series_instance_uid: str
    images: int
    declared: int | None
    evidence: Grade
    says: str


@dataclass(frozen=True)
class StepNumbers:
    """The procedure steps of a study.

    `referenced` counts the instances that ended steps list, and `missing` those among them that are not here. Instances
    that are here as part of another study are not counted.
    """

    in_progress: int = 0
    completed: int = 0
    discontinued: int = 0
    referenced: int = 0
    missing: int = 0


@dataclass(frozen=True)
class SourceNumbers:
    """The last answer of the source PACS. `count` is None if it gave none, and `problem` explains why."""

    name: str
    count: int | None
    own_results: int
    problem: str
    at: datetime


@dataclass(frozen=True)
class CompletionNumbers:
    """The numbers behind one decision.

    `procedure_steps` is None for a study without any, and `source` is None if the source PACS was not asked.
    """

    instances: int = 0
    own_results: int = 0
    associations: AssociationNumbers = AssociationNumbers()
    series: tuple[SeriesNumbers, ...] = ()
    procedure_steps: StepNumbers | None = None
    source: SourceNumbers | None = None

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "instances": self.instances,
            "own_results": self.own_results,
            "associations": vars(self.associations).copy(),
            "series": [{**vars(series), "evidence": str(series.evidence)} for series in self.series],
        }
        if self.procedure_steps is not None:
            plain["procedure_steps"] = vars(self.procedure_steps).copy()
        if self.source is not None:
            plain["source"] = {**vars(self.source), "at": self.source.at.isoformat()}
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "CompletionNumbers":
        steps, source = plain.get("procedure_steps"), plain.get("source")
        return cls(
            instances=plain["instances"],
            own_results=plain["own_results"],
            associations=AssociationNumbers(**plain["associations"]),
            series=tuple(SeriesNumbers(**{**one, "evidence": Grade(one["evidence"])}) for one in plain["series"]),
            procedure_steps=None if steps is None else StepNumbers(**steps),
            source=None if source is None else SourceNumbers(**{**source, "at": datetime.fromisoformat(source["at"])}),
        )


@dataclass(frozen=True)
class Completion:
    """The decision that a study is complete. `since` is when its waiting time of `waited_seconds` began."""

    evidence: Evidence
    reason: str
    numbers: CompletionNumbers = CompletionNumbers()
    waited_seconds: float = 0.0
    since: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the data of the event in the study's timeline, whose text is the reason."""
        return {
            "evidence": str(self.evidence),
            "numbers": self.numbers.to_json(),
            "waited_seconds": self.waited_seconds,
            "since": self.since and self.since.isoformat(),
        }

    @classmethod
    def from_json(cls, reason: str, plain: Mapping[str, Any]) -> "Completion":
        """Return the decision from the text and the data of its event."""
        return cls(
            evidence=Evidence(plain["evidence"]),
            reason=reason,
            numbers=CompletionNumbers.from_json(plain["numbers"]),
            waited_seconds=plain["waited_seconds"],
            since=None if plain["since"] is None else datetime.fromisoformat(plain["since"]),
        )


@dataclass(frozen=True)
class Waiting:
    """The decision that a study waits. `evidence` will end the waiting if nothing else comes."""

    until: datetime  # the earliest time at which the decision can change without new evidence
    evidence: Evidence
    reason: str
    numbers: CompletionNumbers = CompletionNumbers()

    def to_json(self) -> dict[str, Any]:
        return {
            "until": self.until.isoformat(),
            "evidence": str(self.evidence),
            "reason": self.reason,
            "numbers": self.numbers.to_json(),
        }
