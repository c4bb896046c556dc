"""Trains and measures the ensemble of the application `soft_tissue_mass`."""

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from inference.applications.soft_tissue_mass.outline import OVERLAP, TRAINING_VIEW, Estimate, estimate_mass
from inference.contract.manifest import file_sha256
from inference.engine.models import TorchEngine
from inference.engine.networks import Ensemble, FoldedUNet, Standardised, ensemble
from inference.engine.quantisation import dequantise, quantise
from inference.training import pictures, provenance, sarcoma
from inference.training.fitting import Fitted, Schedule, Views, fit
from inference.training.sarcoma import Case
from inference.training.scoring import Score, dice, false_alarms, score, summary
from inference.training.soft_tissue_mass import card, ellipsoid, phantoms
from inference.training.soft_tissue_mass.augmentation import View, view
from inference.volumes.measurements import volume_ml

log = logging.getLogger(__name__)

THRESHOLDS = tuple(round(0.3 + 0.05 * i, 2) for i in range(12))
ROUNDING_CASES = 5
UNCERTAIN_SHARE = 0.1  # of the training patients would be marked


@dataclass(frozen=True)
class Settings:
    """`start` is a file of earlier weights that every member goes on from, each in its own way by its seed."""

    members: int = 2
    iterations: int = 30000
    minutes: float | None = None  # for each member
    seed: int = 0  # of the first member; each has its own
    learning_rate: float = 1e-3
    phantom_share: float = 0.2
    recolour: float = 0.6  # of the views, see View
    phantoms: int = 240
    test_phantoms: int = 20
    start: Path | None = None


@dataclass(frozen=True)
class Decision:
    """What is chosen from the training patients alone: see Estimate. Goes into application.toml."""

    threshold: float
    uncertain_below: float


Predict = Callable[[Case], Estimate]


def run(
    data: Path | None, out: Path, settings: Settings, only: int | None = None, drawings: Path | None = None
) -> None:
    """Trains, measures and writes weights.pt, metrics.json and MODEL_CARD.md to `out`.

    With a GPU each of five folds is trained and measured too, and weights.pt is the ensemble of the first fold;
    without, one ensemble is trained on all but the held-out patients. Without `data` there are only phantoms.
    `only` trains one member and stops, so that several processes can share the work. What was trained before, or
    interrupted, is gone on from. Outlines of the held-out patients are drawn into `drawings`.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cases = {name: sarcoma.load(data, name) for name in sarcoma.patients(data)} if data else {}
    names = list(cases)
    rounds = sarcoma.folds(names) if device.type == "cuda" and names else [sarcoma.split(names)]
    metrics = {
        "command": _command(settings),
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()},
        "start_sha256": file_sha256(settings.start) if settings.start else None,
        "data_sha256": provenance.data_hash(cases.values()),
        "versions": provenance.versions(),
        "device": device.type,
    }
    reports = []
    for i, (train_names, test_names) in enumerate(rounds):
        folder = out if i == 0 else out / f"fold{i}"
        train_cases, test_cases = [cases[n] for n in train_names], [cases[n] for n in test_names]
        chosen = range(settings.members) if only is None else [only]
        members = {j: train_member(train_cases, settings, j, device, folder / f"member{j}") for j in chosen}
        if only is not None:
            continue
        networks = Ensemble(member.network for member in members.values()).cpu()
        torch.save(quantise(networks.state_dict()), folder / "weights.pt")
        predict = predictor(loaded(folder / "weights.pt", settings.members), device)
        told = [{"iterations": m.iterations, "minutes": round(m.minutes, 1)} for m in members.values()]
        reports.append(
            {"trained_on": train_names, "held_out": test_names, "members": told}
            | {"rounding": rounding(predictor(networks, device), predict, train_cases)}
            | measure(predict, train_cases, test_cases, settings, drawings)
        )
        (out / "metrics.json").write_text(json.dumps(metrics | {"rounds": reports}, indent=1) + "\n")
        parameters = sum(held.numel() for held in networks.parameters())
        (out / "MODEL_CARD.md").write_text(card.write(metrics | {"rounds": reports}, parameters))


def train_member(cases: Sequence[Case], settings: Settings, number: int, device: torch.device, folder: Path) -> Fitted:
    """One network of the ensemble, with its own seed and its own phantoms."""
    folder.mkdir(parents=True, exist_ok=True)
    seed, start = settings.seed + number, settings.start
    torch.manual_seed(seed)
    network = Standardised(FoldedUNet())
    if start:
        network.load_state_dict(earlier(start, number))
    schedule = Schedule(
        iterations=settings.iterations,
        minutes=settings.minutes,
        seed=seed,
        learning_rate=settings.learning_rate,
    )
    data = [provenance.data_hash(cases), file_sha256(start) if start else ""]
    data += [f"{settings.phantom_share} {settings.recolour} {settings.phantoms}"]
    return fit(network, views(cases, settings, seed, device), schedule, device, folder, " ".join(data))


def views(cases: Sequence[Case], settings: Settings, seed: int, device: torch.device) -> Views:
    """Draws views of the patients, and as often as `phantom_share` says of the phantoms of this seed.

    The phantoms are made when the first view is drawn: a run that is complete needs none.
    """
    share = settings.phantom_share if cases else 1.0
    how = View(size=TRAINING_VIEW, recolour=settings.recolour)

    @cache
    def groups() -> list[list[tuple[Tensor, Tensor]]]:
        samples = [phantoms.sample(case) for case in cases], phantoms.training_samples(settings.phantoms, seed)
        return [[_tensors(sample, device) for sample in group] for group in samples]

    def draw(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        patients, simulated = groups()
        source = simulated if rng.uniform() < share else patients
        return view(*source[int(rng.integers(len(source)))], rng, how)

    return draw


def earlier(path: Path, number: int) -> dict[str, Tensor]:
    """The weights of one member in a file; up to version 1.1 the only network, in TorchScript."""
    try:
        state, prefix = torch.jit.load(str(path)).float().state_dict(), "network."
    except RuntimeError:
        state, prefix = dequantise(torch.load(path, weights_only=True)), f"members.{number}."
    return {key.removeprefix(prefix): held for key, held in state.items() if key.startswith(prefix)}


def predictor(networks: nn.Module, device: torch.device) -> Predict:
    """Estimates a case with the ensemble exactly as the application does."""
    engine, networks = TorchEngine(str(device)), networks.to(device).eval()

    def predict(case: Case) -> Estimate:
        return estimate_mass(case.array, case.geometry, partial(engine.sliding_window, networks, overlap=OVERLAP))

    return predict


def loaded(weights: Path, members: int) -> Ensemble:
    networks = ensemble(members)
    networks.load_state_dict(dequantise(torch.load(weights, weights_only=True)))
    return networks


def rounding(exact: Predict, rounded: Predict, cases: Sequence[Case]) -> float:
    """The largest change of any network's probability in a few of the cases, because weights are held as integers."""
    some = cases[:ROUNDING_CASES] or [phantoms.case(phantoms.FIRST_TEST_SEED)]
    return max(float(np.abs(exact(case).members - rounded(case).members).max()) for case in some)


