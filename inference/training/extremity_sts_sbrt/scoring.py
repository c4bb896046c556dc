"""The errors of `extremity_sts_sbrt` on simulated limbs at two time points, and their summary."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inference.applications.extremity_sts_sbrt.course import recist_course
from inference.applications.extremity_sts_sbrt.examination import Examination, SliceInference, examine_limb
from inference.applications.extremity_sts_sbrt.network import STRUCTURES
from inference.phantoms.limb.images import DWI_B_VALUES
from inference.phantoms.limb.study import LimbStudy, limb_study, study_grid
from inference.phantoms.limb.truth import recist_category
from inference.phantoms.signals import STANDARD, Scanner
from inference.quantities.distances import shortest_distance
from inference.quantities.panel import Volumes
from inference.quantities.panel_quantities import ADC, T1, T2
from inference.quantities.response import Course, Response
from inference.quantities.statistics import Statistics
from inference.training.cases import Case
from inference.training.pictures import draw_outlines
from inference.training.scoring import dice, false_alarms
from inference.volumes.geometry import Array, Geometry, Mask
from inference.volumes.measurements import diameters, volume_ml
from inference.volumes.volume import Volume

TIME_POINTS = 2
# The matrices that a scanner would use: slices, rows, columns and mm.
MATRICES = (
    (("t1w", "t1w_fs_post"), (40, 192, 192), (4.0, 1.15, 1.15)),
    (("t2w_fs", "t1_map", "t2_map"), (40, 160, 160), (4.0, 1.38, 1.38)),
    (("dwi",), (40, 112, 112), (4.0, 1.97, 1.97)),
)
SERIES = tuple(name for names, *_ in MATRICES for name in names)
VOXEL = 4.0  # mm: the longest edge of a voxel of the T1w images; the errors of distances are compared with it
ERRORS = (
    "long_axis", "long_axis_ideal", "maximum_3d", "volume", "volume_ideal", "necrosis_fraction",
    *(name + key for name in ("adc", "t1", "t2") for key in ("", "_ideal")),
    *(f"{name}_distance{key}" for name in ("bundle", "bone") for key in ("", "_ideal")),
)  # fmt: skip
CATEGORIES = {"PR": Response.PARTIAL, "SD": Response.STABLE, "PD": Response.PROGRESSIVE}


def volumes_of(
    study: LimbStudy, scanner: Scanner, series: Collection[str] = SERIES, healthy: bool = False
) -> tuple[Volumes, dict[str, Mask], Geometry]:
    """Render the `series` of a study. Return them with the true masks on the grid of "t1w", and that grid.

    With `healthy`, the limb has no mass.
    """
    volumes: dict[str, tuple[Volume, ...]] = {}
    shown = study.without_mass() if healthy else study
    grids = {names: scanner.grid(study_grid(study, shape, spacing)) for names, shape, spacing in MATRICES}
    for names, grid in grids.items():
        images = shown.on(grid, scanner)
        for name in set(names) & set(series):
            if name == "dwi":
                weighted = ((images.render(f"dwi_b{b:g}"), {"b-value": b}) for b in DWI_B_VALUES)
                volumes[name] = tuple(_volume(array, grid, name, apart) for array, apart in weighted)
            else:
                volumes[name] = (_volume(images.render(name), grid, name, {}),)
    first = next(iter(grids.values()))
    return volumes, shown.on(first, scanner).masks, first


def measure_limb(
    seed: int, scanner: Scanner, series: Collection[str], infer: SliceInference, drawings: Path | None = None
) -> dict[str, Any]:
    """Measure the errors at each time point of a limb, and check the category of its response.

    An error is None if there is nothing to compare. Keys that end with "_ideal" are errors of the same measurement with
    the true mask.
    """
    points, examinations, lengths = [], [], []
    for time_point in range(TIME_POINTS):
        study = limb_study(seed, time_point)
        volumes, masks, geometry = volumes_of(study, scanner, series)
        found = examine_limb(volumes, infer, 0.5)
        examinations.append(found)
        lengths.append(study.truth.long_axis)
        points.append(_errors(study, found, masks, geometry))
        if drawings and "mass" in found.masks:
            case = Case(f"limb {seed} {time_point}", found.source.array, masks["mass"], geometry)
            draw_outlines(case, found.masks["mass"], drawings)
    right = None
    if all("mass" in one.masks for one in examinations):
        told = recist_course(examinations)
        right = isinstance(told, Course) and told.response is CATEGORIES[recist_category(lengths).value]
    return {
        "seed": seed,
        "time_points": points,
        "true_response": recist_category(lengths).value,
        "response_right": right,
    }


def false_mass_ml(seed: int, series: Collection[str], infer: SliceInference) -> float:
    """Return the volume in mL that is outlined as a mass in a limb without one."""
    volumes, _, _ = volumes_of(limb_study(seed), STANDARD, series, healthy=True)
    return examine_limb(volumes, infer, 0.5).volume("mass")


def summarise_limbs(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the rows of `measure_limb` for metrics.json. Statistics of nothing are None."""
    points = [point for row in rows for point in row["time_points"]]
    judged = [row["response_right"] for row in rows if row["response_right"] is not None]
    summary: dict[str, Any] = {
        "limbs": len(rows),
        "time_points": len(points),
        "dice": {name: _dice_summary([p[f"dice_{name}"] for p in points]) for name in STRUCTURES},
        "errors": {key: _error_summary([p.get(key) for p in points]) for key in ERRORS},
        "response": {"right": sum(judged), "judged": len(judged)},
        "masses_missed": sum(p["dice_mass"] == 0.0 for p in points),
    }
    for name in ("necrosis", "oedema"):
        without = [p for p in points if p[f"dice_{name}"] is None]
        summary[f"false_{name}"] = false_alarms([p[f"false_{name}_ml"] or 0.0 for p in without])
    return summary


