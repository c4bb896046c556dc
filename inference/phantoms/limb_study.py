"""A limb with a sarcoma as a trial images it: every contrast, several time points, and the truth about it.

What is benign, malignant or of a grade shows in nothing but T1, T2 and ADC inside the mass: everything else about a
limb is drawn independently of it, and intensities are scaled by tissues that every limb has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from inference.phantoms.limb import FAT, MUSCLE, Bundle, Mask, Phantom, PhantomOnGrid, limb_phantom
from inference.phantoms.scene import (
    FLOOR,
    STANDARD,
    Acquisition,
    Component,
    Field,
    Lobe,
    Mixture,
    Scanner,
    Tissue,
    adc_map,
    axial_grid,
    bias_field,
    lobes_distance,
    mixture,
    moved_between_lines,
    periodic,
    rician,
    signal,
    surface_coil_field,
    surface_points,
    t1_map,
    t2_map,
)
from inference.volumes.geometry import Array, Geometry
from inference.volumes.measurements import diameters, volume_ml

# Seeds name limbs. Smaller ones than all of these are for demonstrations and the simulator.
HELD_OUT_SEEDS = range(6_020, 6_080)
SHIFTED_SEEDS = range(7_000, 7_060)  # frozen: imaged with the scanner `scene.SHIFTED`
FIRST_TRAINING_SEED = 10_000

B_VALUES = (0.0, 50.0, 400.0, 800.0)  # s/mm2
ECHO_TIMES = (12.0, 36.0, 60.0, 84.0)  # ms, of the T2 map
FLIP_ANGLES = (4.0, 20.0)  # degrees, of the T1 map

T1W = Acquisition(600.0, 12.0)
T2W_FS = Acquisition(4000.0, 80.0, fat_suppressed=True)
T1W_FS_POST = replace(T1W, fat_suppressed=True, contrast_agent=True)
DWI = Acquisition(5000.0, 70.0, fat_suppressed=True, noise=0.015)
T2_MAP = Acquisition(3000.0, ECHO_TIMES[0], noise=0.006)
T1_MAP = Acquisition(15.0, 2.5, flip_angle=FLIP_ANGLES[0], noise=0.004)
DIXON = Acquisition(8.0, 2.5, flip_angle=3.0, noise=0.008)

# Images that a scanner makes by itself: how, and the acquisition whose brightest tissue is 1000 in it.
IMAGES: Mapping[str, tuple[Acquisition, Acquisition]] = MappingProxyType(
    {
        "t1w": (T1W, T1W),
        "t2w_fs": (T2W_FS, T2W_FS),
        **{f"dwi_b{b:g}": (replace(DWI, b_value=b), DWI) for b in B_VALUES},
        **{f"t2_echo_{n}": (replace(T2_MAP, echo_time=te), T2_MAP) for n, te in enumerate(ECHO_TIMES, start=1)},
        **{f"t1_angle_{n}": (replace(T1_MAP, flip_angle=a), T1_MAP) for n, a in enumerate(FLIP_ANGLES, start=1)},
        "water": (replace(DIXON, component=Component.WATER), DIXON),
        "fat": (replace(DIXON, component=Component.FAT), DIXON),
        "t1w_fs_post": (T1W_FS_POST, T1W_FS_POST),
    }
)
MAPS = ("adc", "t1_map", "t2_map")  # um2/s, ms, ms
REFERENCE = Tissue(1500.0, 90.0, 1.0, 1300.0, uptake=0.6)  # as bright as most masses
CONTRASTS = ("t1w", "t2w_fs", *(f"dwi_b{b:g}" for b in B_VALUES), *MAPS, "water", "fat", "t1w_fs_post")


class Response(StrEnum):
    """The RECIST 1.1 category of one target lesion (Eisenhauer et al. 2009, doi 10.1016/j.ejca.2008.10.026)."""

    PARTIAL = "PR"
    STABLE = "SD"
    PROGRESSIVE = "PD"


@dataclass(frozen=True)
class Change:
    """What happens to a mass from one time point to the next: factors."""

    size: float = 1.0
    adc: float = 1.0
    t1: float = 1.0
    t2: float = 1.0
    necrosis: float = 1.0  # diameter of the necrosis, relative to that of the mass
    oedema: float = 1.0


@dataclass(frozen=True)
class Truth:
    """What a perfect measurement of one time point would find: lengths in mm, `adc` in um2/s, `t1`, `t2` in ms.

    Sizes are of the mass with its necrosis; `adc`, `t1`, `t2` and `fat_fraction` (0..1) are means over it; distances
    are the shortest between surfaces, 0 where they touch.
    """

    malignant: bool
    grade: int  # 1 to 3 where malignant, else 0
    volume_ml: float
    long_axis: float
    short_axis: float
    maximum_3d: float
    necrosis_fraction: float
    adc: float
    t1: float
    t2: float
    fat_fraction: float
    bundle_distance: float
    bone_distance: float

    def plain(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class LimbStudy:
    """One limb at one time point (0 is the baseline). `change` is what happened since the time point before it."""

    phantom: Phantom
    time_point: int
    malignant: bool
    grade: int
    change: Change

    def on(self, grid: Geometry, scanner: Scanner = STANDARD) -> "LimbImages":
        """The study's images on `grid`; take `scanner.grid(grid)` for the voxels that scanner would have."""
        return LimbImages(self, grid, scanner)

    def without_mass(self) -> "LimbStudy":
        """The same limb, healthy: it has no truth. Its grids are those of the study with the mass."""
        return replace(self, phantom=self.phantom.without_mass())

    @cached_property
    def truth(self) -> Truth:
        """By a grid so fine that what is left of its influence is far below a voxel of any scanner's."""
        grid = _fine_grid(self.phantom)
        fine = self.phantom.on(grid)
        mass = fine.mass
        size = diameters(mass, grid)
        inside = mixture(fine.mass_layers, density=False)
        surface = surface_points(fine.surface, grid)
        bundle = self.phantom.bundle
        assert bundle is not None
        return Truth(
            malignant=self.malignant,
            grade=self.grade,
            volume_ml=volume_ml(mass, grid),
            long_axis=size.long_axis,
            short_axis=size.short_axis,
            maximum_3d=size.maximum_3d,
            necrosis_fraction=float(fine.necrosis.sum() / mass.sum()),
            adc=float(inside.image(lambda tissue: tissue.adc)[mass].mean()),
            t1=float(inside.image(lambda tissue: tissue.t1)[mass].mean()),
            t2=float(inside.image(lambda tissue: tissue.t2)[mass].mean()),
            fat_fraction=float(inside.image(lambda tissue: tissue.fat)[mass].mean()),
            bundle_distance=_distance(surface, self.phantom.tilt, (*bundle.centre, bundle.radius)),
            bone_distance=_distance(surface, self.phantom.tilt, self.phantom.bone[:3]),
        )


