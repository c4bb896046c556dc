"""The card of the classifier of `soft_tissue_mass` as a function of the metrics of its fit."""

from collections.abc import Mapping
from typing import Any

from inference.phantoms.limb.study import FIRST_TRAINING_SEED
from inference.training.mass_classifier.simulated_masses import GRID

TEMPLATE = """# Classifier of soft_tissue_mass

Logistic regressions on the mean ADC, T1 and T2 inside the outline of a mass: benign or malignant, and grade 1, 2 or 3
of malignant ones. **Off unless a site switches it on** (`options = {{ classification = true }}`), research only, and
never validated on patients.

It was fitted to {learned} simulated masses (`inference/phantoms/limb/`, seeds from {first_seed}) by maximum likelihood,
with a ridge of {ridge:g}, on maps of {voxel} mm and true outlines.

| on {phantoms} simulated masses that it was not fitted to | AUC, malignant |
|---|---|
| means measured inside the true outline, without its border | {auc:.3f} |
| ceiling: the same regression on the true means of the tissues | {auc_of_true_means:.3f} |

The overlap of the classes is a choice of the simulation. These numbers show that the regression finds the difference
that the simulation has, and say nothing about patients.

To fit it again: `python -m inference.training mass_classifier --out OUT`.
"""


def mass_classifier_card(metrics: Mapping[str, Any]) -> str:
    """Return the card, as Markdown, of the run that wrote `metrics`."""
    return TEMPLATE.format(first_seed=FIRST_TRAINING_SEED, voxel=" x ".join(f"{mm:g}" for mm in GRID[1]), **metrics)
