"""The MR signal of tissues: properties of tissues, parameters of acquisitions, and the signal equations.

Sources: spin and spoiled gradient echo (Haacke et al., Magnetic Resonance Imaging, 1999); the relaxivity of gadobutrol
at 3 T (Rohrer et al. 2005, doi 10.1097/01.rli.0000184756.66360.d3).
"""

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from inference.volumes.geometry import Geometry

R1, R2 = 5.0e-3, 7.1e-3  # relaxivities of the contrast agent in blood plasma, per ms and mmol/L


@dataclass(frozen=True)
class Tissue:
    """The properties of a tissue that its signal depends on.

    `t1` and `t2` are in ms, `pd` is relative to water, `adc` is in um2/s, `fat` is the fraction of the signal that
    comes from fat, and `uptake` is the contrast agent some minutes after the injection, in mmol/L.
    """

    t1: float
    t2: float
    pd: float
    adc: float
    fat: float = 0.0
    uptake: float = 0.0


class Component(Enum):
    """The part of the signal that a Dixon reconstruction shows."""

    ALL = "all"
    WATER = "water"
    FAT = "fat"


@dataclass(frozen=True)
class Acquisition:
    """The parameters of one image. Times are in ms, `b_value` is in s/mm2."""

    repetition_time: float
    echo_time: float
    fat_suppressed: bool = False
    b_value: float = 0.0
    fat_left: float = 0.06  # the part of the fat signal that suppression leaves
    noise: float = 0.012  # standard deviation per channel, as a fraction of the brightest signal
    bias: float = 0.15  # the receive field varies by about this fraction over the field of view
    flip_angle: float | None = None  # degrees, of a spoiled gradient echo; None is a spin echo at 90 degrees
    contrast_agent: bool = False  # True: acquired after the contrast agent was given
    component: Component = Component.ALL


@dataclass(frozen=True)
class Scanner:
    """The difference between one scanner and the usual one, for any contrast.

    `noise`, `echo_time` and `bias` are factors to the values of the acquisition.
    """

    noise: float = 1.0
    echo_time: float = 1.0
    bias: float = 1.0
    voxel: float = 1.0  # factor to the edge length, within the same field of view
    surface_coil: bool = False  # the receive field falls off from one side, instead of varying everywhere
    motion: float = 0.0  # mm: the amplitude of a periodic motion during the acquisition of the lines

    def acquire(self, acquisition: Acquisition) -> Acquisition:
        """Return the acquisition as this scanner performs it."""
        return replace(
            acquisition,
            noise=acquisition.noise * self.noise,
            echo_time=acquisition.echo_time * self.echo_time,
            bias=acquisition.bias * self.bias,
        )

    def grid(self, grid: Geometry) -> Geometry:
        """Return the grid on which this scanner images the field of view of `grid`."""
        if self.voxel == 1.0:
            return grid
        s, r, c = (max(1, round(n / self.voxel)) for n in grid.shape)
        factors = np.array(grid.shape) / np.array([s, r, c])
        affine = grid.affine.copy()
        affine[:3, :3] = grid.affine[:3, :3] * factors
        affine[:3, 3] += grid.affine[:3, :3] @ ((factors - 1) / 2)  # The first corner of the grid stays in place.
        return Geometry((s, r, c), affine)


STANDARD = Scanner()
# Do not change this scanner: model cards publish results that were measured with it.
SHIFTED = Scanner(noise=3.0, echo_time=1.3, bias=2.5, voxel=1.25, surface_coil=True)


def signal(tissue: Tissue, acquisition: Acquisition) -> float:
    """Return the transverse magnetisation at the echo, relative to that of water at rest.

    Spin echo: PD (1 - exp(-TR/T1)) exp(-TE/T2); spoiled gradient echo: PD sin a (1 - E1) / (1 - E1 cos a) exp(-TE/T2)
    with E1 = exp(-TR/T1). Diffusion weighting multiplies by exp(-b ADC), fat suppression removes most of fat's part.
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
