"""Trains and measures the network of the application `extremity_sts_sbrt`, on simulated limbs alone."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.applications.extremity_sts_sbrt.network import SliceUNet
from inference.engine import Engine
from inference.manifest import file_sha256
from inference.phantoms.limb_study import HELD_OUT_SEEDS, SHIFTED_SEEDS
from inference.phantoms.scene import SHIFTED, STANDARD, Scanner
from inference.quantisation import quantise
from inference.training import extremity_card, extremity_scoring, limbs, provenance
from inference.training.fitting import Fitted, Schedule, fit

BATCH = 4  # views
SETS = (("held_out", HELD_OUT_SEEDS, STANDARD), ("shifted", SHIFTED_SEEDS, SHIFTED))
log = logging.getLogger(__name__)


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
    phantoms: `data` is not read. `only` trains and stops. What was done before is gone on from. Outlines of the
    held-out limbs are drawn into `drawings`."""
    cases = limbs.pool(out / "pool", settings.phantoms, settings.seed)
    fitted = train(cases, out, settings)
    if only is not None:
        return
    state = fitted.network.cpu().state_dict()
    weights = out / "weights.pt"
    torch.save(quantise(state), weights)
    metrics: dict[str, Any] = {
        "command": _command(settings),
        "iterations": fitted.iterations,
        "minutes": round(fitted.minutes, 1),
        "parameters": sum(held.numel() for held in state.values()),
        "settings": asdict(settings),
        "data_sha256": limbs.data_hash(cases),
        "versions": provenance.versions(),
    }
    for name, seeds, scanner in SETS:
        metrics[name] = measured(weights, seeds[: settings.patients], scanner, out / "measured" / name, drawings)
        (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    (out / "MODEL_CARD.md").write_text(extremity_card.write(metrics))


def measured(
    weights: Path, seeds: Sequence[int], scanner: Scanner, folder: Path, drawings: Path | None
) -> list[dict[str, Any]]:
    """What `extremity_scoring.patient` finds of each limb; what `folder` holds of these weights is read."""
    folder.mkdir(parents=True, exist_ok=True)
    sha256 = file_sha256(weights)
    engine = Engine("cuda" if torch.cuda.is_available() else "cpu")
    network = engine.load_state(SliceUNet, weights, sha256)
    rows = []
    for seed in seeds:
        path = folder / f"{seed}-{sha256[:16]}.json"
        if not path.is_file():
            row = extremity_scoring.patient(seed, scanner, lambda image: engine.whole(network, image), drawings)
            path.write_text(json.dumps(row))
            log.info("%s: %s", folder.name, row)
        rows.append(json.loads(path.read_text()))
    return rows


def train(cases: Sequence[limbs.Case], out: Path, settings: Settings) -> Fitted:
    folder = out / "network"
    folder.mkdir(parents=True, exist_ok=True)
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

    return fit(SliceUNet(), draw, schedule, device, folder, limbs.data_hash(cases))


def _command(settings: Settings) -> str:
    """What trains this again: the options that are not the defaults."""
    changed = {f.name: getattr(settings, f.name) for f in fields(settings) if getattr(settings, f.name) != f.default}
    options = [f"--{name.replace('_', '-')} {value}" for name, value in changed.items()]
    return " ".join(["python -m inference.training extremity_sts_sbrt --out OUT", *options])
