"""The model card of `soft_tissue_mass` as a function of the metrics.json of a training run."""

from collections.abc import Mapping
from typing import Any

from inference.applications.soft_tissue_mass.outline import LARGEST_WINDOW
from inference.applications.soft_tissue_mass.preprocessing import SMALLEST_MASS, SPACING
from inference.phantoms.limb.study import FIRST_TRAINING_SEED
from inference.training.fitting import Schedule
from inference.training.soft_tissue_mass.phantom_cases import HEALTHY_EVERY
from inference.training.soft_tissue_mass.scoring import UNCERTAIN_SHARE

ROWS = (
    ("Held-out patients", "patients"),
    ("– ellipsoid in the middle of the crop", "patients_ellipsoid"),
    ("Held-out patients, mass off the centre of the crop", "patients_off_centre"),
    ("– the same ellipsoid", "patients_off_centre_ellipsoid"),
    ("Patients it was trained on", "patients_trained_on"),
    ("Phantoms not trained on", "phantoms"),
    ("– more noise, longer TE and TR, stronger bias field", "phantoms_shifted"),
)
DEVICES = {"cuda": "a GPU", "cpu": "one core of a shared CPU"}

TEMPLATE = """# Model card: soft_tissue_mass

Outlines the largest soft-tissue mass of a limb on a T1-weighted MR series without fat suppression, and measures it.
Research only: not a medical device, not for diagnosis.

## Data

- {trained} of {total} patients of the Soft-tissue-Sarcoma collection of TCIA as the IBSI publishes it: T1w series,
  bias-corrected, scaled to fat, cropped about 5 cm round the tumour, with the contour of an expert. CC BY 3.0.
  Vallières M, Freeman CR, Skamene SR, El Naqa I. A radiomics model from joint FDG-PET and MRI texture features for the
  prediction of lung metastases in soft-tissue sarcomas of the extremities. Phys Med Biol 2015;60:5471.
  Data: doi 10.7937/K9/TCIA.2015.7GO2GSKS.
- Simulated limbs (`inference/phantoms/limb/`, seeds from {first_seed}), one in {healthy_every} of them without a mass.

Held out: the {held} patients whose names have the smallest SHA-256:
{held_out}.
They had no influence on the split, on the weights, which are the average over the last iterations, or on the
thresholds below, which come from the patients it was trained on.{history}

## Model

An ensemble of {members} 3D U-Nets ({parameters} parameters together, held as 8-bit integers) on {spacing:g} mm
voxels. They see the whole image up to {largest} voxels, and windows of that size overlapping by half of a larger
one; each gives the mean over left-right and front-back mirror images. Intensities are divided by those of fat. The
mean of their probabilities is interpolated to the grid of the series, thresholded at {threshold:g} (the best mean
Dice on the patients it was trained on), and its largest connected part of at least {smallest:g} mL is kept.
Holding the weights as integers changes the probability of no network by more than {rounding:.4f}.

The networks were trained apart{apart}.
Where the masses that they would outline alone agree by a Dice of less than {uncertain_below:g}, as on
{uncertain_share:.0%} of the patients it was trained on, the report says that the outline is uncertain.

{members_trained}
The views are cut, moved, turned, bent and recoloured at random, so that neither the middle of the crop nor one
brightness gives the mass away: masses also become bright, or have light and dark parts.

## Results

| | cases | Dice mean | median | 10th percentile | HD95 (mm) | volume error (%) | long axis (mm) | missed | uncertain |
|---|---|---|---|---|---|---|---|---|---|
{table}

HD95 is the median of the 95 % Hausdorff distance; the errors of the volume and of the longest diameter in a slice are
means of absolute values. Published Dice of networks for sarcomas of soft tissue: 0.89 within one data set (299
patients), 0.79 across data sets.

The crops have the tumour in their middle, so an ellipsoid of {fraction_along} (along the slices) and {fraction_across}
(in the plane) of the field of view, fitted to the training patients, gives the score of a network that looks at no
image. "Off the centre" means that three quarters of the image before the mass are cut off along every axis.

| held-out patient | volume (mL) | Dice | HD95 (mm) | volume error (%) | long axis error (mm) | agreement |
|---|---|---|---|---|---|---|
{each}

Agreement is the Dice between the networks; a star marks the outlines that the report calls uncertain.
{agreement}

## Limits

- {held} patients from one collection are few: the mean Dice is uncertain by about ±{uncertainty} (standard error).
- It has seen crops, never a whole examination. Elsewhere in the body, with both legs in view, next to joints, with
  metal or after surgery, its performance is unknown.
- All patients had sarcoma. It does not tell benign from malignant, and may outline other structures that look
  like a mass.
- It keeps the largest part alone; of several masses it reports one.
- Simulated limbs are not real ones: their scores compare runs and say nothing about patients.
- Its threshold suits patients; with it the masses of phantoms come out too small.
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
number of iterations depends on the machine. With a GPU five folds are trained and measured.

Data SHA-256 {data_sha256}; {versions}.

## Licence

CC BY 3.0, as the images it learned from; attribute the collection above.
"""


