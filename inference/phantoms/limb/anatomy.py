"""A thigh-like limb with one soft-tissue mass: its shapes in patient space, and the shapes on a grid.

The limb is a scene of shapes in patient space (LPS, mm) with its axis near z, so it can be imaged on any grid.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from inference.phantoms.artefacts import bias_field, rician
from inference.phantoms.limb.tissues import (
    CAPSULE,
    CORTEX,
    FASCIA,
    FAT,
    MARROW,
    MUSCLE,
    NECROTIC_TISSUE,
    NERVE,
    OEDEMA,
    SKIN,
    VESSEL,
)
from inference.phantoms.scene import (
    Field,
    Layer,
    Lobe,
    cover,
    lobes_distance,
    paint,
    points_of,
    ripple,
    smooth_minimum,
)
from inference.phantoms.signals import Acquisition, Tissue, signal
from inference.volumes.geometry import Array, Geometry, Mask


@dataclass(frozen=True)
class NeurovascularBundle:
    """An artery, a vein and a nerve in one sheath of fat, along the limb.

    Lengths are in mm. `centre` is x and y where z is 0.
    """

    centre: tuple[float, float]
    radius: float
    turn: float  # radians: the direction of the artery from the centre

    @property
    def contents(self) -> tuple[tuple[float, float, float, Tissue], ...]:
        """x, y, radius and tissue of the artery, the vein and the nerve."""
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
class LimbPhantom:
    """A limb as shapes in patient space.

    Lengths are in mm. The outline is a Fourier series in the angle about the limb's axis.
    """

    seed: int
    radius: float
    taper: float  # change of the radius per mm along z
    tilt: tuple[float, float]  # movement of the axis along x and y per mm of z
    outline: tuple[tuple[float, float], ...]  # amplitude (relative) and phase of the harmonics 2, 3, 4
    fat_thickness: tuple[float, float, float]  # mean, variation, and the angle of the thickest place
    bone: tuple[float, float, float, float]  # centre x, y, radius, thickness of the cortex
    muscles: NDArray[np.float64]  # (n, 2) seeds of the compartments, x and y
    muscle_signal: NDArray[np.float64]  # (n,) proton density of each, relative
    vessels: NDArray[np.float64]  # (n, 3) x, y, radius
    kind: str
    mass_tissue: Tissue
    lobes: tuple[Lobe, ...]
    roughness: float  # distance of the surface of the mass from its lobes, as a fraction of the smallest axis
    inclusions: tuple[tuple[Lobe, Tissue], ...]
    septa: float  # 0..1: the opacity of the septa of a fatty mass
    infiltration: float = 0.0  # width in mm over which the mass fades into its surroundings
    capsule: float = 0.6  # 0..1: the opacity of the capsule
    growth: float = 1.0  # factor to the size of the lobes, about the centre of the first
    variant: Tissue | None = None  # a second tissue that the mass has in places
    necrosis: tuple[Lobe, ...] = ()  # The necrosis is their union, where it lies inside the mass.
    viable_rim: float = 3.0  # thickness of the living rim between necrosis and surface
    oedema: float = 0.0  # mean width of the oedema around the mass
    bundle: NeurovascularBundle | None = None

    @property
    def diameter(self) -> float:
        """The diameter of the largest lobe in mm; 0 without a mass."""
        return 2 * self.growth * max((max(lobe.axes) for lobe in self.lobes), default=0.0)

    @property
    def smallest_axis(self) -> float:
        return min(min(lobe.axes) for lobe in self.lobes)

    def without_mass(self) -> "LimbPhantom":
        """Return the same limb without its mass."""
        return replace(self, lobes=(), inclusions=(), necrosis=(), oedema=0.0)

    def on(self, grid: Geometry) -> "LimbOnGrid":
        return LimbOnGrid(self, grid)

    def mask(self, grid: Geometry) -> Mask:
        """Return the mass on `grid`: the voxels of which the mass covers at least half."""
        return self.on(grid).mass

    def render(self, acquisition: Acquisition, grid: Geometry, seed: int = 0, noise_seed: int | None = None) -> Array:
        """Return the magnitude image [slice, row, column] in arbitrary units, 1000 near the brightest tissue.

        The same `seed` gives the same noise and the same bias field. A `noise_seed` changes the noise and keeps the
        bias field. The scale does not depend on the b-value.
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
class LimbOnGrid:
    """The shapes of a limb on one grid, each computed once.

    Fields are signed distances in mm, negative inside, unless they say otherwise.
    """

    phantom: LimbPhantom
    grid: Geometry

    @cached_property
    def points(self) -> Field:
        return points_of(self.grid)

    @cached_property
    def across(self) -> tuple[Field, Field]:
        """X and y in mm from the axis of the limb."""
        p, tilt = self.points, self.phantom.tilt
        return p[..., 0] - tilt[0] * p[..., 2], p[..., 1] - tilt[1] * p[..., 2]

    @cached_property
    def mass_points(self) -> Field:
        """Position of each voxel in LPS mm, moved back to where it was before the mass grew."""
        growth = self.phantom.growth
        if growth == 1.0:
            return self.points
        centre = np.array(self.phantom.lobes[0].centre, dtype=np.float32)
        return np.asarray(centre + (self.points - centre) / np.float32(growth))

    @cached_property
    def lobes(self) -> Field:
        """Distance to the lobes of the mass."""
        return np.float32(self.phantom.growth) * lobes_distance(self.mass_points, self.phantom.lobes)

    @cached_property
    def surface(self) -> Field:
        """Distance to the surface of the mass, which is rougher than its lobes."""
        limb = self.phantom
        rough = limb.roughness * limb.smallest_axis * ripple(self.mass_points, limb.smallest_axis, limb.seed)
        return self.lobes + np.float32(limb.growth) * rough

    @cached_property
    def dead(self) -> Field:
        """Distance to the necrosis."""
        limb = self.phantom
        lobes = np.float32(limb.growth) * lobes_distance(self.mass_points, limb.necrosis)
        return np.maximum(lobes, self.surface + np.float32(limb.viable_rim))

    @cached_property
    def skin(self) -> Field:
        """Distance to the skin."""
        limb = self.phantom
        x, y = self.across
        angle, from_axis = np.arctan2(y, x), np.hypot(x, y)
        edge = limb.radius + limb.taper * self.points[..., 2]
        edge = edge * (
            1
            + sum(a * np.cos(n * angle + phase) for n, (a, phase) in enumerate(limb.outline, start=2))
        )  # fmt: skip
        skin = from_axis - edge
        if limb.lobes:  # A mass near the surface lifts the skin.
            skin = smooth_minimum(skin, self.lobes - 6.0, 12.0)
        return skin

    @cached_property
    def deep(self) -> Field:
        """Distance to the fascia below the fat."""
        x, y = self.across
        mean, variation, where = self.phantom.fat_thickness
        return self.skin + (mean + variation * np.cos(np.arctan2(y, x) - where))

    @cached_property
    def shaft(self) -> Field:
        """Distance to the bone."""
        bx, by, r, _ = self.phantom.bone
        x, y = self.across
        return np.asarray(np.hypot(x - bx, y - by) - r)

    @cached_property
    def swollen(self) -> Field:
        """Distance to the mass together with the oedema around it, whose width varies."""
        limb = self.phantom
        width = limb.oedema * np.clip(0.7 + 0.4 * ripple(self.points, 20.0, limb.seed + 4), 0.1, 1.5)
        return np.maximum(self.surface - width, self.deep + 1.2)

    @property
    def mass(self) -> Mask:
        """The voxels of which the mass with its necrosis covers at least half."""
        if not self.phantom.lobes:
            return np.zeros(self.grid.shape, np.bool_)
        return np.asarray((self.surface <= 0) & ~self.bone & ~self.bundle)

    @property
    def necrosis(self) -> Mask:
        """The necrosis, which is a part of `mass`."""
        if not self.phantom.necrosis:
            return np.zeros(self.grid.shape, np.bool_)
        return np.asarray((self.dead <= 0) & self.mass)

    @property
    def oedema(self) -> Mask:
        """The oedema around the mass, without the mass."""
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
        """The layers of the scene, from the outside in."""
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
        """The layers that fill the mass; they cover the whole grid, inside and outside of the mass."""
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
            layers.append(Layer(cover(self.dead, voxel), NECROTIC_TISSUE))
        return tuple(layers)

    def _sheath(self, bundle: NeurovascularBundle) -> Field:
        x, y = self.across
        return np.asarray(np.hypot(x - bundle.centre[0], y - bundle.centre[1]) - bundle.radius)

    def _muscles(self) -> tuple[Field, Field]:
        """Return the relative signal of muscle at each voxel, and the distance in mm to the nearest septum."""
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
