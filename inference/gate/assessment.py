"""The assessment of a volume before any model runs: its quality, and its likeness to the training images.

Loads no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from inference.gate import embedding, image_quality
from inference.gate.embedding import Embedding
from inference.gate.image_quality import METRICS, BadSide
from inference.gate.reference import TrainingReference, differences_by_kind, distance_to_groups
from inference.volumes.volume import Volume
from storage.errors import InputRefused, WhyNoResult


@dataclass(frozen=True)
class GateRefusal:
    """A reason why a volume must not be given to the model."""

    why: WhyNoResult
    explanation: str  # a clause for the reader of the report


@dataclass(frozen=True)
class Assessment:
    """The measured `metrics`, by the names of METRICS, the `distance` to the training images, and the refusals."""

    metrics: Mapping[str, float]
    distance: float
    refusals: tuple[GateRefusal, ...]


def check_volume(volume: Volume, reference: TrainingReference) -> Assessment:
    """Assess a volume, and raise InputRefused with every reason in its message unless it may be analysed.

    Poor quality is reported before unlikeness, because nothing else can be said of an image that is mostly noise.
    """
    quality = assess(volume, reference)
    if quality.refusals:
        raise InputRefused("; ".join(r.explanation for r in quality.refusals), why=quality.refusals[0].why)
    return quality


def assess(volume: Volume, reference: TrainingReference) -> Assessment:
    """Measure the volume and compare it with the reference."""
    metrics = image_quality.measure_image_quality(volume)
    refusals = [
        GateRefusal(WhyNoResult.POOR_QUALITY, _poor(name, metrics[name], limit))
        for name, limit in reference.limits.items()
        if METRICS[name].fails(metrics[name], limit)
    ]
    vector = embedding.embed(volume)
    distance = distance_to_groups(vector, list(reference.groups.values()), reference.scale)
    if not distance <= reference.limit:
        refusals.append(GateRefusal(WhyNoResult.OUT_OF_DISTRIBUTION, _unlike(vector, distance, reference)))
    return Assessment(metrics, distance, tuple(refusals))


def _poor(name: str, value: float, limit: float) -> str:
    metric = METRICS[name]
    unit = f" {metric.unit}" if metric.unit else ""
    return (
        f"{metric.label}: {value:.3g}{unit}, {'at least' if metric.bad is BadSide.LOW else 'at most'} {limit:.3g}{unit}"
    )


def _unlike(vector: Embedding, distance: float, reference: TrainingReference) -> str:
    if not np.isfinite(distance):
        return "the images show no body that could be compared with those the model learned from"
    rows = np.concatenate(list(reference.groups.values()))
    parts = differences_by_kind(vector, rows, reference.scale)
    nearest = parts[int(parts.mean(axis=1).argmin())]
    names = list(embedding.FEATURES)
    most = " and ".join(names[kind] for kind in np.argsort(-nearest)[:2])
    return (
        f"the images do not look like those the model learned from: distance {distance:.2f}, "
        f"at most {reference.limit:.2f}; they differ most in the {most}"
    )