def measure(
    predict: Predict, train_cases: Sequence[Case], test_cases: Sequence[Case], settings: Settings,
    drawings: Path | None = None,
) -> dict[str, object]:  # fmt: skip
    """What is decided from the training patients, then scores on held-out patients and phantoms.

    The ellipsoid stands beside them. "off_centre" are the same held-out patients with the crop cut so that the mass is
    no longer in the middle.
    """
    known = [(case, predict(case)) for case in train_cases]
    decision = decide(known)
    log.info("threshold %g, uncertain below %g", decision.threshold, decision.uncertain_below)
    seeds = range(phantoms.FIRST_TEST_SEED, phantoms.FIRST_TEST_SEED + settings.test_phantoms)

    def scores(cases: Iterable[Case]) -> dict[str, object]:
        found = [_score(case, predict(case), decision) for case in cases]
        log.info("%d cases measured, mean Dice %.3f", len(found), np.mean([s.dice for s in found]))
        return summary(found)

    result: dict[str, object] = {
        "decision": asdict(decision),
        "phantoms": scores(map(phantoms.case, seeds)),
        "phantoms_shifted": scores(map(phantoms.shifted, seeds)),
        "healthy": false_alarms([_volume_ml(c, predict(c), decision) for c in map(phantoms.healthy, seeds)]),
    }
    if test_cases:
        fractions = ellipsoid.fit([phantoms.sample(c).mask >= 0.5 for c in train_cases])
        shifted = [off_centre(c) for c in test_cases]

        def blind(cases: Sequence[Case]) -> dict[str, object]:
            return summary([score(c, ellipsoid.ellipsoid(c.geometry.shape, fractions)) for c in cases])

        result |= {
            "patients": scores(test_cases),
            "patients_ellipsoid": blind(test_cases),
            "patients_off_centre": scores(shifted),
            "patients_off_centre_ellipsoid": blind(shifted),
            "patients_trained_on": summary([_score(case, estimated, decision) for case, estimated in known]),
            "ellipsoid_fractions": fractions,
        }
        if drawings:
            for case in test_cases:
                pictures.draw(case, predict(case).mass(decision.threshold), drawings)
    return result


def decide(known: Sequence[tuple[Case, Estimate]]) -> Decision:
    """The threshold with the best mean Dice on the patients that were trained on, the lowest of equal ones.

    What the networks agree on less than on all but UNCERTAIN_SHARE of these patients is uncertain.
    """
    if not known:
        return Decision(0.5, 0.0)
    found = {t: float(np.mean([dice(e.mass(t), case.mask) for case, e in known])) for t in THRESHOLDS}
    threshold = max(found, key=lambda t: found[t])
    agreements = [e.agreement(threshold) for _, e in known]
    return Decision(threshold, round(float(np.quantile(agreements, UNCERTAIN_SHARE)), 3))


def _command(settings: Settings) -> str:
    """What trains this again: the options that are not the defaults."""
    changed = {f.name: getattr(settings, f.name) for f in fields(settings) if getattr(settings, f.name) != f.default}
    options = [f"--{key.replace('_', '-')} {'WEIGHTS' if key == 'start' else value}" for key, value in changed.items()]
    return " ".join(["python -m inference.training soft_tissue_mass --data FOLDER --out OUT \\\n   ", *options])


def off_centre(case: Case) -> Case:
    """The case without three quarters of what lies before the mass, along every axis."""
    start = [int(0.75 * np.flatnonzero(case.mask.any(axis=tuple({0, 1, 2} - {axis})))[0]) for axis in range(3)]
    a, b, c = (slice(n, None) for n in start)
    affine = case.geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array(start, dtype=np.float64)
    array = case.array[a, b, c]
    shape = (array.shape[0], array.shape[1], array.shape[2])
    return Case(case.name, array, case.mask[a, b, c], type(case.geometry)(shape, affine))


def _score(case: Case, estimated: Estimate, decision: Decision) -> Score:
    agreement = estimated.agreement(decision.threshold)
    return score(case, estimated.mass(decision.threshold), agreement, agreement < decision.uncertain_below)


def _volume_ml(case: Case, estimated: Estimate, decision: Decision) -> float:
    return volume_ml(estimated.mass(decision.threshold), case.geometry)


def _tensors(sample: phantoms.Sample, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(sample.image).to(device), torch.from_numpy(sample.mask).to(device)
