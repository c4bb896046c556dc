"""The model card, filled from the metrics of the training run that made the weights."""

from typing import Any

from inference.training.phantoms import HEALTHY_EVERY

ROWS = (
    ("Held-out patients", "patients"),
    ("– ellipsoid in the middle of the crop", "patients_ellipsoid"),
    ("Held-out patients, mass off the centre of the crop", "patients_off_centre"),
    ("– the same ellipsoid", "patients_off_centre_ellipsoid"),
    ("Patients it was trained on", "patients_trained_on"),
    ("Phantoms not trained on", "phantoms"),
    ("– more noise, longer TE and TR, stronger bias field", "phantoms_shifted"),
)

TEMPLATE = """# Model card: soft_tissue_mass

Outlines the largest soft-tissue mass of a limb on a T1-weighted MR series without fat suppression, and measures it.
Research only: not a medical device, not for diagnosis.

## Data

- {trained} of {total} patients of the Soft-tissue-Sarcoma collection of TCIA as the IBSI publishes it: T1w series,
  bias-corrected, scaled to fat, cropped about 5 cm round the tumour, with the contour of an expert. CC BY 3.0.
  Vallières M, Freeman CR, Skamene SR, El Naqa I. A radiomics model from joint FDG-PET and MRI texture features for the
  prediction of lung metastases in soft-tissue sarcomas of the extremities. Phys Med Biol 2015;60:5471.
  Data: doi 10.7937/K9/TCIA.2015.7GO2GSKS.
- Simulated limbs (`inference/phantoms/limb.py`, seeds from 10000), one in {healthy_every} of them without a mass.

Held out: the {held} patients whose names have the smallest SHA-256:
{held_out}.
Nothing was chosen by their scores: neither the split nor the weights, which are the average over the last iterations.

## Model

A 3D U-Net ({parameters} parameters) on 3 mm voxels, windows of {patch}³ voxels overlapping by half, the mean over
left-right and front-back mirror images. Intensities are divided by those of fat. The answer is interpolated to the grid
of the series, thresholded at 0.5, and its largest connected part of at least 1 mL is kept.

{history}
The views are cut, moved, turned, bent and recoloured at random, so that neither the middle of the crop nor one
brightness gives the mass away.

## Results

| | cases | Dice mean | median | 10th percentile | HD95 (mm) | volume error (%) | missed |
|---|---|---|---|---|---|---|---|
{table}

HD95 is the median of the 95 % Hausdorff distance; the volume error is the mean of its absolute value.

The crops have the tumour in their middle, so an ellipsoid of {fraction_along} (along the slices) and {fraction_across}
(in the plane) of the field of view, fitted to the training patients, is the score of looking at nothing. "Off the
centre" cuts three quarters of what lies before the mass along every axis.

| held-out patient | volume (mL) | Dice | HD95 (mm) | volume error (%) |
|---|---|---|---|---|
{each}

## Limits

- {held} patients from one collection are few: the mean Dice is uncertain by about ±{uncertainty} (standard error).
- It has seen crops, never a whole examination; elsewhere in the body, with both legs in view, next to joints, with
  metal or after surgery nothing is known.
- All patients had sarcoma. It does not tell benign from malignant, and may outline other things that look like a mass.
- It always keeps the largest part only; several masses give one.
- Simulated limbs are not real ones: their scores compare runs and say nothing of patients.
- {missed}
- {healthy}
- Field strength, TR and TE of the training images are unknown.

## Train it again

```
{commands}
```

FOLDER holds STS_NNN/MR_T1 (DICOM) and STS_NNN/MR_T1_mask.nii.gz; OUT receives weights.pt, metrics.json, log.jsonl and
this card. With `--minutes` the learning rate follows the clock, and the number of iterations is what the machine could
do. Runs of one seed agree up to the rounding of sums over threads. With a GPU five folds are trained and measured.

## Licence

CC BY 3.0, as the images it learned from; attribute the collection above.
"""


