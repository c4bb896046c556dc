"""The model card of `extremity_sts_sbrt` as a function of the metrics.json of a training run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from inference.applications.extremity_sts_sbrt.network import STRUCTURES
from inference.applications.extremity_sts_sbrt.preprocessing import PIXEL, SMALLEST_STRUCTURE, THICKNESS
from inference.phantoms.limb.study import FIRST_TRAINING_SEED, HELD_OUT_SEEDS, SHIFTED_SEEDS
from inference.phantoms.signals import SHIFTED
from inference.training.extremity_sts_sbrt.limb_cases import BIAS_RANGE, ECHO_TIME_RANGE, MISSING, NOISE_RANGE, SLICES
from inference.training.extremity_sts_sbrt.scoring import MATRICES, VOXEL

COLUMNS = (("held-out limbs", "held_out"), ("T1w and T2w alone", "required_only"), ("shifted limbs", "shifted"))

TEMPLATE = """# Model card: extremity_sts_sbrt

Outlines a sarcoma of a limb, its necrosis, the oedema around it, the neurovascular bundle and bone on MR, measures
them, and compares time points before and after preoperative radiotherapy. Research only: not a medical device, not
for diagnosis and not for planning a treatment.

## Data

**Simulated limbs only** (`inference/phantoms/limb/`): signal equations over ellipsoids, tubes and smooth noise. No
image of a patient was used, neither to train nor to test. The tables show whether the measurements follow the physics
of a simulation; they say nothing about patients.

{phantoms} limbs (seeds from {first_seed}), each at one of three time points, with scanners drawn at random: noise
{noise} times the usual, echo times {echo_time} times, bias fields up to {bias:g} times as strong, and sometimes a
surface coil or motion. Held out: seeds from {held_out}. Shifted: seeds from {shifted} with one fixed scanner
unlike those of training: noise {shifted_noise:g} times, echo times {shifted_echo:g} times and bias fields
{shifted_bias:g} times the usual, from a surface coil, and voxels {shifted_voxel:g} times as long.

## Model

A 2D U-Net ({parameters} parameters, held as 8-bit integers) over blocks of 2 x 2 pixels of {pixel} mm, which sees
each slice with its two neighbours. Slices keep their thickness within {thinnest:g} to {thickest:g} mm.

Contrasts are T1w, fat-suppressed T2w, fat-suppressed T1w after contrast agent, ADC, T1 and T2. The first two are
needed{because}.
Each of the others may be missing, and was missing in {missing:.0%} of the training.

Structures may overlap. They are thresholded at 0.5; the largest part of mass, bundle and bone is kept, necrosis inside
and oedema outside of the mass, and no mass or oedema below {smallest:g} mL.

{iterations} iterations of {batch} views of {slices} slices in {minutes:.0f} minutes on one core of a shared CPU, AdamW,
learning rate from {learning_rate:g} to 0.

## Results

Two time points of each limb, all contrasts, measured as the application does. The images have voxels of
{matrices};
the shifted ones are {shifted_voxel:g} times as coarse.

{table}

The truth is that of the shapes themselves, not of voxels. "True mask" is the result of the same measurement with the
true mask on the same images: its errors come from the grid, partial volume and noise, and not from the network. The
percentages in brackets are shares of the cases. ADC, T1 and T2 are means over the outline without its outermost voxels
in each slice, as in the report, compared with the true mean of the whole mass. Bias is the mean of signed errors, MAE
the mean of absolute errors. The changes in size were drawn clear of the thresholds of RECIST 1.1: the tests show if the
right category is found, not how a change of exactly 20 % is judged.

{remarks}

The numbers include limbs that the quality gate would refuse. Its limits come from patients and limbs of the usual
scanners, and it refuses nearly all of the shifted limbs for their noise (docs/gate.md).

## Limits

- It has never seen a patient. Vessels, nerves and bone of the simulation are straight tubes; fasciae, joints,
  tendons, scars, metal, a second limb, flow and susceptibility artefacts do not occur.
- Bundle and bone of a patient may be missed or outlined elsewhere; distances to them and the gross tumour volume are
  not for planning.
- It follows the largest mass alone, as one target lesion, and looks for no new ones: its RECIST category is that
  lesion's.
- The scanner of the shifted limbs was known when those of training were chosen. The held-out limbs were not used
  before.
- Time points are outlined independently, each on its own grid, and not registered to one another.
- "First study analysed" is not the baseline of the therapy.

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