def soft_tissue_mass_card(metrics: Mapping[str, Any]) -> str:
    """Return the model card, as Markdown, of the run that wrote `metrics`. It describes the first round."""
    settings, first = metrics["settings"], metrics["rounds"][0]
    patients = first.get("patients", {"each": [], "dice_standard_error": 0.0})
    along, across = first.get("ellipsoid_fractions", (0.0, 0.0))
    return TEMPLATE.format(
        trained=len(first["trained_on"]),
        total=len(first["trained_on"]) + len(first["held_out"]),
        held=len(first["held_out"]),
        held_out=", ".join(first["held_out"]),
        history=_history(metrics.get("history")),
        first_seed=FIRST_TRAINING_SEED,
        healthy_every=HEALTHY_EVERY,
        members=settings["members"],
        parameters=f"{metrics['parameters'] / 1e6:.1f} million",
        spacing=SPACING,
        largest=" x ".join(map(str, LARGEST_WINDOW)),
        smallest=SMALLEST_MASS,
        rounding=first["rounding"],
        apart=", though from the same earlier weights, so that they doubt less than they should"
        if metrics["start"]
        else "",
        uncertain_share=UNCERTAIN_SHARE,
        members_trained=_members_trained(metrics),
        table="\n".join(_row(title, first[key], blind="ellipsoid" in key) for title, key in ROWS if key in first),
        fraction_along=along,
        fraction_across=across,
        each="\n".join(map(_patient, patients["each"])),
        agreement=_agreement(first["agreement"]),
        uncertainty=f"{patients['dice_standard_error']:.2f}",
        missed=_missed(first["phantoms"]),
        healthy=_false_alarms(first["healthy"]),
        command=metrics["command"],
        data_sha256=metrics["data_sha256"][:16],
        versions=", ".join(f"{name} {number}" for name, number in metrics["versions"].items()),
        **first["decision"],
    )


def _history(history: Mapping[str, Any] | None) -> str:
    """List earlier versions and attempts that were measured with the held-out patients, if the metrics hold any."""
    if not history:
        return ""
    versions, attempts = history["versions"], history["attempts"]
    names = [one["version"] for one in versions]
    lines = [
        "",
        "They were measured again and again, though, while versions were made:",
        "",
        *(f"- version {one['version']}: mean Dice {one['dice_mean']:.3f}" for one in versions),
        *(f"- attempt to improve version {names[-1]}, {_attempt(one)}" for one in attempts),
        "",
        "All of them lie within the error below: the patients are too few to tell them apart.",
    ]
    return "\n".join(lines)


def _attempt(one: Mapping[str, Any]) -> str:
    off_centre = f", off the centre {one['off_centre_dice_mean']:.3f}" if "off_centre_dice_mean" in one else ""
    return f"{one['what']}: {one['dice_mean']:.3f}{off_centre}"


