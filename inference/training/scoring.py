"""How well a mask agrees with the truth."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.training.sarcoma import Case
from inference.volumes.measurements import diameters

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Score:
    """`hausdorff95` in mm, infinite where nothing was found; `volume_error` in percent of the true volume, signed;
    `long_axis_error` in mm, signed, of the longest diameter in any one slice. `agreement` is that of the ensemble.
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
    """`found` lies on the grid of the case, which must have a mass."""
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
    """The larger of the two directed 95th percentiles of surface distance (mm)."""
    if not found.any() or not truth.any():
        return float("inf")
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (found, truth)]
    to_surface = [ndimage.distance_transform_edt(~surface, spacing) for surface in surfaces]
    return float(max(np.percentile(to_surface[1][surfaces[0]], 95), np.percentile(to_surface[0][surfaces[1]], 95)))


def false_alarms(found_ml: list[float]) -> dict[str, object]:
    """Of images without a mass, in how many one was outlined, and how large the outlined volumes were."""
    volumes = sorted(round(ml, 1) for ml in found_ml if ml > 0)
    return {"cases": len(found_ml), "outlined": len(volumes), "volumes_ml": volumes}


def summary(scores: list[Score]) -> dict[str, object]:
    """Mean, median and 10th percentile of Dice; medians of the rest; every case beside them."""
    dices = np.array([s.dice for s in scores])
    distances = [s.hausdorff95 for s in scores if np.isfinite(s.hausdorff95)]
    return {
        "cases": len(scores),
        "dice_mean": round(float(dices.mean()), 4),
        "dice_median": round(float(np.median(dices)), 4),
        "dice_p10": round(float(np.percentile(dices, 10)), 4),
        "hausdorff95_mm_median": round(float(np.median(distances)), 2) if distances else None,
        "volume_error_percent_median": round(float(np.median([s.volume_error for s in scores])), 1),
        "volume_error_percent_absolute_mean": round(float(np.mean([abs(s.volume_error) for s in scores])), 1),
        "long_axis_error_mm_absolute_mean": round(float(np.mean([abs(s.long_axis_error) for s in scores])), 1),
        "uncertain": sum(s.uncertain for s in scores),
        "missed": sum(1 for s in scores if s.dice == 0.0),
        "each": [
            {key: _plain(value) for key, value in asdict(s).items()}
            for s in scores
        ],
    }  # fmt: skip


def _plain(value: str | float | bool) -> str | float | bool | None:
    """For JSON, which has no infinity."""
    if isinstance(value, float):
        return round(value, 3) if np.isfinite(value) else None
    return value
