"""The soft-tissue-sarcoma set (Vallieres et al. 2015, doi 10.7937/K9/TCIA.2015.7GO2GSKS) as the IBSI publishes it:
T1w series cropped about 5 cm round the tumour, with the expert's contour as a NIfTI mask.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from inference.volumes.geometry import Array, Geometry
from inference.volumes.reading import read_volume

HELD_OUT = 7
FOLDS = 5


@dataclass(frozen=True, eq=False)
class Case:
    """`array` and `mask` are [slice, row, column] on `geometry`."""

    name: str
    array: Array
    mask: NDArray[np.bool_]
    geometry: Geometry


def patients(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/MR_T1_mask.nii.gz"))


def ranked(names: list[str]) -> list[str]:
    """The patients in the order of the SHA-256 of their names: an order that nobody chose."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def split(names: list[str]) -> tuple[list[str], list[str]]:
    """Those to train on and those held out: the first HELD_OUT in the order of `ranked`."""
    order = ranked(names)
    return sorted(order[HELD_OUT:]), sorted(order[:HELD_OUT])


def folds(names: list[str]) -> list[tuple[list[str], list[str]]]:
    """FOLDS splits into train and held out, every patient held out once."""
    order = ranked(names)
    return [
        (sorted(name for j, name in enumerate(order) if j % FOLDS != i), sorted(order[i::FOLDS])) for i in range(FOLDS)
    ]


def load(folder: Path, name: str) -> Case:
    """One patient. Raises ValueError when mask and series do not lie on the same grid."""
    volume = read_volume(sorted((folder / name / "MR_T1").iterdir()))
    image = nibabel.load(folder / name / "MR_T1_mask.nii.gz")
    mask = np.transpose(np.asarray(image.dataobj) > 0, (2, 1, 0))
    # NIfTI counts its axes column, row, slice and points right, anterior, superior.
    affine = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine)[:, [2, 1, 0, 3]]
    if mask.shape != volume.geometry.shape or not np.allclose(affine, volume.geometry.affine, atol=0.05):
        raise ValueError(f"{name}: the mask does not lie on the grid of the series")
    return Case(name, volume.array, mask, volume.geometry)
