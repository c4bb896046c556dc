"""The true measures of a limb at one time point, taken on a fine grid, and the true RECIST 1.1 category of a course."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from inference.phantoms.limb.anatomy import LimbPhantom
from inference.phantoms.scene import axial_grid, mixture, surface_points
from inference.volumes.geometry import Geometry
from inference.volumes.measurements import diameters, volume_ml


class RecistCategory(StrEnum):
    """The RECIST 1.1 categories of one target lesion (Eisenhauer et al. 2009, doi 10.1016/j.ejca.2008.10.026).

    These categories do not use `inference.quantities`, because that package is tested against them.
    """

    PARTIAL = "PR"
    STABLE = "SD"
    PROGRESSIVE = "PD"


@dataclass(frozen=True)
class Truth:
    """The values that a perfect measurement of one time point would give.

    Lengths are in mm, `adc` is in um2/s, `t1` and `t2` are in ms. Sizes are of the mass with its necrosis; `adc`, `t1`,
    `t2` and `fat_fraction` (0..1) are means over it; distances are the shortest between surfaces, 0 where they touch.
    """

    malignant: bool
    grade: int  # 1 to 3 if malignant, else 0
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
        """Return the values by name, for JSON."""
        return asdict(self)


def measure_truth(limb: LimbPhantom, malignant: bool, grade: int) -> Truth:
    """Measure a limb with a mass and a bundle, on a grid much finer than the voxels of any scanner."""
    grid = _fine_grid(limb)
    fine = limb.on(grid)
    mass = fine.mass
    size = diameters(mass, grid)
    inside = mixture(fine.mass_layers, density=False)
    surface = surface_points(fine.surface, grid)
    bundle = limb.bundle
    assert bundle is not None
    return Truth(
        malignant=malignant,
        grade=grade,
        volume_ml=volume_ml(mass, grid),
        long_axis=size.long_axis,
        short_axis=size.short_axis,
        maximum_3d=size.maximum_3d,
        necrosis_fraction=float(fine.necrosis.sum() / mass.sum()),
        adc=float(inside.image(lambda tissue: tissue.adc)[mass].mean()),
        t1=float(inside.image(lambda tissue: tissue.t1)[mass].mean()),
        t2=float(inside.image(lambda tissue: tissue.t2)[mass].mean()),
        fat_fraction=float(inside.image(lambda tissue: tissue.fat)[mass].mean()),
        bundle_distance=_distance(surface, limb.tilt, (*bundle.centre, bundle.radius)),
        bone_distance=_distance(surface, limb.tilt, limb.bone[:3]),
    )


def recist_category(long_axes: Sequence[float]) -> RecistCategory:
    """Return the category of the last of these diameters of one lesion that has not disappeared.

    `long_axes` are in mm, one for each time point, the baseline first.
    """
    baseline, lowest, now = long_axes[0], min(long_axes[:-1]), long_axes[-1]
    if now >= 1.2 * lowest and now - lowest >= 5.0:
        return RecistCategory.PROGRESSIVE
    return RecistCategory.PARTIAL if now <= 0.7 * baseline else RecistCategory.STABLE


def _fine_grid(limb: LimbPhantom) -> Geometry:
    """Return a grid about the mass: voxels of 0.7 mm or less for masses up to 100 mm wide, slices twice as thick."""
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
    """Return the distance in mm from the points `surface` to a tube along the limb, 0 where they touch.

    `tube` is x, y and radius where z is 0. Everything is projected along the axis of the limb onto the plane
    perpendicular to it, where the tube is an outline.
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