def _members_trained(metrics: Mapping[str, Any]) -> str:
    settings = metrics["settings"]
    lines = [
        f"- Network {i}: {member['iterations']} iterations of {Schedule.batch} views in "
        f"{member['minutes']:.0f} minutes on {DEVICES[metrics['device']]}."
        for i, member in enumerate(metrics["rounds"][0]["members"], start=1)
    ]
    return "\n".join(
        [
            *lines,
            "",
            _start(metrics["start"]) if metrics["start"] else "Each began with random weights.",
            f"Each had its own seed and {settings['phantoms']} simulated limbs, which are "
            f"{settings['phantom_share']:.0%} of the views; learning rate from {settings['learning_rate']:g} to 0.",
        ]
    )


def _start(start: Mapping[str, Any]) -> str:
    """Describe the earlier weights from which the training began, with the results of their run, if known."""
    name = f"version {start['version']} of this application" if "version" in start else f"SHA-256 {start['sha256']}"
    lines = [f"Each went on from the weights of {name}."]
    if "iterations" in start:
        device = DEVICES.get(start["device"], start["device"])
        lines.append("These were trained on the same patients, without those held out, and on simulated limbs:")
        lines.append(f"{start['iterations']} iterations in {start['minutes']:.0f} minutes on {device}.")
    groups = (
        ("patients they were trained on", "patients_trained_on"),
        ("held-out patients", "patients"),
        ("held-out patients off the centre", "patients_off_centre"),
    )
    for title, key in groups:
        if key in start:
            dice, error = start[key]["dice_mean"], start[key]["volume_error_percent_absolute_mean"]
            lines.append(f"On {title} their mean Dice was {dice:.3f}, the volume error {error:.0f} %.")
    return "\n".join(lines)


def _patient(row: Mapping[str, Any]) -> str:
    return (
        f"| {row['name']} | {row['true_ml']:.0f} | {row['dice']:.2f} | {_number(row['hausdorff95'], 1)} "
        f"| {row['volume_error']:+.0f} | {row['long_axis_error']:+.0f} "
        f"| {row['agreement']:.2f}{' *' if row['uncertain'] else ''} |"
    )


def _agreement(agreement: Mapping[str, Any]) -> str:
    """Compare outlines marked as uncertain with the others, to show if disagreement finds the poor ones."""
    return "\n".join(
        f"Of the masses found in {name} not trained on (both rows of the table), the {one['marked']} marked have "
        f"a mean Dice of\n{one['marked_dice_mean']:.2f}, the {one['others']} others {one['others_dice_mean']:.2f}."
        for name, one in ((name, agreement.get(name)) for name in ("patients", "phantoms"))
        if one and one["marked"] and one["others"]
    )


def _row(title: str, s: Mapping[str, Any], blind: bool) -> str:
    return (
        f"| {title} | {s['cases']} | {s['dice_mean']:.3f} | {s['dice_median']:.3f} | {s['dice_p10']:.3f} "
        f"| {_number(s['hausdorff95_mm_median'], 1)} | {s['volume_error_percent_absolute_mean']:.0f} "
        f"| {s['long_axis_error_mm_absolute_mean']:.0f} | {s['missed']} | {'–' if blind else s['uncertain']} |"
    )


def _missed(phantoms: Mapping[str, Any]) -> str:
    if not phantoms["missed"]:
        return "It finds the masses of all phantoms."
    least, most = phantoms["missed_ml_range"]
    of = f"{phantoms['missed']} of {phantoms['cases']} phantoms"
    return f"It misses the masses of {of}, of {least:.0f} to {most:.0f} mL."


def _false_alarms(healthy: Mapping[str, Any]) -> str:
    if not healthy["outlined"]:
        return f"In {healthy['cases']} phantoms without a mass it outlines nothing."
    volumes = ", ".join(f"{ml:.0f}" for ml in healthy["volumes_ml"])
    return f"In {healthy['outlined']} of {healthy['cases']} phantoms without a mass it outlines one, of {volumes} mL."


def _number(value: object, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "–"
