"""Train the ensemble of the application `soft_tissue_mass`, and write its weights, metrics and model card."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.applications.soft_tissue_mass.outline import TRAINING_VIEW
from inference.contract.manifest import file_sha256
from inference.engine.networks import Ensemble, FoldedUNet, Standardised
from inference.engine.quantisation import dequantise, quantise
from inference.training import provenance, sarcoma_collection
from inference.training.cases import Case
from inference.training.fitting import DrawView, Fitted, Schedule, fit_network
from inference.training.soft_tissue_mass import phantom_cases
from inference.training.soft_tissue_mass.augmentation import ViewSettings, random_view
from inference.training.soft_tissue_mass.card import soft_tissue_mass_card
from inference.training.soft_tissue_mass.scoring import (
    ensemble_predictor,
    load_ensemble,
    measure_ensemble,
    rounding_error,
)


@dataclass(frozen=True)
class Settings:
    """The settings of a run.

    `start` is a file of earlier weights from which every member is trained further, each with its own seed.
    """

    members: int = 2
    iterations: int = 30000
    minutes: float | None = None  # for each member
    seed: int = 0  # of the first member; each has its own
    learning_rate: float = 1e-3
    phantom_share: float = 0.2
    recolour: float = 0.6  # see ViewSettings
    phantoms: int = 240
    test_phantoms: int = 20
    start: Path | None = None


def run(
    data: Path | None, out: Path, settings: Settings, only: int | None = None, drawings: Path | None = None
) -> None:
    """Train and measure the ensemble, and write weights.pt, metrics.json and MODEL_CARD.md to `out`.

    With a GPU each of five folds is trained and measured, and weights.pt is the ensemble of the first fold. Without a
    GPU one ensemble is trained on all patients but the held-out ones. Without `data` only phantoms are used. `only`
    trains one member and stops, so that several processes can share the work. Trained members are used again, and the
    training of an interrupted member continues. Outlines of the held-out patients are drawn into `drawings`.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = sarcoma_collection.patients(data) if data else []
    cases = {name: sarcoma_collection.load_patient(data, name) for name in names} if data else {}
    rounds = sarcoma_collection.folds(names) if device.type == "cuda" and names else [sarcoma_collection.split(names)]
    options = provenance.changed_options(settings)
    metrics: dict[str, Any] = {
        "command": " ".join(
            ["python -m inference.training soft_tissue_mass --data FOLDER --out OUT \\\n   ", *options]
        ),
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()},
        "start": describe_start(settings.start) if settings.start else None,
        "data_sha256": provenance.hash_cases(cases.values()),
        "versions": provenance.versions(),
        "device": device.type,
        "rounds": [],
    }
    for i, (train_names, test_names) in enumerate(rounds):
        folder = out if i == 0 else out / f"fold{i}"
        train_cases, test_cases = [cases[n] for n in train_names], [cases[n] for n in test_names]
        chosen = range(settings.members) if only is None else [only]
        members = {j: train_member(train_cases, settings, j, device, folder / f"member{j}") for j in chosen}
        if only is not None:
            continue
        networks = Ensemble(member.network for member in members.values()).cpu()
        torch.save(quantise(networks.state_dict()), folder / "weights.pt")
        predict = ensemble_predictor(load_ensemble(folder / "weights.pt", settings.members), device)
        told = [{"iterations": m.iterations, "minutes": round(m.minutes, 1)} for m in members.values()]
        metrics["parameters"] = sum(held.numel() for held in networks.parameters())
        metrics["rounds"].append(
            {"trained_on": train_names, "held_out": test_names, "members": told}
            | {"rounding": rounding_error(ensemble_predictor(networks, device), predict, train_cases)}
            | measure_ensemble(predict, train_cases, test_cases, settings.test_phantoms, drawings)
        )
        (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
        (out / "MODEL_CARD.md").write_text(soft_tissue_mass_card(metrics))


def describe_start(weights: Path) -> Mapping[str, Any]:
    """Return the hash of earlier weights, and the results of their run if its metrics.json lies beside them."""
    sha256, beside = file_sha256(weights), weights.with_name("metrics.json")
    if not beside.is_file():
        return {"sha256": sha256}
    earlier = json.loads(beside.read_text())
    first = earlier["rounds"][0]
    keys = ("dice_mean", "volume_error_percent_absolute_mean")
    return {
        "sha256": sha256,
        "iterations": sum(member["iterations"] for member in first["members"]),
        "minutes": sum(member["minutes"] for member in first["members"]),
        "device": earlier["device"],
        **{
            name: {key: first[name][key] for key in keys}
            for name in ("patients_trained_on", "patients", "patients_off_centre")
            if name in first
        },
    }


def train_member(cases: Sequence[Case], settings: Settings, number: int, device: torch.device, folder: Path) -> Fitted:
    """Train one network of the ensemble, with its own seed and its own phantoms."""
    folder.mkdir(parents=True, exist_ok=True)
    seed, start = settings.seed + number, settings.start
    torch.manual_seed(seed)
    network = Standardised(FoldedUNet())
    if start:
        network.load_state_dict(read_member_weights(start, number))
    schedule = Schedule(
        iterations=settings.iterations,
        minutes=settings.minutes,
        seed=seed,
        learning_rate=settings.learning_rate,
    )
    data = [provenance.hash_cases(cases), file_sha256(start) if start else ""]
    data += [f"{settings.phantom_share} {settings.recolour} {settings.phantoms}"]
    return fit_network(network, _views(cases, settings, seed, device), schedule, device, folder, " ".join(data))


def read_member_weights(path: Path, number: int) -> dict[str, Tensor]:
    """Read the weights of one member. Files up to version 1.1 hold a single network, in TorchScript."""
    try:
        state, prefix = torch.jit.load(str(path)).float().state_dict(), "network."
    except RuntimeError:
        state, prefix = dequantise(torch.load(path, weights_only=True)), f"members.{number}."
    return {key.removeprefix(prefix): held for key, held in state.items() if key.startswith(prefix)}


def _views(cases: Sequence[Case], settings: Settings, seed: int, device: torch.device) -> DrawView:
    """Return a source of views of the patients and, at the rate of `phantom_share`, of the phantoms of this seed.

    The phantoms are made when the first view is drawn, because a run that is complete needs none.
    """
    share = settings.phantom_share if cases else 1.0
    how = ViewSettings(size=TRAINING_VIEW, recolour=settings.recolour)

    @cache
    def groups() -> list[list[tuple[Tensor, Tensor]]]:
        patients = [phantom_cases.to_training_sample(case) for case in cases]
        samples = patients, phantom_cases.training_samples(settings.phantoms, seed)
        return [[_tensors(sample, device) for sample in group] for group in samples]

    def draw(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        patients, simulated = groups()
        source = simulated if rng.uniform() < share else patients
        return random_view(*source[int(rng.integers(len(source)))], rng, how)

    return draw


def _tensors(sample: phantom_cases.TrainingSample, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(sample.image).to(device), torch.from_numpy(sample.mask).to(device)
