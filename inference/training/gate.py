"""The command `python -m inference.training.gate APP --data FOLDER --out FILE`.

It makes the reference of the quality gate from the images on which the network is trained. It needs no network, and
loads no torch.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from inference.gate.reference import TrainingReference, fit_reference, save_reference
from inference.phantoms.limb.study import FIRST_TRAINING_SEED, limb_study, study_grid
from inference.training import sarcoma_collection
from inference.training.cases import Case
from inference.training.soft_tissue_mass import phantom_cases
from inference.volumes.volume import Volume

PHANTOMS = 60
SHAPE, SPACING = (40, 192, 192), (4.0, 1.15, 1.15)  # slices, rows and columns, and mm: a usual T1w series


def soft_tissue_mass_reference(data: Path) -> TrainingReference:
    """Make the reference from the patients that are trained on, without those held out, and from training phantoms."""
    trained_on, _ = sarcoma_collection.split(sarcoma_collection.patients(data))
    return fit_reference({"patients": _patients(data, trained_on), "phantoms": _phantoms()})


def extremity_sts_sbrt_reference(data: Path) -> TrainingReference:
    """Make the reference from the same patients, and from limbs with the seeds of its own training."""
    trained_on, _ = sarcoma_collection.split(sarcoma_collection.patients(data))
    return fit_reference({"patients": _patients(data, trained_on), "phantoms": _limb_studies()})


def volume_of(case: Case) -> Volume:
    """Return a case as the volume of a series."""
    return Volume(case.array, case.geometry, (), "", "", "", "MR")


def _patients(data: Path, names: list[str]) -> Iterator[Volume]:
    for name in names:
        yield volume_of(sarcoma_collection.load_patient(data, name))


def _phantoms() -> Iterator[Volume]:
    for seed in range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + PHANTOMS):
        yield volume_of(phantom_cases.training_phantom_case(seed))


def _limb_studies() -> Iterator[Volume]:
    for seed in range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + PHANTOMS):
        study = limb_study(seed, seed % 3)
        grid = study_grid(study, SHAPE, SPACING)
        yield Volume(study.on(grid).render("t1w"), grid, (), "", "", "", "MR")


APPLICATIONS = {"soft_tissue_mass": soft_tissue_mass_reference, "extremity_sts_sbrt": extremity_sts_sbrt_reference}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m inference.training.gate", description=__doc__)
    parser.add_argument("application", choices=list(APPLICATIONS))
    parser.add_argument("--data", type=Path, required=True, help="folder of the training images")
    parser.add_argument("--out", type=Path, required=True, help="the file to write, in the application's folder")
    arguments = parser.parse_args()
    reference = APPLICATIONS[arguments.application](arguments.data)
    save_reference(reference, arguments.out)
    for name, rows in reference.groups.items():
        print(f"{name}: {len(rows)} images, {100 * reference.refused[name]:.0f} % refused when left out")


if __name__ == "__main__":
    main()