def write(metrics: dict[str, Any], parameters: int) -> str:
    """The card of the first round, as Markdown."""
    settings, first = metrics["settings"], metrics["rounds"][0]
    patients = first.get("patients", {"each": []})
    dices = [float(row["dice"]) for row in patients["each"]]
    count = len(dices)
    mean = sum(dices) / max(count, 1)
    spread = (sum((d - mean) ** 2 for d in dices) / max(count - 1, 1)) ** 0.5 / max(count, 1) ** 0.5
    along, across = first.get("ellipsoid_fractions", (0.0, 0.0))
    runs = _runs(metrics)
    return TEMPLATE.format(
        trained=len(first["trained_on"]),
        total=len(first["trained_on"]) + len(first["held_out"]),
        held=len(first["held_out"]),
        held_out=", ".join(first["held_out"]),
        healthy_every=HEALTHY_EVERY,
        parameters=f"{parameters / 1e6:.1f} million",
        patch=settings["patch"],
        history="\n".join(_told(run) for run in runs),
        table="\n".join(_row(title, first[key]) for title, key in ROWS if key in first),
        fraction_along=along,
        fraction_across=across,
        each="\n".join(
            f"| {row['name']} | {row['true_ml']:.0f} | {row['dice']:.2f} | {_number(row['hausdorff95'], 1)} "
            f"| {row['volume_error']:+.0f} |"
            for row in patients["each"]
        ),
        missed=_missed(first["phantoms"]),
        healthy=_false_alarms(first["healthy"]),
        uncertainty=f"{spread:.2f}",
        commands="\n".join(_command(run["settings"], i) for i, run in enumerate(runs, start=1)),
    )


def _runs(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that made the weights, the first one first."""
    before = metrics.get("before")
    return [*(_runs(before) if before else []), metrics]


def _told(run: dict[str, Any]) -> str:
    settings, first = run["settings"], run["rounds"][0]
    device = "a GPU" if run["device"] == "cuda" else "a shared CPU with two cores"
    return (
        f"{first['iterations']} iterations of {settings['batch']} views in {first['minutes']:.0f} minutes on {device}, "
        f"{settings['phantom_share']:.0%} of\nthem of {settings['phantoms']} simulated limbs; "
        f"learning rate from {settings['learning_rate']:g} to 0; brightness and contrast of "
        f"{'the' if settings['recolour'] == 1 else format(settings['recolour'], '.0%') + ' as many'} views changed."
    )


def _command(settings: dict[str, Any], number: int) -> str:
    start = f" --start OUT{number - 1}" if settings.get("start") else ""
    limit = f" --minutes {settings['minutes']:g}" if settings["minutes"] else ""
    return (
        f"python -m inference.training soft_tissue_mass --data FOLDER --out OUT{number}{start} \\\n"
        f"    --iterations {settings['iterations']}{limit} --seed {settings['seed']} "
        f"--phantom-share {settings['phantom_share']:g} --learning-rate {settings['learning_rate']:g} "
        f"--recolour {settings['recolour']:g}"
    )


def _row(title: str, s: dict[str, Any]) -> str:
    return (
        f"| {title} | {s['cases']} | {s['dice_mean']:.3f} | {s['dice_median']:.3f} | {s['dice_p10']:.3f} "
        f"| {_number(s['hausdorff95_mm_median'], 1)} | {s['volume_error_percent_absolute_mean']:.0f} | {s['missed']} |"
    )


def _missed(phantoms: dict[str, Any]) -> str:
    """Which phantom masses it does not find."""
    sizes = sorted(float(row["true_ml"]) for row in phantoms["each"] if float(row["dice"]) == 0.0)
    if not sizes:
        return "It finds the masses of all phantoms."
    of = f"{len(sizes)} of {phantoms['cases']} phantoms"
    return f"It misses the masses of {of}, of {sizes[0]:.0f} to {sizes[-1]:.0f} mL."


def _false_alarms(healthy: dict[str, Any]) -> str:
    if not healthy["outlined"]:
        return f"In {healthy['cases']} phantoms without a mass it outlines nothing."
    volumes = ", ".join(f"{ml:.0f}" for ml in healthy["volumes_ml"])
    return f"In {healthy['outlined']} of {healthy['cases']} phantoms without a mass it outlines one, of {volumes} mL."


def _number(value: object, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "–"
