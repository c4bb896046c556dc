"""Simulated limbs with a sarcoma as training cases of `extremity_sts_sbrt`, and random slabs of them."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from inference.applications.extremity_sts_sbrt.examination import REQUIRED
from inference.applications.extremity_sts_sbrt.network import CONTRASTS, STRUCTURES
from inference.applications.extremity_sts_sbrt.preprocessing import BRIGHTEST, PreparedLimb, prepare_limb
from inference.phantoms.limb.images import DWI_B_VALUES, LimbImages
from inference.phantoms.limb.study import FIRST_TRAINING_SEED, limb_study, study_grid
from inference.phantoms.signals import Scanner
from inference.quantities.fits.adc import adc_map
from inference.volumes.canonical import canonical
from inference.volumes.geometry import Array, Geometry
from inference.volumes.resampling import resample_to_grid, resample_to_spacing

SLICES, PIXELS = 4, 128  # of a slab
# The ranges that the scanners of training limbs are drawn from, as factors to the usual scanner.
NOISE_RANGE, ECHO_TIME_RANGE, BIAS_RANGE = (0.5, 2.5), (0.85, 1.2), (0.0, 2.0)
MISSING = 0.25  # how often each optional contrast is missing in a slab
MAPS = tuple(CONTRASTS.index(name) for name in ("adc", "t1_map", "t2_map"))
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LimbCase:
    """A limb on the network's grid.

    `image` is [contrast, slice, row, column] as prepared, `truth` is [structure, slice, row, column] of 0 and 1.
    """

    image: NDArray[np.float16]
    truth: NDArray[np.uint8]


def limb_pool(folder: Path, count: int, seed: int) -> list[LimbCase]:
    """Return `count` limbs. Each limb is rendered into `folder` once, and read from there afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    return list(_pool(folder, range(FIRST_TRAINING_SEED + seed, FIRST_TRAINING_SEED + seed + count)))


def _pool(folder: Path, seeds: range) -> Iterator[LimbCase]:
    for number, seed in enumerate(seeds, start=1):
        path = folder / f"{seed}.npz"
        if not path.is_file():
            case = training_limb_case(seed)
            part = folder / f"{seed}.part.npz"
            np.savez(part, image=case.image, truth=case.truth)
            part.replace(path)
            log.info("Limb %d of %d is rendered.", number, len(seeds))
        with np.load(path) as held:
            yield LimbCase(held["image"], held["truth"])


def training_limb_case(seed: int) -> LimbCase:
    """Render a limb at one of three time points, with a random scanner, field of view and slice thickness."""
    rng = np.random.default_rng([seed, 7])
    study = limb_study(seed, int(rng.integers(3)))
    scanner = Scanner(
        noise=float(rng.uniform(*NOISE_RANGE)), echo_time=float(rng.uniform(*ECHO_TIME_RANGE)),
        bias=float(rng.uniform(*BIAS_RANGE)),
        surface_coil=bool(rng.uniform() < 0.3), motion=float(rng.uniform(0.0, 1.5)) * float(rng.uniform() < 0.3),
    )  # fmt: skip
    thickness, pixel = float(rng.uniform(3.5, 5.5)), float(rng.uniform(1.15, 1.6))
    pixels = int(205 / pixel)
    shape = (int(rng.uniform(100, 140) / thickness), pixels, pixels)
    grid = study_grid(study, shape, (thickness, pixel, pixel), float(rng.uniform(-30, 30)))
    images = study.on(grid, scanner)
    rendered = {name: images.render(name, seed) for name in CONTRASTS if name != "adc"}
    rendered["adc"] = _adc(images, seed) if rng.uniform() < 0.7 else images.render("adc", seed)
    prepared = prepare_limb(rendered, grid)
    truth = np.stack([_on_prepared_grid(images.masks[name], grid, prepared) for name in STRUCTURES])
    return LimbCase(prepared.array.astype(np.float16), truth)


def _adc(images: LimbImages, seed: int) -> Array:
    """Return the ADC map that the node computes, which differs from that of the simulated scanner."""
    return adc_map([images.render(f"dwi_b{b:g}", seed) for b in DWI_B_VALUES], DWI_B_VALUES).values


