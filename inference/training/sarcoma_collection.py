"""The public collection of soft-tissue sarcomas (Vallieres et al. 2015, doi 10.7937/K9/TCIA.2015.7GO2GSKS).

It is read as the IBSI publishes it: T1w series cropped about 5 cm around the tumour, with the expert's contour as a
NIfTI mask.
"""

import hashlib
from pathlib import Path

import nibabel
import numpy as np

from inference.training.cases import Case
from inference.volumes.reading import read_volume
from storage.blobs import file_blobs

HELD_OUT = 7
FOLDS = 5


def patients(folder: Path) -> list[str]:
    """Return the names of the patients in `folder`, sorted."""
    return sorted(path.parent.name for path in folder.glob("*/MR_T1_mask.nii.gz"))


def ranked(names: list[str]) -> list[str]:
    """Sort the patients by the SHA-256 of their names, so that nobody chooses the order."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def split(names: list[str]) -> tuple[list[str], list[str]]:
    """Split the patients into those to train on and those held out, the first HELD_OUT in the order of `ranked`."""
    order = ranked(names)
    return sorted(order[HELD_OUT:]), sorted(order[:HELD_OUT])


def folds(names: list[str]) -> list[tuple[list[str], list[str]]]:
    """Return FOLDS splits into train and held out, in which every patient is held out once."""
    order = ranked(names)
    return [
        (sorted(name for j, name in enumerate(order) if j % FOLDS != i), sorted(order[i::FOLDS])) for i in range(FOLDS)
    ]


def load_patient(folder: Path, name: str) -> Case:
    """Read one patient. Raises ValueError if mask and series do not lie on the same grid."""
    volume = read_volume(file_blobs(sorted((folder / name / "MR_T1").iterdir())))
    image = nibabel.load(folder / name / "MR_T1_mask.nii.gz")
    mask = np.transpose(np.asarray(image.dataobj) > 0, (2, 1, 0))
    # NIfTI counts its axes column, row, slice, and its coordinates point right, anterior, superior.
    affine = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine)[:, [2, 1, 0, 3]]
    if mask.shape != volume.geometry.shape or not np.allclose(affine, volume.geometry.affine, atol=0.05):
        raise ValueError(f"{name}: the mask does not lie on the grid of the series")
    return Case(name, volume.array, mask, volume.geometry)
