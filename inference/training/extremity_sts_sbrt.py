"""Trains and measures the network of the application `extremity_sts_sbrt`, on simulated limbs alone."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.applications.extremity_sts_sbrt.network import SliceUNet
from inference.quantisation import quantise
from inference.training import limbs, provenance
from inference.training.fitting import Fitted, Schedule, fit

BATCH = 4  # views


@dataclass(frozen=True)
class Settings:
    """`phantoms` limbs are learned from; so many patients of each test set are measured, at two time points each."""

    iterations: int = 2400
    minutes: float | None = None
    seed: int = 0
    learning_rate: float = 1.5e-3
    phantoms: int = 96
    patients: int = 30


def run(
    data: Path | None, out: Path, settings: Settings, only: int | None = None, drawings: Path | None = None
) -> None:
    """Trains, measures and writes weights.pt, metrics.json and MODEL_CARD.md to `out`. There is no other data than
    phantoms: `data` is not read. With `only` it trains and stops. What was done before is gone on from."""
    fitted = train(out, settings)


def train(out: Path, settings: Settings) -> Fitted:
    """The network, fitted to views of the limbs in `out`/pool, which are rendered where they are not there yet."""
    folder = out / "network"
    folder.mkdir(parents=True, exist_ok=True)
    cases = limbs.pool(out / "pool", settings.phantoms, settings.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings.seed)
    schedule = Schedule(
        iterations=settings.iterations,
        minutes=settings.minutes,
        seed=settings.seed,
        batch=BATCH,
        learning_rate=settings.learning_rate,
        average=0.995,
        checkpoint_every=50,
    )

    def draw(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        image, truth = limbs.view(cases[int(rng.integers(len(cases)))], rng)
        return image.to(device), truth.to(device)

    return fit(SliceUNet(), draw, schedule, device, folder, _hash(cases))


def _hash(cases: list[limbs.Case]) -> str:
    digest = hashlib.sha256()
    for case in cases:
        digest.update(case.image.tobytes())
        digest.update(case.truth.tobytes())
    return digest.hexdigest()
