"""A thigh-like limb with one soft-tissue mass, and its MR images by signal equations.

The limb is a scene of shapes in patient space (LPS, mm) with its axis near z, so it can be imaged on any grid. Each
shape covers a voxel by a fraction (0..1) of its own, which makes partial volume; a later shape hides an earlier one.
Relaxation times are of the order measured at 3 T (Stanisz et al. 2005, doi 10.1002/mrm.20605; Gold et al. 2004,
doi 10.2214/ajr.183.2.1830343); diffusivities of masses span those of sarcomas (Schnapauff et al. 2009,
doi 10.1002/jmri.21755). The noise is Rician (Gudbjartsson and Patz 1995, doi 10.1002/mrm.1910340618).
"""

from collections.abc import Sequence as Series
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.volume import Affine, Array, Geometry

Field = NDArray[np.floating[Any]]  # one value per voxel, [slice, row, column]


@dataclass(frozen=True)
class Tissue:
    """`t1`, `t2` in ms, `pd` relative to water, `adc` in um2/s, `fat` the fraction of the signal that is fat's."""

    t1: float
    t2: float
    pd: float
    adc: float
    fat: float = 0.0


AIR = Tissue(1000.0, 50.0, 0.0, 0.0)
SKIN = Tissue(900.0, 30.0, 0.7, 900.0)
FAT = Tissue(370.0, 70.0, 1.0, 50.0, fat=0.95)
FASCIA = Tissue(1000.0, 15.0, 0.5, 600.0)
MUSCLE = Tissue(1350.0, 34.0, 0.85, 1500.0)
CORTEX = Tissue(800.0, 1.0, 0.15, 100.0)
MARROW = Tissue(380.0, 65.0, 0.95, 150.0, fat=0.9)
VESSEL = Tissue(1900.0, 90.0, 0.25, 2500.0)  # flow takes most of the signal
NECROSIS = Tissue(2600.0, 250.0, 1.0, 2300.0)
BLOOD = Tissue(480.0, 60.0, 0.95, 1100.0)  # subacute: methaemoglobin
CAPSULE = Tissue(1100.0, 22.0, 0.5, 900.0)

MASSES: tuple[tuple[str, float, Tissue, Tissue], ...] = (
    # kind, how often, and the two tissues between which each mass is drawn
    ("cellular", 0.50, Tissue(1200.0, 60.0, 0.90, 800.0), Tissue(1700.0, 95.0, 1.00, 1500.0)),
    ("myxoid", 0.25, Tissue(1900.0, 140.0, 0.95, 1900.0), Tissue(2500.0, 220.0, 1.00, 2500.0)),
    ("lipomatous", 0.13, Tissue(420.0, 66.0, 0.95, 150.0, fat=0.8), Tissue(700.0, 60.0, 0.95, 700.0, fat=0.4)),
    ("haemorrhagic", 0.12, Tissue(650.0, 60.0, 0.90, 900.0), Tissue(1000.0, 80.0, 0.95, 1400.0)),
)


@dataclass(frozen=True)
class Acquisition:
    """How an image is made. Times in ms, `b_value` in s/mm2; `fat_left` is the fat signal that suppression leaves."""

    repetition_time: float
    echo_time: float
    fat_suppressed: bool = False
    b_value: float = 0.0
    fat_left: float = 0.06
    noise: float = 0.012  # standard deviation per channel, as a fraction of the brightest signal
    bias: float = 0.15  # the receive field varies by about this fraction over the limb


@dataclass(frozen=True)
class Lobe:
    """An ellipsoid: centre and semi-axes in mm, turned about z by `turn` radians."""

    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    turn: float


