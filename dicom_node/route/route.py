"""Which applications apply to a completed study, and which series, of it and of earlier studies of the patient, feeds
which input: pure decisions.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.route.earlier import EarlierStudy
from dicom_node.runtime.logs import fields, unexpected
from inference.contract.binding import Binding, bind, feeds_inputs, unfilled, wanted
from inference.contract.inputs import EarlierRule, input_key
from inference.contract.manifest import Manifest
from inference.series.recogniser import SeriesDescription
from storage.errors import WhyNoResult
from storage.records.instances import Instance, Series
from storage.records.jobs import AnalysisDetail, NewJob, NoResultDetail, NotCompared
from storage.records.routing import (
    ApplicationDecision,
    InputDecision,
    InputDecisions,
    RecognisedSeries,
    RoutingDecision,
    TimePointDecision,
)
from storage.tables.queueing import no_result_fingerprint

log = logging.getLogger(__name__)

# BodyPartExamined that would fit another part of the patient as well
UNSPECIFIC = frozenset({"", "EXTREMITY", "LEXTREMITY", "UEXTREMITY", "LEG", "ARM"})
SIDES = {"L": "left", "R": "right"}


@dataclass(frozen=True)
class Route:
    """What becomes of a study. No jobs means that nothing applies, and `reason` says why.

    `warnings` tell of applications that might have applied and could not be asked. `reports` are the jobs that tell the
    destinations of an application that it gives no result, and why.
    """

    jobs: tuple[NewJob, ...]
    reason: str
    warnings: tuple[str, ...] = ()
    reports: tuple[NewJob, ...] = ()
    decision: RoutingDecision = field(default_factory=RoutingDecision)


@dataclass(frozen=True)
class _TimePoint:
    """What was decided on an earlier study. `number` is its time point, 1 being the oldest; 0 where it is not taken."""

    study: EarlierStudy
    binding: Binding | None
    number: int
    reason: str


@dataclass(frozen=True)
class _Region:
    """What the series of the required inputs say that they show; empty where they do not say it."""

    body_parts: frozenset[str]
    sides: frozenset[str]  # "left", "right"


@dataclass(frozen=True)
class _Answer:
    """What became of one application: its job, or why there is none. `binding` is None where it could not be asked."""

    binding: Binding | None
    reason: str
    job: NewJob | None = None
    earlier: tuple[_TimePoint, ...] = ()

    @property
    def why(self) -> WhyNoResult:
        """Of an answer without job."""
        if self.binding is None:
            return WhyNoResult.FAILURE
        return WhyNoResult.UNUSABLE_IMAGES if self.binding.unusable else WhyNoResult.INPUT_MISSING


def route(
    study_instance_uid: str,
    revision: int,
    series: Sequence[Series],
    recognised: Sequence[SeriesDescription],
    applications: Sequence[ConfiguredApplication],
    priority: int = 0,
    own: Collection[str] = (),
    earlier: Sequence[EarlierStudy] = (),
) -> Route:
    """Binds every configured application to the study's series and makes the jobs of those that apply.

    One that cannot be used, or whose binding breaks off, does not stop the others. `own` are the SOP Instance UIDs of
    this node's results, which come back from a PACS. `earlier` are the studies of the same patient, the oldest first,
    for the applications that ask for them.
    """
    jobs: list[NewJob] = []
    refused: list[str] = []
    warnings: list[str] = []
    reports: list[NewJob] = []
    explained: list[ApplicationDecision] = []
    by_uid = {s.series_instance_uid: s for s in series}
    images = _images(series, own)
    for application in applications:
        answer = _ask(application, study_instance_uid, revision, recognised, by_uid, priority, earlier)
        told = _explain(application, answer)
        if answer.job is not None:
            jobs.append(answer.job)
        elif images and _is_reported(application, answer):
            report = _report(application, study_instance_uid, revision, images, answer.why, answer.reason)
            reports.append(replace(report, priority=priority))
            told = replace(told, reported=answer.why)
        if answer.binding is None:
            warnings.append(f"not run: {application.name}: {answer.reason}")
        elif answer.job is None:
            refused.append(f"{application.name}: {answer.reason}")
        explained.append(told)
    decision = RoutingDecision(tuple(map(_describe, recognised)), tuple(explained))
    if jobs:
        reason = "; ".join(["applies: " + ", ".join(job.application for job in jobs), *warnings])
    elif not applications:
        reason = "nothing applies: no application is configured"
    else:
        reason = "nothing applies: " + "; ".join([*refused, *warnings])
    return Route(tuple(jobs), reason, tuple(warnings), tuple(reports), decision)


def broken_off(
    study_instance_uid: str,
    revision: int,
    series: Sequence[Series],
    applications: Sequence[ConfiguredApplication],
    reason: str,
    own: Collection[str] = (),
) -> Route:
    """What becomes of a study that cannot be routed at all: every application reports that it gives no result."""
    images = _images(series, own)
    reports = [
        _report(application, study_instance_uid, revision, images, WhyNoResult.FAILURE, reason)
        for application in applications
        if images and _is_reported(application, _Answer(None, reason))
    ]
    return Route((), reason, reports=tuple(reports))


def _ask(
    application: ConfiguredApplication,
    study_instance_uid: str,
    revision: int,
    recognised: Sequence[SeriesDescription],
    series: Mapping[str, Series],
    priority: int,
    earlier: Sequence[EarlierStudy],
) -> _Answer:
    manifest = application.manifest
    if manifest is None:
        return _Answer(None, application.problem)
    try:
        binding = bind(manifest.inputs, recognised)
        points = _time_points(manifest, _region(manifest, binding, recognised), earlier)
        taken = sorted((p for p in points if p.number), key=lambda p: p.number)
        if not binding.accepted:
            return _Answer(binding, binding.reason, earlier=points)
        if manifest.earlier is not None and manifest.earlier.required and not taken:
            return _Answer(binding, _no_earlier(points), earlier=points)
        bound = {name: series[uid] for name, uid in binding.inputs.items()}
        for point in taken:
            bound |= _bound(point)
        not_taken = [_not_taken(p) for p in points if not p.number and _related(manifest, p)]
        job = NewJob(
            study_instance_uid=study_instance_uid,
            revision=revision,
            application=application.name,
            inputs={name: s.series_instance_uid for name, s in bound.items()},
            fingerprint=fingerprint(manifest, bound, not_taken),
            priority=priority,
            detail=AnalysisDetail(tuple(point.study.study_instance_uid for point in taken), tuple(not_taken)),
        )
        return _Answer(binding, binding.reason, job, points)
    except Exception as error:
        log.error(
            "An application cannot be routed: %s",
            unexpected(error),
            extra=fields("route", study=study_instance_uid, application=application.name),
        )
        return _Answer(None, f"its routing failed ({type(error).__name__}), see the log")


def _time_points(manifest: Manifest, now: _Region, earlier: Sequence[EarlierStudy]) -> tuple[_TimePoint, ...]:
    """What becomes of each earlier study: it is taken where its series fill the same inputs, and do not show another
    region than the study does (`now`).
    """
    if manifest.earlier is None:
        return ()
    points = [_asked(manifest, now, study) for study in earlier]
    chosen = _chosen(manifest.earlier, [point.study for point in points if not point.reason])
    return tuple(point if point.reason else _placed(point, chosen) for point in points)


def _asked(manifest: Manifest, now: _Region, study: EarlierStudy) -> _TimePoint:
    """Not placed yet. Without a reason where nothing speaks against it."""
    if study.problem:
        return _TimePoint(study, None, 0, study.problem)
    binding = bind(manifest.inputs, study.recognised)
    if not binding.accepted:
        return _TimePoint(study, binding, 0, binding.reason)
    return _TimePoint(study, binding, 0, _elsewhere(_region(manifest, binding, study.recognised), now))


def _placed(point: _TimePoint, chosen: Sequence[EarlierStudy]) -> _TimePoint:
    assert point.binding is not None
    if point.study in chosen:
        return replace(point, number=chosen.index(point.study) + 1, reason=point.binding.reason)
    taken = f"only {len(chosen)} earlier {'study is' if len(chosen) == 1 else 'studies are'} taken"
    return replace(point, reason=f"fits, but {taken}: the smallest size before (nadir) may be missed")


def _related(manifest: Manifest, point: _TimePoint) -> bool:
    """Whether an earlier study that is not taken may be missed: of a patient's other examinations nothing is told."""
    return point.binding is None or any(r.required and r not in point.binding.lacking for r in manifest.inputs)