@dataclass(frozen=True, eq=False)
class LimbImages:
    """A study on one grid: shapes are computed once, each contrast is then a sum over the tissues."""

    study: LimbStudy
    grid: Geometry
    scanner: Scanner

    @cached_property
    def anatomy(self) -> PhantomOnGrid:
        return self.study.phantom.on(self.grid)

    @cached_property
    def masks(self) -> dict[str, Mask]:
        """Mass (its necrosis too), necrosis, oedema (without the mass), bundle, bone: [slice, row, column]."""
        a = self.anatomy
        return {"mass": a.mass, "necrosis": a.necrosis, "oedema": a.oedema, "bundle": a.bundle, "bone": a.bone}

    def render(self, name: str, seed: int = 0) -> Array:
        """The image or map of CONTRASTS, [slice, row, column].

        Intensities are arbitrary, 1000 near the brightest of the tissues that every limb has; maps are in um2/s and
        ms, 0 in air. `seed` is the examination: the same gives the same receive field and noise, and the ADC map that
        of its own images.
        """
        if name == "adc":
            weighted = [self.render(f"dwi_b{b:g}", seed) for b in B_VALUES]
            return adc_map(weighted, B_VALUES, self._floor(DWI))
        if name == "t2_map":
            echoes = [f"t2_echo_{n}" for n in range(1, len(ECHO_TIMES) + 1)]
            times = [self.scanner.acquire(IMAGES[echo][0]).echo_time for echo in echoes]
            return t2_map([self.render(echo, seed) for echo in echoes], times, self._floor(T2_MAP))
        if name == "t1_map":
            angles = [self.render(f"t1_angle_{n}", seed) for n in range(1, len(FLIP_ANGLES) + 1)]
            return t1_map(angles, FLIP_ANGLES, T1_MAP.repetition_time, self._floor(T1_MAP))
        acquisition, reference = (self.scanner.acquire(a) for a in IMAGES[name])
        scale = _brightest(reference)
        rng = np.random.default_rng([self.study.phantom.seed, self.study.time_point, seed, list(IMAGES).index(name)])
        clean: NDArray[Any] = self._mixture.image(lambda tissue: signal(tissue, acquisition)) / np.float32(scale)
        clean = clean * self._receive_field(acquisition.bias, seed)
        if self.scanner.motion:
            rows = self.grid.shape[1]
            clean = moved_between_lines(clean, periodic(rng, rows, self.scanner.motion / self.grid.spacing[1]))
        return np.asarray(1000.0 * rician(rng, clean, acquisition.noise), dtype=np.float32)

    def _floor(self, acquisition: Acquisition) -> float:
        """Below it there is nothing but noise, so that maps are 0 in air, but for one voxel in 25 000."""
        return max(FLOOR, 4.5 * 1000.0 * self.scanner.acquire(acquisition).noise)

    @cached_property
    def _mixture(self) -> Mixture:
        return mixture(self.anatomy.layers)

    @cached_property
    def _fields(self) -> dict[tuple[float, int], Field]:
        return {}

    def _receive_field(self, amount: float, seed: int) -> Field:
        """One for all images of an examination: they share the coil."""
        if (amount, seed) not in self._fields:
            rng = np.random.default_rng([self.study.phantom.seed, self.study.time_point, seed])
            field = surface_coil_field if self.scanner.surface_coil else bias_field
            self._fields[amount, seed] = field(rng, self.grid, amount)
        return self._fields[amount, seed]