@dataclass(frozen=True, eq=False)
class Phantom:
    """One limb. Lengths in mm; the outline is a Fourier series in the angle about the limb's axis."""

    seed: int
    radius: float
    taper: float  # change of the radius per mm along z
    tilt: tuple[float, float]  # how far the axis moves along x and y per mm of z
    outline: tuple[tuple[float, float], ...]  # amplitude (relative) and phase of the harmonics 2, 3, 4
    fat_thickness: tuple[float, float, float]  # mean, variation, and the angle where it is thickest
    bone: tuple[float, float, float, float]  # centre x, y, radius, thickness of the cortex
    muscles: NDArray[np.float64]  # (n, 2) seeds of the compartments, x and y
    muscle_signal: NDArray[np.float64]  # (n,) proton density of each, relative
    vessels: NDArray[np.float64]  # (n, 3) x, y, radius
    kind: str
    mass_tissue: Tissue
    lobes: tuple[Lobe, ...]
    roughness: float  # how far the surface of the mass departs from its lobes, as a fraction of the smallest axis
    inclusions: tuple[tuple[Lobe, Tissue], ...]
    septa: float  # 0..1: how much of a fatty mass its septa take
    infiltration: float = 0.0  # width in mm over which the mass fades into its surroundings

    @property
    def diameter(self) -> float:
        """mm, of the largest lobe; 0 without a mass."""
        return 2 * max((max(lobe.axes) for lobe in self.lobes), default=0.0)

    def without_mass(self) -> "Phantom":
        """The same limb, healthy."""
        return replace(self, lobes=(), inclusions=())

    def mask(self, grid: Geometry) -> NDArray[np.bool_]:
        """The mass on `grid`: the voxels of which it takes at least half."""
        if not self.lobes:
            return np.zeros(grid.shape, np.bool_)
        points = _points(grid)
        bx, by, r, _ = self.bone
        bone = (
            np.hypot(
                points[..., 0] - self.tilt[0] * points[..., 2] - bx, points[..., 1] - self.tilt[1] * points[..., 2] - by
            )
            < r
        )
        return np.asarray((self._mass_cover(points, max(grid.spacing)) >= 0.5) & ~bone)

    def render(self, acquisition: Acquisition, grid: Geometry, seed: int = 0, noise_seed: int | None = None) -> Array:
        """The magnitude image [slice, row, column] in arbitrary units, 1000 near the brightest tissue.

        The same `seed` gives the same noise and bias field; `noise_seed` gives other noise under that field. The
        scale does not depend on the b-value.
        """
        rng = np.random.default_rng([self.seed, seed])
        clean = self._signal(acquisition, grid) / np.float32(self._brightest(replace(acquisition, b_value=0.0)))
        clean = clean * _bias(rng, grid, acquisition.bias)
        if noise_seed is not None:
            rng = np.random.default_rng([self.seed, seed, noise_seed])
        real = clean + rng.normal(0.0, acquisition.noise, grid.shape).astype(np.float32)
        imaginary = rng.normal(0.0, acquisition.noise, grid.shape).astype(np.float32)
        return np.asarray(1000.0 * np.hypot(real, imaginary), dtype=np.float32)

    def _brightest(self, acquisition: Acquisition) -> float:
        tissues = [FAT, MUSCLE, self.mass_tissue, *(tissue for _, tissue in self.inclusions)]
        return max(signal(tissue, acquisition) for tissue in tissues)

    def _mass_cover(self, points: Field, voxel: float) -> Field:
        distance = _lobes_distance(points, self.lobes)
        smallest = min(min(lobe.axes) for lobe in self.lobes)
        distance = distance + self.roughness * smallest * _ripple(points, smallest, self.seed)
        return _cover(distance, max(voxel, self.infiltration))

    def _signal(self, acquisition: Acquisition, grid: Geometry) -> Field:
        """Signal without noise and bias, painted from the outside in."""
        points = _points(grid)
        voxel = float(np.mean(grid.spacing[1:]))
        x = points[..., 0] - self.tilt[0] * points[..., 2]
        y = points[..., 1] - self.tilt[1] * points[..., 2]
        angle, from_axis = np.arctan2(y, x), np.hypot(x, y)
        edge = self.radius + self.taper * points[..., 2]
        edge = edge * (
            1
            + sum(a * np.cos(n * angle + phase) for n, (a, phase) in enumerate(self.outline, start=2))
        )  # fmt: skip
        mean, variation, where = self.fat_thickness
        thickness = mean + variation * np.cos(angle - where)
        skin = from_axis - edge
        if self.lobes:  # a mass near the surface lifts the skin
            skin = _smooth_minimum(skin, _lobes_distance(points, self.lobes) - 6.0, 12.0)

        def level(tissue: Tissue) -> float:
            return signal(tissue, acquisition)

        image = _cover(skin, voxel) * np.float32(level(SKIN))
        image = _paint(image, _cover(skin + 2.0, voxel), level(FAT))
        strands = _ripple(points, 9.0, self.seed + 1)
        image = _paint(image, 0.5 * _cover(np.abs(strands) * 9.0 - 0.5, voxel) * (skin < -3.0), level(FASCIA))
        deep = skin + thickness
        image = _paint(image, _cover(deep, voxel), level(FASCIA))
        muscle, septum = self._muscles(x, y, points[..., 2])
        image = _paint(image, _cover(deep + 1.2, voxel), muscle * level(MUSCLE))
        inside = _cover(deep + 1.2, voxel)
        image = _paint(image, inside * _cover(septum - 0.9, voxel), level(FAT))
        image = _paint(image, 0.35 * inside * _cover(np.abs(strands) * 9.0 - 0.35, voxel), level(FAT))
        if self.lobes:
            image = self._paint_mass(image, points, voxel, acquisition)
        for cx, cy, r in self.vessels:
            near = np.hypot(x - cx, y - cy) - r
            image = _paint(image, _cover(near - 1.5, voxel), level(FAT))
            image = _paint(image, _cover(near, voxel), level(VESSEL))
        bx, by, r, cortex = self.bone
        shaft = np.hypot(x - bx, y - by) - r
        image = _paint(image, _cover(shaft, voxel), level(CORTEX))
        return _paint(image, _cover(shaft + cortex, voxel), level(MARROW))

    def _paint_mass(self, image: Field, points: Field, voxel: float, acquisition: Acquisition) -> Field:
        smallest = min(min(lobe.axes) for lobe in self.lobes)
        cover = self._mass_cover(points, voxel)
        core = _lobes_distance(points, self.lobes) + self.roughness * smallest * _ripple(points, smallest, self.seed)
        texture = 1.0 + 0.10 * _ripple(points, max(0.3 * smallest, 5.0), self.seed + 2)
        mass = texture * np.float32(signal(self.mass_tissue, acquisition))
        rim = _cover(np.abs(core + 0.8) - 0.6, voxel)
        mass = _paint(mass, 0.6 * rim, signal(CAPSULE, acquisition))
        if self.septa:
            walls = np.abs(_ripple(points, 0.5 * smallest, self.seed + 3)) * 0.5 * smallest
            mass = _paint(mass, self.septa * _cover(walls - 0.8, voxel), signal(MUSCLE, acquisition))
        for lobe, tissue in self.inclusions:
            mass = _paint(mass, 0.9 * _cover(_lobes_distance(points, (lobe,)), 3 * voxel), signal(tissue, acquisition))
        return _paint(image, cover, mass)

    def _muscles(self, x: Field, y: Field, z: Field) -> tuple[Field, Field]:
        """Relative signal of the muscle at each voxel and the distance in mm to the nearest septum."""
        nearest = np.full(x.shape, np.inf, np.float32)
        second = nearest.copy()
        shade = np.ones_like(x)
        for (cx, cy), relative in zip(self.muscles, self.muscle_signal, strict=True):
            d = np.hypot(x - cx * (1 + 0.0008 * z), y - cy * (1 - 0.0008 * z))
            closer = d < nearest
            second = np.where(closer, nearest, np.minimum(second, d))
            shade = np.where(closer, np.float32(relative), shade)
            nearest = np.minimum(nearest, d)
        return shade, (second - nearest) / 2


