"""The alignment of one series with the grid of another."""

import numpy as np
from numpy.typing import NDArray

from inference.volumes.geometry import Affine, Array, Geometry
from inference.volumes.registration import DISPLACED, register
from inference.volumes.resampling import resample_to_grid
from inference.volumes.volume import Volume
from storage.errors import InputRefused

HALF = 0.5  # of the weight of neighbouring voxels that must have a value
ONE_BEFORE = np.array([[1, 0, 0, -1], [0, 1, 0, -1], [0, 0, 1, -1], [0, 0, 0, 1]])  # a grid with a border of one voxel


def align(values: Array, volume: Volume, source: Volume) -> Array:
    """Interpolate `values` linearly from the grid of `volume` to that of `source`.

    The result is NaN where there is no value, and outside of the field of view of `volume`, which ends with the outer
    faces of its voxels. Patient coordinates relate the grids within one frame of reference; else the images are
    registered.

    Raises InputRefused if the registration is not accepted. It also raises InputRefused if the images hardly tell their
    position along an axis of the patient (`Registration.loose`), such as the shaft of a limb, and their fields of view
    end in different places along this axis. Only if both ends agree within DISPLACED mm were the two surely planned on
    the same stretch.
    """
    affine = volume.geometry.affine
    if not volume.frame_of_reference_uid or volume.frame_of_reference_uid != source.frame_of_reference_uid:
        affine = _registered_affine(volume, source)
    if same_grid(Geometry(values.shape, affine), source.geometry):
        return values
    known = np.isfinite(values)
    bordered = affine @ ONE_BEFORE

    def moved(array: NDArray[np.float32]) -> NDArray[np.float32]:
        shape = source.geometry.shape
        return np.asarray(
            resample_to_grid(np.pad(array, 1), bordered, source.geometry.affine, shape, order=1), np.float32
        )

    weight, total = moved(known.astype(np.float32)), moved(np.where(known, values, 0).astype(np.float32))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weight >= HALF, total / weight, np.nan).astype(np.float32)


def same_grid(one: Geometry, other: Geometry) -> bool:
    return one.shape == other.shape and np.allclose(one.affine, other.affine)


def _registered_affine(volume: Volume, source: Volume) -> Affine:
    """Register `volume` to `source`, and return the affine of `volume` in the patient coordinates of `source`.

    Raises InputRefused if the registration may not be used.
    """
    found = register(volume, source)
    reason = found.reason
    affine = np.linalg.inv(found.matrix) @ volume.geometry.affine
    apart = np.abs(_ends(affine, volume.geometry.shape) - _ends(source.geometry.affine, source.geometry.shape))
    if found.accepted and np.any(found.loose & (apart.max(axis=0) > DISPLACED)):
        reason = "the two do not show the same length of the limb, and too little tells where they belong along it"
    if reason:
        raise InputRefused(f"its images cannot be brought onto those that are outlined: {reason}")
    return affine


def _ends(affine: Affine, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Return both ends of a field of view along each axis of the patient, through its middle: (2, 3), LPS mm."""
    middle = affine[:3, :3] @ (np.array(shape) - 1) / 2 + affine[:3, 3]
    half = np.abs(affine[:3, :3] * shape).max(axis=1) / 2
    return np.stack([middle - half, middle + half])
