"""The training command, for a moment: it writes weights that load and metrics that can be read."""

import json
from pathlib import Path

import numpy as np
import torch

from inference.training import ellipsoid, phantoms, sarcoma, soft_tissue_mass
from inference.training.augmentation import View, view
from inference.training.scoring import dice, score
from inference.training.soft_tissue_mass import Settings

QUICK = Settings(iterations=2, phantoms=2, test_phantoms=1, batch=1)


def test_training_on_phantoms_alone(tmp_path: Path) -> None:
    soft_tissue_mass.run(None, tmp_path, QUICK)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["rounds"][0]["iterations"] == 2
    assert metrics["rounds"][0]["phantoms"]["cases"] == 1
    assert "Phantoms not trained on | 1 |" in (tmp_path / "MODEL_CARD.md").read_text()
    model = torch.jit.load(str(tmp_path / "weights.pt")).float()
    with torch.inference_mode():
        assert model(torch.zeros(1, 1, 32, 32, 48)).shape == (1, 1, 32, 32, 48)
    assert (tmp_path / "weights.pt").stat().st_size < 8e6


def test_training_repeats_itself(tmp_path: Path) -> None:
    pool = [phantoms.training_sample(phantoms.FIRST_TRAINING_SEED)]
    networks = [soft_tissue_mass.train([], pool, QUICK, torch.device("cpu"), tmp_path)[0] for _ in range(2)]
    one, other = (torch.cat([p.flatten() for p in network.parameters()]) for network in networks)
    # Sums over threads are rounded in any order.
    assert torch.allclose(one, other, atol=1e-3)


def test_the_split_holds_seven_patients_out() -> None:
    names = [f"STS_{i:03}" for i in range(36)]
    train, held_out = sarcoma.split(names)
    assert (len(train), len(held_out)) == (29, 7)
    assert sorted([*train, *held_out]) == names
    assert sarcoma.split(names[::-1]) == (train, held_out)
    assert sorted(name for _, part in sarcoma.folds(names) for name in part) == names


def test_views_move_the_mass_off_the_centre() -> None:
    rng = np.random.default_rng(0)
    image, mask = torch.full((40, 40, 40), 0.5), torch.zeros(40, 40, 40)
    mask[15:25, 15:25, 15:25] = 1.0
    centres = []
    for _ in range(40):
        seen, truth = view(image, mask, rng, View(size=48))
        assert seen.shape == truth.shape == (1, 48, 48, 48)
        if truth.any():
            centres.append(torch.nonzero(truth[0]).float().mean(0).numpy())
    assert np.std(centres, axis=0).min() > 3.0


def test_the_ellipsoid_is_fitted() -> None:
    masks = [ellipsoid.ellipsoid((40, 30, 20), (0.6, 0.5)), ellipsoid.ellipsoid((20, 30, 30), (0.6, 0.5))]
    assert ellipsoid.fit(masks) == (0.6, 0.5)


def test_scores_of_a_shifted_ball() -> None:
    z, y, x = np.mgrid[:40, :40, :40]
    truth = (z - 20) ** 2 + (y - 20) ** 2 + (x - 20) ** 2 < 100
    found = np.roll(truth, 2, axis=0)
    result = score("ball", found, truth, (2.0, 1.0, 1.0))
    assert result.volume_error == 0
    assert 3.0 <= result.hausdorff95 <= 4.0
    assert result.dice == dice(truth, found) < 0.95