def _on_prepared_grid(mask: NDArray[np.bool_], grid: Geometry, prepared: PreparedLimb) -> NDArray[np.uint8]:
    turned, affine = canonical(mask.astype(np.float32), grid.affine)
    s, r, c = np.linalg.norm(prepared.geometry.affine[:3, :3], axis=0)
    smooth, affine = resample_to_spacing(turned, affine, (float(s), float(r), float(c)))
    covered = resample_to_grid(smooth, affine, prepared.geometry.affine, prepared.geometry.shape, order=0)
    return (covered >= 0.5).astype(np.uint8)


def hash_limb_cases(cases: Sequence[LimbCase]) -> str:
    """Return the SHA-256 of all images and truths; it changes with any voxel."""
    digest = hashlib.sha256()
    for case in cases:
        digest.update(case.image.tobytes())
        digest.update(case.truth.tobytes())
    return digest.hexdigest()


def random_slab(case: LimbCase, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw neighbouring slices of a case, move, turn and scale them, and remove some of their contrasts.

    Return the image [contrast, slice, row, column] and the truth [structure, slice, row, column].
    """
    first = int(rng.integers(case.truth.shape[1] - SLICES + 1))
    chosen = slice(first, first + SLICES)
    image = torch.from_numpy(case.image[:, chosen].astype(np.float32))
    truth = torch.from_numpy(case.truth[:, chosen].astype(np.float32))
    both = torch.cat([image, truth]).transpose(0, 1)
    seen = functional.grid_sample(both, _grid(both.shape, rng), padding_mode="zeros", align_corners=False)
    for axis in (0, 2, 3):
        if rng.uniform() < 0.5:
            seen = seen.flip(axis)
    image, truth = seen.transpose(0, 1).split([len(CONTRASTS), len(STRUCTURES)])
    return _dropped(_recoloured(image, rng), rng), (truth >= 0.5).float()


def _grid(shape: Sequence[int], rng: np.random.Generator) -> Tensor:
    """Return sampling positions for grid_sample, [slice, PIXELS, PIXELS, 2], the same in every slice."""
    rows, columns = shape[2:]
    angle, scale = rng.uniform(-0.5, 0.5), rng.uniform(0.85, 1.2)
    lines = torch.arange(PIXELS, dtype=torch.float32) - (PIXELS - 1) / 2
    y, x = torch.meshgrid(lines * scale, lines * scale, indexing="ij")
    turned_x, turned_y = np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y
    shift = rng.uniform(-1, 1, 2) * (np.abs(np.array([rows, columns]) - PIXELS) / 2 + 4)
    at = torch.stack([2 * (turned_x + shift[1]) / columns, 2 * (turned_y + shift[0]) / rows], dim=-1)
    return at[None].expand(shape[0], -1, -1, -1)


def _recoloured(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Make each contrast coarser or noisier at random, and images also brighter or darker."""
    seen = []
    for n, one in enumerate(image):
        if rng.uniform() < 0.4:
            size = [int(v / rng.uniform(1.0, 1.8)) for v in one.shape[1:]]
            low = functional.interpolate(one[None], size=size, mode="bilinear", antialias=True)
            one = functional.interpolate(low, size=list(one.shape[1:]), mode="bilinear")[0]
        if n not in MAPS:
            one = float(np.exp(rng.normal(0, 0.12))) * one.clamp(min=0) ** float(np.exp(rng.normal(0, 0.12)))
        if rng.uniform() < 0.4:
            noise = rng.standard_normal(tuple(one.shape), dtype=np.float32)
            one = (one + float(rng.uniform(0, 0.06)) * torch.from_numpy(noise)).abs()
        seen.append(one)
    return torch.stack(seen).clamp(0.0, BRIGHTEST)


def _dropped(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Remove single contrasts at random, and sometimes all of them, but never T1w and T2w."""
    missing = rng.uniform(size=len(CONTRASTS)) < (1.0 if rng.uniform() < 0.12 else MISSING)
    missing[[CONTRASTS.index(name) for name in REQUIRED]] = False
    return image * torch.from_numpy(~missing).float()[:, None, None, None]
