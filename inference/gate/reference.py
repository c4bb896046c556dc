"""The reference of the gate: numbers that describe the training images, in a file beside the weights.

The limits are not chosen: they follow from the images that the model was trained on. The file holds only numbers, and
their order does not tell from which image they came. Loads no torch.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.contract.manifest import Manifest
from inference.gate import embedding, image_quality
from inference.gate.embedding import Embedding
from inference.gate.image_quality import METRICS
from inference.volumes.volume import Volume
from storage.errors import ModelRefused

Vectors = NDArray[np.float64]  # (n, features)

NEIGHBOURS = 2
ACCEPTED = 1.645  # standard deviations of the logarithm, which accept 95 % of images like those of training
FORMAT = 1


@dataclass(frozen=True, eq=False)
class TrainingReference:
    """The images of training, in numbers.

    `limits` are those of the quality metrics, `groups` the embeddings of each kind of training image, `scale` the
    spread of each feature, and `limit` that of the distance. `refused` is the part of each group that would be refused
    if it had not been trained on (leave one out).
    """

    limits: Mapping[str, float]
    groups: Mapping[str, Vectors]
    scale: Embedding
    limit: float
    refused: Mapping[str, float]


def reference_of(manifest: Manifest, name: str) -> TrainingReference:
    """Load the reference of the input `name`, whose file `[gate]` of the application's descriptor names."""
    return load_reference(manifest.folder / str(manifest.options["gate"][name]))


def fit_reference(groups: Mapping[str, Iterable[Volume]]) -> TrainingReference:
    """Make the reference of a training set, in groups of similar images: patients, phantoms.

    The limit of the distance accepts 95 % of the most varied group, by a log-normal distribution of the distances of
    each image to the others of its group (median and MAD, so that one odd image does not widen it).
    """
    measured: dict[str, list[dict[str, float]]] = {}
    vectors: dict[str, Vectors] = {}
    for name, volumes in groups.items():
        pairs = [(image_quality.measure_image_quality(volume), embedding.embed(volume)) for volume in volumes]
        measured[name] = [metrics for metrics, _ in pairs]
        rows = np.array([vector for _, vector in pairs])
        vectors[name] = rows[np.lexsort(rows.T)]
    everything = [metrics for rows in measured.values() for metrics in rows]
    found = {
        name: metric.limit(np.array([metrics[name] for metrics in everything])) for name, metric in METRICS.items()
    }
    scale = np.max([rows.std(axis=0) for rows in vectors.values()], axis=0) + 1e-3
    left_out = {name: _left_out(rows, scale) for name, rows in vectors.items()}
    limit = max(_quantile(distances) for distances in left_out.values())
    refused = {name: float(np.mean(distances > limit)) for name, distances in left_out.items()}
    limits = {name: value for name, value in found.items() if value is not None}
    return TrainingReference(limits, vectors, scale, limit, refused)


def save_reference(reference: TrainingReference, path: Path) -> None:
    """Write the reference to a file, one line for each image."""
    described = {
        "format": FORMAT,
        "features": embedding.FEATURES,
        "limits": {name: _short(value) for name, value in reference.limits.items()},
        "distance": _short(reference.limit),
        "refused_when_left_out": {name: _short(value) for name, value in reference.refused.items()},
        "scale": [_short(value) for value in reference.scale],
        "groups": {name: [[_short(v) for v in row] for row in rows] for name, rows in reference.groups.items()},
    }
    text = json.dumps(described, indent=1)
    path.write_text(text.replace("\n   ", "").replace("\n  ]", "]") + "\n")  # one line for each image


def load_reference(path: Path) -> TrainingReference:
    """Read a reference. Raises ModelRefused, which says what to do, if the file is missing, broken or outdated."""
    way_out = "make it again: python -m inference.training.gate, see docs/gate.md"
    try:
        raw = json.loads(path.read_text())
        if raw["format"] != FORMAT or raw["features"] != embedding.FEATURES:
            raise ModelRefused(f"{path} is the reference of another version of the quality gate; {way_out}")
        reference = TrainingReference(
            limits={name: float(raw["limits"][name]) for name in METRICS if name in raw["limits"]},
            groups={name: np.array(rows, dtype=np.float64) for name, rows in raw["groups"].items()},
            scale=np.array(raw["scale"], dtype=np.float64),
            limit=float(raw["distance"]),
            refused={name: float(value) for name, value in raw["refused_when_left_out"].items()},
        )
    except OSError as error:
        raise ModelRefused(f"{path} cannot be read ({error.strerror}); {way_out}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelRefused(f"{path} is no reference of the quality gate ({type(error).__name__}); {way_out}") from None
    features = len(embedding.kinds())
    shapes = [rows.shape for rows in reference.groups.values()]
    if (
        reference.scale.shape != (features,)
        or not shapes
        or any(s[1:] != (features,) or s[0] <= NEIGHBOURS for s in shapes)
    ):
        raise ModelRefused(f"{path} holds vectors of the wrong length, or too few; {way_out}")
    return reference


def distance_to_groups(vector: Embedding, groups: Iterable[Vectors], scale: Embedding) -> float:
    """Return the mean distance to the nearest NEIGHBOURS vectors of the nearest group, in units of the spreads.

    It is infinite if the vector is not finite.
    """
    if not np.isfinite(vector).all():
        return np.inf
    return min(
        float(np.sort(np.sqrt(differences_by_kind(vector, rows, scale).mean(axis=1)))[:NEIGHBOURS].mean())
        for rows in groups
    )


def differences_by_kind(vector: Embedding, rows: Vectors, scale: Embedding) -> Vectors:
    """Return the mean squared difference from every row in each kind of features, as (n, kinds)."""
    squared = ((rows - vector) / scale) ** 2
    kinds = embedding.kinds()
    return np.stack([squared[:, kinds == kind].mean(axis=1) for kind in range(len(embedding.FEATURES))], axis=1)


def _left_out(rows: Vectors, scale: Embedding) -> NDArray[np.float64]:
    return np.array([distance_to_groups(row, [np.delete(rows, i, axis=0)], scale) for i, row in enumerate(rows)])


def _quantile(distances: NDArray[np.float64]) -> float:
    logs = np.log(distances)
    middle = np.median(logs)
    return float(np.exp(middle + ACCEPTED * 1.4826 * np.median(np.abs(logs - middle))))


def _short(value: float) -> float:
    return float(f"{value:.4g}")
