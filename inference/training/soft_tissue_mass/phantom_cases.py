"""Limb phantoms as training and test cases: a T1w image and the true mass."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inference.applications.soft_tissue_mass import preprocessing
from inference.phantoms.limb.anatomy import LimbPhantom
from inference.phantoms.limb.random_limb import limb_grid, limb_phantom
from inference.phantoms.limb.study import FIRST_TRAINING_SEED
from inference.phantoms.signals import Acquisition
from inference.training.cases import Case
from inference.volumes.canonical import canonical
from inference.volumes.geometry import Array, Geometry
from inference.volumes.resampling import resample_to_spacing

T1W = Acquisition(600.0, 12.0)
FIRST_TEST_SEED = 5_000
HEALTHY_EVERY = 5  # one training limb in so many has no mass


@dataclass(frozen=True, eq=False)
class TrainingSample:
    """A case on the grid of the networks: the prepared `image`, and in `mask` the part of each voxel that is mass."""

    image: Array
    mask: NDArray[np.float32]


def phantom_case(seed: int, acquisition: Acquisition = T1W, grid: Geometry | None = None) -> Case:
    phantom = limb_phantom(seed)
    grid = grid or limb_grid()
    return Case(f"phantom {seed}", phantom.render(acquisition, grid), phantom.mask(grid), grid)


def shifted_case(seed: int) -> Case:
    """Return a phantom from a scanner unlike those of training: more noise, longer TR and TE, a stronger bias field."""
    return phantom_case(seed, replace(T1W, repetition_time=850.0, echo_time=24.0, noise=0.04, bias=0.35))


def healthy_case(seed: int) -> Case:
    """Return a limb without a mass, in which every outline is false."""
    grid = limb_grid()
    phantom = limb_phantom(seed).without_mass()
    return Case(f"healthy {seed}", phantom.render(T1W, grid), phantom.mask(grid), grid)


def training_sample(seed: int) -> TrainingSample:
    return to_training_sample(training_phantom_case(seed))


def training_phantom_case(seed: int) -> Case:
    """Return one phantom under a random protocol, field of view and slice thickness; some have no mass."""
    rng = np.random.default_rng([seed, 1])
    acquisition = Acquisition(
        float(rng.uniform(450, 750)), float(rng.uniform(8, 18)), noise=float(rng.uniform(0.005, 0.03)),
        bias=float(rng.uniform(0.0, 0.25)),
    )  # fmt: skip
    thickness, pixel = float(rng.uniform(3.0, 5.0)), float(rng.uniform(1.3, 1.8))
    extent = float(rng.uniform(120, 180))
    phantom = limb_phantom(seed)
    middle = _middle(phantom, rng)
    if seed % HEALTHY_EVERY == 0:
        phantom = phantom.without_mass()
    centre = (0.0, 0.0, middle)
    shape = (int(extent / thickness), int(210 / pixel), int(210 / pixel))
    grid = limb_grid(shape, (thickness, pixel, pixel), centre)
    return Case("", phantom.render(acquisition, grid), phantom.mask(grid), grid)


def to_training_sample(source: Case) -> TrainingSample:
    prepared = preprocessing.prepare_image(source.array, source.geometry)
    mask, affine = canonical(source.mask.astype(np.float32), source.geometry.affine)
    cover, _ = resample_to_spacing(mask, affine, preprocessing.SPACING)
    return TrainingSample(prepared.array, cover)


def training_samples(count: int, seed: int, workers: int = 2) -> list[TrainingSample]:
    first = FIRST_TRAINING_SEED + seed * 100_000
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(training_sample, range(first, first + count), chunksize=4))


def _middle(phantom: LimbPhantom, rng: np.random.Generator) -> float:
    """Draw the middle of the field of view along z, at most 50 mm from the middle of the mass."""
    return phantom.lobes[0].centre[2] + float(rng.uniform(-50, 50))
