"""The images of a limb: the sequences of an examination, rendered on one grid by one scanner."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.phantoms.artefacts import bias_field, moved_between_lines, periodic_shifts, rician, surface_coil_field
from inference.phantoms.limb.anatomy import LimbOnGrid, LimbPhantom
from inference.phantoms.limb.tissues import FAT, MUSCLE
from inference.phantoms.scanner_maps import DARKEST_SIGNAL, scanner_adc_map, scanner_t1_map, scanner_t2_map
from inference.phantoms.scene import Field, Mixture, mixture
from inference.phantoms.signals import Acquisition, Component, Scanner, Tissue, signal
from inference.volumes.geometry import Array, Geometry, Mask

DWI_B_VALUES = (0.0, 50.0, 400.0, 800.0)  # s/mm2
ECHO_TIMES = (12.0, 36.0, 60.0, 84.0)  # ms, of the T2 map
FLIP_ANGLES = (4.0, 20.0)  # degrees, of the T1 map

T1W = Acquisition(600.0, 12.0)
T2W_FS = Acquisition(4000.0, 80.0, fat_suppressed=True)
T1W_FS_POST = replace(T1W, fat_suppressed=True, contrast_agent=True)
DWI = Acquisition(5000.0, 70.0, fat_suppressed=True, noise=0.015)
T2_MAP = Acquisition(3000.0, ECHO_TIMES[0], noise=0.006)
T1_MAP = Acquisition(15.0, 2.5, flip_angle=FLIP_ANGLES[0], noise=0.004)
DIXON = Acquisition(8.0, 2.5, flip_angle=3.0, noise=0.008)

# The images that are not computed from others: the acquisition, and the one whose brightest tissue has the value 1000.
IMAGES: Mapping[str, tuple[Acquisition, Acquisition]] = MappingProxyType(
    {
        "t1w": (T1W, T1W),
        "t2w_fs": (T2W_FS, T2W_FS),
        **{f"dwi_b{b:g}": (replace(DWI, b_value=b), DWI) for b in DWI_B_VALUES},
        **{f"t2_echo_{n}": (replace(T2_MAP, echo_time=te), T2_MAP) for n, te in enumerate(ECHO_TIMES, start=1)},
        **{f"t1_angle_{n}": (replace(T1_MAP, flip_angle=a), T1_MAP) for n, a in enumerate(FLIP_ANGLES, start=1)},
        "water": (replace(DIXON, component=Component.WATER), DIXON),
        "fat": (replace(DIXON, component=Component.FAT), DIXON),
        "t1w_fs_post": (T1W_FS_POST, T1W_FS_POST),
    }
)
MAPS = ("adc", "t1_map", "t2_map")  # um2/s, ms, ms
REFERENCE = Tissue(1500.0, 90.0, 1.0, 1300.0, uptake=0.6)  # a stand-in for the mass: as bright as most are
CONTRASTS = ("t1w", "t2w_fs", *(f"dwi_b{b:g}" for b in DWI_B_VALUES), *MAPS, "water", "fat", "t1w_fs_post")


@dataclass(frozen=True, eq=False)
class LimbImages:
    """A limb at one time point on one grid.

    The shapes are computed once; each contrast is then a sum over the tissues.
    """

    phantom: LimbPhantom
    time_point: int
    grid: Geometry
    scanner: Scanner

    @cached_property
    def anatomy(self) -> LimbOnGrid:
        return self.phantom.on(self.grid)

    @cached_property
    def masks(self) -> dict[str, Mask]:
        """The masks [slice, row, column] of mass, necrosis, oedema, bundle and bone.

        The mass includes its necrosis; the oedema excludes the mass.
        """
        a = self.anatomy
        return {"mass": a.mass, "necrosis": a.necrosis, "oedema": a.oedema, "bundle": a.bundle, "bone": a.bone}

    def render(self, name: str, seed: int = 0) -> Array:
        """Return the image or map `name` of CONTRASTS, [slice, row, column].

        Intensities of images are arbitrary, 1000 near the brightest of the tissues that every limb has. Maps are in
        um2/s and ms, and 0 in air. `seed` stands for the examination: the same seed gives the same receive field and
        the same noise, so that the ADC map belongs to the diffusion images of the same seed.
        """
        if name == "adc":
            weighted = [self.render(f"dwi_b{b:g}", seed) for b in DWI_B_VALUES]
            return scanner_adc_map(weighted, DWI_B_VALUES, self._floor(DWI))
        if name == "t2_map":
            echoes = [f"t2_echo_{n}" for n in range(1, len(ECHO_TIMES) + 1)]
            times = [self.scanner.acquire(IMAGES[echo][0]).echo_time for echo in echoes]
            return scanner_t2_map([self.render(echo, seed) for echo in echoes], times, self._floor(T2_MAP))
        if name == "t1_map":
            angles = [self.render(f"t1_angle_{n}", seed) for n in range(1, len(FLIP_ANGLES) + 1)]
            return scanner_t1_map(angles, FLIP_ANGLES, T1_MAP.repetition_time, self._floor(T1_MAP))
        acquisition, reference = (self.scanner.acquire(a) for a in IMAGES[name])
        scale = _brightest(reference)
        rng = np.random.default_rng([self.phantom.seed, self.time_point, seed, list(IMAGES).index(name)])
        clean: NDArray[Any] = self._mixture.image(lambda tissue: signal(tissue, acquisition)) / np.float32(scale)
        clean = clean * self._receive_field(acquisition.bias, seed)
        if self.scanner.motion:
            rows = self.grid.shape[1]
            clean = moved_between_lines(clean, periodic_shifts(rng, rows, self.scanner.motion / self.grid.spacing[1]))
        return np.asarray(1000.0 * rician(rng, clean, acquisition.noise), dtype=np.float32)

    def _floor(self, acquisition: Acquisition) -> float:
        """Return the intensity below which a map is 0; only one voxel of air in 25 000 exceeds it."""
        return max(DARKEST_SIGNAL, 4.5 * 1000.0 * self.scanner.acquire(acquisition).noise)

    @cached_property
    def _mixture(self) -> Mixture:
        return mixture(self.anatomy.layers)

    @cached_property
    def _fields(self) -> dict[tuple[float, int], Field]:
        return {}

    def _receive_field(self, amount: float, seed: int) -> Field:
        """Return the receive field of an examination. All its images have the same one, because they share a coil."""
        if (amount, seed) not in self._fields:
            rng = np.random.default_rng([self.phantom.seed, self.time_point, seed])
            field = surface_coil_field if self.scanner.surface_coil else bias_field
            self._fields[amount, seed] = field(rng, self.grid, amount)
        return self._fields[amount, seed]


def _brightest(acquisition: Acquisition) -> float:
    """Return the brightest signal of tissues that every limb has, so that the mass does not change the scale."""
    return max(abs(signal(tissue, acquisition)) for tissue in (FAT, MUSCLE, REFERENCE))