def limb_phantom(
    seed: int, *, diameter: tuple[float, float] = (20.0, 150.0), length: float = 60.0, kind: str | None = None
) -> Phantom:
    """A limb drawn from `seed`.

    The largest diameter of its mass lies in `diameter` (mm, log-uniform). The mass is centred within `length` mm along
    z about the origin. `kind` names one of MASSES; None draws one.
    """
    rng = np.random.default_rng(seed)
    radius = float(rng.uniform(58.0, 92.0))
    bone_radius = float(rng.uniform(11.0, 16.0))
    bone_angle, bone_offset = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.18) * radius
    bone = (float(bone_offset * np.cos(bone_angle)), float(bone_offset * np.sin(bone_angle)), bone_radius)
    count = int(rng.integers(7, 13))
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.uniform(-0.25, 0.25, count)
    distances = radius * rng.uniform(0.35, 0.75, count)
    muscles = np.stack([distances * np.cos(angles), distances * np.sin(angles)], axis=1)
    name, tissue = _mass_tissue(rng, kind)
    lobes = _lobes(rng, radius, bone, diameter, length)
    smallest = min(min(lobe.axes) for lobe in lobes)
    return Phantom(
        seed=seed,
        radius=radius,
        taper=float(rng.uniform(-0.06, 0.12)),
        tilt=(float(rng.uniform(-0.12, 0.12)), float(rng.uniform(-0.12, 0.12))),
        outline=tuple((float(rng.uniform(0, a)), float(rng.uniform(0, 2 * np.pi))) for a in (0.10, 0.04, 0.025)),
        fat_thickness=(float(rng.uniform(5.0, 20.0)), float(rng.uniform(0.0, 4.0)), float(rng.uniform(0, 2 * np.pi))),
        bone=(*bone, float(rng.uniform(3.0, 5.5))),
        muscles=muscles,
        muscle_signal=rng.uniform(0.9, 1.1, count),
        vessels=_vessels(rng, radius, bone),
        kind=name,
        mass_tissue=tissue,
        lobes=lobes,
        roughness=float(rng.uniform(0.0, 0.12)),
        inclusions=_inclusions(rng, name, lobes, smallest),
        septa=float(rng.uniform(0.4, 0.9)) if name == "lipomatous" else float(rng.choice([0.0, 0.3])),
        infiltration=float(rng.uniform(0.0, 3.0)),
    )


