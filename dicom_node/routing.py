"""Which applications apply to a completed study, and which series feeds which input: pure decisions."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.logs import fields, unexpected
from inference.binding import Binding, bind
from inference.manifest import Manifest
from inference.series import SeriesDescription
from storage.records import NewJob, Series

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Route:
    """What becomes of a study. No jobs means that nothing applies, and `reason` says why.

    `warnings` tell of applications that might have applied and could not be asked.
    """

    jobs: tuple[NewJob, ...]
    reason: str
    warnings: tuple[str, ...] = ()
    decisions: dict[str, Any] = field(default_factory=dict)  # JSON, for `dicom-node explain`


def route(
    study_instance_uid: str,
    revision: int,
    series: Sequence[Series],
    recognised: Sequence[SeriesDescription],
    applications: Sequence[ConfiguredApplication],
    priority: int = 0,
) -> Route:
    """Binds every configured application to the study's series and makes the jobs of those that apply.

    One that cannot be used, or whose binding breaks off, does not stop the others.
    """
    jobs: list[NewJob] = []
    refused: list[str] = []
    warnings: list[str] = []
    explained: list[dict[str, Any]] = []
    by_uid = {s.series_instance_uid: s for s in series}
    for application in applications:
        try:
            problem, binding, job = _ask(application, study_instance_uid, revision, recognised, by_uid, priority)
        except Exception as error:
            log.error(
                "An application cannot be routed: %s",
                unexpected(error),
                extra=fields("route", study=study_instance_uid, application=application.name),
            )
            problem, binding, job = f"its routing failed ({type(error).__name__}), see the log", None, None
        if binding is None:
            warnings.append(f"not run: {application.name}: {problem}")
            explained.append({"application": application.name, "applies": False, "reason": problem})
            continue
        explained.append(_explain(application.name, binding))
        if job is None:
            refused.append(f"{application.name}: {binding.reason}")
        else:
            jobs.append(job)
    decisions = {"series": [_describe(s) for s in recognised], "applications": explained}
    if jobs:
        reason = "; ".join(["applies: " + ", ".join(job.application for job in jobs), *warnings])
    elif not applications:
        reason = "nothing applies: no application is configured"
    else:
        reason = "nothing applies: " + "; ".join([*refused, *warnings])
    return Route(tuple(jobs), reason, tuple(warnings), decisions)


def _ask(
    application: ConfiguredApplication,
    study_instance_uid: str,
    revision: int,
    recognised: Sequence[SeriesDescription],
    series: Mapping[str, Series],
    priority: int,
) -> tuple[str, Binding | None, NewJob | None]:
    """Why the application cannot be asked, or its binding, with the job where it applies."""
    if application.manifest is None:
        return application.problem, None, None
    binding = bind(application.manifest.inputs, recognised)
    if not binding.accepted:
        return "", binding, None
    job = NewJob(
        study_instance_uid=study_instance_uid,
        revision=revision,
        application=application.name,
        inputs=dict(binding.inputs),
        fingerprint=fingerprint(application.manifest, binding.inputs, series),
        priority=priority,
    )
    return "", binding, job


def fingerprint(manifest: Manifest, inputs: Mapping[str, str], series: Mapping[str, Series]) -> str:
    """Names the exact instances, their content, and the model of a job: the same fingerprint means the same result.

    A version of an instance under a corrected name makes another result: the report tells whom it is about.
    """
    digest = hashlib.sha256(f"{manifest.id}\n{manifest.name}\n{manifest.sha256}\n".encode())
    for name, series_instance_uid in sorted(inputs.items()):
        digest.update(f"{name}\n".encode())
        for uid, sha256 in sorted((i.sop_instance_uid, i.sha256) for i in series[series_instance_uid].instances):
            digest.update(f"{uid} {sha256}\n".encode())
    return digest.hexdigest()


def _explain(name: str, binding: Binding) -> dict[str, Any]:
    return {
        "application": name,
        "applies": binding.accepted,
        "reason": binding.reason,
        "inputs": dict(binding.inputs),
        "decisions": [asdict(decision) for decision in binding.decisions],
    }


def _describe(series: SeriesDescription) -> dict[str, Any]:
    return {
        "series_instance_uid": series.series_instance_uid,
        "modality": series.modality,
        "kind": str(series.kind),
        "body_part": series.body_part,
        "plane": series.plane and str(series.plane),
        "dimension": series.dimension,
        "slices": series.slices,
        "confidence": round(series.confidence, 2),
        "reasons": [*series.reasons, *([series.problem] if series.problem else [])],
    }