def limb_study(seed: int, time_point: int = 0) -> LimbStudy:
    """The limb of `seed` at a time point, 0 the baseline; each later one has changed as much again.

    The mass is 40 to 95 mm long at baseline. Its change in size stays clear of the thresholds of RECIST 1.1, so that
    the true category does not hang on a fraction of a voxel.
    """
    rng = np.random.default_rng([seed, 101])
    limb = limb_phantom(seed, diameter=(40.0, 95.0), length=30.0, kind="cellular")
    malignant, grade, tissue = _labelled_tissue(np.random.default_rng([seed, 102]))
    change = _change(rng)
    fatty = float(rng.uniform(0.2, 0.6)) if rng.uniform() < 0.15 else float(rng.uniform(0.0, 0.05))
    tissue = replace(_with_fat(tissue, fatty), uptake=float(rng.uniform(0.3, 0.9)))
    elapsed = _power(change, time_point)
    tissue = replace(tissue, t1=tissue.t1 * elapsed.t1, t2=tissue.t2 * elapsed.t2, adc=tissue.adc * elapsed.adc)
    variant = replace(
        tissue, t1=tissue.t1 * 1.08, t2=tissue.t2 * 1.15, adc=min(tissue.adc * 1.2, 2900.0), uptake=tissue.uptake * 0.7
    )
    bundle = _bundle(rng, limb)
    small = limb.vessels[2:]  # the first two are an artery and a vein, which the bundle has
    x, y, thick = small.T
    clear = np.hypot(x - bundle.centre[0], y - bundle.centre[1]) > bundle.radius + thick + 2.0
    clear &= _from_mass(limb, x, y) > thick + 2.0  # a mass pushes vessels aside
    oedema = float(rng.uniform(4.0, 18.0)) if rng.uniform() < 0.75 else 0.0
    necrosis = _necrosis(rng, limb.lobes[0])
    phantom = replace(
        limb,
        mass_tissue=tissue,
        variant=variant,
        inclusions=(),
        septa=0.0,
        capsule=0.0,
        infiltration=float(rng.uniform(0.0, 1.0)),
        vessels=small[clear],
        bundle=bundle,
        growth=elapsed.size,
        necrosis=tuple(_grown(lobe, elapsed.necrosis) for lobe in necrosis),
        oedema=oedema * elapsed.oedema,
    )
    return LimbStudy(phantom, time_point, malignant, grade, change if time_point else Change())


