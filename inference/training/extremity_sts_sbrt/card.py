"""The model card of `extremity_sts_sbrt`, filled from the metrics of the training run that made the weights."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from inference.applications.extremity_sts_sbrt.network import STRUCTURES
from inference.applications.extremity_sts_sbrt.preprocessing import PIXEL, SMALLEST, THICKNESS
from inference.phantoms.limb.study import FIRST_TRAINING_SEED, HELD_OUT_SEEDS, SHIFTED_SEEDS

COLUMNS = (("held-out limbs", "held_out"), ("T1w and T2w alone", "least"), ("shifted limbs", "shifted"))
VOXEL = 4.0  # mm: the longest edge of a voxel of the test images; 1.15 mm the others

TEMPLATE = """# Model card: extremity_sts_sbrt

Outlines a sarcoma of a limb, its necrosis, the oedema around it, the neurovascular bundle and bone on MR, measures
them, and compares time points before and after preoperative radiotherapy. Research only: not a medical device, not
for diagnosis and not for planning a treatment.

## Data

**Simulated limbs only** (`inference/phantoms/limb_study.py`): signal equations over ellipsoids, tubes and smooth
noise. No image of a patient was used, neither to train nor to test. What the tables say is whether the measurements
follow the physics of a simulation; of patients they say nothing.

{phantoms} limbs (seeds from {first_seed}), each at one of three time points, under scanners drawn at random: noise
0.5 to 2.5 times the usual, echo times 0.85 to 1.2 times, receive fields up to twice as strong, now and then a surface
coil or motion. Held out: seeds from {held_out}. Shifted: seeds from {shifted} under one frozen scanner unlike those
of training: noise three times, echo times 1.3 times, bias field 2.5 times the usual, from a surface coil, and voxels
1.25 times as long.

## Model

A 2D U-Net ({parameters} parameters, held as 8-bit integers) over blocks of 2 x 2 pixels of {pixel} mm, which sees
each slice with its two neighbours. Slices stay as thick as they are within {thinnest:g} to {thickest:g} mm. Contrasts
are T1w, fat-suppressed T2w, fat-suppressed T1w after contrast agent, ADC, T1 and T2. The first two are needed: a
network that learned to do without T2w outlined masses of up to 50 mL in limbs without one. The others may be missing,
and in training a quarter of them was. Structures may overlap. They are thresholded at 0.5; the largest part of mass,
bundle and bone is kept, necrosis inside and oedema outside of the mass, and no mass or oedema below {smallest:g} mL.

{iterations} iterations of 4 views of 4 slices in {minutes:.0f} minutes on one core of a shared CPU, AdamW, learning
rate from {learning_rate:g} to 0.

## Results

Two time points of each limb, all contrasts, measured as the application does, on images of 4 x 1.15 x 1.15 mm (T1w),
4 x 1.38 x 1.38 mm (T2w, maps) and 4 x 1.97 x 1.97 mm (diffusion); the shifted ones 1.25 times as coarse.

{table}

The truth is that of the shapes themselves, not of voxels. "True mask" is what the same measurement gives with the
true mask on the same images: what is left there is the grid, partial volume and noise, and not the network.
Percentages within brackets are the shares of cases. ADC, T1 and T2 are means over the outline without its outermost
voxels in each slice, as in the report, beside the true mean of the whole mass; their bias is the mean of signed errors.
MAE are means of absolute errors. The changes in size were drawn clear of the thresholds of RECIST 1.1: what is tested
is whether the right category is found, not how a change of exactly 20 % is called.

{remarks}

None of the numbers leaves out a limb that the quality gate would refuse: its limits come from patients and limbs of the
usual scanners, and it refuses nearly all of the shifted limbs for their noise (docs/gate.md).

## Limits

- It has never seen a patient. Vessels, nerves and bone of the simulation are straight tubes; fasciae, joints,
  tendons, scars, metal, a second limb, flow and susceptibility artefacts do not occur.
- Bundle and bone of a patient may be missed or outlined elsewhere; distances to them and the gross tumour volume are
  not for planning.
- It follows the largest mass alone, as one target lesion, and looks for no new ones: its RECIST category is that
  lesion's.
- The scanner of the shifted limbs was known when those of training were chosen. No held-out limb was seen before.
- Time points are outlined apart, each on its own grid, and not registered to one another.
- "First study analysed" is not baseline of the therapy.

## Train it again

```
{command}
```

OUT receives the rendered limbs, a folder with log and checkpoint of the network, weights.pt, metrics.json and this
card; a run that was stopped goes on.

Data SHA-256 {data_sha256}; {versions}.

## Licence

