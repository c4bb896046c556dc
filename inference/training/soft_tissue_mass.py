"""Trains and measures the network of the application `soft_tissue_mass`."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn
from torch.nn import functional

from inference.applications.soft_tissue_mass import preprocessing
from inference.training import card, ellipsoid, phantoms, sarcoma
from inference.training.augmentation import View, view
from inference.training.network import FoldedUNet, Mirrored, Standardised, export
from inference.training.sarcoma import Case
from inference.training.scoring import Mask, Score, false_alarms, score, summary

log = logging.getLogger(__name__)

Predict = Callable[[Case], Mask]


@dataclass(frozen=True)
class Settings:
    iterations: int = 30000
    minutes: float | None = None  # an upper limit; the learning rate then follows the clock where it is ahead
    seed: int = 0
    batch: int = 2
    patch: int = 64  # voxels of preprocessing.SPACING
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    average: float = 0.998  # of the weights, over iterations
    phantom_share: float = 0.3
    recolour: float = 1.0  # of the views, see View
    phantoms: int = 240
    test_phantoms: int = 20
    checkpoint_every: int = 500
    start: str | None = None  # folder of an earlier run whose averaged weights this one goes on from


def run(data: Path | None, out: Path, settings: Settings) -> None:
    """Trains, measures and writes weights.pt, metrics.json and MODEL_CARD.md to `out`.

    With a GPU each of five folds is trained and measured too, and weights.pt is the network of the first fold;
    without, one network is trained on all but the held-out patients. Without `data` there are only phantoms.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cases = {name: sarcoma.load(data, name) for name in sarcoma.patients(data)} if data else {}
    names = list(cases)
    rounds = sarcoma.folds(names) if device.type == "cuda" and names else [sarcoma.split(names)]
    pool = phantoms.training_samples(settings.phantoms, settings.seed)
    reports = []
    for i, (train_names, test_names) in enumerate(rounds):
        folder = out if i == 0 else out / f"fold{i}"
        folder.mkdir(exist_ok=True)
        started = time.monotonic()
        samples = [phantoms.sample(cases[name]) for name in train_names]
        network, done = train(samples, pool, settings, device, folder)
        minutes = (time.monotonic() - started) / 60
        export(network, folder / "weights.pt", settings.patch)
        measured = measure(network, [cases[n] for n in train_names], [cases[n] for n in test_names], settings, device)
        reports.append(
            {"trained_on": train_names, "held_out": test_names, "iterations": done, "minutes": round(minutes, 1)}
            | measured
        )
        metrics = {"settings": asdict(settings), "device": device.type, "rounds": reports, "before": _before(settings)}
        (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
        parameters = sum(parameter.numel() for parameter in network.parameters())
        (out / "MODEL_CARD.md").write_text(card.write(metrics, parameters))


def train(
    samples: Sequence[phantoms.Sample], pool: Sequence[phantoms.Sample], settings: Settings, device: torch.device,
    folder: Path,
) -> tuple[nn.Module, int]:  # fmt: skip
    """The network with averaged weights, and how many iterations it had. Logs to `folder`/log.jsonl."""
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    network = Standardised(FoldedUNet())
    if settings.start:
        network.load_state_dict(torch.load(Path(settings.start) / "checkpoint.pt", weights_only=True))
    network = network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    averaged = deepcopy(network).eval()
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    sources = [[_tensors(s, device) for s in group] for group in (samples, pool)]
    share = settings.phantom_share if samples else 1.0
    how = View(size=settings.patch, recolour=settings.recolour)
    started = time.monotonic()
    recent: list[tuple[float, float]] = []
    iteration = 0
    with (folder / "log.jsonl").open("w") as lines:
        while True:
            progress = _progress(iteration, time.monotonic() - started, settings)
            if progress >= 1.0:
                break
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * _schedule(progress, iteration)
            views = []
            for _ in range(settings.batch):
                source = sources[1] if rng.uniform() < share else sources[0]
                seen, mask = source[int(rng.integers(len(source)))]
                views.append(view(seen, mask, rng, how))
            image, truth = (torch.stack(part).contiguous() for part in zip(*views, strict=True))
            # bfloat16 triples the speed on processors that have it; averaged weights stay in single precision.
            with torch.autocast(device.type, torch.bfloat16):
                logits = network(image.contiguous(memory_format=torch.channels_last_3d))
            loss, overlap = _loss(logits.float(), truth)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
            iteration += 1
            _average(averaged, network, min(settings.average, iteration / (iteration + 10)))
            recent.append((float(loss.detach()), overlap))
            if iteration % 50 == 0:
                means = np.mean(recent, axis=0)
                recent.clear()
                line = {"iteration": iteration, "seconds": round(time.monotonic() - started, 1),
                        "loss": round(float(means[0]), 4), "soft_dice": round(float(means[1]), 4)}  # fmt: skip
                lines.write(json.dumps(line) + "\n")
                lines.flush()
                log.info("iteration %(iteration)d  loss %(loss).3f  soft Dice %(soft_dice).3f", line)
            if iteration % settings.checkpoint_every == 0:
                torch.save(averaged.state_dict(), folder / "checkpoint.pt")
    torch.save(averaged.state_dict(), folder / "checkpoint.pt")
    return averaged, iteration


def measure(
    network: nn.Module, train_cases: Sequence[Case], test_cases: Sequence[Case], settings: Settings,
    device: torch.device,
) -> dict[str, object]:  # fmt: skip
    """Scores on held-out patients and phantoms, with the ellipsoid beside them.

    "off_centre" are the same held-out patients with the crop cut so that the mass is no longer in the middle.
    """
    predict = predictor(network, settings.patch, device)
    seeds = range(phantoms.FIRST_TEST_SEED, phantoms.FIRST_TEST_SEED + settings.test_phantoms)
    result: dict[str, object] = {
        "phantoms": summary(_scores([phantoms.case(seed) for seed in seeds], predict)),
        "phantoms_shifted": summary(_scores([phantoms.shifted(seed) for seed in seeds], predict)),
        "healthy": false_alarms([_volume_ml(c, predict) for c in map(phantoms.healthy, seeds)]),
    }
    if test_cases:
        fractions = ellipsoid.fit([phantoms.sample(c).mask >= 0.5 for c in train_cases])
        shifted = [off_centre(c) for c in test_cases]

        def blind(c: Case) -> Mask:
            return ellipsoid.ellipsoid(c.geometry.shape, fractions)

        result |= {
            "patients": summary(_scores(test_cases, predict)),
            "patients_ellipsoid": summary(_scores(test_cases, blind)),
            "patients_off_centre": summary(_scores(shifted, predict)),
            "patients_off_centre_ellipsoid": summary(_scores(shifted, blind)),
            "patients_trained_on": summary(_scores(train_cases, predict)),
            "ellipsoid_fractions": fractions,
        }
    return result


def predictor(network: nn.Module, patch: int, device: torch.device) -> Predict:
    """Segments a case exactly as the application does."""
    model = Mirrored(network).eval()

    @torch.inference_mode()
    def predict(case: Case) -> Mask:
        prepared = preprocessing.prepare(case.array, case.geometry)
        image = torch.from_numpy(prepared.array)[None, None].to(device)
        with torch.autocast(device.type, enabled=False):
            logits = sliding_window_inference(image, (patch,) * 3, 1, model, overlap=0.5, mode="gaussian")
        assert isinstance(logits, Tensor)
        probability = torch.sigmoid(logits)[0, 0].cpu().numpy()
        return preprocessing.mass(preprocessing.restore(probability, prepared, case.geometry), case.geometry)

    return predict


def off_centre(case: Case) -> Case:
    """The case without three quarters of what lies before the mass, along every axis."""
    start = [int(0.75 * np.flatnonzero(case.mask.any(axis=tuple({0, 1, 2} - {axis})))[0]) for axis in range(3)]
    a, b, c = (slice(n, None) for n in start)
    affine = case.geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array(start, dtype=np.float64)
    array = case.array[a, b, c]
    shape = (array.shape[0], array.shape[1], array.shape[2])
    return Case(case.name, array, case.mask[a, b, c], type(case.geometry)(shape, affine))


def _before(settings: Settings) -> dict[str, object] | None:
    """The metrics of the run that this one goes on from."""
    path = Path(settings.start or "") / "metrics.json"
    earlier: dict[str, object] | None = json.loads(path.read_text()) if settings.start and path.is_file() else None
    return earlier


def _scores(cases: Sequence[Case], predict: Predict) -> list[Score]:
    return [score(c.name, predict(c), c.mask, c.geometry.spacing) for c in cases]


def _volume_ml(case: Case, predict: Predict) -> float:
    return float(predict(case).sum()) * float(np.prod(case.geometry.spacing)) / 1000


def _tensors(sample: phantoms.Sample, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(sample.image).to(device), torch.from_numpy(sample.mask).to(device)


def _progress(iteration: int, seconds: float, settings: Settings) -> float:
    by_clock = seconds / (60 * settings.minutes) if settings.minutes else 0.0
    return max(iteration / settings.iterations, by_clock)


def _schedule(progress: float, iteration: int) -> float:
    """A short rise, then the falling half of a cosine."""
    return min(1.0, (iteration + 1) / 100) * max(0.5 * (1 + np.cos(np.pi * progress)), 1e-3)


def _loss(logits: Tensor, truth: Tensor) -> tuple[Tensor, float]:
    """Cross-entropy plus soft Dice loss, both averaged over the batch; and the soft Dice."""
    probability = torch.sigmoid(logits)
    axes = (1, 2, 3, 4)
    overlap = (2 * (probability * truth).sum(axes) + 10.0) / (probability.sum(axes) + truth.sum(axes) + 10.0)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth)
    return entropy + 1 - overlap.mean(), float(overlap.mean().detach())


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, keep: float) -> None:
    for mean, now in zip(averaged.parameters(), network.parameters(), strict=True):
        mean.lerp_(now, 1 - keep)
