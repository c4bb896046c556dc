"""A limb with a sarcoma in a trial, at several time points, and the truth about each of them.

Only T1, T2 and ADC inside the mass depend on malignancy and grade. Everything else about a limb is drawn independently
of them, and intensities are scaled by tissues that every limb has.
"""

from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from inference.phantoms.limb.anatomy import LimbPhantom, NeurovascularBundle
from inference.phantoms.limb.images import LimbImages
from inference.phantoms.limb.random_limb import limb_phantom
from inference.phantoms.limb.tissues import FAT
from inference.phantoms.limb.truth import Truth, measure_truth
from inference.phantoms.scene import Field, Lobe, axial_grid, lobes_distance
from inference.phantoms.signals import STANDARD, Scanner, Tissue
from inference.volumes.geometry import Geometry

# A seed stands for a limb. Smaller seeds than all of these are for demonstrations and the simulator.
HELD_OUT_SEEDS = range(6_020, 6_080)
SHIFTED_SEEDS = range(7_000, 7_060)  # imaged with the scanner `signals.SHIFTED`
FIRST_TRAINING_SEED = 10_000


@dataclass(frozen=True)
class Change:
    """The change of a mass from one time point to the next, as factors."""

    size: float = 1.0
    adc: float = 1.0
    t1: float = 1.0
    t2: float = 1.0
    necrosis: float = 1.0  # diameter of the necrosis, relative to that of the mass
    oedema: float = 1.0


@dataclass(frozen=True, eq=False)
class LimbStudy:
    """A limb at one time point; 0 is the baseline. `change` is the change since the time point before it."""

    phantom: LimbPhantom
    time_point: int
    malignant: bool
    grade: int
    change: Change

    def on(self, grid: Geometry, scanner: Scanner = STANDARD) -> "LimbImages":
        """Return the images on `grid`; `scanner.grid(grid)` gives the voxels that `scanner` would have."""
        return LimbImages(self.phantom, self.time_point, grid, scanner)

    def without_mass(self) -> "LimbStudy":
        """Return the same limb without its mass, which has no truth. Take its grid from the study with the mass."""
        return replace(self, phantom=self.phantom.without_mass())

    @cached_property
    def truth(self) -> Truth:
        """The truth about this time point. The limb must have a mass."""
        return measure_truth(self.phantom, self.malignant, self.grade)


def limb_study(seed: int, time_point: int = 0) -> LimbStudy:
    """Return the limb of `seed` at a time point; 0 is the baseline, and every later one repeats the same change.

    The mass is 40 to 95 mm long at baseline. Its change in size stays clear of the thresholds of RECIST 1.1, so that
    the true category does not depend on a fraction of a voxel.
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
    small = limb.vessels[2:]  # The first two are an artery and a vein, which the bundle has already.
    x, y, thick = small.T
    clear = np.hypot(x - bundle.centre[0], y - bundle.centre[1]) > bundle.radius + thick + 2.0
    clear &= _from_mass(limb, x, y) > thick + 2.0  # A mass pushes vessels aside.
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


def study_grid(
    study: LimbStudy, shape: tuple[int, int, int] = (36, 192, 192),
    spacing: tuple[float, float, float] = (4.0, 1.15, 1.15), off_centre: float = 0.0,
) -> Geometry:  # fmt: skip
    """Return an axial grid about the axis of the limb, with the mass in the middle or `off_centre` mm above it."""
    z = study.phantom.lobes[0].centre[2]
    x, y = (tilt * z for tilt in study.phantom.tilt)
    return axial_grid(shape, spacing, (x, y, z - off_centre))


def _labelled_tissue(rng: np.random.Generator) -> tuple[bool, int, Tissue]:
    """Draw malignancy, grade and the tissue of the mass. Nothing but this tissue depends on malignancy and grade."""
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
    """Draw up to two regions near the middle of the mass."""
    found = []
    for _ in range(int(rng.integers(0, 3))):
        shift = rng.normal(size=3)
        shift *= rng.uniform(0, 0.35) * np.array(main.axes) / np.linalg.norm(shift)
        scale = rng.uniform(0.35, 0.6)
        x, y, z = (float(v) for v in np.array(main.centre) + shift)
        found.append(_grown(Lobe((x, y, z), main.axes, main.turn + float(rng.uniform(-0.4, 0.4))), float(scale)))
    return tuple(found)


def _bundle(rng: np.random.Generator, limb: LimbPhantom) -> NeurovascularBundle:
    """Place the bundle beside the mass: touching it in a quarter of the limbs, else up to 30 mm away."""
    radius = float(rng.uniform(7.0, 10.0))
    turn = float(rng.uniform(0, 2 * np.pi))
    wanted = float(rng.uniform(0.0, 2.0)) if rng.uniform() < 0.25 else float(rng.uniform(2.0, 30.0))
    angles, distances = rng.uniform(0, 2 * np.pi, 400), rng.uniform(0.0, 1.0, 400) ** 0.5 * limb.radius
    x, y = distances * np.cos(angles), distances * np.sin(angles)
    bx, by, bone, _ = limb.bone
    mean, variation, _ = limb.fat_thickness
    deepest = 0.85 * limb.radius - mean - variation - radius  # within the fascia on all sides
    from_bone = np.hypot(x - bx, y - by) - bone - radius
    outside = np.maximum(np.maximum(distances - deepest, 1.0 - from_bone), 0.0)
    best = int(np.argmin(np.abs(_from_mass(limb, x, y) - radius - wanted) + 5.0 * outside))
    return NeurovascularBundle((float(x[best]), float(y[best])), radius, turn)


def _from_mass(limb: LimbPhantom, x: NDArray[np.float64], y: NDArray[np.float64]) -> Field:
    """Return the distances in mm from the mass to lines along the limb through `x` and `y`, (n,) each, where z is 0."""
    z = np.linspace(-1, 1, 41)[:, None] * 1.4 * limb.diameter / 2 + limb.lobes[0].centre[2]
    points = np.stack(np.broadcast_arrays(x + limb.tilt[0] * z, y + limb.tilt[1] * z, z), axis=-1)
    return np.asarray(lobes_distance(points.astype(np.float32), limb.lobes).min(axis=0))
