"""The routing of a study: which applications apply to it, and which series feeds which input. Pure decisions.

The series are those of the study itself, and those of earlier studies of the patient.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.route.earlier_studies import EarlierStudy
from dicom_node.route.intent import Intent, decide_intent
from dicom_node.route.time_points import RoutingTimePoint, anatomy_of_required, decide_time_points, why_none_taken
from dicom_node.runtime.logs import fields, unexpected
from inference.contract.binding import Binding, bind_sides, named_inputs, wanted
from inference.contract.manifest import Manifest
from inference.contract.study_rule import StudyValues
from inference.headers.images import IMAGE_MODALITIES, counts_as_image
from inference.series.kinds import Kind
from inference.series.recogniser import Recognition
from storage.errors import WhyNoResult
from storage.records.instances import Instance, Series
from storage.records.jobs import AnalysisDetail, NewJob, NotCompared, of_side
from storage.records.routing import (
    ApplicationDecision,
    InputDecision,
    InputDecisions,
    RecognisedSeries,
    RoutingDecision,
    TimePointDecision,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoutableStudy:
    """A study with everything that its routing depends on.

    `recognised` describes each of the `series`, and `stated` has the values that its images state. `callers` are the
    AE titles that sent the study, and `analysed` the applications that were bound to it before. `own` are the SOP
    Instance UIDs of this node's results, which may come back from a PACS. `earlier` are the studies of the same
    patient, the oldest first.
    """

    study_instance_uid: str
    revision: int
    series: Sequence[Series]
    recognised: Sequence[Recognition] = ()
    priority: int = 0
    own: frozenset[str] = frozenset()
    earlier: Sequence[EarlierStudy] = ()
    stated: Sequence[StudyValues] = ()
    callers: frozenset[str] = frozenset()
    analysed: frozenset[str] = frozenset()

    @cached_property
    def images(self) -> list[Instance]:
        """The instances of series that hold images, of whatever storage class; results of this node are left out."""
        without = {s.series_instance_uid for s in self.recognised if s.kind is Kind.NON_IMAGE}
        return [
            instance
            for s in self.series
            if s.series_instance_uid not in without
            for instance in s.instances
            if counts_as_image(instance.sop_class_uid) and instance.sop_instance_uid not in self.own
        ]

    @property
    def contents(self) -> str:
        """A digest of the images, which changes with their number and with their content."""
        listed = " ".join(sorted(f"{i.sop_instance_uid} {i.blob.checksum}" for i in self.images))
        return hashlib.sha256(listed.encode()).hexdigest()


@dataclass(frozen=True)
class Route:
    """The outcome of routing a study. If no application applies there are no `jobs`, and `reason` explains why.

    `warnings` name the applications that might have applied but could not be asked. `decision` is kept for `dicom-node
    explain`, and for the report of no result. `failure` is the reason why the study could not be routed at all.
    """

    jobs: tuple[NewJob, ...]
    reason: str
    warnings: tuple[str, ...] = ()
    decision: RoutingDecision = field(default_factory=RoutingDecision)
    failure: str = ""


@dataclass(frozen=True)
class _ApplicationOutcome:
    """The outcome for one application, or for one side of the body: its job, or why there is none.

    `binding` is None if the application could not be asked, or if it is not for this study.
    """

    binding: Binding | None
    reason: str
    intent: Intent
    job: NewJob | None = None
    earlier: tuple[RoutingTimePoint, ...] = ()

    @property
    def failed(self) -> bool:
        """True if the application could not be asked although it may be for this study."""
        return self.binding is None and not self.intent.excluded

    @property
    def why(self) -> WhyNoResult:
        """The kind of reason why there is no job."""
        if self.binding is None:
            return WhyNoResult.FAILURE
        return WhyNoResult.UNUSABLE_IMAGES if self.binding.unusable else WhyNoResult.INPUT_MISSING


def route(study: RoutableStudy, applications: Sequence[ConfiguredApplication]) -> Route:
    """Bind every application to the series of the study, and make the jobs of those that apply.

    An application that cannot be used, or whose binding fails, does not stop the others.
    """
    jobs: list[NewJob] = []
    refused: list[str] = []
    warnings: list[str] = []
    explained: list[ApplicationDecision] = []
    for application, outcome in _outcomes(study, applications):
        told = _explain(application, outcome)
        if outcome.job is not None:
            jobs.append(outcome.job)
        elif _is_reported(study, application, outcome.intent, outcome.failed):
            told = replace(told, reported=outcome.why)
        if outcome.failed:
            warnings.append(f"not run: {application.name}: {outcome.reason}")
        elif outcome.job is None:
            refused.append(f"{application.name}: {outcome.reason}")
        explained.append(told)
    decision = RoutingDecision(tuple(map(_describe, study.recognised)), tuple(explained), study.contents)
    if jobs:
        reason = "; ".join(["applies: " + ", ".join(_title(job) for job in jobs), *warnings])
    elif not applications:
        reason = "nothing applies: no application is configured"
    else:
        reason = "nothing applies: " + "; ".join([*refused, *warnings])
    return Route(tuple(jobs), reason, tuple(warnings), decision)


def unroutable(study: RoutableStudy, applications: Sequence[ConfiguredApplication], reason: str) -> Route:
    """Return the outcome for a study whose routing failed.

    Which applications are meant for it is not known, so that only those report it which report every failure.
    """
    unknown = Intent(False, "the routing failed")
    explained = [
        ApplicationDecision(
            application.name,
            applies=False,
            reason=reason,
            reported=WhyNoResult.FAILURE if _is_reported(study, application, unknown, failed=True) else None,
        )
        for application in applications
    ]
    return Route((), reason, decision=RoutingDecision((), tuple(explained), study.contents), failure=reason)


def fingerprint(
    manifest: Manifest,
    inputs: Mapping[str, Series],
    not_taken: Sequence[NotCompared] = (),
    left_out: Sequence[str] = (),
    sides: tuple[str, str] = ("", ""),
) -> str:
    """Return a text that identifies the exact instances of a job, their content, and its model.

    The same fingerprint means the same result. An instance under a corrected name changes it, because the report names
    the patient. The earlier studies that were `not_taken` and the series that were `left_out` change it too, because
    the report mentions them. So do the `sides`, the one that is analysed and the one that is analysed beside it.
    """
    digest = hashlib.sha256(f"{manifest.id}\n{manifest.name}\n{manifest.sha256}\n".encode())
    for name, series in sorted(inputs.items()):
        digest.update(f"{name}\n".encode())
        for uid, checksum in sorted((i.sop_instance_uid, i.blob.checksum) for i in series.instances):
            digest.update(f"{uid} {checksum}\n".encode())
    for study in not_taken:
        digest.update(f"{json.dumps(study.to_json(), sort_keys=True)}\n".encode())
    digest.update(f"{json.dumps([*left_out, *sides])}\n".encode())
    return digest.hexdigest()


def _outcomes(
    study: RoutableStudy, applications: Sequence[ConfiguredApplication]
) -> Iterator[tuple[ConfiguredApplication, _ApplicationOutcome]]:
    """Yield each application with its outcome, or with its outcome for each side of the body."""
    for application in applications:
        for outcome in _route_application(study, application):
            yield application, outcome


def _route_application(study: RoutableStudy, application: ConfiguredApplication) -> list[_ApplicationOutcome]:
    manifest = application.manifest
    series = list(zip(study.recognised, study.stated, strict=True)) if study.stated else []
    intent = decide_intent(application, series, study.callers, study.analysed)
    if intent.excluded:
        return [_ApplicationOutcome(None, intent.because, intent)]
    if manifest is None:
        return [_ApplicationOutcome(None, application.problem, intent)]
    try:
        bindings = bind_sides(manifest.inputs, study.recognised, manifest.each_side)
        return [_route_binding(study, application.name, manifest, binding, intent) for binding in bindings]
    except Exception as error:
        extra = fields("application_routing_failed", study=study.study_instance_uid, application=application.name)
        log.error("The routing of an application failed: %s", unexpected(error), extra=extra)
        return [_ApplicationOutcome(None, f"its routing failed ({type(error).__name__}), see the log", intent)]


def _route_binding(
    study: RoutableStudy, name: str, manifest: Manifest, binding: Binding, intent: Intent
) -> _ApplicationOutcome:
    shown = anatomy_of_required(manifest, binding, study.recognised)
    points = decide_time_points(manifest, shown, study.earlier)
    taken = sorted((p for p in points if p.number), key=lambda p: p.number)
    if not binding.accepted:
        return _ApplicationOutcome(binding, binding.reason, intent, earlier=points)
    if manifest.earlier is not None and manifest.earlier.required and not taken:
        return _ApplicationOutcome(binding, why_none_taken(points), intent, earlier=points)
    series = {s.series_instance_uid: s for s in study.series}
    bound = {key: series[uid] for key, uid in binding.inputs.items()}
    used = named_inputs(manifest.inputs, binding, study.recognised)
    for point in taken:
        bound |= point.bound
        used += point.named_inputs(manifest)
    not_taken = tuple(p.not_compared for p in points if not p.number and p.may_be_missed(manifest))
    sides = (binding.side, binding.beside)
    job = NewJob(
        study_instance_uid=study.study_instance_uid,
        revision=study.revision,
        application=name,
        inputs={key: s.series_instance_uid for key, s in bound.items()},
        fingerprint=fingerprint(manifest, bound, not_taken, binding.left_out, sides),
        priority=study.priority,
        detail=AnalysisDetail(
            tuple(point.study.study_instance_uid for point in taken), not_taken, used, binding.left_out
        ),
        side=binding.side,
        beside=binding.beside,
    )
    found = intent if intent.meant else Intent(True, "its inputs are found")
    return _ApplicationOutcome(binding, binding.reason, found, job, points)


def _is_reported(study: RoutableStudy, application: ConfiguredApplication, intent: Intent, failed: bool) -> bool:
    """Return True if the destinations are told that there is no result.

    Nothing is reported for a study that holds no images, or nothing but results of this node. Beside what is meant,
    only studies with an image of a modality that applications take are reported.
    """
    if intent.excluded or not study.images:
        return False
    taken = any(image.modality in IMAGE_MODALITIES for image in study.images)
    match application.no_result:
        case "expected":
            return intent.meant
        case "always":
            return taken
        case "failures":
            return taken and failed
        case "never":
            return False


# -- the decision, as it is kept ---------------------------------------------------------------------------------------


def _title(job: NewJob) -> str:
    """Return the application, with the side that is analysed if the other one is analysed beside it."""
    return of_side(job.application, job.side if job.beside else "")


def _explain(application: ConfiguredApplication, outcome: _ApplicationOutcome) -> ApplicationDecision:
    told = ApplicationDecision(
        application.name,
        outcome.job is not None,
        outcome.reason,
        side="" if outcome.binding is None else outcome.binding.side,
        meant=outcome.intent.meant,
        meant_because=outcome.intent.because,
    )
    if outcome.binding is None or application.manifest is None:
        return told
    return replace(
        told,
        bound=_explain_binding(outcome.binding),
        wanted={rule.name: wanted(rule) for rule in application.manifest.inputs},
        earlier=tuple(map(_explain_time_point, outcome.earlier)),
        lacking=tuple(rule.name for rule in outcome.binding.lacking),
    )


def _explain_binding(binding: Binding) -> InputDecisions:
    decided = (InputDecision(d.input, d.series_instance_uid, d.taken, d.reason) for d in binding.decisions)
    return InputDecisions(dict(binding.inputs), tuple(decided))


def _explain_time_point(point: RoutingTimePoint) -> TimePointDecision:
    """Return the decision without the date: the days between the studies tell enough, and less about the patient."""
    return TimePointDecision(
        point.study.study_instance_uid,
        point.study.days,
        point.number or None,
        point.reason,
        None if point.binding is None else _explain_binding(point.binding),
    )


def _describe(series: Recognition) -> RecognisedSeries:
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
        laterality=series.laterality,
    )
