"""Train and measure the network of the application `extremity_sts_sbrt`, on simulated limbs alone."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
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
from inference.phantoms.signals import SHIFTED, STANDARD, Scanner
from inference.training import provenance
from inference.training.extremity_sts_sbrt.card import extremity_sts_sbrt_card
from inference.training.extremity_sts_sbrt.limb_cases import LimbCase, hash_limb_cases, limb_pool, random_slab
from inference.training.extremity_sts_sbrt.scoring import SERIES, false_mass_ml, measure_limb, summarise_limbs
from inference.training.fitting import Fitted, Schedule, fit_network
from inference.training.scoring import false_alarms

BATCH = 4  # slabs


@dataclass(frozen=True)
class LimbSet:
    """A set of limbs for measuring: their seeds and scanner, their series, and the part of the set that is used."""

    name: str
    seeds: range
    scanner: Scanner
    series: tuple[str, ...]
    part: float


SETS = (
    LimbSet("held_out", HELD_OUT_SEEDS, STANDARD, SERIES, 1.0),
    LimbSet("required_only", HELD_OUT_SEEDS, STANDARD, REQUIRED, 0.5),
    LimbSet("shifted", SHIFTED_SEEDS, SHIFTED, SERIES, 1.0),
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """The settings of a run: `phantoms` limbs are trained on, and `patients` limbs of each test set are measured."""

    iterations: int = 3200
    minutes: float | None = None
    seed: int = 0
    learning_rate: float = 1.5e-3
    phantoms: int = 192
    patients: int = 40


def run(
    data: Path | None, out: Path, settings: Settings, only: int | None = None, drawings: Path | None = None
) -> None:
    """Train and measure the network, and write weights.pt, metrics.json and MODEL_CARD.md to `out`.

    All data are phantoms, and `data` is not read. `only` ends the run after training. An interrupted run continues
    where it stopped. Outlines of the held-out limbs are drawn into `drawings`.
    """
    cases = limb_pool(out / "pool", settings.phantoms, settings.seed)
    fitted = train(cases, out, settings)
    if only is not None:
        return
    state = fitted.network.cpu().state_dict()
    weights = out / "weights.pt"
    torch.save(quantise(state), weights)
    options = provenance.changed_options(settings)
    metrics: dict[str, Any] = {
        "command": " ".join(["python -m inference.training extremity_sts_sbrt --out OUT", *options]),
        "iterations": fitted.iterations,
        "batch": BATCH,
        "minutes": round(fitted.minutes, 1),
        "parameters": sum(p.numel() for p in fitted.network.parameters()),
        "settings": asdict(settings),
        "data_sha256": hash_limb_cases(cases),
        "versions": provenance.versions(),
    }
    infer = load_inference(weights)
    folder = out / "measured" / file_sha256(weights)[:16]
    for one in SETS:
        measure = partial(measure_limb, scanner=one.scanner, series=one.series, infer=infer, drawings=drawings)
        metrics[one.name] = summarise_limbs(
            measure_once(measure, one.seeds[: round(one.part * settings.patients)], folder / one.name)
        )
    healthy = HELD_OUT_SEEDS[: settings.patients // 2]
    for name, series in (("false_masses", SERIES), ("false_masses_required_only", REQUIRED)):
        volumes = measure_once(partial(false_mass_ml, series=series, infer=infer), healthy, folder / name)
        metrics[name] = false_alarms(volumes)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    (out / "MODEL_CARD.md").write_text(extremity_sts_sbrt_card(metrics))


def load_inference(weights: Path) -> SliceInference:
    """Load the network from a file of weights. It then runs exactly as in the application."""
    engine = TorchEngine("cuda" if torch.cuda.is_available() else "cpu")
    network = engine.load_state(SliceUNet, weights, file_sha256(weights))
    return lambda image: engine.whole(network, image)


def measure_once(measure: Callable[[int], Any], seeds: Sequence[int], folder: Path) -> list[Any]:
    """Return the result of `measure` for each limb. Results are kept in `folder`, and read from there afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in seeds:
        path = folder / f"{seed}.json"
        if not path.is_file():
            path.write_text(json.dumps(measure(seed)))
            log.info("Limb %d of the set %s is measured.", seed, folder.name)
        found.append(json.loads(path.read_text()))
    return found


def train(cases: Sequence[LimbCase], out: Path, settings: Settings) -> Fitted:
    """Fit the network to random slabs of the cases."""
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
        image, truth = random_slab(cases[int(rng.integers(len(cases)))], rng)
        return image.to(device), truth.to(device)

    return fit_network(SliceUNet(), draw, schedule, device, folder, hash_limb_cases(cases))
