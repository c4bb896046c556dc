"""Scenes of shapes in patient space (LPS, mm), which phantoms of every organ are made of.

A scene is a sequence of layers. Each covers a fraction (0..1) of every voxel, which makes partial volume; a later layer
hides an earlier one. Images are [slice, row, column].
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.phantoms.signals import Tissue
from inference.volumes.geometry import Affine, Geometry

Field = NDArray[np.floating[Any]]  # one value per voxel, [slice, row, column]


@dataclass(frozen=True, eq=False)
class Layer:
    """A shape of a scene: the part of each voxel that it covers, and its contents.

    `fill` is one tissue, or layers of which the first covers everything. `density` is a factor to the proton density.
    """

    cover: Field
    fill: "Tissue | tuple[Layer, ...]"
    density: Field | float = 1.0


def paint(layers: Sequence[Layer], level: Callable[[Tissue], float]) -> Field:
    """Return an image [slice, row, column] of a scene in which each tissue has its `level`."""
    image: Field | None = None
    for layer in layers:
        fill: Field
        if isinstance(layer.fill, tuple):
            fill = paint(layer.fill, level)
        else:
            fill = np.asarray(layer.density * np.float32(level(layer.fill)))
        image = layer.cover * fill if image is None else _painted(image, layer.cover, fill)
    assert image is not None
    return np.asarray(image, dtype=np.float32)


def _painted(under: Field, cover: Field, value: float | Field) -> Field:
    return np.asarray(under + cover * (value - under), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Mixture:
    """A scene as the parts that tissues take of each voxel: `parts` is [tissue, slice, row, column].

    It makes many images of one scene faster than `paint` does.
    """

    tissues: tuple[Tissue, ...]
    parts: NDArray[np.float32]

    def image(self, level: Callable[[Tissue], float]) -> Field:
        """Return the image [slice, row, column] in which each tissue has its `level`."""
        levels = np.array([level(tissue) for tissue in self.tissues], dtype=np.float32)
        return np.asarray(np.tensordot(levels, self.parts, axes=1), dtype=np.float32)


def mixture(layers: Sequence[Layer], *, density: bool = True) -> Mixture:
    """Return the parts that tissues take of each voxel, multiplied by their proton density if `density` is set."""
    parts: dict[Tissue, Field] = {}
    for tissue, part in _seen(layers, 1.0, density):
        if tissue in parts:
            parts[tissue] += part
        else:
            parts[tissue] = part
    return Mixture(tuple(parts), np.stack(list(parts.values())).astype(np.float32, copy=False))


def _seen(layers: Sequence[Layer], through: Field | float, density: bool) -> Iterator[tuple[Tissue, Field]]:
    """Yield the tissue of each layer and the part of each voxel in which no later layer hides it, last layer first."""
    for layer in reversed(layers):
        part = through * layer.cover
        if isinstance(layer.fill, tuple):
            yield from _seen(layer.fill, part, density)
        else:
            yield layer.fill, part * layer.density if density else part
        through = through - part


@dataclass(frozen=True)
class Lobe:
    """An ellipsoid with its centre and semi-axes in mm, turned about z by `turn` radians."""

    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    turn: float


def points_of(grid: Geometry) -> Field:
    """Return the LPS coordinates in mm of every voxel centre, [slice, row, column, 3]."""
    steps, origin = grid.affine[:3, :3], grid.affine[:3, 3]
    axes = [np.arange(n, dtype=np.float64)[:, None] * steps[:, i] for i, n in enumerate(grid.shape)]
    points = origin + axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :]
    return np.asarray(points, dtype=np.float32)


def cover(distance: Field, voxel: float) -> Field:
    """Return the part of each voxel that lies inside a surface at this signed distance (mm, negative inside)."""
    return np.clip(0.5 - distance / np.float32(voxel), 0.0, 1.0).astype(np.float32)


def lobes_distance(points: Field, lobes: tuple[Lobe, ...]) -> Field:
    """Return the signed distance in mm to the union of the lobes. It is approximate, but accurate near the surface."""
    result: Field | None = None
    for lobe in lobes:
        p = points - np.array(lobe.centre, dtype=np.float32)
        c, s = np.float32(np.cos(lobe.turn)), np.float32(np.sin(lobe.turn))
        q = np.stack([c * p[..., 0] + s * p[..., 1], -s * p[..., 0] + c * p[..., 1], p[..., 2]], axis=-1)
        axes = np.array(lobe.axes, dtype=np.float32)
        k0 = np.linalg.norm(q / axes, axis=-1)
        k1 = np.linalg.norm(q / axes**2, axis=-1)
        distance = np.where(k1 > 0, k0 * (k0 - 1) / np.maximum(k1, 1e-9), -axes.min())
        result = distance if result is None else smooth_minimum(result, distance, 0.3 * float(axes.min()))
    assert result is not None
    return np.asarray(result, dtype=np.float32)


def smooth_minimum(a: Field, b: Field, width: float) -> Field:
    """Return the minimum of two distances with a rounded transition, so that two surfaces join over `width` mm."""
    h = np.clip(0.5 + 0.5 * (b - a) / width, 0.0, 1.0)
    return np.asarray(b + (a - b) * h - width * h * (1.0 - h), dtype=np.float32)


def ripple(points: Field, size: float, seed: int) -> Field:
    """Return a smooth random field of zero mean and unit range with structures of about `size` mm.

    The field depends only on `seed` and the points, so that it is the same on any grid.
    """
    rng = np.random.default_rng(seed % 2**32)
    total = np.zeros(points.shape[:-1], np.float32)
    for _ in range(6):
        wave = rng.normal(size=3)
        wave *= 2 * np.pi / (2 * size * rng.uniform(0.7, 1.5)) / np.linalg.norm(wave)
        total += np.sin(points @ wave.astype(np.float32) + np.float32(rng.uniform(0, 2 * np.pi)))
    return np.asarray(total / 3.0, dtype=np.float32)


def surface_points(distance: Field, grid: Geometry) -> NDArray[np.float64]:
    """Return the points (n, 3) in LPS mm where the signed `distance` on `grid` passes zero between two voxels."""
    found = []
    for axis in range(3):
        size = distance.shape[axis]
        here, there = (np.take(distance, np.arange(a, size - 1 + a), axis) for a in (0, 1))
        at = np.argwhere((here < 0) != (there < 0))
        near, far = here[tuple(at.T)], there[tuple(at.T)]
        indices = at.astype(np.float64)
        indices[:, axis] += near / (near - far)
        found.append(grid.to_lps(indices))
    return np.concatenate(found)


def axial_grid(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], centre: tuple[float, float, float]
) -> Geometry:
    """Return an axial grid about `centre` (LPS mm).

    Slices go towards the head, rows towards the back and columns to the left.
    """
    affine: Affine = np.eye(4)
    affine[:3, :3] = 0.0
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    middle = (np.array(shape) - 1) / 2
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ middle
    return Geometry(shape, affine)