As the rest of the project: there is no data of others in it.
"""


def write(metrics: dict[str, Any]) -> str:
    settings = metrics["settings"]
    return TEMPLATE.format(
        phantoms=settings["phantoms"],
        first_seed=FIRST_TRAINING_SEED + settings["seed"],
        held_out=HELD_OUT_SEEDS[0],
        shifted=SHIFTED_SEEDS[0],
        parameters=f"{metrics['parameters'] / 1e6:.2f} million",
        pixel=PIXEL,
        thinnest=THICKNESS[0],
        thickest=THICKNESS[1],
        smallest=SMALLEST,
        iterations=metrics["iterations"],
        minutes=metrics["minutes"],
        learning_rate=settings["learning_rate"],
        table=table(metrics),
        remarks=_remarks(metrics),
        command=metrics["command"],
        data_sha256=metrics["data_sha256"][:16],
        versions=", ".join(f"{name} {number}" for name, number in metrics["versions"].items()),
    )


def table(metrics: dict[str, Any]) -> str:
    columns = [metrics[key] for _, key in COLUMNS]
    lines = [
        "| | " + " | ".join(title for title, _ in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
        _line("limbs, time points", [f"{len(rows)}, {len(_points(rows))}" for rows in columns]),
    ]
    for name in STRUCTURES:
        lines.append(_line(f"Dice, {name}: mean (10th percentile)", [_dice(rows, f"dice_{name}") for rows in columns]))
    for title, key, unit in (
        ("long axis", "long_axis", "mm"), ("maximum 3D diameter", "maximum_3d", "mm"), ("volume", "volume", "%"),
        ("necrosis, part of the mass", "necrosis_fraction", "points"),
    ):  # fmt: skip
        lines.append(_line(f"{title}: MAE, bias ({unit})", [_error(rows, key) for rows in columns]))
        if f"{key}_ideal" in _points(columns[0])[0]:
            lines.append(_line("– true mask", [_error(rows, f"{key}_ideal") for rows in columns]))
    for title, key in (("ADC", "adc"), ("T1", "t1"), ("T2", "t2")):
        lines.append(_line(f"{title}: bias, MAE (%)", [_bias(rows, key) for rows in columns]))
        lines.append(_line("– true mask", [_bias(rows, f"{key}_ideal") for rows in columns]))
    for title, key in (("distance to the bundle", "bundle_distance"), ("distance to bone", "bone_distance")):
        title = f"{title}: MAE (mm), [within {VOXEL:g} mm]"
        lines.append(_line(title, [_distance(rows, key) for rows in columns]))
        lines.append(_line("– true mask", [_distance(rows, f"{key}_ideal") for rows in columns]))
    lines.append(_line("RECIST 1.1 category right", [_right(rows) for rows in columns]))
    lines.append(_line("masses missed", [str(_missed(rows)) for rows in columns]))
    return "\n".join(lines)


def _line(title: str, cells: Sequence[str]) -> str:
    return f"| {title} | " + " | ".join(cells) + " |"


def _points(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [point for row in rows for point in row["time_points"]]


def _values(rows: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([p[key] for p in _points(rows) if p.get(key) is not None], float)


def _told(rows: Sequence[dict[str, Any]], key: str, say: Callable[[np.ndarray], str]) -> str:
    found = _values(rows, key)
    return say(found) if found.size else "–"


def _dice(rows: Sequence[dict[str, Any]], key: str) -> str:
    return _told(rows, key, lambda v: f"{v.mean():.3f} ({np.percentile(v, 10):.3f})")


def _error(rows: Sequence[dict[str, Any]], key: str) -> str:
    return _told(rows, key, lambda v: f"{np.abs(v).mean():.1f}, {v.mean():+.1f}")


def _bias(rows: Sequence[dict[str, Any]], key: str) -> str:
    return _told(rows, key, lambda v: f"{v.mean():+.1f}, {np.abs(v).mean():.1f}")


def _distance(rows: Sequence[dict[str, Any]], key: str) -> str:
    return _told(rows, key, lambda v: f"{np.abs(v).mean():.1f} [{100 * np.mean(np.abs(v) <= VOXEL):.0f} %]")


def _right(rows: Sequence[dict[str, Any]]) -> str:
    judged = [row["response_right"] for row in rows if row["response_right"] is not None]
    return f"{sum(judged)} of {len(judged)} ({100 * sum(judged) / max(len(judged), 1):.0f} %)"


def _missed(rows: Sequence[dict[str, Any]]) -> int:
    return sum(point["dice_mass"] == 0.0 for point in _points(rows))


def _remarks(metrics: dict[str, Any]) -> str:
    """What was outlined where there is none of it, a line each."""
    lines = []
    for name in ("necrosis", "oedema"):
        without = [p for p in _points(metrics["held_out"]) if p[f"dice_{name}"] is None]
        false = [p[f"false_{name}_ml"] or 0.0 for p in without]
        lines.append(f"- Held-out time points without {name}: {_false(false)}.")
    for key, series in (("false_masses", "all contrasts"), ("false_masses_least", "T1w and T2w alone")):
        lines.append(f"- Held-out limbs without a mass, {series}: {_false(metrics[key])}.")
    return "\n".join(["What is outlined where there is none of it:", "", *lines])


def _false(volumes: Sequence[float]) -> str:
    some = sorted(ml for ml in volumes if ml > 0)
    told = f" ({', '.join(f'{ml:.1f}' for ml in some)} mL)" if some else ""
    return f"{len(some)} of {len(volumes)}{told}"