def limb_grid(
    shape: tuple[int, int, int] = (36, 192, 192), spacing: tuple[float, float, float] = (4.0, 1.15, 1.15),
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Geometry:  # fmt: skip
    """An axial grid about `centre` (LPS mm): slices towards the head, rows towards the back, columns to the left."""
    affine: Affine = np.eye(4)
    affine[:3, :3] = 0.0
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    middle = (np.array(shape) - 1) / 2
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ middle
    return Geometry(shape, affine)


def signal(tissue: Tissue, acquisition: Acquisition) -> float:
    """Spin-echo magnitude at 90 degrees: PD (1 - exp(-TR/T1)) exp(-TE/T2) exp(-b ADC), fat suppressed or not."""
    recovered = 1.0 - np.exp(-acquisition.repetition_time / tissue.t1)
    decayed = np.exp(-acquisition.echo_time / tissue.t2)
    attenuated = np.exp(-acquisition.b_value * tissue.adc * 1e-6)
    left = 1.0 - tissue.fat * (1.0 - acquisition.fat_left) if acquisition.fat_suppressed else 1.0
    return float(tissue.pd * recovered * decayed * attenuated * left)


def adc_map(images: Series[Array], b_values: Series[float], floor: float = 60.0) -> Array:
    """ADC in um2/s from images of several b-values (s/mm2): the slope of log signal on b by least squares.

    0 where the first image is below `floor`: there is no signal to fit.
    """
    b = np.asarray(b_values, dtype=np.float64)
    weights = (b - b.mean()) / np.sum((b - b.mean()) ** 2)
    slope = sum(w * np.log(np.maximum(image, 1.0)) for w, image in zip(weights, images, strict=True))
    return np.where(images[0] >= floor, np.clip(-1e6 * slope, 0.0, 4000.0), 0.0).astype(np.float32)


def _mass_tissue(rng: np.random.Generator, kind: str | None) -> tuple[str, Tissue]:
    names = [name for name, *_ in MASSES]
    chance = np.array([often for _, often, *_ in MASSES])
    index = names.index(kind) if kind else int(rng.choice(len(names), p=chance / chance.sum()))
    name, _, low, high = MASSES[index]
    t = float(rng.uniform())
    return name, Tissue(
        *(a + t * (b - a) for a, b in zip(
            (low.t1, low.t2, low.pd, low.adc, low.fat), (high.t1, high.t2, high.pd, high.adc, high.fat), strict=True
        ))
    )  # fmt: skip


def _lobes(
    rng: np.random.Generator, radius: float, bone: tuple[float, float, float], diameter: tuple[float, float],
    length: float,
) -> tuple[Lobe, ...]:  # fmt: skip
    """One to four overlapping ellipsoids, longest along the limb, beside the bone."""
    long = float(np.exp(rng.uniform(np.log(diameter[0]), np.log(diameter[1])))) / 2
    across = np.clip(long * rng.uniform(0.5, 0.95, 2), 8.0, 0.52 * radius)
    angle = rng.uniform(0, 2 * np.pi)
    # The mass may touch the bone or bulge from the limb, but not sit on the axis.
    least = bone[2] + 0.75 * float(across.max()) + 2.0
    distance = rng.uniform(least, max(least + 2.0, radius - 0.6 * float(across.max())))
    centre = (
        float(bone[0] + distance * np.cos(angle)), float(bone[1] + distance * np.sin(angle)),
        float(rng.uniform(-0.5, 0.5) * length),
    )  # fmt: skip
    lobes = [Lobe(centre, (float(across[0]), float(across[1]), max(long, 8.0)), float(rng.uniform(0, np.pi)))]
    for _ in range(int(rng.integers(0, 4))):
        scale = rng.uniform(0.45, 0.75)
        shift = rng.normal(size=3)
        shift *= 0.6 * np.array(lobes[0].axes) / np.linalg.norm(shift)
        lobes.append(
            Lobe(
                tuple(float(v) for v in np.array(centre) + shift),  # type: ignore[arg-type]
                tuple(float(scale * a) for a in lobes[0].axes),  # type: ignore[arg-type]
                float(rng.uniform(0, np.pi)),
            )
        )
    return tuple(lobes)


def _inclusions(
    rng: np.random.Generator, kind: str, lobes: tuple[Lobe, ...], smallest: float
) -> tuple[tuple[Lobe, Tissue], ...]:
    """Necrosis and blood inside the mass; more of it in large ones."""
    if smallest < 10.0:
        return ()
    main = lobes[0]
    found = []
    for _ in range(int(rng.integers(0, 4))):
        tissue = BLOOD if rng.uniform() < (0.7 if kind == "haemorrhagic" else 0.2) else NECROSIS
        shift = rng.normal(size=3)
        shift *= rng.uniform(0, 0.5) * np.array(main.axes) / np.linalg.norm(shift)
        scale = rng.uniform(0.15, 0.5)
        centre = np.array(main.centre) + shift
        found.append(
            (
                Lobe(tuple(map(float, centre)), tuple(float(scale * a) for a in main.axes), main.turn),  # type: ignore[arg-type]
                tissue,
            )
        )
    return tuple(found)


def _vessels(rng: np.random.Generator, radius: float, bone: tuple[float, float, float]) -> NDArray[np.float64]:
    """A bundle of an artery and a vein beside the bone, and a few smaller vessels."""
    angle = rng.uniform(0, 2 * np.pi)
    bundle = np.array(bone[:2]) + (bone[2] + 12.0) * np.array([np.cos(angle), np.sin(angle)])
    rows = [(*bundle, rng.uniform(2.5, 4.0)), (*(bundle + rng.uniform(5, 8, 2)), rng.uniform(2.5, 4.5))]
    for _ in range(int(rng.integers(1, 5))):
        a, d = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.9) * radius
        rows.append((d * np.cos(a), d * np.sin(a), rng.uniform(1.0, 2.0)))
    return np.array(rows, dtype=np.float64)


