"""Rigid registration, which brings one volume onto the grid of another.

Mutual information (Mattes et al. 2003, doi 10.1109/TMI.2003.809072) is raised from coarse to fine, on one thread and
with fixed samples, so that the same images give the same result. The result is then checked by measures that the
optimiser does not use, because a registration of unrelated images gives some result too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy import ndimage

from inference.volumes.geometry import Affine, Array, Geometry
from inference.volumes.measurements import largest_component
from inference.volumes.volume import Volume

LEVELS = (8.0, 4.0, 2.0)  # mm: the working grids, coarse to fine
SAMPLES = 60_000  # voxels of a grid that are compared
BINS = 32
ITERATIONS = 200
SEED = 1

COARSE = 4.0  # mm, spacing of the grid on which the result is checked
CLASSES = 16  # classes of intensity
FEWEST = 500  # voxels of the coarse grid that must lie in both bodies
BODY = 0.08  # part of the intensity of the brightest tissue: darker voxels are air
LEAST_COMMON = 0.5  # part of the smaller body that must lie in the other one
LEAST_INFORMATION = 0.1  # nat, see `Registration.information`
DISPLACED = 12.0  # mm by which images are displaced to see whether they fit as well there
# The result must have this many times the information of displaced images, along two axes at least.
LEAST_PEAK = 1.5
# Images with a common frame of reference are moved only if the result has this many times their information unmoved.
BETTER = 1.03
# The largest motion in mm and degrees, with (True) and without (False) a common frame of reference.
FARTHEST = {True: (50.0, 30.0), False: (150.0, 45.0)}


@dataclass(frozen=True, eq=False)
class Registration:
    """The result of a registration, and whether it may be used.

    `matrix` (4 x 4, LPS mm) maps a point of the fixed volume to the same point of the patient in the moving one. If the
    registration is not `accepted`, `reason` says why it must not be used.
    """

    matrix: Affine
    accepted: bool
    reason: str
    shift: float  # mm by which the search moved the middle of the body from its first place
    rotation: float  # degrees
    common: float  # part of the smaller body that lies in the other one, 0..1
    information: float  # nat, mutual information inside both bodies, without their outlines
    displaced: tuple[float, float, float]  # nat, the same of images displaced along each axis of the patient

    @property
    def loose(self) -> tuple[bool, bool, bool]:
        """The axes of the patient along which the images hardly tell their position, such as the shaft of a limb."""
        x, y, z = (LEAST_PEAK * one > self.information for one in self.displaced)
        return x, y, z


def register(moving: Volume, fixed: Volume) -> Registration:
    """Find and check the rigid transform that brings `moving` onto `fixed`.

    With a common frame of reference the search begins with the patient coordinates, which remain the result unless
    another transform is clearly better. Otherwise it begins with the patient coordinates, with the middles of the
    images or with those of the bodies, whichever fits best.
    """
    still, mobile = _prepared(fixed), _prepared(moving)
    shared = bool(fixed.frame_of_reference_uid) and fixed.frame_of_reference_uid == moving.frame_of_reference_uid
    start = _start(mobile, still, shared)
    with _one_thread():
        found = _optimised(mobile, still, start)
    return _checked(mobile, still, start, found, shared)


@dataclass(frozen=True, eq=False)
class _Image:
    """An image to register: intensities 0..1, and on a coarse grid the same with the body (1 inside, 0 outside)."""

    array: Array
    geometry: Geometry
    coarse: Array
    coarse_body: Array
    coarse_grid: Geometry
    middle: NDArray[np.float64]  # middle of the body, LPS mm


def _prepared(volume: Volume) -> _Image:
    array = np.nan_to_num(volume.array, nan=0.0).astype(np.float32)
    low, high = np.percentile(array, (0.5, 99.5))
    scaled = np.clip((array - low) / max(float(high - low), 1e-6), 0, 1).astype(np.float32)
    coarse, grid = _coarse(scaled, volume.geometry, COARSE)
    body = _body(coarse)
    indices = np.argwhere(body) if body.any() else np.array([np.array(body.shape) / 2])
    middle = grid.to_lps(indices.mean(axis=0, keepdims=True).astype(np.float64))[0]
    return _Image(scaled, volume.geometry, coarse, body.astype(np.float32), grid, middle)


def _body(coarse: Array) -> NDArray[np.bool_]:
    mask = largest_component(coarse > BODY)
    return np.stack([ndimage.binary_fill_holes(one) for one in mask])


def _sampled(array: Array, affine: Affine, matrix: Affine, grid: Geometry, order: int, outside: float) -> Array:
    """Sample `array` at the points of `grid`, moved by `matrix`."""
    step = np.linalg.inv(affine) @ matrix @ grid.affine
    return ndimage.affine_transform(
        array, step[:3, :3], step[:3, 3], output_shape=grid.shape, order=order, mode="constant", cval=outside
    )


def _coarse(array: Array, geometry: Geometry, spacing: float) -> tuple[Array, Geometry]:
    """Resample to a grid along the same axes, isotropic as far as the image is finer than `spacing` (mm)."""
    steps = np.maximum(spacing / np.array(geometry.spacing), 1.0)
    smooth = ndimage.gaussian_filter(array, np.where(steps > 1, 0.4 * steps, 0))
    shape = np.maximum(np.ceil(np.array(geometry.shape) / steps), 1).astype(int)
    scale = np.diag([*steps, 1.0])
    scale[:3, 3] = ((np.array(geometry.shape) - 1) - (shape - 1) * steps) / 2  # both grids have the same middle
    grid = Geometry((int(shape[0]), int(shape[1]), int(shape[2])), geometry.affine @ scale)
    return _sampled(smooth, geometry.affine, np.eye(4), grid, 1, 0.0), grid


def _itk(array: Array, grid: Geometry) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    spacing = np.array(grid.spacing)
    image.SetSpacing([float(v) for v in spacing[::-1]])
    image.SetOrigin([float(v) for v in grid.affine[:3, 3]])
    image.SetDirection((grid.affine[:3, :3] / spacing)[:, ::-1].ravel().tolist())
    return image


# -- search ------------------------------------------------------------------------------------------------------------


def _start(moving: _Image, fixed: _Image, shared: bool) -> Affine:
    identity = np.eye(4)
    if shared:
        return identity
    centres = [g.geometry.to_lps((np.array([g.geometry.shape]) - 1) / 2)[0] for g in (moving, fixed)]
    starts = [identity, _shift(centres[0] - centres[1]), _shift(moving.middle - fixed.middle)]
    return max(starts, key=lambda matrix: _similarity(moving, fixed, matrix))


def _shift(by: NDArray[np.float64]) -> Affine:
    matrix = np.eye(4)
    matrix[:3, 3] = by
    return matrix


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run SimpleITK on one thread, because several threads would add their sums in a random order.

    The setting is that of the whole process, because the metric follows no other.
    """
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _optimised(moving: _Image, fixed: _Image, start: Affine) -> Affine:
    transform = sitk.Euler3DTransform()
    transform.SetCenter([float(v) for v in fixed.middle])
    transform.SetTranslation([float(v) for v in start[:3, 3]])
    for spacing in LEVELS:
        still, still_grid = _coarse(fixed.array, fixed.geometry, spacing)
        mobile, mobile_grid = _coarse(moving.array, moving.geometry, spacing)
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(BINS)
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(min(1.0, SAMPLES / still.size), SEED)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(spacing / 2, spacing / 500, ITERATIONS, 0.7, 1e-8)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(transform, inPlace=True)
        try:
            method.Execute(_itk(still, still_grid), _itk(mobile, mobile_grid))
        except RuntimeError:  # the images no longer overlap
            break
    rotation = np.array(transform.GetMatrix()).reshape(3, 3)
    centre, translation = np.array(transform.GetCenter()), np.array(transform.GetTranslation())
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = centre + translation - rotation @ centre
    return matrix


