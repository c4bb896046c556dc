"""Which applications apply to a completed study, and which series feeds which input: pure decisions."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dicom_node.catalogue import ConfiguredApplication
from inference.binding import Binding, bind
from inference.manifest import Manifest
from inference.series import SeriesDescription
from storage.records import NewJob, Series


@dataclass(frozen=True)
class Route:
    """What becomes of a study. No jobs means that nothing applies, and `reason` says why."""

    jobs: tuple[NewJob, ...]
    reason: str
    decisions: dict[str, Any] = field(default_factory=dict)  # JSON, for `dicom-node explain`


def route(
    study_instance_uid: str,
    revision: int,
    series: Sequence[Series],
    recognised: Sequence[SeriesDescription],
    applications: Sequence[ConfiguredApplication],
    priority: int = 0,
) -> Route:
    """Binds every configured application to the study's series and makes the jobs of those that apply."""
    jobs = []
    reasons = []
    explained = []
    by_uid = {s.series_instance_uid: s for s in series}
    for application in applications:
        if application.manifest is None:
            reasons.append(f"{application.name}: {application.problem}")
            explained.append({"application": application.name, "applies": False, "reason": application.problem})
            continue
        binding = bind(application.manifest.inputs, recognised)
        explained.append(_explain(application.name, binding))
        if not binding.accepted:
            reasons.append(f"{application.name}: {binding.reason}")
            continue
        jobs.append(
            NewJob(
                study_instance_uid=study_instance_uid,
                revision=revision,
                application=application.name,
                inputs=dict(binding.inputs),
                fingerprint=fingerprint(application.manifest, binding.inputs, by_uid),
                priority=priority,
            )
        )
    decisions = {"series": [_describe(s) for s in recognised], "applications": explained}
    if jobs:
        return Route(tuple(jobs), "applies: " + ", ".join(job.application for job in jobs), decisions)
    if not applications:
        return Route((), "nothing applies: no application is configured", decisions)
    return Route((), "nothing applies: " + "; ".join(reasons), decisions)


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