def _dice_summary(values: Sequence[float | None]) -> dict[str, float] | None:
    known = np.array([v for v in values if v is not None], float)
    return {"mean": float(known.mean()), "p10": float(np.percentile(known, 10))} if known.size else None


def _error_summary(values: Sequence[float | None]) -> dict[str, float] | None:
    known = np.array([v for v in values if v is not None], float)
    if not known.size:
        return None
    return {
        "mean": float(known.mean()),
        "absolute_mean": float(np.abs(known).mean()),
        "percent_within_voxel": float(100 * np.mean(np.abs(known) <= VOXEL)),
    }


def _errors(
    study: LimbStudy, found: Examination, masks: dict[str, Mask], geometry: Geometry
) -> dict[str, float | None]:
    truth = study.truth
    row: dict[str, float | None] = {}
    for name in STRUCTURES:
        there, outlined = bool(masks[name].any()), name in found.masks
        row[f"dice_{name}"] = (dice(found.masks[name], masks[name]) if outlined else 0.0) if there else None
        row[f"false_{name}_ml"] = found.volume(name) if outlined and not there else None
    if "mass" not in found.masks:
        return row
    ideal = diameters(masks["mass"], geometry)
    row |= {
        "long_axis": found.diameters.long_axis - truth.long_axis,
        "long_axis_ideal": ideal.long_axis - truth.long_axis,
        "maximum_3d": found.diameters.maximum_3d - truth.maximum_3d,
        "volume": 100.0 * (found.volume("mass") / truth.volume_ml - 1),
        "volume_ideal": 100.0 * (volume_ml(masks["mass"], geometry) / truth.volume_ml - 1),
        "necrosis_fraction": found.necrotic - 100.0 * truth.necrosis_fraction,
    }
    for quantity, true in ((ADC, truth.adc), (T1, truth.t1), (T2, truth.t2)):
        for key, mask in (("", found.masks["mass"]), ("_ideal", masks["mass"])):
            told = found.panel.statistics(quantity, mask)
            row[quantity.name + key] = 100.0 * (told.mean / true - 1) if isinstance(told, Statistics) else None
    for name, true in (("bundle", truth.bundle_distance), ("bone", truth.bone_distance)):
        measured = found.distance(name)
        row[f"{name}_distance"] = None if measured is None else measured - true
        row[f"{name}_distance_ideal"] = shortest_distance(masks["mass"], masks[name], geometry).distance - true
    return row


def _volume(array: Array, grid: Geometry, name: str, told_apart: dict[str, Any]) -> Volume:
    return Volume(array, grid, (), "study", name, "frame of reference", "MR", told_apart)