def _not_taken(point: _TimePoint) -> NotCompared:
    """For the reader of the report, so that the reason names no series."""
    lacking = point.binding.lacking if point.binding is not None else ()
    reason = "; ".join(map(unfilled, lacking)) or point.reason
    return NotCompared(point.study.study_instance_uid, point.study.days, reason)


def _region(manifest: Manifest, binding: Binding, recognised: Sequence[SeriesDescription]) -> _Region:
    required = {binding.inputs.get(rule.name) for rule in manifest.inputs if rule.required}
    series = [s for s in recognised if s.series_instance_uid in required]
    return _Region(
        frozenset(s.body_part for s in series) - UNSPECIFIC,
        frozenset(SIDES[s.laterality] for s in series if s.laterality),
    )


def _elsewhere(before: _Region, now: _Region) -> str:
    """Why an earlier study does not show what the study does; empty where both do not say so."""
    if before.body_parts and now.body_parts and before.body_parts.isdisjoint(now.body_parts):
        return f"shows {_all(before.body_parts)}, and the study {_all(now.body_parts)}"
    if before.sides and now.sides and before.sides.isdisjoint(now.sides):
        return f"shows the {_all(before.sides)} side, and the study the {_all(now.sides)}"
    return ""


def _all(words: Collection[str]) -> str:
    return " and ".join(sorted(words))