def _points(grid: Geometry) -> Field:
    """LPS mm of every voxel centre, [slice, row, column, 3]."""
    steps, origin = grid.affine[:3, :3], grid.affine[:3, 3]
    axes = [np.arange(n, dtype=np.float64)[:, None] * steps[:, i] for i, n in enumerate(grid.shape)]
    points = origin + axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :]
    return np.asarray(points, dtype=np.float32)


def _cover(distance: Field, voxel: float) -> Field:
    """The part of a voxel inside a surface at this signed distance (mm, negative inside)."""
    return np.clip(0.5 - distance / np.float32(voxel), 0.0, 1.0).astype(np.float32)


def _paint(under: Field, cover: Field, value: float | Field) -> Field:
    return np.asarray(under + cover * (value - under), dtype=np.float32)


def _lobes_distance(points: Field, lobes: tuple[Lobe, ...]) -> Field:
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
        result = distance if result is None else _smooth_minimum(result, distance, 0.3 * float(axes.min()))
    assert result is not None
    return np.asarray(result, dtype=np.float32)


def _smooth_minimum(a: Field, b: Field, width: float) -> Field:
    h = np.clip(0.5 + 0.5 * (b - a) / width, 0.0, 1.0)
    return np.asarray(b + (a - b) * h - width * h * (1.0 - h), dtype=np.float32)


def _ripple(points: Field, size: float, seed: int) -> Field:
    """A smooth random field of zero mean and unit range, with structures of about `size` mm; the same on any grid."""
    rng = np.random.default_rng(seed % 2**32)
    total = np.zeros(points.shape[:3], np.float32)
    for _ in range(6):
        wave = rng.normal(size=3)
        wave *= 2 * np.pi / (2 * size * rng.uniform(0.7, 1.5)) / np.linalg.norm(wave)
        total += np.sin(points @ wave.astype(np.float32) + np.float32(rng.uniform(0, 2 * np.pi)))
    return np.asarray(total / 3.0, dtype=np.float32)


def _bias(rng: np.random.Generator, grid: Geometry, amount: float) -> Field:
    """Receive sensitivity: a smooth field near 1."""
    coarse = rng.normal(size=(4, 4, 4))
    zoom = [n / 4 for n in grid.shape]
    smooth = ndimage.zoom(coarse, zoom, order=3, mode="nearest", grid_mode=True)
    return np.asarray(np.exp(amount * smooth[: grid.shape[0], : grid.shape[1], : grid.shape[2]]), dtype=np.float32)
