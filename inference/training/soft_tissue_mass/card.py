"""The model card, filled from the metrics of the training run that made the weights."""

from statistics import mean, stdev
from typing import Any

from inference.applications.soft_tissue_mass.outline import LARGEST_WINDOW
from inference.training.fitting import Schedule
from inference.training.soft_tissue_mass.phantoms import HEALTHY_EVERY

ROWS = (
    ("Held-out patients", "patients"),
    ("– ellipsoid in the middle of the crop", "patients_ellipsoid"),
    ("Held-out patients, mass off the centre of the crop", "patients_off_centre"),
    ("– the same ellipsoid", "patients_off_centre_ellipsoid"),
    ("Patients it was trained on", "patients_trained_on"),
    ("Phantoms not trained on", "phantoms"),
    ("– more noise, longer TE and TR, stronger bias field", "phantoms_shifted"),
)

EARLIER = {
    "21e27446bc50f1ffb13ddcaffe150ec39b0f3e122e3e740fb331f08f68dca399": (
        "version 1.1 of this application: 17750 iterations of 2 views of the same patients,\n"
        "without those held out, and of simulated limbs, in 99 minutes on two cores. It scored a mean Dice of 0.738\n"
        "on the patients it was trained on, 0.777 on those held out and 0.801 on them off the centre, with volume\n"
        "errors of 53, 46 and 28 %"
    ),
}
"""Weights that others went on from, by SHA-256."""

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
Nothing was chosen by their scores: neither the split, nor the weights, which are the average over the last iterations,
nor the thresholds below, which are those of the patients it was trained on. They were measured again and again, though,
while versions were made: the weights of 1.0, 1.1 and 2.0 reached a mean Dice of 0.784, 0.777 and 0.768. Four attempts
to do better than 2.0 did not: halfway back to 1.1 0.773, 25 more minutes on whole images 0.773 (off the centre 0.714),
the mean of its weights beside 1.1 0.775, the mean of all of them beside 1.1 0.774. All lies within the error below: 29
patients are too few for more.

## Model

An ensemble of {members} 3D U-Nets ({parameters} parameters together, held as 8-bit integers) on 3 mm voxels. They see
the whole image up to {largest} voxels, and windows of that size overlapping by half of a larger one; each gives
the mean over left-right and front-back mirror images. Intensities are divided by those of fat. The mean of their
probabilities is interpolated to the grid of the series, thresholded at {threshold:g} (the best mean Dice on the
patients it was trained on), and its largest connected part of at least 1 mL is kept. That the weights are integers
changes no network's probability by more than {rounding:.4f}.

The networks were trained apart{apart}.
Where the masses that they would outline alone agree by a Dice of less than {uncertain_below:g}, as on one in ten of the
patients it was trained on, the report says that the outline is uncertain.

{history}
The views are cut, moved, turned, bent and recoloured at random, so that neither the middle of the crop nor one
brightness gives the mass away: masses also become bright, and of light and dark parts.

## Results

| | cases | Dice mean | median | 10th percentile | HD95 (mm) | volume error (%) | long axis (mm) | missed | uncertain |
|---|---|---|---|---|---|---|---|---|---|
{table}

HD95 is the median of the 95 % Hausdorff distance; the errors of the volume and of the longest diameter in a slice are
means of absolute values. Published Dice of networks for sarcomas of soft tissue: 0.89 within one data set (299
patients), 0.79 across data sets.

The crops have the tumour in their middle, so an ellipsoid of {fraction_along} (along the slices) and {fraction_across}
(in the plane) of the field of view, fitted to the training patients, is the score of looking at nothing. "Off the
centre" cuts three quarters of what lies before the mass along every axis.

| held-out patient | volume (mL) | Dice | HD95 (mm) | volume error (%) | long axis error (mm) | agreement |
|---|---|---|---|---|---|---|
{each}

Agreement is the Dice between the networks; a star marks what the report calls uncertain.
{agreement}

## Limits

- {held} patients from one collection are few: the mean Dice is uncertain by about ±{uncertainty} (standard error).
- It has seen crops, never a whole examination; elsewhere in the body, with both legs in view, next to joints, with
  metal or after surgery nothing is known.
- All patients had sarcoma. It does not tell benign from malignant, and may outline other things that look like a mass.
- It always keeps the largest part only; several masses give one.
- Simulated limbs are not real ones: their scores compare runs and say nothing of patients.
- Its threshold suits patients, whose masses would come out too large; those of phantoms come out too small by it.
- {missed}
- {healthy}
- Field strength, TR and TE of the training images are unknown.

## Train it again

```
{command}
```

