"""Trains and measures the network of the application `extremity_sts_sbrt`, on simulated limbs alone."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.applications.extremity_sts_sbrt.examination import REQUIRED, SliceInference
from inference.applications.extremity_sts_sbrt.network import SliceUNet
from inference.contract.manifest import file_sha256
from inference.engine.models import TorchEngine
from inference.engine.quantisation import quantise
from inference.phantoms.limb.study import HELD_OUT_SEEDS, SHIFTED_SEEDS
from inference.phantoms.signals import SHIFTED, STANDARD
from inference.training import provenance
from inference.training.extremity_sts_sbrt import card as extremity_card
from inference.training.extremity_sts_sbrt import limbs
from inference.training.extremity_sts_sbrt import scoring as extremity_scoring
from inference.training.fitting import Fitted, Schedule, fit

BATCH = 4  # views
# Name, limbs, their scanner, the series that are there, and the part of the limbs that is measured.
SETS = (
    ("held_out", HELD_OUT_SEEDS, STANDARD, extremity_scoring.SERIES, 1.0),
    ("least", HELD_OUT_SEEDS, STANDARD, REQUIRED, 0.5),
    ("shifted", SHIFTED_SEEDS, SHIFTED, extremity_scoring.SERIES, 1.0),
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """`phantoms` limbs are learned from; so many patients of each test set are measured, at two time points each."""

    iterations: int = 3200
    minutes: float | None = None
    seed: int = 0
    learning_rate: float = 1.5e-3
    phantoms: int = 192
    patients: int = 40


def run(
    data: Path | None, out: Path, settings: Settings, only: int | None = None, drawings: Path | None = None
) -> None:
    """Trains, measures and writes weights.pt, metrics.json and MODEL_CARD.md to `out`. There is no other data than
    phantoms: `data` is not read. `only` trains and stops. What was done before is gone on from. Outlines of the
    held-out limbs are drawn into `drawings`.
    """
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
        "parameters": sum(p.numel() for p in fitted.network.parameters()),
        "settings": asdict(settings),
        "data_sha256": limbs.data_hash(cases),
        "versions": provenance.versions(),
    }
    infer = predictor(weights)
    folder = out / "measured" / file_sha256(weights)[:16]
    for name, seeds, scanner, series, part in SETS:
        score = partial(extremity_scoring.patient, scanner=scanner, series=series, infer=infer, drawings=drawings)
        metrics[name] = measured(score, seeds[: round(part * settings.patients)], folder / name)
    healthy = HELD_OUT_SEEDS[: settings.patients // 2]
    for name, series in (("false_masses", extremity_scoring.SERIES), ("false_masses_least", REQUIRED)):
        metrics[name] = measured(
            partial(extremity_scoring.false_mass, series=series, infer=infer), healthy, folder / name
        )
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    (out / "MODEL_CARD.md").write_text(extremity_card.write(metrics))


def predictor(weights: Path) -> SliceInference:
    """The network of a file of weights, exactly as the application runs it."""
    engine = TorchEngine("cuda" if torch.cuda.is_available() else "cpu")
    network = engine.load_state(SliceUNet, weights, file_sha256(weights))
    return lambda image: engine.whole(network, image)


def measured(score: Callable[[int], Any], seeds: Sequence[int], folder: Path) -> list[Any]:
    """What `score` says of each limb; what `folder` holds already is read."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in seeds:
        path = folder / f"{seed}.json"
        if not path.is_file():
            path.write_text(json.dumps(score(seed)))
            log.info("%s: limb %d measured", folder.name, seed)
        found.append(json.loads(path.read_text()))
    return found


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
