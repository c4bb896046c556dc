"""Limb phantoms as training and test cases: a T1w image and the true mass on the network's grid."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from inference.applications.soft_tissue_mass import preprocessing
from inference.phantoms.limb.anatomy import LimbPhantom
from inference.phantoms.limb.random_limb import limb_grid, limb_phantom
from inference.phantoms.signals import Acquisition
from inference.training.sarcoma import Case
from inference.volumes.canonical import canonical
from inference.volumes.geometry import Array, Geometry
from inference.volumes.resampling import resample_to_spacing

T1W = Acquisition(600.0, 12.0)
FIRST_TRAINING_SEED = 10_000  # tests and demonstrations use smaller ones
FIRST_TEST_SEED = 5_000
HEALTHY_EVERY = 5  # one training limb in so many has no mass


@dataclass(frozen=True, eq=False)
class Sample:
    """On the network's grid: `image` as prepared, `mask` the part of each voxel that is mass."""

    image: Array
    mask: NDArray[np.float32]


def case(seed: int, acquisition: Acquisition = T1W, grid: Geometry | None = None) -> Case:
    phantom = limb_phantom(seed)
    grid = grid or limb_grid()
    return Case(f"phantom {seed}", phantom.render(acquisition, grid), phantom.mask(grid), grid)


def shifted(seed: int) -> Case:
    """A phantom from a scanner unlike those of training: more noise, a longer TE, a stronger bias field."""
    return case(seed, replace(T1W, repetition_time=850.0, echo_time=24.0, noise=0.04, bias=0.35))


def healthy(seed: int) -> Case:
    """A limb without a mass: what is outlined in it is false."""
    grid = limb_grid()
    phantom = limb_phantom(seed).without_mass()
    return Case(f"healthy {seed}", phantom.render(T1W, grid), phantom.mask(grid), grid)


def training_sample(seed: int) -> Sample:
    return sample(training_case(seed))


def training_case(seed: int) -> Case:
    """One phantom under a random protocol, field of view and slice thickness; some without a mass."""
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


def sample(source: Case) -> Sample:
    prepared = preprocessing.prepare_image(source.array, source.geometry)
    mask, affine = canonical(source.mask.astype(np.float32), source.geometry.affine)
    cover, _ = resample_to_spacing(mask, affine, preprocessing.SPACING)
    return Sample(prepared.array, cover)


def training_samples(count: int, seed: int, workers: int = 2) -> list[Sample]:
    first = FIRST_TRAINING_SEED + seed * 100_000
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(partial(training_sample), range(first, first + count), chunksize=4))


def _middle(phantom: LimbPhantom, rng: np.random.Generator) -> float:
    """The field of view need not have the mass in its middle, but has it somewhere."""
    return phantom.lobes[0].centre[2] + float(rng.uniform(-50, 50))