FOLDER holds STS_NNN/MR_T1 (DICOM) and STS_NNN/MR_T1_mask.nii.gz; OUT receives weights.pt, metrics.json, this card, and
a folder for each network with its log and checkpoint. `--only 0` trains the first network alone, so that two processes
can train one each; the command without it gathers them. With `--minutes` the learning rate follows the clock, and the
number of iterations is what the machine could do. With a GPU five folds are trained and measured.

Data SHA-256 {data_sha256}; {versions}.

## Licence

CC BY 3.0, as the images it learned from; attribute the collection above.
"""


def write(metrics: dict[str, Any], parameters: int) -> str:
    """The card of the first round, as Markdown."""
    settings, first = metrics["settings"], metrics["rounds"][0]
    patients = first.get("patients", {"each": []})
    dices = [float(row["dice"]) for row in patients["each"]]
    spread = stdev(dices) / len(dices) ** 0.5 if len(dices) > 1 else 0.0
    along, across = first.get("ellipsoid_fractions", (0.0, 0.0))
    return TEMPLATE.format(
        trained=len(first["trained_on"]),
        total=len(first["trained_on"]) + len(first["held_out"]),
        held=len(first["held_out"]),
        held_out=", ".join(first["held_out"]),
        healthy_every=HEALTHY_EVERY,
        parameters=f"{parameters / 1e6:.1f} million",
        largest=" x ".join(map(str, LARGEST_WINDOW)),
        history=_history(metrics),
        table="\n".join(_row(title, first[key], blind="ellipsoid" in key) for title, key in ROWS if key in first),
        fraction_along=along,
        fraction_across=across,
        each="\n".join(map(_patient, patients["each"])),
        agreement=_agreement(first),
        missed=_missed(first["phantoms"]),
        healthy=_false_alarms(first["healthy"]),
        uncertainty=f"{spread:.2f}",
        command=metrics["command"],
        data_sha256=metrics["data_sha256"][:16],
        versions=", ".join(f"{name} {number}" for name, number in metrics["versions"].items()),
        members=settings["members"],
        rounding=first["rounding"],
        apart=", though from the same earlier weights, so that they doubt less than they should"
        if settings["start"]
        else "",
        **first["decision"],
    )


def _history(metrics: dict[str, Any]) -> str:
    settings = metrics["settings"]
    device = "a GPU" if metrics["device"] == "cuda" else "one core of a shared CPU"
    sha256 = metrics["start_sha256"]
    start = f"the weights of {EARLIER.get(sha256, f'SHA-256 {sha256}')}" if sha256 else "random weights"
    lines = [
        f"- Network {i}: {member['iterations']} iterations of {Schedule.batch} views in "
        f"{member['minutes']:.0f} minutes on {device}."
        for i, member in enumerate(metrics["rounds"][0]["members"], start=1)
    ]
    return "\n".join(
        [
            *lines,
            "",
            f"Each went on from {start}.",
            f"Each had its own seed and {settings['phantoms']} simulated limbs, which are "
            f"{settings['phantom_share']:.0%} of the views; learning rate from {settings['learning_rate']:g} to 0.",
        ]
    )


def _patient(row: dict[str, Any]) -> str:
    return (
        f"| {row['name']} | {row['true_ml']:.0f} | {row['dice']:.2f} | {_number(row['hausdorff95'], 1)} "
        f"| {row['volume_error']:+.0f} | {row['long_axis_error']:+.0f} "
        f"| {row['agreement']:.2f}{' *' if row['uncertain'] else ''} |"
    )


def _agreement(first: dict[str, Any]) -> str:
    """Whether disagreement tells the poor outlines."""
    lines = []
    for name, keys in (
        ("patients", ("patients", "patients_off_centre")),
        ("phantoms", ("phantoms", "phantoms_shifted")),
    ):
        rows = [row for key in keys if key in first for row in first[key]["each"] if row["dice"] > 0]
        marked, others = ([row["dice"] for row in rows if row["uncertain"] is is_so] for is_so in (True, False))
        if marked and others:
            lines.append(
                f"Of the masses found in {name} not trained on (both rows of the table), the {len(marked)} marked have "
                f"a mean Dice of\n{mean(marked):.2f}, the {len(others)} others {mean(others):.2f}."
            )
    return "\n".join(lines)


def _row(title: str, s: dict[str, Any], blind: bool) -> str:
    return (
        f"| {title} | {s['cases']} | {s['dice_mean']:.3f} | {s['dice_median']:.3f} | {s['dice_p10']:.3f} "
        f"| {_number(s['hausdorff95_mm_median'], 1)} | {s['volume_error_percent_absolute_mean']:.0f} "
        f"| {s['long_axis_error_mm_absolute_mean']:.0f} | {s['missed']} | {'–' if blind else s['uncertain']} |"
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
