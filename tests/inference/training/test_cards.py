"""The model cards that are shipped are those of the metrics that are shipped beside the weights."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from inference import applications
from inference.training.extremity_sts_sbrt.card import extremity_sts_sbrt_card
from inference.training.mass_classifier.card import mass_classifier_card
from inference.training.soft_tissue_mass.card import soft_tissue_mass_card

FOLDER = Path(applications.__path__[0])
CARDS = (
    ("extremity_sts_sbrt", "metrics.json", "MODEL_CARD.md", extremity_sts_sbrt_card),
    ("soft_tissue_mass", "metrics.json", "MODEL_CARD.md", soft_tissue_mass_card),
    ("soft_tissue_mass", "classifier_metrics.json", "CLASSIFIER_CARD.md", mass_classifier_card),
)


@pytest.mark.parametrize(("application", "metrics", "card", "generate"), CARDS, ids=["course", "mass", "classifier"])
def test_the_shipped_card_is_that_of_the_shipped_metrics(
    application: str, metrics: str, card: str, generate: Callable[[Mapping[str, Any]], str]
) -> None:
    folder = FOLDER / application
    assert generate(json.loads((folder / metrics).read_text())) == (folder / card).read_text()


def test_a_card_without_history_tells_none() -> None:
    metrics = json.loads((FOLDER / "soft_tissue_mass" / "metrics.json").read_text())
    told = soft_tissue_mass_card({**metrics, "history": None, "start": None})
    assert "Each began with random weights." in told
    assert "attempt" not in told
    metrics = json.loads((FOLDER / "extremity_sts_sbrt" / "metrics.json").read_text())
    assert "limbs without one" not in extremity_sts_sbrt_card({**metrics, "experiments": {}})
