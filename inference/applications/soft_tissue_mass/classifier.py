"""A classifier for malignancy and grade: logistic regressions on the mean ADC, T1 and T2 of a mass.

The classifier that ships with the node was fitted to simulated masses, whose classes the simulation chose.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.contract.concepts import BENIGN, GRADES, INDETERMINATE, MALIGNANCY, MALIGNANT, NO_UNIT, PROBABILITY
from inference.contract.findings import NOT_ATTEMPTED, Evaluation, Measurement
from inference.quantities.panel import Panel
from inference.quantities.panel_quantities import ADC, T1, T2
from inference.quantities.statistics import Statistics
from inference.volumes.geometry import Mask

FEATURES = (ADC, T1, T2)
UNDECIDED = (1 / 3, 2 / 3)  # Between these a probability stands for neither benign nor malignant.
SAID = (
    "Probabilities of malignancy and grade: {note}. They say nothing of patients and must not be used for any decision."
)
NOT_CLASSIFIED = "Malignancy and grade were not estimated: that needs the ADC, T1 and T2 of the mass."


@dataclass(frozen=True, eq=False)
class Classifier:
    """The weights of two regressions on FEATURES, which `centre` and `scale` standardise.

    `malignant` is (4,) and `grades` is (3, 4); the last weight of each is the intercept, and the largest logit stands
    for the likeliest grade. `note` names the data to which the classifier was fitted.
    """

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    malignant: NDArray[np.float64]
    grades: NDArray[np.float64]
    note: str

    def probabilities(self, means: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the probabilities of malignancy (n,) and of each grade if malignant (n, 3).

        `means` are the mean values of FEATURES, (n, 3).
        """
        x = np.column_stack([(means - self.centre) / self.scale, np.ones(len(means))])
        logits = x @ self.grades.T
        parts = np.exp(logits - logits.max(axis=1, keepdims=True))
        return 1 / (1 + np.exp(-(x @ self.malignant))), parts / parts.sum(axis=1, keepdims=True)

    def plain(self) -> dict[str, object]:
        """Return the contents of classifier.json."""
        return {
            "note": self.note,
            "features": [f"mean {q.label} ({q.unit.value})" for q in FEATURES],
            **{key: getattr(self, key).tolist() for key in ("centre", "scale", "malignant", "grades")},
        }


def read_classifier(path: Path) -> Classifier:
    held: Mapping[str, object] = json.loads(path.read_text())
    arrays = {key: np.asarray(held[key], np.float64) for key in ("centre", "scale", "malignant", "grades")}
    return Classifier(note=str(held["note"]), **arrays)


def classify(
    classifier: Classifier, panel: Panel, mask: Mask
) -> tuple[tuple[Measurement, ...], tuple[Evaluation, ...], str]:
    """Return the probabilities, the class, and a sentence of caution for the reader."""
    found = [panel.statistics(quantity, mask) for quantity in FEATURES]
    means = [one.mean for one in found if isinstance(one, Statistics)]
    names = (PROBABILITY, *GRADES)
    if len(means) < len(FEATURES):
        return tuple(Measurement(name, None, NO_UNIT, missing=NOT_ATTEMPTED) for name in names), (), NOT_CLASSIFIED
    malignant, grades = classifier.probabilities(np.array([means]))
    p = float(malignant[0])
    told = MALIGNANT if p > UNDECIDED[1] else BENIGN if p < UNDECIDED[0] else INDETERMINATE
    values = zip(names, (p, *map(float, grades[0])), strict=True)
    return (
        tuple(Measurement(name, value, NO_UNIT) for name, value in values),
        (Evaluation(MALIGNANCY, told),),
        SAID.format(note=classifier.note),
    )