def _chosen(rule: EarlierRule, fitting: Sequence[EarlierStudy]) -> list[EarlierStudy]:
    """The first one is what a course is measured against."""
    if len(fitting) <= rule.maximum:
        return list(fitting)
    if rule.maximum == 1:
        return [fitting[-1]]
    return [fitting[0], *fitting[1 - rule.maximum :]]


def _bound(point: _TimePoint) -> dict[str, Series]:
    assert point.binding is not None
    series = {s.series_instance_uid: s for s in point.study.series}
    return {input_key(name, point.number): series[uid] for name, uid in point.binding.inputs.items()}


def _no_earlier(points: Sequence[_TimePoint]) -> str:
    told = [f"study {point.study.study_instance_uid} {point.reason}" for point in points]
    return ": ".join(["no earlier study of the same patient can be used", "; ".join(told) or "none is here"])


def _images(series: Sequence[Series], own: Collection[str]) -> list[Instance]:
    """What an application could have looked at: a study without any, or of our own results alone, is reported on to
    nobody.
    """
    return [
        instance
        for s in series
        for instance in s.instances
        if feeds_inputs(instance.sop_class_uid, instance.modality) and instance.sop_instance_uid not in own
    ]


def _is_reported(application: ConfiguredApplication, answer: _Answer) -> bool:
    wanted = application.no_result
    return wanted == "always" or (wanted == "failures" and answer.binding is None)


def _report(
    application: ConfiguredApplication,
    study_instance_uid: str,
    revision: int,
    images: Sequence[Instance],
    why: WhyNoResult,
    explanation: str,
) -> NewJob:
    contents = " ".join(sorted(f"{i.sop_instance_uid} {i.sha256}" for i in images))
    return NewJob(
        study_instance_uid=study_instance_uid,
        revision=revision,
        application=application.name,
        inputs={},
        fingerprint=no_result_fingerprint(contents, why, explanation),
        detail=NoResultDetail(why, explanation),
    )


def fingerprint(manifest: Manifest, inputs: Mapping[str, Series], not_taken: Sequence[NotCompared] = ()) -> str:
    """Names the exact instances, their content, and the model of a job: the same fingerprint means the same result.

    A version of an instance under a corrected name makes another result: the report tells whom it is about. It also
    tells which earlier studies were `not_taken`.
    """
    digest = hashlib.sha256(f"{manifest.id}\n{manifest.name}\n{manifest.sha256}\n".encode())
    for name, series in sorted(inputs.items()):
        digest.update(f"{name}\n".encode())
        for uid, sha256 in sorted((i.sop_instance_uid, i.sha256) for i in series.instances):
            digest.update(f"{uid} {sha256}\n".encode())
    for study in not_taken:
        digest.update(f"{json.dumps(study.to_json(), sort_keys=True)}\n".encode())
    return digest.hexdigest()


def _explain(application: ConfiguredApplication, answer: _Answer) -> ApplicationDecision:
    told = ApplicationDecision(application.name, answer.job is not None, answer.reason)
    if answer.binding is None or application.manifest is None:
        return told
    return replace(
        told,
        bound=_explain_binding(answer.binding),
        wanted={rule.name: wanted(rule) for rule in application.manifest.inputs},
        earlier=tuple(map(_explain_time_point, answer.earlier)),
        lacking=tuple(rule.name for rule in answer.binding.lacking),
    )


def _explain_binding(binding: Binding) -> InputDecisions:
    decided = (InputDecision(d.input, d.series_instance_uid, d.taken, d.reason) for d in binding.decisions)
    return InputDecisions(dict(binding.inputs), tuple(decided))


def _explain_time_point(point: _TimePoint) -> TimePointDecision:
    """No date: how many days lie between tells as much, and less of the patient."""
    return TimePointDecision(
        point.study.study_instance_uid,
        point.study.days,
        point.number or None,
        point.reason,
        None if point.binding is None else _explain_binding(point.binding),
    )


def _describe(series: SeriesDescription) -> RecognisedSeries:
    return RecognisedSeries(
        series_instance_uid=series.series_instance_uid,
        modality=series.modality,
        kind=str(series.kind),
        body_part=series.body_part,
        plane=None if series.plane is None else str(series.plane),
        dimension=series.dimension,
        slices=series.slices,
        confidence=round(series.confidence, 2),
        reasons=(*series.reasons, *filter(None, (series.problem, series.differences))),
        number=series.number,
        description=series.description,
    )
