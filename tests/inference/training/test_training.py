"""Short runs of the training: weights load, metrics can be read, and an interrupted run is resumed."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inference.applications.extremity_sts_sbrt.network import STRUCTURES
from inference.applications.soft_tissue_mass.classifier import read_classifier
from inference.applications.soft_tissue_mass.outline import Estimate
from inference.engine.networks import FoldedUNet, Standardised, ensemble
from inference.engine.quantisation import dequantise, quantise
from inference.training import fitting, pictures, sarcoma_collection
from inference.training.cases import Case
from inference.training.extremity_sts_sbrt import training as extremity_sts_sbrt
from inference.training.fitting import Schedule
from inference.training.mass_classifier import training as mass_classifier
from inference.training.scoring import dice, score
from inference.training.soft_tissue_mass import training as soft_tissue_mass
from inference.training.soft_tissue_mass.augmentation import ViewSettings, random_view
from inference.training.soft_tissue_mass.ellipsoid_baseline import ellipsoid, fit_ellipsoid
from inference.training.soft_tissue_mass.scoring import choose_thresholds
from inference.training.soft_tissue_mass.training import Settings
from inference.volumes.geometry import Geometry

CPU = torch.device("cpu")
QUICK = Settings(iterations=2, phantoms=2, test_phantoms=1)


def parameters(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.slow
def test_training_on_phantoms_alone(tmp_path: Path) -> None:
    soft_tissue_mass.run(None, tmp_path, QUICK)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [member["iterations"] for member in metrics["rounds"][0]["members"]] == [2, 2]
    assert metrics["rounds"][0]["phantoms"]["cases"] == 1
    assert 0 < metrics["rounds"][0]["rounding"] < 0.03
    assert {"python", "torch", "monai", "numpy"} <= metrics["versions"].keys()
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert "Phantoms not trained on | 1 |" in card
    assert all(option in card for option in ("--iterations 2", "--phantoms 2", "--test-phantoms 1"))
    network = ensemble(2)
    network.load_state_dict(dequantise(torch.load(tmp_path / "weights.pt", weights_only=True)))
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 32, 32, 48)).shape == (1, 2, 32, 32, 48)
    assert (tmp_path / "weights.pt").stat().st_size < 8e6
    first, second = (parameters(member) for member in network.members)
    assert not torch.allclose(first, second, atol=0.01)
    again = Standardised(FoldedUNet())
    again.load_state_dict(soft_tissue_mass.read_member_weights(tmp_path / "weights.pt", 0))
    assert torch.equal(parameters(again), first)


@pytest.mark.slow
def test_the_limb_network_is_trained_on_phantoms(tmp_path: Path) -> None:
    extremity_sts_sbrt.run(None, tmp_path, extremity_sts_sbrt.Settings(iterations=2, phantoms=1, patients=2))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["iterations"], metrics["held_out"]["limbs"], metrics["required_only"]["limbs"]) == (2, 2, 1)
    assert metrics["held_out"]["dice"].keys() == set(STRUCTURES)
    assert metrics["false_masses"]["cases"] == 1
    assert "| limbs, time points | 2, 4 | 1, 2 | 2, 4 |" in (tmp_path / "MODEL_CARD.md").read_text()
    assert (tmp_path / "weights.pt").is_file()


@pytest.mark.slow
def test_the_classifier_is_fitted_to_phantoms(tmp_path: Path) -> None:
    mass_classifier.run(None, tmp_path, mass_classifier.Settings(phantoms=30))
    metrics = json.loads((tmp_path / "classifier_metrics.json").read_text())
    assert (metrics["learned"], metrics["phantoms"]) == (30, 60)
    assert 0.6 < metrics["auc"] <= 1.0
    assert f"{metrics['auc']:.3f}" in (tmp_path / "CLASSIFIER_CARD.md").read_text()
    assert "fitted to 30 simulated masses" in read_classifier(tmp_path / "classifier.json").note


def noise(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Instead of views, for the loop alone."""
    image = torch.from_numpy(rng.normal(size=(1, 4, 4, 4)).astype(np.float32))
    return image, (image > 0.5).float()


def convolution() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, 1, 3, padding=1)


SCHEDULE = Schedule(iterations=60, checkpoint_every=5)
FIT_SLOWLY = """
import sys, time
from pathlib import Path
from tests.inference.training.test_training import CPU, SCHEDULE, convolution, noise
from inference.training.fitting import fit_network
def slowly(rng):
    time.sleep(0.02)
    return noise(rng)
fit_network(convolution(), slowly, SCHEDULE, CPU, Path(sys.argv[1]), "noise")
"""


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """The optimiser, the random numbers and the clock too are those of the run that was killed."""
    checkpoint = tmp_path / "checkpoint.pt"
    process = subprocess.Popen([sys.executable, "-c", FIT_SLOWLY, str(tmp_path)], cwd=Path(__file__).parents[3])
    while not checkpoint.is_file() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    reached = torch.load(checkpoint, weights_only=True)
    assert 0 < reached["iteration"] < 60
    resumed = fitting.fit_network(convolution(), noise, SCHEDULE, CPU, tmp_path, "noise")
    (tmp_path / "whole").mkdir()
    whole = fitting.fit_network(convolution(), noise, SCHEDULE, CPU, tmp_path / "whole", "noise")
    assert resumed.iterations == whole.iterations == 60
    assert resumed.minutes * 60 > reached["seconds"] > 0.1
    assert torch.allclose(parameters(resumed.network), parameters(whole.network), atol=1e-6)
    with pytest.raises(ValueError, match="other settings or data"):
        fitting.fit_network(convolution(), noise, SCHEDULE, CPU, tmp_path, "other noise")


