"""The agreement of a found mask with the true one."""

from dataclasses import asdict, dataclass

import numpy as np
from scipy import ndimage

from inference.training.cases import Case
from inference.volumes.geometry import Mask
from inference.volumes.measurements import diameters


@dataclass(frozen=True)
class Score:
    """The agreement of one found mask with the truth.

    `hausdorff95` is in mm, infinite where nothing was found. `volume_error` is in percent of the true volume, signed.
    `long_axis_error` is in mm, signed, of the longest diameter in any one slice. `agreement` is that of the ensemble.
    """

    name: str
    dice: float
    hausdorff95: float
    volume_error: float
    long_axis_error: float
    true_ml: float
    agreement: float
    uncertain: bool


def score(case: Case, found: Mask, agreement: float = 1.0, uncertain: bool = False) -> Score:
    """Score `found`, a mask on the grid of the case, which must have a mass."""
    size = case.geometry.voxel_volume / 1000
    length = diameters(found, case.geometry).long_axis if found.any() else 0.0
    return Score(
        case.name,
        dice(found, case.mask),
        hausdorff95(found, case.mask, case.geometry.spacing),
        100.0 * (float(found.sum()) / float(case.mask.sum()) - 1.0),
        length - diameters(case.mask, case.geometry).long_axis,
        float(case.mask.sum()) * size,
        agreement,
        uncertain,
    )


def dice(found: Mask, truth: Mask) -> float:
    return 2.0 * float((found & truth).sum()) / max(float(found.sum() + truth.sum()), 1.0)


def hausdorff95(found: Mask, truth: Mask, spacing: tuple[float, float, float]) -> float:
    """Return the larger of the two directed 95th percentiles of surface distance in mm."""
    if not found.any() or not truth.any():
        return float("inf")
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (found, truth)]
    to_surface = [ndimage.distance_transform_edt(~surface, spacing) for surface in surfaces]
    return float(max(np.percentile(to_surface[1][surfaces[0]], 95), np.percentile(to_surface[0][surfaces[1]], 95)))


def false_alarms(found_ml: list[float]) -> dict[str, object]:
    """Count the images without a mass in which one was outlined, and list the outlined volumes in mL."""
    volumes = sorted(round(ml, 1) for ml in found_ml if ml > 0)
    return {"cases": len(found_ml), "outlined": len(volumes), "volumes_ml": volumes}


def summary(scores: list[Score]) -> dict[str, object]:
    """Summarise scores for metrics.json: statistics over the cases, and every case under "each"."""
    dices = np.array([s.dice for s in scores])
    distances = [s.hausdorff95 for s in scores if np.isfinite(s.hausdorff95)]
    missed = [s.true_ml for s in scores if s.dice == 0.0]
    return {
        "cases": len(scores),
        "dice_mean": round(float(dices.mean()), 4),
        "dice_standard_error": round(float(dices.std(ddof=1)) / len(dices) ** 0.5, 4) if len(dices) > 1 else 0.0,
        "dice_median": round(float(np.median(dices)), 4),
        "dice_p10": round(float(np.percentile(dices, 10)), 4),
        "hausdorff95_mm_median": round(float(np.median(distances)), 2) if distances else None,
        "volume_error_percent_median": round(float(np.median([s.volume_error for s in scores])), 1),
        "volume_error_percent_absolute_mean": round(float(np.mean([abs(s.volume_error) for s in scores])), 1),
        "long_axis_error_mm_absolute_mean": round(float(np.mean([abs(s.long_axis_error) for s in scores])), 1),
        "uncertain": sum(s.uncertain for s in scores),
        "missed": len(missed),
        "missed_ml_range": [round(min(missed), 1), round(max(missed), 1)] if missed else None,
        "each": [{key: _for_json(value) for key, value in asdict(s).items()} for s in scores],
    }


def agreement_summary(scores: list[Score]) -> dict[str, object]:
    """Compare the mean Dice of the found masses that were marked as uncertain with that of the others."""
    found = [s for s in scores if s.dice > 0]
    marked, others = ([s.dice for s in found if s.uncertain is is_so] for is_so in (True, False))
    return {
        "marked": len(marked),
        "marked_dice_mean": round(float(np.mean(marked)), 4) if marked else None,
        "others": len(others),
        "others_dice_mean": round(float(np.mean(others)), 4) if others else None,
    }


def _for_json(value: str | float | bool) -> str | float | bool | None:
    """Round a float, and replace infinity by None, because JSON has none."""
    if isinstance(value, float):
        return round(value, 3) if np.isfinite(value) else None
    return value