# -- check -------------------------------------------------------------------------------------------------------------


def _checked(moving: _Image, fixed: _Image, start: Affine, found: Affine, shared: bool) -> Registration:
    began, ended = (_similarity(moving, fixed, m) for m in (start, found))
    stays = shared and ended < BETTER * began
    matrix, information = (start, began) if stays else (found, ended)
    x, y, z = (
        max(_similarity(moving, fixed, matrix @ _shift(sign * DISPLACED * axis)) for sign in (-1, 1))
        for axis in np.eye(3)
    )
    at = np.append(fixed.middle, 1.0)
    shift = float(np.linalg.norm((matrix @ at - start @ at)[:3]))
    rotation = float(np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1))))
    common = _common(moving, fixed, matrix)
    farthest, widest = FARTHEST[shared]
    reason = ""
    if common < LEAST_COMMON:
        reason = f"only {100 * common:.0f} % of the smaller body lie in the other one"
    elif shift > farthest or rotation > widest:
        reason = f"it would take {shift:.0f} mm and {rotation:.0f} degrees, more than a patient moves"
    elif information < LEAST_INFORMATION or information < LEAST_PEAK * float(np.median((x, y, z))):
        reason = "the images do not show the same: no position fits better than the ones around it"
    return Registration(matrix, not reason, reason, shift, rotation, common, information, (x, y, z))


def _similarity(moving: _Image, fixed: _Image, matrix: Affine) -> float:
    """Return the mutual information (nat) inside both bodies, on the coarse grid of `fixed`; 0 if they hardly overlap.

    Outlines alone are no evidence, because any two limbs are round. The information that is expected by chance is
    subtracted (Miller 1955).
    """
    grid = fixed.coarse_grid
    still = fixed.coarse
    mobile = _sampled(moving.coarse, moving.coarse_grid.affine, matrix, grid, 1, 0.0)
    inside = (fixed.coarse_body > 0.5) & (
        _sampled(moving.coarse_body, moving.coarse_grid.affine, matrix, grid, 1, 0.0) > 0.5
    )
    if np.count_nonzero(inside) < FEWEST:
        return 0.0
    one, two = _ranks(still[inside]), _ranks(mobile[inside])
    joint = np.bincount(one * CLASSES + two, minlength=CLASSES**2).reshape(CLASSES, CLASSES) / one.size
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    known = joint > 0
    information = float(np.sum(joint[known] * np.log(joint[known] / apart[known])))
    return information - (CLASSES - 1) ** 2 / (2 * one.size)


def _ranks(values: Array) -> NDArray[np.int64]:
    """Sort values into classes of equal size."""
    edges = np.quantile(values, np.linspace(0, 1, CLASSES + 1)[1:-1])
    return np.searchsorted(edges, values).astype(np.int64)


def _common(moving: _Image, fixed: _Image, matrix: Affine) -> float:
    """Return the fraction of the smaller body that lies in the other one."""
    grid = fixed.coarse_grid
    moved = _sampled(moving.coarse_body, moving.coarse_grid.affine, matrix, grid, 1, 0.0) > 0.5
    here = fixed.coarse_body > 0.5
    sizes = [np.count_nonzero(image.coarse_body > 0.5) * image.coarse_grid.voxel_volume for image in (fixed, moving)]
    smaller = min(sizes)
    return float(np.count_nonzero(here & moved) * grid.voxel_volume / smaller) if smaller else 0.0
