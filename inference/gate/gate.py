"""Decides before any model whether a volume may be given to it: good enough, and like what the model learned from.

The limits are not chosen: they follow from the images the model was trained on, its `Reference`, which is a small file
beside the weights. It holds numbers only, in no order that tells which image they came from. Loads no torch.

`python -m inference.gate.gate REFERENCE FOLDER...` prints a table: what is measured in the series of each folder,
its limit, and the verdict.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.contract.manifest import Manifest
from inference.gate import embedding, image_quality
from inference.gate.embedding import Vector
from inference.gate.image_quality import METRICS
from inference.volumes.volume import Volume, read_volumes
from storage.errors import InputRefused, ModelRefused, WhyNoResult

Vectors = NDArray[np.float64]  # (n, features)

NEIGHBOURS = 2
ACCEPTED = 1.645  # standard deviations of the logarithm: 95 % of images like those of training
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Reference:
    """What the images of training are like. `limits` are those of the quality metrics; `groups` the embeddings of each
    kind of training image; `scale` the spread of each feature; `limit` that of the distance; `refused` which part of
    each group would be refused if it had not been trained on (leave one out).
    """

    limits: Mapping[str, float]
    groups: Mapping[str, Vectors]
    scale: Vector
    limit: float
    refused: Mapping[str, float]


@dataclass(frozen=True)
class Refusal:
    why: WhyNoResult
    explanation: str  # a clause for the reader of the report


@dataclass(frozen=True)
class Quality:
    """What was measured: `metrics` by the names of METRICS, and the `distance` to the training images."""

    metrics: Mapping[str, float]
    distance: float
    refusals: tuple[Refusal, ...]


def check(volume: Volume, reference: Reference) -> Quality:
    """Raises InputRefused, with every reason in its message, unless the volume may be analysed. Poor quality comes
    before likeness: of an image that is mostly noise nothing else can be said.
    """
    quality = examine(volume, reference)
    if quality.refusals:
        raise InputRefused("; ".join(r.explanation for r in quality.refusals), why=quality.refusals[0].why)
    return quality


def reference_of(manifest: Manifest, name: str) -> Reference:
    """Of the input `name`, as `[gate]` of the application's descriptor names its file."""
    return load_reference(manifest.folder / str(manifest.options["gate"][name]))


def examine(volume: Volume, reference: Reference) -> Quality:
    metrics = image_quality.measure(volume)
    refusals = [
        Refusal(WhyNoResult.POOR_QUALITY, _poor(name, metrics[name], limit))
        for name, limit in reference.limits.items()
        if METRICS[name].fails(metrics[name], limit)
    ]
    vector = embedding.embed(volume)
    distance = _distance(vector, list(reference.groups.values()), reference.scale)
    if not distance <= reference.limit:
        refusals.append(Refusal(WhyNoResult.OUT_OF_DISTRIBUTION, _unlike(vector, distance, reference)))
    return Quality(metrics, distance, tuple(refusals))


def fit(groups: Mapping[str, Iterable[Volume]]) -> Reference:
    """The reference of a training set, in groups that are each alike: patients, phantoms.

    The limit of the distance is the one that accepts 95 % of the most varied group, by a log-normal distribution of
    the distances of each image to the others of its group (median and MAD, so that one odd image does not widen it).
    """
    measured: dict[str, list[dict[str, float]]] = {}
    vectors: dict[str, Vectors] = {}
    for name, volumes in groups.items():
        pairs = [(image_quality.measure(volume), embedding.embed(volume)) for volume in volumes]
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
    return Reference(limits, vectors, scale, limit, refused)


def save_reference(reference: Reference, path: Path) -> None:
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


def load_reference(path: Path) -> Reference:
    """Raises ModelRefused, with the way out, where the file is missing, broken or of another version."""
    way_out = "make it again: python -m inference.training.gate, see docs/gate.md"
    try:
        raw = json.loads(path.read_text())
        if raw["format"] != FORMAT or raw["features"] != embedding.FEATURES:
            raise ModelRefused(f"{path} is the reference of another version of the quality gate; {way_out}")
        reference = Reference(
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


def _left_out(rows: Vectors, scale: Vector) -> NDArray[np.float64]:
    return np.array([_distance(row, [np.delete(rows, i, axis=0)], scale) for i, row in enumerate(rows)])


def _quantile(distances: NDArray[np.float64]) -> float:
    logs = np.log(distances)
    middle = np.median(logs)
    return float(np.exp(middle + ACCEPTED * 1.4826 * np.median(np.abs(logs - middle))))


def _distance(vector: Vector, groups: Iterable[Vectors], scale: Vector) -> float:
    """Mean distance to the nearest NEIGHBOURS of the nearest group, in spreads; infinite where there is no vector."""
    if not np.isfinite(vector).all():
        return np.inf
    return min(
        float(np.sort(np.sqrt(_by_kind(vector, rows, scale).mean(axis=1)))[:NEIGHBOURS].mean()) for rows in groups
    )


def _by_kind(vector: Vector, rows: Vectors, scale: Vector) -> Vectors:
    """(n, kinds): the mean squared difference from every row in each kind of features."""
    squared = ((rows - vector) / scale) ** 2
    kinds = embedding.kinds()
    return np.stack([squared[:, kinds == kind].mean(axis=1) for kind in range(len(embedding.FEATURES))], axis=1)


def _poor(name: str, value: float, limit: float) -> str:
    metric = METRICS[name]
    unit = f" {metric.unit}" if metric.unit else ""
    return f"{metric.label}: {value:.3g}{unit}, {'at least' if metric.bad == 'low' else 'at most'} {limit:.3g}{unit}"


def _unlike(vector: Vector, distance: float, reference: Reference) -> str:
    if not np.isfinite(distance):
        return "the images show no body that could be compared with those the model learned from"
    rows = np.concatenate(list(reference.groups.values()))
    parts = _by_kind(vector, rows, reference.scale)
    nearest = parts[int(parts.mean(axis=1).argmin())]
    names = list(embedding.FEATURES)
    most = " and ".join(names[kind] for kind in np.argsort(-nearest)[:2])
    return (
        f"the images do not look like those the model learned from: distance {distance:.2f}, "
        f"at most {reference.limit:.2f}; they differ most in the {most}"
    )


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m inference.gate.gate", description=__doc__)
    parser.add_argument("reference", type=Path)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="the files of one series")
    arguments = parser.parse_args()
    reference = load_reference(arguments.reference)
    limits = [*(reference.limits.get(name, np.nan) for name in METRICS), reference.limit]
    print(_row("series", *METRICS, "distance", "verdict"))
    print(_row("limit", *limits))
    for folder in arguments.folders:
        try:
            volumes = read_volumes(sorted(path for path in folder.iterdir() if path.is_file()))
        except InputRefused as error:
            print(_row(folder, f"{error.why}: {error}"))
            continue
        for volume in volumes:
            quality = examine(volume, reference)
            verdict = "; ".join(f"{r.why}: {r.explanation}" for r in quality.refusals) or "accepted"
            print(_row(folder, *(quality.metrics[name] for name in METRICS), quality.distance, verdict))


def _row(*cells: object) -> str:
    return "\t".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells)


if __name__ == "__main__":
    main()