def response(long_axes: Sequence[float]) -> Response:
    """Of the last of these diameters (mm, the baseline's first) of one lesion that has not disappeared."""
    baseline, lowest, now = long_axes[0], min(long_axes[:-1]), long_axes[-1]
    if now >= 1.2 * lowest and now - lowest >= 5.0:
        return Response.PROGRESSIVE
    return Response.PARTIAL if now <= 0.7 * baseline else Response.STABLE


def study_grid(
    study: LimbStudy, shape: tuple[int, int, int] = (36, 192, 192),
    spacing: tuple[float, float, float] = (4.0, 1.15, 1.15), off_centre: float = 0.0,
) -> Geometry:  # fmt: skip
    """An axial grid about the limb's axis with the mass in the middle of the slices, or `off_centre` mm above it."""
    z = study.phantom.lobes[0].centre[2]
    x, y = (tilt * z for tilt in study.phantom.tilt)
    return axial_grid(shape, spacing, (x, y, z - off_centre))


def _brightest(acquisition: Acquisition) -> float:
    """The scale of an image: that of tissues which every limb has, so that the mass leaves the rest as it is."""
    return max(abs(signal(tissue, acquisition)) for tissue in (FAT, MUSCLE, REFERENCE))


def _labelled_tissue(rng: np.random.Generator) -> tuple[bool, int, Tissue]:
    """Benign or malignant, the grade, and what the mass is made of: the only place where these meet."""
    malignant = bool(rng.uniform() < 0.5)
    grade = int(rng.integers(1, 4)) if malignant else 0
    t1, t2, adc = ((1750.0, 125.0, 1900.0), (1600.0, 105.0, 1550.0), (1500.0, 97.0, 1300.0), (1420.0, 90.0, 1100.0))[
        grade
    ]
    return malignant, grade, Tissue(
        t1=float(np.clip(rng.normal(t1, 180.0), 1050.0, 2400.0)),
        t2=float(np.clip(rng.normal(t2, 20.0), 68.0, 200.0)),
        pd=float(rng.uniform(0.9, 1.0)),
        adc=float(np.clip(rng.normal(adc, 260.0), 650.0, 2600.0)),
    )  # fmt: skip


def _with_fat(tissue: Tissue, fat: float) -> Tissue:
    return replace(tissue, t1=(1 - fat) * tissue.t1 + fat * FAT.t1, t2=(1 - fat) * tissue.t2 + fat * FAT.t2, fat=fat)


def _change(rng: np.random.Generator) -> Change:
    low, high = ((0.50, 0.64), (0.78, 1.12), (1.28, 1.36))[int(rng.integers(3))]
    return Change(
        size=float(rng.uniform(low, high)),
        adc=float(rng.uniform(0.95, 1.35)),
        t1=float(rng.uniform(0.97, 1.10)),
        t2=float(rng.uniform(0.95, 1.15)),
        necrosis=float(rng.uniform(1.0, 1.35)),
        oedema=float(rng.uniform(0.8, 1.4)),
    )


def _power(change: Change, times: int) -> Change:
    return Change(**{name: factor**times for name, factor in asdict(change).items()})


def _grown(lobe: Lobe, factor: float) -> Lobe:
    x, y, z = lobe.axes
    return replace(lobe, axes=(x * factor, y * factor, z * factor))


def _necrosis(rng: np.random.Generator, main: Lobe) -> tuple[Lobe, ...]:
    """None to two regions near the middle of the mass."""
    found = []
    for _ in range(int(rng.integers(0, 3))):
        shift = rng.normal(size=3)
        shift *= rng.uniform(0, 0.35) * np.array(main.axes) / np.linalg.norm(shift)
        scale = rng.uniform(0.35, 0.6)
        x, y, z = (float(v) for v in np.array(main.centre) + shift)
        found.append(_grown(Lobe((x, y, z), main.axes, main.turn + float(rng.uniform(-0.4, 0.4))), float(scale)))
    return tuple(found)


