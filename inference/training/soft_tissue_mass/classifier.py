"""Fits the classifier of `soft_tissue_mass` to simulated masses, and measures how much of their classes it recovers.

In a phantom the classes overlap as the simulation has it: the numbers tell whether the fit works, and nothing of
patients.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import rankdata

from inference.applications.soft_tissue_mass.classifier import FEATURES, Classifier
from inference.phantoms.limb.images import B_VALUES
from inference.phantoms.limb.study import FIRST_TRAINING_SEED, HELD_OUT_SEEDS, limb_study, study_grid
from inference.phantoms.scene import mixture
from inference.quantities.panel import measure_panel
from inference.quantities.statistics import Statistics
from inference.volumes.volume import Volume

GRID = ((24, 96, 96), (6.0, 2.3, 2.3))  # of the images; coarse, since means over a mass are all that is learned from
NOTE = (
    "fitted to {count} simulated masses whose classes differ as the simulation has it (phantom-trained), and not "
    "validated on patients"
)
CARD = """# Classifier of soft_tissue_mass

Logistic regressions on the mean ADC, T1 and T2 inside the outline of a mass: benign or malignant, and grade 1, 2 or 3
of malignant ones. **Off unless a site switches it on** (`options = {{ classification = true }}`), research only, and
never validated on patients.

It has learned from {learned} simulated masses (`inference/phantoms/limb_study.py`, seeds from 10000), by maximum
likelihood with a ridge of {ridge:g}, on maps of 6 x 2.3 x 2.3 mm and true outlines.

| on {phantoms:.0f} simulated masses not learned from | AUC, malignant |
|---|---|
| means measured inside the true outline, without its border | {auc:.3f} |
| ceiling: the same regression on the true means of the tissues | {auc_of_true_means:.3f} |

How far the classes of a simulation overlap is the simulation's choice: these numbers show that the regression finds
what was put in, and say nothing of patients.

To fit it again: `python -m inference.training mass_classifier --out OUT`.
"""
log = logging.getLogger(__name__)

Features = NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    phantoms: int = 240
    ridge: float = 1.0  # weight of the squared coefficients, the intercept left out


@dataclass(frozen=True, eq=False)
class Sample:
    """`measured` and `true` are the means of FEATURES inside the mass: of its images, and of its tissues."""

    measured: Features
    true: Features
    grade: int  # 0 where benign


def run(
    data: Path | None, out: Path, settings: Settings, only: int | None = None, drawings: Path | None = None
) -> None:
    """Writes classifier.json and CLASSIFIER_CARD.md to `out`. There is no other data than phantoms."""
    out.mkdir(parents=True, exist_ok=True)
    samples = _samples(range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + settings.phantoms))
    classifier = fit(samples, settings)
    (out / "classifier.json").write_text(json.dumps(classifier.plain(), indent=1) + "\n")
    metrics = measure(samples, _samples(HELD_OUT_SEEDS), settings)
    (out / "CLASSIFIER_CARD.md").write_text(CARD.format(**metrics, learned=settings.phantoms, ridge=settings.ridge))


def fit(samples: Sequence[Sample], settings: Settings, true: bool = False) -> Classifier:
    """On the measured means, or on the true ones."""
    x, grades = _features(samples, true), np.array([s.grade for s in samples])
    centre, scale = x.mean(axis=0), x.std(axis=0)
    z = np.column_stack([(x - centre) / scale, np.ones(len(x))])
    ill = grades > 0
    binary = _softmax_regression(z, ill.astype(int), 2, settings.ridge)
    return Classifier(
        centre, scale, binary[1] - binary[0], _softmax_regression(z[ill], grades[ill] - 1, 3, settings.ridge),
        NOTE.format(count=len(samples)),
    )  # fmt: skip


def measure(samples: Sequence[Sample], held_out: Sequence[Sample], settings: Settings) -> dict[str, float]:
    """AUC of malignancy on limbs not learned from, beside the ceiling: the same on the tissues' true means."""
    ill = np.array([s.grade > 0 for s in held_out])
    result = {"phantoms": float(len(held_out))}
    for name, true in (("auc", False), ("auc_of_true_means", True)):
        found, _ = fit(samples, settings, true).probabilities(_features(held_out, true))
        result[name] = round(auc(found, ill), 3)
    return result


def auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve, ties counted half."""
    ranks, n = rankdata(scores), int(positive.sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n)))


def _softmax_regression(x: Features, classes: NDArray[np.int64], count: int, ridge: float) -> Features:
    """(count, columns of x), the last column being the intercept."""
    chosen = np.eye(count)[classes]

    def loss(flat: Features) -> tuple[float, Features]:
        w = flat.reshape(count, -1)
        logits = x @ w.T
        total = logsumexp(logits, axis=1, keepdims=True)
        penalty = np.array(w)
        penalty[:, -1] = 0
        value = -float((chosen * (logits - total)).sum()) + ridge / 2 * float((penalty**2).sum())
        return value, ((np.exp(logits - total) - chosen).T @ x + ridge * penalty).ravel()

    return np.asarray(minimize(loss, np.zeros(count * x.shape[1]), jac=True, method="L-BFGS-B").x).reshape(count, -1)


def _features(samples: Sequence[Sample], true: bool) -> Features:
    return np.array([s.true if true else s.measured for s in samples])


def _samples(seeds: Sequence[int]) -> list[Sample]:
    found = []
    for number, seed in enumerate(seeds, start=1):
        found.append(sample(seed))
        if number % 50 == 0:
            log.info("mass %d of %d", number, len(seeds))
    return found


def sample(seed: int) -> Sample:
    study = limb_study(seed)
    grid = study_grid(study, *GRID)
    images = study.on(grid)

    def volume(name: str, **told_apart: float) -> Volume:
        return Volume(images.render(name), grid, (), "study", name, "frame of reference", "MR", told_apart)

    weighted = tuple(volume(f"dwi_b{b:g}", **{"b-value": b}) for b in B_VALUES)
    maps = {name: (volume(name),) for name in ("t1_map", "t2_map")}
    quantities = measure_panel({"dwi": weighted, **maps}, weighted[0])
    told = [quantities.statistics(quantity, images.masks["mass"]) for quantity in FEATURES]
    mask, inside = images.masks["mass"], mixture(images.anatomy.mass_layers, density=False)
    true = [inside.image(level)[mask].mean() for level in (lambda t: t.adc, lambda t: t.t1, lambda t: t.t2)]
    return Sample(
        np.array([one.mean if isinstance(one, Statistics) else np.nan for one in told]), np.array(true), study.grade
    )
