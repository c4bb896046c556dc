"""The performance of an ensemble of `soft_tissue_mass` on patients and phantoms, for metrics.json."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from inference.applications.soft_tissue_mass.outline import OVERLAP, Estimate, estimate_mass
from inference.engine.models import TorchEngine
from inference.engine.networks import Ensemble, ensemble
from inference.engine.quantisation import dequantise
from inference.training.cases import Case
from inference.training.pictures import draw_outlines
from inference.training.scoring import Score, agreement_summary, dice, false_alarms, score, summary
from inference.training.soft_tissue_mass import phantom_cases
from inference.training.soft_tissue_mass.ellipsoid_baseline import ellipsoid, fit_ellipsoid
from inference.volumes.measurements import volume_ml

log = logging.getLogger(__name__)

THRESHOLDS = tuple(round(0.3 + 0.05 * i, 2) for i in range(12))
ROUNDING_CASES = 5
UNCERTAIN_SHARE = 0.1  # of the training patients is marked as uncertain

Predict = Callable[[Case], Estimate]


@dataclass(frozen=True)
class ChosenThresholds:
    """The thresholds that are chosen from the training patients alone, to be copied into application.toml."""

    threshold: float
    uncertain_below: float


def load_ensemble(weights: Path, members: int) -> Ensemble:
    """Read an ensemble from a file of weights."""
    networks = ensemble(members)
    networks.load_state_dict(dequantise(torch.load(weights, weights_only=True)))
    return networks


def ensemble_predictor(networks: nn.Module, device: torch.device) -> Predict:
    """Return a function that runs the ensemble on a case exactly as the application does."""
    engine, networks = TorchEngine(str(device)), networks.to(device).eval()

    def predict(case: Case) -> Estimate:
        return estimate_mass(case.array, case.geometry, partial(engine.sliding_window, networks, overlap=OVERLAP))

    return predict


def rounding_error(exact: Predict, rounded: Predict, cases: Sequence[Case]) -> float:
    """Return the largest change of any network's probability in some cases when its weights are held as integers."""
    some = cases[:ROUNDING_CASES] or [phantom_cases.phantom_case(phantom_cases.FIRST_TEST_SEED)]
    return max(float(np.abs(exact(case).members - rounded(case).members).max()) for case in some)


def measure_ensemble(
    predict: Predict,
    train_cases: Sequence[Case],
    test_cases: Sequence[Case],
    test_phantoms: int,
    drawings: Path | None = None,
) -> dict[str, object]:
    """Choose the thresholds from the training patients, and score held-out patients and phantoms with them.

    "off_centre" are the same held-out patients with the crop cut so that the mass is no longer in the middle. The
    ellipsoid, which does not use the image, is scored beside the ensemble.
    """
    known = [(case, predict(case)) for case in train_cases]
    chosen = choose_thresholds(known)
    log.info("The threshold is %g; outlines are uncertain below %g.", chosen.threshold, chosen.uncertain_below)
    seeds = range(phantom_cases.FIRST_TEST_SEED, phantom_cases.FIRST_TEST_SEED + test_phantoms)

    def scores(cases: Iterable[Case]) -> list[Score]:
        found = [_score(case, predict(case), chosen) for case in cases]
        log.info("The mean Dice of %d cases is %.3f.", len(found), np.mean([s.dice for s in found]))
        return found

    plain, shifted = scores(map(phantom_cases.phantom_case, seeds)), scores(map(phantom_cases.shifted_case, seeds))
    healthy = [_volume_ml(case, predict(case), chosen) for case in map(phantom_cases.healthy_case, seeds)]
    agreement = {"phantoms": agreement_summary([*plain, *shifted])}
    result: dict[str, object] = {
        "decision": asdict(chosen),
        "phantoms": summary(plain),
        "phantoms_shifted": summary(shifted),
        "healthy": false_alarms(healthy),
        "agreement": agreement,
    }
    if not test_cases:
        return result
    fractions = fit_ellipsoid([phantom_cases.to_training_sample(c).mask >= 0.5 for c in train_cases])
    moved_cases = [off_centre(c) for c in test_cases]
    held_out, moved = scores(test_cases), scores(moved_cases)
    agreement["patients"] = agreement_summary([*held_out, *moved])
    if drawings:
        for case in test_cases:
            draw_outlines(case, predict(case).mass(chosen.threshold), drawings)
    return result | {
        "patients": summary(held_out),
        "patients_ellipsoid": _ellipsoid_summary(test_cases, fractions),
        "patients_off_centre": summary(moved),
        "patients_off_centre_ellipsoid": _ellipsoid_summary(moved_cases, fractions),
        "patients_trained_on": summary([_score(case, estimated, chosen) for case, estimated in known]),
        "ellipsoid_fractions": fractions,
    }


def choose_thresholds(known: Sequence[tuple[Case, Estimate]]) -> ChosenThresholds:
    """Choose the threshold with the best mean Dice on the training patients, the lowest of equal ones.

    An outline is uncertain if the networks agree on it less than on all but UNCERTAIN_SHARE of these patients.
    """
    if not known:
        return ChosenThresholds(0.5, 0.0)
    found = {t: float(np.mean([dice(e.mass(t), case.mask) for case, e in known])) for t in THRESHOLDS}
    threshold = max(found, key=lambda t: found[t])
    agreements = [e.agreement(threshold) for _, e in known]
    return ChosenThresholds(threshold, round(float(np.quantile(agreements, UNCERTAIN_SHARE)), 3))


def off_centre(case: Case) -> Case:
    """Cut off three quarters of the image between its beginning and the mass, along every axis."""
    start = [int(0.75 * np.flatnonzero(case.mask.any(axis=tuple({0, 1, 2} - {axis})))[0]) for axis in range(3)]
    a, b, c = (slice(n, None) for n in start)
    affine = case.geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array(start, dtype=np.float64)
    array = case.array[a, b, c]
    shape = (array.shape[0], array.shape[1], array.shape[2])
    return Case(case.name, array, case.mask[a, b, c], type(case.geometry)(shape, affine))


def _ellipsoid_summary(cases: Sequence[Case], fractions: tuple[float, float]) -> dict[str, object]:
    return summary([score(case, ellipsoid(case.geometry.shape, fractions)) for case in cases])


def _score(case: Case, estimated: Estimate, chosen: ChosenThresholds) -> Score:
    agreement = estimated.agreement(chosen.threshold)
    return score(case, estimated.mass(chosen.threshold), agreement, agreement < chosen.uncertain_below)


def _volume_ml(case: Case, estimated: Estimate, chosen: ChosenThresholds) -> float:
    return volume_ml(estimated.mass(chosen.threshold), case.geometry)
