"""Fits one network to random views of cases: the loop that every application's training shares."""

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
ENTROPY_VOXELS = 2000.0  # 54 mL of 3 mm voxels: what a view without a mass counts as
DICE_VOXELS = 10.0


@dataclass(frozen=True)
class Schedule:
    """How long one network is fitted, and how."""

    iterations: int = 30000
    minutes: float | None = None  # an upper limit; the learning rate then follows the clock where it is ahead
    seed: int = 0
    batch: int = 2
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    average: float = 0.998  # of the weights, over iterations
    checkpoint_every: int = 250


class Views(Protocol):
    """Draws one training view: image and truth, each [channel, slice, row, column]."""

    def __call__(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, eq=False)
class Fitted:
    """The network with averaged weights, and what it took."""

    network: nn.Module
    iterations: int
    minutes: float


@dataclass
class State:
    """Everything a run that was interrupted needs to go on as if it had not been."""

    network: nn.Module
    averaged: nn.Module
    optimiser: torch.optim.Optimizer
    rng: np.random.Generator
    iteration: int = 0
    seconds: float = 0.0

    def save(self, path: Path, plan: str) -> None:
        held = {
            "plan": plan,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": json.dumps(self.rng.bit_generator.state),
            "iteration": self.iteration,
            "seconds": self.seconds,
        }
        # A run that is killed while it writes keeps its last checkpoint.
        torch.save(held, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def load(self, path: Path, plan: str) -> None:
        """Raises ValueError where the checkpoint is that of another run."""
        held = torch.load(path, weights_only=True)
        if held["plan"] != plan:
            raise ValueError(f"{path} is the checkpoint of a run with other settings or data; choose another --out")
        self.network.load_state_dict(held["network"])
        self.averaged.load_state_dict(held["averaged"])
        self.optimiser.load_state_dict(held["optimiser"])
        self.rng.bit_generator.state = json.loads(held["rng"])
        self.iteration, self.seconds = held["iteration"], held["seconds"]


def fit(network: nn.Module, draw: Views, schedule: Schedule, device: torch.device, folder: Path, data: str) -> Fitted:
    """Fits `network` to what `draw` draws; `data` names all that this depends on.

    Writes `folder`/log.jsonl and `folder`/checkpoint.pt, and goes on from that checkpoint where it is of the same
    schedule and `data`. Raises ValueError where it is not.
    """
    plan = hashlib.sha256(json.dumps([asdict(schedule), data]).encode()).hexdigest()
    network = network.to(device)
    optimiser = torch.optim.AdamW(network.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay)
    state = State(network, deepcopy(network).eval(), optimiser, np.random.default_rng(schedule.seed))
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.is_file():
        state.load(checkpoint, plan)
        log.info("goes on from iteration %d", state.iteration)
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


def _step(state: State, draw: Views, schedule: Schedule, device: torch.device) -> tuple[float, float]:
    """One step of the optimiser; its loss and soft Dice."""
    views = [draw(state.rng) for _ in range(schedule.batch)]
    image, truth = (torch.stack(part).contiguous() for part in zip(*views, strict=True))
    # bfloat16 triples the speed on processors that have it; averaged weights stay in single precision.
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
    """Soft Dice loss plus cross-entropy, and the soft Dice. Both are [batch, channel, slice, row, column].

    The cross-entropy of a view is relative to the size of its mass, so that an outline of a small mass that is three
    times too large costs as much as that of a large one: averaged over all voxels it would cost next to nothing.
    """
    probability = torch.sigmoid(logits)
    axes = (2, 3, 4)
    size = truth.sum(axes)
    overlap = (2 * (probability * truth).sum(axes) + DICE_VOXELS) / (probability.sum(axes) + size + DICE_VOXELS)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(axes)
    relative = (entropy / (size + ENTROPY_VOXELS)).mean()
    return 1 - overlap.mean() + ENTROPY_WEIGHT * relative, overlap.mean()


def _progress(state: State, schedule: Schedule) -> float:
    by_clock = state.seconds / (60 * schedule.minutes) if schedule.minutes else 0.0
    return max(state.iteration / schedule.iterations, by_clock)


def _rate(progress: float, iteration: int) -> float:
    """A short rise, then the falling half of a cosine."""
    return float(min(1.0, (iteration + 1) / 100) * max(0.5 * (1 + np.cos(np.pi * progress)), 1e-3))


def _line(state: State, recent: Sequence[tuple[float, float]], progress: float) -> dict[str, Any]:
    value, overlap = np.mean(recent, axis=0)
    line = {
        "iteration": state.iteration, "seconds": round(state.seconds, 1), "loss": round(float(value), 4),
        "soft_dice": round(float(overlap), 4),
    }  # fmt: skip
    left = state.seconds / 60 * (1 / max(progress, 1e-6) - 1)
    log.info("%3.0f %%  iteration %d  loss %.3f  soft Dice %.3f  %.0f min left",
             100 * progress, state.iteration, value, overlap, left)  # fmt: skip
    return line


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, keep: float) -> None:
    for mean, now in zip(averaged.parameters(), network.parameters(), strict=True):
        mean.lerp_(now, 1 - keep)
