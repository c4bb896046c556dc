"""Random views of a case, each with another crop, pose and contrast.

Everything runs on the device of the case.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class ViewSettings:
    """The largest differences between a case and its views. Lengths are in voxels, angles in radians."""

    size: tuple[int, int, int] = (80, 64, 64)  # of a view, [slice, row, column]
    rotation: tuple[float, float, float] = (0.5, 0.2, 0.2)  # about the axis of the limb, and two tilts of it
    scale: tuple[float, float] = (0.75, 1.3)
    bend: float = 2.5  # standard deviation of the elastic displacement
    keep_centre: float = 0.1  # how often the crop keeps its sides
    recolour: float = 1.0  # how often brightness, contrast and resolution change, relative to the usual


def random_view(image: Tensor, mask: Tensor, rng: np.random.Generator, how: ViewSettings) -> tuple[Tensor, Tensor]:
    """Return a random view of `image` and `mask`, each as [1, *size] floats.

    `image` and `mask` are [slice, row, column] floats, and air is 0. The mass is in the middle of the training images.
    A network must not learn its place, so the sides of the image are first cut off at random, except with probability
    `keep_centre`, and the middle of the view is then chosen at random.
    """
    if rng.uniform() > how.keep_centre:
        image, mask = _cut(image, mask, rng)
    grid = _grid(image.shape, mask, rng, how).to(image.device)
    pair = torch.stack([image, mask])[None]
    seen = functional.grid_sample(pair, grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0]
    picture, truth = seen[:1], seen[1:]
    for axis in (1, 2, 3):
        if rng.uniform() < 0.5:
            picture, truth = picture.flip(axis), truth.flip(axis)
    return recolour(picture, truth, rng, how.recolour), (truth >= 0.5).float()


def recolour(picture: Tensor, truth: Tensor, rng: np.random.Generator, often: float = 1.0) -> Tensor:
    """Change receive field, contrast, noise and resolution at random, and sometimes the brightness of the mass."""
    if rng.uniform() < 0.35 * often:
        picture = _mass_brightness(picture, truth, rng)
    if rng.uniform() < 0.7 * often:
        picture = _curve(picture, rng)
    if rng.uniform() < 0.6 * often:
        picture = picture * torch.exp(float(rng.uniform(0.05, 0.35)) * _smooth(picture.shape[1:], 3, rng, picture))
    if rng.uniform() < 0.5 * often:
        picture = picture * float(rng.uniform(0.8, 1.25))
    if rng.uniform() < 0.25 * often:
        factor = float(rng.uniform(1.2, 2.2))
        axis = int(rng.integers(0, 4))  # One direction, as thick slices do, or all.
        size = [max(int(n / factor), 8) if axis in (3, i) else n for i, n in enumerate(picture.shape[1:])]
        low = functional.interpolate(picture[None], size=size, mode="trilinear", align_corners=True)
        picture = functional.interpolate(low, size=picture.shape[1:], mode="trilinear", align_corners=True)[0]
    if rng.uniform() < 0.6 * often:
        noise = _normal(picture.shape, rng, picture) * float(rng.uniform(0.0, 0.06))
        picture = (picture + noise).abs()
    return picture.clamp(0.0, 1.6)


def _cut(image: Tensor, mask: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Cut a random part of the image off each side, up to the mass, and sometimes a part of the mass too."""
    slices = []
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        inside = torch.nonzero(mask.amax(dim=others) > 0.5).flatten()
        n = mask.shape[axis]
        first, last = (int(inside[0]), int(inside[-1])) if len(inside) else (n // 2, n // 2)
        reach = 0.2 * (last - first) if rng.uniform() < 0.2 else 0.0
        low, high = rng.uniform(0.0, 1.0, 2) * (rng.uniform(size=2) < 0.7)
        start = int(low * (first + reach))
        stop = n - int(high * (n - 1 - last + reach))
        slices.append(slice(start, max(stop, start + 4)))
    a, b, c = slices
    return image[a, b, c], mask[a, b, c]


def _grid(shape: torch.Size, mask: Tensor, rng: np.random.Generator, how: ViewSettings) -> Tensor:
    """Return sampling positions for grid_sample, [1, *size, 3] in x, y, z from -1 to 1."""
    size = how.size
    extent = np.array(shape, dtype=np.float64)
    scale = float(np.exp(rng.uniform(*np.log(how.scale))))
    stretch = np.exp(rng.uniform(-0.12, 0.12, 3)) * scale
    angles = [rng.uniform(-a, a) for a in how.rotation]
    if rng.uniform() < 0.15:
        angles[0] = rng.uniform(-np.pi, np.pi)
    matrix = _turn(angles) * stretch
    # A crop larger than the view is seen anywhere; a smaller one lies anywhere in the view.
    slack = np.abs(extent - np.array(size) * scale) / 2
    centre = (extent - 1) / 2 + rng.uniform(-1, 1, 3) * (slack + 4.0)
    lines = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size]
    points = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1)
    at = points @ torch.tensor(matrix.T, dtype=torch.float32) + torch.tensor(centre, dtype=torch.float32)
    if rng.uniform() < 0.5:
        coarse = torch.tensor(rng.normal(0.0, how.bend, (1, 3, 6, 6, 6)), dtype=torch.float32)
        bent = functional.interpolate(coarse, size=size, mode="trilinear", align_corners=True)[0]
        at = at + bent.permute(1, 2, 3, 0)
    unit = 2 * at / torch.tensor(np.maximum(extent - 1, 1), dtype=torch.float32) - 1
    return unit.flip(-1)[None]


def _turn(angles: list[float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return the rotation of (slice, row, column) about the slice axis, then the row axis, then the column axis."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [a for a in range(3) if a != axis]
        step = np.eye(3)
        step[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        result = step @ result
    return result


def _mass_brightness(picture: Tensor, truth: Tensor, rng: np.random.Generator) -> Tensor:
    """Bring the mass to another level between muscle and fat, since masses can be bright on T1w and inhomogeneous.

    Its texture is kept. In half of the views broad bright and dark parts (fat, blood, necrosis) are added to the mass.
    """
    inside = truth > 0.5
    if int(inside.sum()) < 20:
        return picture
    level = float(picture[inside].mean())
    target = float(rng.uniform(0.2, 0.95))
    contrast = float(rng.uniform(0.7, 1.3))
    changed = (picture - level) * contrast + target
    if rng.uniform() < 0.5:
        parts = _smooth(picture.shape[1:], int(rng.integers(4, 12)), rng, picture)
        changed = changed + float(rng.uniform(0.05, 0.25)) * parts
    return picture + truth * (changed - picture)


def _curve(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """Apply a random monotone curve through 0 and about 1: gamma, and a bend of the middle grey levels."""
    gamma = float(np.exp(rng.uniform(-0.4, 0.4)))
    changed = picture.clamp(min=0.0) ** gamma
    amount = float(rng.uniform(-0.12, 0.12))
    return changed + amount * torch.sin(np.pi * changed.clamp(0.0, 1.0))


def _smooth(shape: torch.Size, points: int, rng: np.random.Generator, like: Tensor) -> Tensor:
    coarse = torch.tensor(rng.normal(size=(1, 1, points, points, points)), dtype=torch.float32, device=like.device)
    size = [int(n) for n in shape]
    return functional.interpolate(coarse, size=size, mode="trilinear", align_corners=True)[0]


def _normal(shape: torch.Size, rng: np.random.Generator, like: Tensor) -> Tensor:
    noise = rng.standard_normal(size=tuple(shape), dtype=np.float32)
    return torch.from_numpy(noise).to(like.device)
