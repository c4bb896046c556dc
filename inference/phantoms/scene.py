"""What phantoms of every organ share: tissues, signal equations, partial volume, coils, noise, motion, and maps.

A phantom is a scene of layers in patient space (LPS, mm). Each covers a voxel by a fraction (0..1) of its own, which
makes partial volume; a later layer hides an earlier one. Images are [slice, row, column].

Sources: spin and spoiled gradient echo (Haacke et al., Magnetic Resonance Imaging, 1999); the
relaxivity of gadobutrol at 3 T (Rohrer et al. 2005, doi 10.1097/01.rli.0000184756.66360.d3); T1 from two flip angles
(Deoni et al. 2003, doi 10.1002/mrm.10407); Rician noise (Gudbjartsson and Patz 1995, doi 10.1002/mrm.1910340618).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.volumes.geometry import Affine, Array, Geometry

Field = NDArray[np.floating[Any]]  # one value per voxel, [slice, row, column]

R1, R2 = 5.0e-3, 7.1e-3  # relaxivities of the contrast agent in blood plasma, per ms and mmol/L
FLOOR = 60.0  # a map is 0 where the image it is fitted to is darker: there is no signal to fit
LONGEST_T1, LONGEST_T2, LARGEST_ADC = 5000.0, 1000.0, 4000.0  # ms, ms, um2/s: where maps are cut off


@dataclass(frozen=True)
class Tissue:
    """`t1`, `t2` in ms, `pd` relative to water, `adc` in um2/s, `fat` the fraction of the signal that is fat's,
    `uptake` the contrast agent it holds some minutes after the injection, in mmol/L.
    """

    t1: float
    t2: float
    pd: float
    adc: float
    fat: float = 0.0
    uptake: float = 0.0


class Component(Enum):
    """What of the signal a Dixon reconstruction shows."""

    ALL = "all"
    WATER = "water"
    FAT = "fat"


@dataclass(frozen=True)
class Acquisition:
    """How an image is made. Times in ms, `b_value` in s/mm2; `fat_left` is the fat signal that suppression leaves."""

    repetition_time: float
    echo_time: float
    fat_suppressed: bool = False
    b_value: float = 0.0
    fat_left: float = 0.06
    noise: float = 0.012  # standard deviation per channel, as a fraction of the brightest signal
    bias: float = 0.15  # the receive field varies by about this fraction over the field of view
    flip_angle: float | None = None  # degrees, of a spoiled gradient echo; None is a spin echo at 90 degrees
    contrast_agent: bool = False  # after it was given
    component: Component = Component.ALL


@dataclass(frozen=True)
class Scanner:
    """How one scanner differs from another, whatever the contrast. Numbers multiply those of the acquisition."""

    noise: float = 1.0
    echo_time: float = 1.0
    bias: float = 1.0
    voxel: float = 1.0  # edge length, within the same field of view
    surface_coil: bool = False  # the receive field falls off from one side, instead of varying everywhere
    motion: float = 0.0  # mm: the amplitude of a periodic motion during the acquisition of the lines

    def acquire(self, acquisition: Acquisition) -> Acquisition:
        return replace(
            acquisition,
            noise=acquisition.noise * self.noise,
            echo_time=acquisition.echo_time * self.echo_time,
            bias=acquisition.bias * self.bias,
        )

    def grid(self, grid: Geometry) -> Geometry:
        """The grid this scanner would image the field of view of `grid` on."""
        if self.voxel == 1.0:
            return grid
        s, r, c = (max(1, round(n / self.voxel)) for n in grid.shape)
        factors = np.array(grid.shape) / np.array([s, r, c])
        affine = grid.affine.copy()
        affine[:3, :3] = grid.affine[:3, :3] * factors
        affine[:3, 3] += grid.affine[:3, :3] @ ((factors - 1) / 2)  # the first corner stays where it is
        return Geometry((s, r, c), affine)


STANDARD = Scanner()
SHIFTED = Scanner(noise=3.0, echo_time=1.3, bias=2.5, voxel=1.25, surface_coil=True)  # frozen: tables are about it


def signal(tissue: Tissue, acquisition: Acquisition) -> float:
    """The transverse magnetisation at the echo, relative to that of water at rest.

    Spin echo: PD (1 - exp(-TR/T1)) exp(-TE/T2); spoiled gradient echo: PD sin a (1 - E1) / (1 - E1 cos a) exp(-TE/T2)
    with E1 = exp(-TR/T1). Diffusion weighting multiplies by exp(-b ADC), fat suppression takes most of fat's part.
    """
    if acquisition.contrast_agent and tissue.uptake:
        t1, t2 = 1 / (1 / tissue.t1 + R1 * tissue.uptake), 1 / (1 / tissue.t2 + R2 * tissue.uptake)
        tissue = replace(tissue, t1=t1, t2=t2)
    decayed = np.exp(-acquisition.echo_time / tissue.t2)
    attenuated = np.exp(-acquisition.b_value * tissue.adc * 1e-6)
    left = 1.0 - tissue.fat * (1.0 - acquisition.fat_left) if acquisition.fat_suppressed else 1.0
    shown = {Component.ALL: 1.0, Component.WATER: 1.0 - tissue.fat, Component.FAT: tissue.fat}[acquisition.component]
    return float(tissue.pd * _recovered(tissue, acquisition) * decayed * attenuated * left * shown)


def _recovered(tissue: Tissue, acquisition: Acquisition) -> float:
    e1 = np.exp(-acquisition.repetition_time / tissue.t1)
    if acquisition.flip_angle is None:
        return float(1.0 - e1)
    angle = np.radians(acquisition.flip_angle)
    return float(np.sin(angle) * (1.0 - e1) / (1.0 - e1 * np.cos(angle)))


@dataclass(frozen=True, eq=False)
class Layer:
    """What one thing adds to a scene: the part of each voxel it covers, and what it consists of.

    `fill` is one tissue, or layers of which the first covers everything. `density` varies its proton density.
    """

    cover: Field
    fill: "Tissue | tuple[Layer, ...]"
    density: Field | float = 1.0


def paint(layers: Sequence[Layer], level: Callable[[Tissue], float]) -> Field:
    """One image of a scene in which each tissue has its `level`, [slice, row, column]."""
    image: Field | None = None
    for layer in layers:
        fill: Field
        if isinstance(layer.fill, tuple):
            fill = paint(layer.fill, level)
        else:
            fill = np.asarray(layer.density * np.float32(level(layer.fill)))
        image = layer.cover * fill if image is None else painted(image, layer.cover, fill)
    assert image is not None
    return np.asarray(image, dtype=np.float32)


def painted(under: Field, cover: Field, value: float | Field) -> Field:
    return np.asarray(under + cover * (value - under), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Mixture:
    """A scene as parts of tissues: `parts` is [tissue, slice, row, column]. Many images of one scene come of it
    faster than by painting each.
    """

    tissues: tuple[Tissue, ...]
    parts: NDArray[np.float32]

    def image(self, level: Callable[[Tissue], float]) -> Field:
        levels = np.array([level(tissue) for tissue in self.tissues], dtype=np.float32)
        return np.asarray(np.tensordot(levels, self.parts, axes=1), dtype=np.float32)


def mixture(layers: Sequence[Layer], *, density: bool = True) -> Mixture:
    """The parts that tissues have in each voxel; without `density` regardless of their proton density."""
    parts: dict[Tissue, Field] = {}
    for tissue, part in _seen(layers, 1.0, density):
        if tissue in parts:
            parts[tissue] += part
        else:
            parts[tissue] = part
    return Mixture(tuple(parts), np.stack(list(parts.values())).astype(np.float32, copy=False))


def _seen(layers: Sequence[Layer], through: Field | float, density: bool) -> Iterator[tuple[Tissue, Field]]:
    """What is left of each layer under those above it, from the top down."""
    for layer in reversed(layers):
        part = through * layer.cover
        if isinstance(layer.fill, tuple):
            yield from _seen(layer.fill, part, density)
        else:
            yield layer.fill, part * layer.density if density else part
        through = through - part


@dataclass(frozen=True)
class Lobe:
    """An ellipsoid: centre and semi-axes in mm, turned about z by `turn` radians."""

    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    turn: float


def points_of(grid: Geometry) -> Field:
    """LPS mm of every voxel centre, [slice, row, column, 3]."""
    steps, origin = grid.affine[:3, :3], grid.affine[:3, 3]
    axes = [np.arange(n, dtype=np.float64)[:, None] * steps[:, i] for i, n in enumerate(grid.shape)]
    points = origin + axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :]
    return np.asarray(points, dtype=np.float32)


def cover(distance: Field, voxel: float) -> Field:
    """The part of a voxel inside a surface at this signed distance (mm, negative inside)."""
    return np.clip(0.5 - distance / np.float32(voxel), 0.0, 1.0).astype(np.float32)


def lobes_distance(points: Field, lobes: tuple[Lobe, ...]) -> Field:
    """Signed distance in mm to the union of the lobes, near enough at their surface."""
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
    h = np.clip(0.5 + 0.5 * (b - a) / width, 0.0, 1.0)
    return np.asarray(b + (a - b) * h - width * h * (1.0 - h), dtype=np.float32)


def ripple(points: Field, size: float, seed: int) -> Field:
    """A smooth random field of zero mean and unit range, with structures of about `size` mm; the same on any grid."""
    rng = np.random.default_rng(seed % 2**32)
    total = np.zeros(points.shape[:-1], np.float32)
    for _ in range(6):
        wave = rng.normal(size=3)
        wave *= 2 * np.pi / (2 * size * rng.uniform(0.7, 1.5)) / np.linalg.norm(wave)
        total += np.sin(points @ wave.astype(np.float32) + np.float32(rng.uniform(0, 2 * np.pi)))
    return np.asarray(total / 3.0, dtype=np.float32)


def surface_points(distance: Field, grid: Geometry) -> NDArray[np.float64]:
    """(n, 3) LPS mm where `distance` (signed, on `grid`) passes zero between neighbouring voxels."""
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


def bias_field(rng: np.random.Generator, grid: Geometry, amount: float) -> Field:
    """Receive sensitivity: a smooth field near 1."""
    coarse = rng.normal(size=(4, 4, 4))
    zoom = [n / 4 for n in grid.shape]
    smooth = ndimage.zoom(coarse, zoom, order=3, mode="nearest", grid_mode=True)
    return np.asarray(np.exp(amount * smooth[: grid.shape[0], : grid.shape[1], : grid.shape[2]]), dtype=np.float32)


def surface_coil_field(rng: np.random.Generator, grid: Geometry, amount: float) -> Field:
    """Receive sensitivity of a coil on one side, which falls off across the slice and to both ends along it."""
    angle = rng.uniform(0, 2 * np.pi)
    s, r, c = (np.linspace(-1, 1, n, dtype=np.float32) for n in grid.shape)
    across = np.float32(np.sin(angle)) * r[:, None] + np.float32(np.cos(angle)) * c[None, :]
    return np.asarray(np.exp(amount * (across[None] - 0.8 * s[:, None, None] ** 2)), dtype=np.float32)


def rician(rng: np.random.Generator, clean: NDArray[Any], noise: float) -> Field:
    """The magnitude of a real or complex image whose two channels have Gaussian noise of this standard deviation."""
    real = np.real(clean) + rng.normal(0.0, noise, clean.shape).astype(np.float32)
    imaginary = np.imag(clean) + rng.normal(0.0, noise, clean.shape).astype(np.float32)
    return np.asarray(np.hypot(real, imaginary), dtype=np.float32)


def moved_between_lines(image: Field, shifts: NDArray[np.float64]) -> NDArray[np.complex64]:
    """The complex image [slice, row, column] of something that moved while it was acquired.

    Rows are phase-encoded, one line of k-space after the other from one edge to the other. `shifts` is (rows, 2): where
    the object was at each line, in voxels along (row, column). Periodic shifts make ghosts; a single step, blurring.
    """
    rows, columns = image.shape[1:]
    along, across = np.fft.fftshift(np.fft.fftfreq(rows)), np.fft.fftfreq(columns)
    turned = np.exp(-2j * np.pi * (along * shifts[:, 0])[:, None] - 2j * np.pi * shifts[:, 1:] * across[None, :])
    return np.fft.ifft2(np.fft.fft2(image, axes=(1, 2)) * np.fft.ifftshift(turned, axes=0), axes=(1, 2)).astype(
        np.complex64
    )


def periodic(rng: np.random.Generator, rows: int, amplitude: float) -> NDArray[np.float64]:
    """Shifts for `moved_between_lines`: to and fro along the rows by `amplitude` voxels, a few times in all."""
    phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi * rng.uniform(5.0, 20.0) * np.arange(rows) / rows
    return np.stack([amplitude * np.sin(phase), np.zeros(rows)], axis=1)


# -- maps as scanners compute them: on purpose not with `inference.quantities`, whose fits are tested against these ----


def adc_map(images: Sequence[Array], b_values: Sequence[float], floor: float = FLOOR) -> Array:
    """ADC in um2/s from images of several b-values (s/mm2): the slope of log signal on b by least squares.

    0 where the first image is below `floor`: there is no signal to fit.
    """
    b = np.asarray(b_values, dtype=np.float64)
    weights = (b - b.mean()) / np.sum((b - b.mean()) ** 2)
    slope = sum(w * np.log(np.maximum(image, 1.0)) for w, image in zip(weights, images, strict=True))
    return np.where(images[0] >= floor, np.clip(-1e6 * slope, 0.0, LARGEST_ADC), 0.0).astype(np.float32)


def t2_map(images: Sequence[Array], echo_times: Sequence[float], floor: float = FLOOR) -> Array:
    """T2 in ms from spin echoes at several echo times (ms): log signal on time by least squares, weighted by the
    square of the signal. 0 where the first image is below `floor`.
    """
    echoes = np.stack([np.maximum(image, 1.0) for image in images])
    times = np.asarray(echo_times, dtype=np.float32)[:, None, None, None]
    weights = echoes**2
    weights /= weights.sum(axis=0)
    y = np.log(echoes)
    time = times - (weights * times).sum(axis=0)
    rate = -(weights * time * y).sum(axis=0) / (weights * time**2).sum(axis=0)
    t2 = np.where(rate > 1 / LONGEST_T2, 1 / np.maximum(rate, 1 / LONGEST_T2), LONGEST_T2)
    return np.where(images[0] >= floor, t2, 0.0).astype(np.float32)


def t1_map(
    images: Sequence[Array], flip_angles: Sequence[float], repetition_time: float, floor: float = FLOOR
) -> Array:
    """T1 in ms from spoiled gradient echoes at two flip angles (degrees), repetition time in ms; in closed form.

    0 where the first image is below `floor`.
    """
    (first, second), (a, b) = images, np.radians(flip_angles)
    with np.errstate(divide="ignore", invalid="ignore"):
        e1 = (second / np.sin(b) - first / np.sin(a)) / (second / np.tan(b) - first / np.tan(a))
        longest = np.exp(-repetition_time / LONGEST_T1)
        t1 = -repetition_time / np.log(np.clip(np.nan_to_num(e1, nan=longest), 1e-6, longest))
    return np.where(first >= floor, t1, 0.0).astype(np.float32)


def axial_grid(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], centre: tuple[float, float, float]
) -> Geometry:
    """An axial grid about `centre` (LPS mm): slices towards the head, rows towards the back, columns to the left."""
    affine: Affine = np.eye(4)
    affine[:3, :3] = 0.0
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    middle = (np.array(shape) - 1) / 2
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ middle
    return Geometry(shape, affine)