def _bundle(rng: np.random.Generator, limb: Phantom) -> Bundle:
    """Beside the mass, about as far from it as drawn: touching it in a quarter of the limbs, else up to 30 mm away."""
    radius = float(rng.uniform(7.0, 10.0))
    turn = float(rng.uniform(0, 2 * np.pi))
    wanted = float(rng.uniform(0.0, 2.0)) if rng.uniform() < 0.25 else float(rng.uniform(2.0, 30.0))
    angles, distances = rng.uniform(0, 2 * np.pi, 400), rng.uniform(0.0, 1.0, 400) ** 0.5 * limb.radius
    x, y = distances * np.cos(angles), distances * np.sin(angles)
    bx, by, bone, _ = limb.bone
    mean, variation, _ = limb.fat_thickness
    deepest = 0.85 * limb.radius - mean - variation - radius  # inside of the fascia all around
    from_bone = np.hypot(x - bx, y - by) - bone - radius
    outside = np.maximum(np.maximum(distances - deepest, 1.0 - from_bone), 0.0)
    best = int(np.argmin(np.abs(_from_mass(limb, x, y) - radius - wanted) + 5.0 * outside))
    return Bundle((float(x[best]), float(y[best])), radius, turn)


def _from_mass(limb: Phantom, x: NDArray[np.float64], y: NDArray[np.float64]) -> Field:
    """Mm from the mass to lines along the limb that pass through `x` and `y`, (n,) each, where z is 0."""
    z = np.linspace(-1, 1, 41)[:, None] * 1.4 * limb.diameter / 2 + limb.lobes[0].centre[2]
    points = np.stack(np.broadcast_arrays(x + limb.tilt[0] * z, y + limb.tilt[1] * z, z), axis=-1)
    return np.asarray(lobes_distance(points.astype(np.float32), limb.lobes).min(axis=0))


def _fine_grid(limb: Phantom) -> Geometry:
    """About the mass: voxels of 0.7 mm or less for masses up to 100 mm wide, slices twice as thick."""
    reach = np.zeros(3)
    middle = np.array(limb.lobes[0].centre)
    for lobe in limb.lobes:
        across = max(lobe.axes[:2])
        offset = np.abs(np.array(lobe.centre) - middle)
        reach = np.maximum(reach, offset + np.array([across, across, lobe.axes[2]]))
    reach = limb.growth * (reach + 2.0 * limb.roughness * limb.smallest_axis + 2.0)
    pixel = float(max(2 * reach[:2].max() / 160, 0.35))
    thickness = 2 * pixel
    shape = (
        int(np.ceil(2 * reach[2] / thickness)), int(np.ceil(2 * reach[1] / pixel)), int(np.ceil(2 * reach[0] / pixel)),
    )  # fmt: skip
    return axial_grid(shape, (thickness, pixel, pixel), limb.lobes[0].centre)


def _distance(surface: NDArray[np.float64], tilt: tuple[float, float], tube: tuple[float, float, float]) -> float:
    """Mm from the points `surface` to a tube along the limb: x, y, radius where z is 0. 0 where they touch.

    All is projected along the limb's axis, onto the plane perpendicular to it, where the tube is an outline.
    """
    axis = np.array([tilt[0], tilt[1], 1.0])
    axis /= np.linalg.norm(axis)
    first = np.cross(axis, [0.0, 1.0, 0.0])
    first /= np.linalg.norm(first)
    plane = np.stack([first, np.cross(axis, first)], axis=1)
    x, y, radius = tube
    inside = np.hypot(surface[:, 0] - tilt[0] * surface[:, 2] - x, surface[:, 1] - tilt[1] * surface[:, 2] - y) < radius
    if inside.any():
        return 0.0
    turn = np.linspace(0, 2 * np.pi, 1440)
    outline = np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn), np.zeros_like(turn)], axis=1)
    return float(cKDTree(outline @ plane).query(surface @ plane)[0].min())
