"""Fit the classifier of `soft_tissue_mass` to simulated masses, and measure how well it tells their classes apart.

The overlap of the classes is a choice of the simulation, so the results test the fit and say nothing about patients.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import rankdata

from inference.applications.soft_tissue_mass.classifier import Classifier
from inference.phantoms.limb.study import FIRST_TRAINING_SEED, HELD_OUT_SEEDS
from inference.training.mass_classifier.card import mass_classifier_card
from inference.training.mass_classifier.simulated_masses import SimulatedMass, simulated_masses

NOTE = (
    "fitted to {count} simulated masses whose classes differ as the simulation has it (phantom-trained), and not "
    "validated on patients"
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """The settings of a run."""

    phantoms: int = 240
    ridge: float = 1.0  # weight of the squared coefficients, the intercept left out


@dataclass(frozen=True)
class ClassifierMetrics:
    """The results on `phantoms` masses that the classifier was not fitted to, as classifier_metrics.json holds them.

    `auc` is the area under the ROC curve for malignancy, `auc_of_true_means` its ceiling: that of the same regression
    on the true means of the tissues.
    """

    learned: int
    ridge: float
    phantoms: int
    auc: float
    auc_of_true_means: float


def run(
    data: Path | None, out: Path, settings: Settings, only: int | None = None, drawings: Path | None = None
) -> None:
    """Fit and measure the classifier, and write its weights, metrics and card to `out`. All data are phantoms."""
    out.mkdir(parents=True, exist_ok=True)
    masses = simulated_masses(range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + settings.phantoms))
    classifier = fit_classifier(masses, settings)
    (out / "classifier.json").write_text(json.dumps(classifier.plain(), indent=1) + "\n")
    metrics = asdict(measure_classifier(masses, simulated_masses(HELD_OUT_SEEDS), settings))
    (out / "classifier_metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    (out / "CLASSIFIER_CARD.md").write_text(mass_classifier_card(metrics))


def fit_classifier(masses: Sequence[SimulatedMass], settings: Settings, true: bool = False) -> Classifier:
    """Fit both regressions to the measured means, or to the true ones."""
    x, grades = _features(masses, true), np.array([s.grade for s in masses])
    centre, scale = x.mean(axis=0), x.std(axis=0)
    z = np.column_stack([(x - centre) / scale, np.ones(len(x))])
    ill = grades > 0
    binary = _softmax_regression(z, ill.astype(int), 2, settings.ridge)
    return Classifier(
        centre, scale, binary[1] - binary[0], _softmax_regression(z[ill], grades[ill] - 1, 3, settings.ridge),
        NOTE.format(count=len(masses)),
    )  # fmt: skip


def measure_classifier(
    masses: Sequence[SimulatedMass], held_out: Sequence[SimulatedMass], settings: Settings
) -> ClassifierMetrics:
    """Measure the classifier that is fitted to `masses` on the masses `held_out`."""
    ill = np.array([s.grade > 0 for s in held_out])

    def area(true: bool) -> float:
        found, _ = fit_classifier(masses, settings, true).probabilities(_features(held_out, true))
        return round(area_under_curve(found, ill), 3)

    return ClassifierMetrics(settings.phantoms, settings.ridge, len(held_out), area(False), area(True))


def area_under_curve(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve, with ties counted half."""
    ranks, n = rankdata(scores), int(positive.sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n)))


def _softmax_regression(x: Floats, classes: NDArray[np.int64], count: int, ridge: float) -> Floats:
    """Return the weights (count, columns of x). The last column is the intercept, which has no penalty."""
    chosen = np.eye(count)[classes]

    def loss(flat: Floats) -> tuple[float, Floats]:
        w = flat.reshape(count, -1)
        logits = x @ w.T
        total = logsumexp(logits, axis=1, keepdims=True)
        penalty = np.array(w)
        penalty[:, -1] = 0
        value = -float((chosen * (logits - total)).sum()) + ridge / 2 * float((penalty**2).sum())
        return value, ((np.exp(logits - total) - chosen).T @ x + ridge * penalty).ravel()

    return np.asarray(minimize(loss, np.zeros(count * x.shape[1]), jac=True, method="L-BFGS-B").x).reshape(count, -1)


def _features(masses: Sequence[SimulatedMass], true: bool) -> Floats:
    return np.array([s.true if true else s.measured for s in masses])
