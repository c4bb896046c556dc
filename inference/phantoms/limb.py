"""A thigh-like limb with one soft-tissue mass, and its MR images.

The limb is a scene of shapes in patient space (LPS, mm) with its axis near z, so it can be imaged on any grid.
Relaxation times are of the order measured at 3 T (Stanisz et al. 2005, doi 10.1002/mrm.20605; Gold et al. 2004,
doi 10.2214/ajr.183.2.1830343); diffusivities of masses span those of sarcomas (Schnapauff et al. 2009,
doi 10.1002/jmri.21755).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from inference.phantoms.scene import (
    Acquisition,
    Field,
    Layer,
    Lobe,
    Tissue,
    axial_grid,
    bias_field,
    cover,
    lobes_distance,
    paint,
    points_of,
    rician,
    ripple,
    signal,
    smooth_minimum,
)
from inference.volumes.geometry import Array, Geometry

Mask = NDArray[np.bool_]

SKIN = Tissue(900.0, 30.0, 0.7, 900.0, uptake=0.1)
FAT = Tissue(370.0, 70.0, 1.0, 50.0, fat=0.95)
FASCIA = Tissue(1000.0, 15.0, 0.5, 600.0)
MUSCLE = Tissue(1350.0, 34.0, 0.85, 1500.0, uptake=0.08)
CORTEX = Tissue(800.0, 1.0, 0.15, 100.0)
MARROW = Tissue(380.0, 65.0, 0.95, 150.0, fat=0.9)
VESSEL = Tissue(1900.0, 90.0, 0.25, 2500.0, uptake=0.8)  # flow takes most of the signal
NERVE = Tissue(1150.0, 55.0, 0.8, 1100.0, uptake=0.05)
OEDEMA = Tissue(1550.0, 52.0, 0.9, 1900.0, uptake=0.15)  # of muscle
NECROSIS = Tissue(2600.0, 250.0, 1.0, 2300.0, uptake=0.02)
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
class Bundle:
    """Artery, vein and nerve in one sheath of fat, along the limb. Lengths in mm: `centre` x and y where z is 0."""

    centre: tuple[float, float]
    radius: float
    turn: float  # radians: where the artery lies

    @property
    def contents(self) -> tuple[tuple[float, float, float, Tissue], ...]:
        """x, y, radius and tissue of each."""
        places = [self.turn + n * 2 * np.pi / 3 for n in range(3)]
        return tuple(
            (
                float(self.centre[0] + 0.48 * self.radius * np.cos(angle)),
                float(self.centre[1] + 0.48 * self.radius * np.sin(angle)),
                size * self.radius,
                tissue,
            )
            for angle, size, tissue in zip(places, (0.36, 0.40, 0.32), (VESSEL, VESSEL, NERVE), strict=True)
        )


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
    capsule: float = 0.6  # 0..1: how much of the surface is capsule
    growth: float = 1.0  # the mass is its lobes, so many times as large, about the centre of the first
    variant: Tissue | None = None  # what the mass's own tissue turns into in places
    necrosis: tuple[Lobe, ...] = ()  # their union, as far as it lies inside the mass
    viable_rim: float = 3.0  # thickness of what necrosis leaves of the mass
    oedema: float = 0.0  # mean width of the oedema around the mass
    bundle: Bundle | None = None

    @property
    def diameter(self) -> float:
        """mm, of the largest lobe; 0 without a mass."""
        return 2 * self.growth * max((max(lobe.axes) for lobe in self.lobes), default=0.0)

    @property
    def smallest_axis(self) -> float:
        return min(min(lobe.axes) for lobe in self.lobes)

    def without_mass(self) -> "Phantom":
        """The same limb, healthy."""
        return replace(self, lobes=(), inclusions=(), necrosis=(), oedema=0.0)

    def on(self, grid: Geometry) -> "PhantomOnGrid":
        return PhantomOnGrid(self, grid)

    def mask(self, grid: Geometry) -> Mask:
        """The mass on `grid`: the voxels of which it takes at least half."""
        return self.on(grid).mass

    def render(self, acquisition: Acquisition, grid: Geometry, seed: int = 0, noise_seed: int | None = None) -> Array:
        """The magnitude image [slice, row, column] in arbitrary units, 1000 near the brightest tissue.

        The same `seed` gives the same noise and bias field; `noise_seed` gives other noise under that field. The
        scale does not depend on the b-value.
        """
        rng = np.random.default_rng([self.seed, seed])
        clean = paint(self.on(grid).layers, lambda tissue: signal(tissue, acquisition))
        clean = clean / np.float32(self._brightest(replace(acquisition, b_value=0.0)))
        clean = clean * bias_field(rng, grid, acquisition.bias)
        if noise_seed is not None:
            rng = np.random.default_rng([self.seed, seed, noise_seed])
        return np.asarray(1000.0 * rician(rng, clean, acquisition.noise), dtype=np.float32)

    def _brightest(self, acquisition: Acquisition) -> float:
        tissues = [FAT, MUSCLE, self.mass_tissue, *(tissue for _, tissue in self.inclusions)]
        return max(signal(tissue, acquisition) for tissue in tissues)


@dataclass(frozen=True, eq=False)
class PhantomOnGrid:
    """The shapes of a limb on one grid, each computed once. Distances are signed, mm, negative inside."""

    phantom: Phantom
    grid: Geometry

    @cached_property
    def points(self) -> Field:
        return points_of(self.grid)

    @cached_property
    def across(self) -> tuple[Field, Field]:
        """X and y from the limb's axis."""
        p, tilt = self.points, self.phantom.tilt
        return p[..., 0] - tilt[0] * p[..., 2], p[..., 1] - tilt[1] * p[..., 2]

    @cached_property
    def mass_points(self) -> Field:
        """Where each voxel would lie in the mass before it grew."""
        growth = self.phantom.growth
        if growth == 1.0:
            return self.points
        centre = np.array(self.phantom.lobes[0].centre, dtype=np.float32)
        return np.asarray(centre + (self.points - centre) / np.float32(growth))

    @cached_property
    def lobes(self) -> Field:
        """To the lobes of the mass."""
        return np.float32(self.phantom.growth) * lobes_distance(self.mass_points, self.phantom.lobes)

    @cached_property
    def surface(self) -> Field:
        """To the surface of the mass, which is rougher than its lobes."""
        limb = self.phantom
        rough = limb.roughness * limb.smallest_axis * ripple(self.mass_points, limb.smallest_axis, limb.seed)
        return self.lobes + np.float32(limb.growth) * rough

    @cached_property
    def dead(self) -> Field:
        """To the necrosis."""
        limb = self.phantom
        lobes = np.float32(limb.growth) * lobes_distance(self.mass_points, limb.necrosis)
        return np.maximum(lobes, self.surface + np.float32(limb.viable_rim))

    @cached_property
    def skin(self) -> Field:
        """To the skin."""
        limb = self.phantom
        x, y = self.across
        angle, from_axis = np.arctan2(y, x), np.hypot(x, y)
        edge = limb.radius + limb.taper * self.points[..., 2]
        edge = edge * (
            1
            + sum(a * np.cos(n * angle + phase) for n, (a, phase) in enumerate(limb.outline, start=2))
        )  # fmt: skip
        skin = from_axis - edge
        if limb.lobes:  # a mass near the surface lifts the skin
            skin = smooth_minimum(skin, self.lobes - 6.0, 12.0)
        return skin

    @cached_property
    def deep(self) -> Field:
        """To the fascia below the fat."""
        x, y = self.across
        mean, variation, where = self.phantom.fat_thickness
        return self.skin + (mean + variation * np.cos(np.arctan2(y, x) - where))

    @cached_property
    def shaft(self) -> Field:
        """To the bone."""
        bx, by, r, _ = self.phantom.bone
        x, y = self.across
        return np.asarray(np.hypot(x - bx, y - by) - r)

    @cached_property
    def swollen(self) -> Field:
        """To the oedema around the mass, which takes the mass in, and is wider here and narrower there."""
        limb = self.phantom
        width = limb.oedema * np.clip(0.7 + 0.4 * ripple(self.points, 20.0, limb.seed + 4), 0.1, 1.5)
        return np.maximum(self.surface - width, self.deep + 1.2)

    @property
    def mass(self) -> Mask:
        """The voxels of which the mass takes at least half, its necrosis among them."""
        if not self.phantom.lobes:
            return np.zeros(self.grid.shape, np.bool_)
        return np.asarray((self.surface <= 0) & ~self.bone & ~self.bundle)

    @property
    def necrosis(self) -> Mask:
        """A part of `mass`."""
        if not self.phantom.necrosis:
            return np.zeros(self.grid.shape, np.bool_)
        return np.asarray((self.dead <= 0) & self.mass)

    @property
    def oedema(self) -> Mask:
        """Around the mass, which is no part of it."""
        if not self.phantom.oedema:
            return np.zeros(self.grid.shape, np.bool_)
        return np.asarray((self.swollen <= 0) & (self.surface > 0) & ~self.bone & ~self.bundle)

    @property
    def bundle(self) -> Mask:
        if self.phantom.bundle is None:
            return np.zeros(self.grid.shape, np.bool_)
        return np.asarray((self._sheath(self.phantom.bundle) <= 0) & ~self.bone)

    @property
    def bone(self) -> Mask:
        return np.asarray(self.shaft < 0)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The scene, from the outside in."""
        limb, points, (x, y) = self.phantom, self.points, self.across
        voxel = float(np.mean(self.grid.spacing[1:]))
        strands = ripple(points, 9.0, limb.seed + 1)
        muscle, septum = self._muscles()
        inside = cover(self.deep + 1.2, voxel)
        layers = [
            Layer(cover(self.skin, voxel), SKIN),
            Layer(cover(self.skin + 2.0, voxel), FAT),
            Layer(0.5 * cover(np.abs(strands) * 9.0 - 0.5, voxel) * (self.skin < -3.0), FASCIA),
            Layer(cover(self.deep, voxel), FASCIA),
            Layer(inside, MUSCLE, muscle),
            Layer(inside * cover(septum - 0.9, voxel), FAT),
            Layer(0.35 * inside * cover(np.abs(strands) * 9.0 - 0.35, voxel), FAT),
        ]
        if limb.oedema:
            layers.append(Layer(0.9 * cover(self.swollen, max(voxel, 2.0)), OEDEMA))
        if limb.lobes:
            layers.append(Layer(cover(self.surface, max(voxel, limb.infiltration)), self.mass_layers))
        for cx, cy, r in limb.vessels:
            near = np.hypot(x - cx, y - cy) - r
            layers += [Layer(cover(near - 1.5, voxel), FAT), Layer(cover(near, voxel), VESSEL)]
        if limb.bundle is not None:
            sheath = self._sheath(limb.bundle)
            layers += [Layer(cover(sheath, voxel), FASCIA), Layer(cover(sheath + 0.8, voxel), FAT)]
            for cx, cy, r, tissue in limb.bundle.contents:
                layers.append(Layer(cover(np.hypot(x - cx, y - cy) - r, voxel), tissue))
        cortex = limb.bone[3]
        layers += [Layer(cover(self.shaft, voxel), CORTEX), Layer(cover(self.shaft + cortex, voxel), MARROW)]
        return tuple(layers)

    @cached_property
    def mass_layers(self) -> tuple[Layer, ...]:
        """What the mass consists of, regardless of where it is."""
        limb, points, smallest = self.phantom, self.mass_points, self.phantom.smallest_axis
        voxel = float(np.mean(self.grid.spacing[1:]))
        everywhere = np.ones(self.grid.shape, np.float32)
        texture = 1.0 + 0.10 * ripple(points, max(0.3 * smallest, 5.0), limb.seed + 2)
        layers = [Layer(everywhere, limb.mass_tissue, texture)]
        if limb.variant is not None:
            places = np.clip(0.5 + 0.7 * ripple(points, max(0.4 * smallest, 8.0), limb.seed + 5), 0.0, 1.0)
            layers.append(Layer(places.astype(np.float32), limb.variant, texture))
        if limb.capsule:
            layers.append(Layer(limb.capsule * cover(np.abs(self.surface + 0.8) - 0.6, voxel), CAPSULE))
        if limb.septa:
            walls = np.abs(ripple(points, 0.5 * smallest, limb.seed + 3)) * 0.5 * smallest
            layers.append(Layer(limb.septa * cover(walls - 0.8, voxel), MUSCLE))
        for lobe, tissue in limb.inclusions:
            layers.append(Layer(0.9 * cover(lobes_distance(points, (lobe,)), 3 * voxel), tissue))
        if limb.necrosis:
            layers.append(Layer(cover(self.dead, voxel), NECROSIS))
        return tuple(layers)

    def _sheath(self, bundle: Bundle) -> Field:
        x, y = self.across
        return np.asarray(np.hypot(x - bundle.centre[0], y - bundle.centre[1]) - bundle.radius)

    def _muscles(self) -> tuple[Field, Field]:
        """Relative signal of the muscle at each voxel and the distance in mm to the nearest septum."""
        (x, y), z = self.across, self.points[..., 2]
        nearest = np.full(x.shape, np.inf, np.float32)
        second = nearest.copy()
        shade = np.ones_like(x)
        for (cx, cy), relative in zip(self.phantom.muscles, self.phantom.muscle_signal, strict=True):
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
    return axial_grid(shape, spacing, centre)


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