def test_training_repeats_itself(tmp_path: Path) -> None:
    ends = []
    for name in ("one", "other"):
        folder = tmp_path / name
        ends.append(parameters(soft_tissue_mass.train_member([], QUICK, 0, CPU, folder).network))
    # Sums over threads are rounded in any order.
    assert torch.allclose(*ends, atol=1e-3)


def test_quantised_weights_hardly_change_the_probability() -> None:
    """Random weights are the hardest to round; what it does to trained ones is said in the model card."""
    torch.manual_seed(0)
    network = ensemble(1).eval()
    image = torch.rand(1, 1, 64, 64, 64)
    with torch.inference_mode():
        before = torch.sigmoid(network(image))
        network.load_state_dict(dequantise(quantise(network.state_dict())))
        change = (torch.sigmoid(network(image)) - before).abs()
    assert 0 < float(change.max()) < 0.03
    assert float(change.mean()) < 0.003


def test_the_loss_minds_small_masses() -> None:
    """An outline three times too large costs about as much around a small mass as around a large one."""
    costs = []
    for side in (6, 18):
        truth, found = torch.zeros(2, 1, 1, 64, 48, 48)
        truth[..., :side, :side, :side] = 1.0
        found[..., : 3 * side, :side, :side] = 1.0
        costs.append(float(fitting.loss(8 * found - 4, truth)[0]))
    assert costs[0] == pytest.approx(costs[1], rel=0.5)


def ball_case(radius: float = 10.0) -> Case:
    z, y, x = np.mgrid[:40, :40, :40]
    mask = (z - 20) ** 2 + (y - 20) ** 2 + (x - 20) ** 2 < radius**2
    return Case("ball", mask.astype(np.float32), mask, Geometry(mask.shape, np.diag([2.0, 1.0, 1.0, 1.0])))


def test_thresholds_are_those_of_the_patients_trained_on() -> None:
    """Two networks of which one outlines too much: the threshold that leaves the truth is taken."""
    case = ball_case()
    wide = ball_case(14.0).mask
    members = np.stack([0.9 * wide, 0.1 + 0.8 * case.mask]).astype(np.float32)
    estimated = Estimate(members.mean(axis=0), case.geometry, members, case.geometry)
    decision = choose_thresholds([(case, estimated)])
    assert dice(estimated.mass(decision.threshold), case.mask) == 1.0
    assert decision.threshold == 0.55  # the wide one alone lifts the mean to 0.5
    assert decision.uncertain_below == pytest.approx(dice(wide, case.mask), abs=1e-3)


def test_the_split_holds_seven_patients_out() -> None:
    names = [f"STS_{i:03}" for i in range(36)]
    train, held_out = sarcoma_collection.split(names)
    assert (len(train), len(held_out)) == (29, 7)
    assert sorted([*train, *held_out]) == names
    assert sarcoma_collection.split(names[::-1]) == (train, held_out)
    assert sorted(name for _, part in sarcoma_collection.folds(names) for name in part) == names


def test_views_move_the_mass_off_the_centre() -> None:
    rng = np.random.default_rng(0)
    image, mask = torch.full((40, 40, 40), 0.5), torch.zeros(40, 40, 40)
    mask[15:25, 15:25, 15:25] = 1.0
    centres = []
    for _ in range(40):
        seen, truth = random_view(image, mask, rng, ViewSettings(size=(56, 48, 40)))
        assert seen.shape == truth.shape == (1, 56, 48, 40)
        if truth.any():
            centres.append(torch.nonzero(truth[0]).float().mean(0).numpy())
    assert np.std(centres, axis=0).min() > 3.0


def test_the_ellipsoid_is_fitted() -> None:
    masks = [ellipsoid((40, 30, 20), (0.6, 0.5)), ellipsoid((20, 30, 30), (0.6, 0.5))]
    assert fit_ellipsoid(masks) == (0.6, 0.5)


def test_scores_of_a_shifted_ball() -> None:
    case = ball_case()
    result = score(case, np.roll(case.mask, 2, axis=0))
    assert result.volume_error == result.long_axis_error == 0
    assert 3.0 <= result.hausdorff95 <= 4.0
    assert result.dice == dice(case.mask, np.roll(case.mask, 2, axis=0)) < 0.95
    small = score(case, ball_case(8.0).mask)
    assert small.long_axis_error == pytest.approx(-4.0, abs=1.0)


def test_outlines_are_drawn(tmp_path: Path) -> None:
    case = ball_case()
    pictures.draw_outlines(case, np.roll(case.mask, 3, axis=1), tmp_path)
    with Image.open(tmp_path / "ball.png") as picture:
        colours = {colour for _, colour in picture.getcolors(100_000)}
        assert picture.size == (3 * 40 * pictures.ENLARGED, 40 * pictures.ENLARGED)
    assert {pictures.TRUE, pictures.FOUND} <= colours
