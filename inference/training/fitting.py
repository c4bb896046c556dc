"""The loop that fits a network to random views of cases, which the training of every application shares."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

log = logging.getLogger(__name__)

LOG_EVERY = 50
ENTROPY_WEIGHT = 0.5
ENTROPY_VOXELS = 2000.0  # 54 mL of 3 mm voxels: added to the size of the mass, so that a view may have none
DICE_VOXELS = 10.0


@dataclass(frozen=True)
class Schedule:
    """The length and the parameters of the fit of one network."""

    iterations: int = 30000
    minutes: float | None = None  # an upper limit; the learning rate follows the clock if that is ahead
    seed: int = 0
    batch: int = 2
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    average: float = 0.998  # of the weights, over iterations
    checkpoint_every: int = 250


class DrawView(Protocol):
    """A source of training views: image and truth, each [channel, slice, row, column]."""

    def __call__(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, eq=False)
class Fitted:
    """The network with averaged weights, and the length of its fit."""

    network: nn.Module
    iterations: int
    minutes: float


@dataclass
class FitState:
    """The state of a fit, from which an interrupted run goes on as if it had not been interrupted."""

    network: nn.Module
    averaged: nn.Module
    optimiser: torch.optim.Optimizer
    rng: np.random.Generator
    iteration: int = 0
    seconds: float = 0.0

    def save(self, path: Path, plan: str) -> None:
        """Write the checkpoint of the run that `plan` identifies."""
        held = {
            "plan": plan,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": json.dumps(self.rng.bit_generator.state),
            "iteration": self.iteration,
            "seconds": self.seconds,
        }
        # The file is replaced at once, so that a run that is killed while it writes keeps its last checkpoint.
        torch.save(held, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def load(self, path: Path, plan: str) -> None:
        """Read a checkpoint. Raises ValueError if it is that of a run with another plan."""
        held = torch.load(path, weights_only=True)
        if held["plan"] != plan:
            raise ValueError(f"{path} is the checkpoint of a run with other settings or data; choose another --out")
        self.network.load_state_dict(held["network"])
        self.averaged.load_state_dict(held["averaged"])
        self.optimiser.load_state_dict(held["optimiser"])
        self.rng.bit_generator.state = json.loads(held["rng"])
        self.iteration, self.seconds = held["iteration"], held["seconds"]


def fit_network(
    network: nn.Module, draw: DrawView, schedule: Schedule, device: torch.device, folder: Path, data: str
) -> Fitted:
    """Fit `network` to the views of `draw`; `data` identifies everything on which these views depend.

    The fit writes log.jsonl and checkpoint.pt into `folder`, and goes on from the checkpoint if there is one. Raises
    ValueError if the checkpoint belongs to another schedule or other `data`.
    """
    plan = hashlib.sha256(json.dumps([asdict(schedule), data]).encode()).hexdigest()
    network = network.to(device)
    optimiser = torch.optim.AdamW(network.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay)
    state = FitState(network, deepcopy(network).eval(), optimiser, np.random.default_rng(schedule.seed))
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.is_file():
        state.load(checkpoint, plan)
        log.info("The fit goes on from iteration %d.", state.iteration)
    started = time.monotonic() - state.seconds
    recent: list[tuple[float, float]] = []
    with (folder / "log.jsonl").open("a" if state.iteration else "w") as lines:
        while (progress := _progress(state, schedule)) < 1.0:
            for group in optimiser.param_groups:
                group["lr"] = schedule.learning_rate * _rate(progress, state.iteration)
            recent.append(_step(state, draw, schedule, device))
            state.iteration += 1
            state.seconds = time.monotonic() - started
            if state.iteration % LOG_EVERY == 0:
                lines.write(json.dumps(_line(state, recent, progress)) + "\n")
                lines.flush()
                recent.clear()
            if state.iteration % schedule.checkpoint_every == 0:
                state.save(checkpoint, plan)
    state.save(checkpoint, plan)
    return Fitted(state.averaged, state.iteration, state.seconds / 60)


def _step(state: FitState, draw: DrawView, schedule: Schedule, device: torch.device) -> tuple[float, float]:
    """Take one step of the optimiser. Return its loss and its soft Dice."""
    views = [draw(state.rng) for _ in range(schedule.batch)]
    image, truth = (torch.stack(part).contiguous() for part in zip(*views, strict=True))
    # On processors that have bfloat16 it triples the speed. Averaged weights stay in single precision.
    with torch.autocast(device.type, torch.bfloat16):
        logits = state.network(image)
    value, overlap = loss(logits.float(), truth)
    state.optimiser.zero_grad(set_to_none=True)
    value.backward()
    nn.utils.clip_grad_norm_(state.network.parameters(), 5.0)
    state.optimiser.step()
    _average(state.averaged, state.network, min(schedule.average, (state.iteration + 1) / (state.iteration + 11)))
    return float(value.detach()), float(overlap.detach())


def loss(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return soft Dice loss plus cross-entropy, and the soft Dice, of [batch, channel, slice, row, column].

    The cross-entropy of a view is relative to the size of its mass. So an outline three times too large costs the same
    for a small mass as for a large one. If it were averaged over all voxels, it would cost next to nothing for a small
    mass.
    """
    probability = torch.sigmoid(logits)
    axes = (2, 3, 4)
    size = truth.sum(axes)
    overlap = (2 * (probability * truth).sum(axes) + DICE_VOXELS) / (probability.sum(axes) + size + DICE_VOXELS)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(axes)
    relative = (entropy / (size + ENTROPY_VOXELS)).mean()
    return 1 - overlap.mean() + ENTROPY_WEIGHT * relative, overlap.mean()


def _progress(state: FitState, schedule: Schedule) -> float:
    by_clock = state.seconds / (60 * schedule.minutes) if schedule.minutes else 0.0
    return max(state.iteration / schedule.iterations, by_clock)


def _rate(progress: float, iteration: int) -> float:
    """Return the factor to the learning rate: a short rise, then the falling half of a cosine."""
    return float(min(1.0, (iteration + 1) / 100) * max(0.5 * (1 + np.cos(np.pi * progress)), 1e-3))


def _line(state: FitState, recent: Sequence[tuple[float, float]], progress: float) -> dict[str, Any]:
    value, overlap = np.mean(recent, axis=0)
    line = {
        "iteration": state.iteration, "seconds": round(state.seconds, 1), "loss": round(float(value), 4),
        "soft_dice": round(float(overlap), 4),
    }  # fmt: skip
    left = state.seconds / 60 * (1 / max(progress, 1e-6) - 1)
    log.info("%3.0f %% are done: iteration %d, loss %.3f, soft Dice %.3f, %.0f min left.",
             100 * progress, state.iteration, value, overlap, left)  # fmt: skip
    return line


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, keep: float) -> None:
    for mean, now in zip(averaged.parameters(), network.parameters(), strict=True):
        mean.lerp_(now, 1 - keep)
