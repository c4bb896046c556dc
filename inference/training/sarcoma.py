"""The soft-tissue-sarcoma set (Vallieres et al. 2015, doi 10.7937/K9/TCIA.2015.7GO2GSKS) as the IBSI publishes it:
T1w series cropped about 5 cm round the tumour, with the expert's contour as a NIfTI mask."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray

from inference.volume import Affine, Array, Geometry

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
    array, geometry = _read_series(sorted((folder / name / "MR_T1").iterdir()))
    image = nibabel.load(folder / name / "MR_T1_mask.nii.gz")
    mask = np.transpose(np.asarray(image.dataobj) > 0, (2, 1, 0))
    # NIfTI counts its axes column, row, slice and points right, anterior, superior.
    affine = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine)[:, [2, 1, 0, 3]]
    if mask.shape != geometry.shape or not np.allclose(affine, geometry.affine, atol=0.05):
        raise ValueError(f"{name}: the mask does not lie on the grid of the series")
    return Case(name, array, mask, geometry)


def _read_series(paths: list[Path]) -> tuple[Array, Geometry]:
    files = [pydicom.dcmread(path) for path in paths]
    across, down = np.reshape(np.array(files[0].ImageOrientationPatient, dtype=np.float64), (2, 3))
    normal = np.cross(across, down)
    files.sort(key=lambda ds: float(np.dot(np.array(ds.ImagePositionPatient, dtype=np.float64), normal)))
    first, last = (np.array(files[i].ImagePositionPatient, dtype=np.float64) for i in (0, -1))
    affine: Affine = np.eye(4)
    affine[:3, 0] = (last - first) / (len(files) - 1)
    affine[:3, 1] = down * float(files[0].PixelSpacing[0])
    affine[:3, 2] = across * float(files[0].PixelSpacing[1])
    affine[:3, 3] = first
    slices = [
        ds.pixel_array.astype(np.float32) * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
        for ds in files
    ]
    array = np.stack(slices).astype(np.float32)
    return array, Geometry((array.shape[0], array.shape[1], array.shape[2]), affine)