def extremity_sts_sbrt_card(metrics: Mapping[str, Any]) -> str:
    """Return the model card, as Markdown, of the run that wrote `metrics`."""
    settings = metrics["settings"]
    return TEMPLATE.format(
        phantoms=settings["phantoms"],
        first_seed=FIRST_TRAINING_SEED + settings["seed"],
        noise=_range(NOISE_RANGE),
        echo_time=_range(ECHO_TIME_RANGE),
        bias=BIAS_RANGE[1],
        held_out=HELD_OUT_SEEDS[0],
        shifted=SHIFTED_SEEDS[0],
        shifted_noise=SHIFTED.noise,
        shifted_echo=SHIFTED.echo_time,
        shifted_bias=SHIFTED.bias,
        shifted_voxel=SHIFTED.voxel,
        parameters=f"{metrics['parameters'] / 1e6:.2f} million",
        pixel=PIXEL,
        thinnest=THICKNESS[0],
        thickest=THICKNESS[1],
        smallest=SMALLEST_STRUCTURE,
        because=_because(metrics),
        missing=MISSING,
        iterations=metrics["iterations"],
        batch=metrics["batch"],
        slices=SLICES,
        minutes=metrics["minutes"],
        learning_rate=settings["learning_rate"],
        matrices=_matrices(),
        table=_table([metrics[key] for _, key in COLUMNS]),
        remarks=_remarks(metrics),
        command=metrics["command"],
        data_sha256=metrics["data_sha256"][:16],
        versions=", ".join(f"{name} {number}" for name, number in metrics["versions"].items()),
    )


def _range(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g} to {limits[1]:g}"


def _because(metrics: Mapping[str, Any]) -> str:
    """Return the result of an experiment without T2w if the metrics hold one; not every run repeats it."""
    largest = metrics.get("experiments", {}).get("largest_false_mass_ml_if_trained_without_t2w")
    if largest is None:
        return ""
    return f": a network that learned to do without T2w outlined masses of up to {largest:g} mL in limbs without one"


def _matrices() -> str:
    names = ("T1w", "T2w, maps", "diffusion")
    sizes = [" x ".join(f"{mm:g}" for mm in spacing) for _, _, spacing in MATRICES]
    return ", ".join(f"{size} mm ({name})" for size, name in zip(sizes, names, strict=True))


def _table(columns: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| | " + " | ".join(title for title, _ in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
        _row("limbs, time points", [f"{one['limbs']}, {one['time_points']}" for one in columns]),
    ]
    for name in STRUCTURES:
        lines.append(
            _row(f"Dice, {name}: mean (10th percentile)", [_cell(one["dice"][name], _dice) for one in columns])
        )

    def add(title: str, key: str, say: Callable[[Mapping[str, float]], str]) -> None:
        lines.append(_row(title, [_cell(one["errors"][key], say) for one in columns]))
        if f"{key}_ideal" in columns[0]["errors"]:
            lines.append(_row("– true mask", [_cell(one["errors"][f"{key}_ideal"], say) for one in columns]))

    for title, key, unit in (
        ("long axis", "long_axis", "mm"), ("maximum 3D diameter", "maximum_3d", "mm"), ("volume", "volume", "%"),
        ("necrosis, part of the mass", "necrosis_fraction", "points"),
    ):  # fmt: skip
        add(f"{title}: MAE, bias ({unit})", key, _error)
    for title, key in (("ADC", "adc"), ("T1", "t1"), ("T2", "t2")):
        add(f"{title}: bias, MAE (%)", key, _bias)
    for title, key in (("distance to the bundle", "bundle_distance"), ("distance to bone", "bone_distance")):
        add(f"{title}: MAE (mm), [within {VOXEL:g} mm]", key, _distance)
    lines.append(_row("RECIST 1.1 category right", [_right(one["response"]) for one in columns]))
    lines.append(_row("masses missed", [str(one["masses_missed"]) for one in columns]))
    return "\n".join(lines)


def _row(title: str, cells: Sequence[str]) -> str:
    return f"| {title} | " + " | ".join(cells) + " |"


def _cell(found: Mapping[str, float] | None, say: Callable[[Mapping[str, float]], str]) -> str:
    return "–" if found is None else say(found)


def _dice(found: Mapping[str, float]) -> str:
    return f"{found['mean']:.3f} ({found['p10']:.3f})"


def _error(found: Mapping[str, float]) -> str:
    return f"{found['absolute_mean']:.1f}, {found['mean']:+.1f}"


def _bias(found: Mapping[str, float]) -> str:
    return f"{found['mean']:+.1f}, {found['absolute_mean']:.1f}"


def _distance(found: Mapping[str, float]) -> str:
    return f"{found['absolute_mean']:.1f} [{found['percent_within_voxel']:.0f} %]"


def _right(response: Mapping[str, int]) -> str:
    right, judged = response["right"], response["judged"]
    return f"{right} of {judged} ({100 * right / max(judged, 1):.0f} %)"


def _remarks(metrics: Mapping[str, Any]) -> str:
    """List the structures that were outlined in limbs that have none of them."""
    lines = [
        f"- Held-out time points without {name}: {_false(metrics['held_out'][f'false_{name}'])}."
        for name in ("necrosis", "oedema")
    ]
    for key, series in (("false_masses", "all contrasts"), ("false_masses_required_only", "T1w and T2w alone")):
        lines.append(f"- Held-out limbs without a mass, {series}: {_false(metrics[key])}.")
    return "\n".join(["Structures that were outlined where there are none:", "", *lines])


def _false(alarms: Mapping[str, Any]) -> str:
    volumes = alarms["volumes_ml"]
    told = f" ({', '.join(f'{ml:.1f}' for ml in volumes)} mL)" if volumes else ""
    return f"{alarms['outlined']} of {alarms['cases']}{told}"
