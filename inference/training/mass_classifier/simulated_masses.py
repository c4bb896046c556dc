"""Simulated masses as samples of the classifier: the means of its features, and the grade."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.applications.soft_tissue_mass.classifier import FEATURES
from inference.phantoms.limb.images import DWI_B_VALUES
from inference.phantoms.limb.study import limb_study, study_grid
from inference.phantoms.scene import mixture
from inference.quantities.panel import measure_panel
from inference.quantities.statistics import Statistics
from inference.volumes.planes import B_VALUE
from inference.volumes.volume import Volume

GRID = ((24, 96, 96), (6.0, 2.3, 2.3))  # of the images; coarse, because means over a mass are enough
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SimulatedMass:
    """The means of FEATURES inside a mass: `measured` in its images, and `true` those of its tissues."""

    measured: NDArray[np.float64]
    true: NDArray[np.float64]
    grade: int  # 0 if benign


def simulated_masses(seeds: Sequence[int]) -> list[SimulatedMass]:
    """Simulate and measure the masses of `seeds`."""
    found = []
    for number, seed in enumerate(seeds, start=1):
        found.append(simulated_mass(seed))
        if number % 50 == 0:
            log.info("Mass %d of %d is measured.", number, len(seeds))
    return found


def simulated_mass(seed: int) -> SimulatedMass:
    """Simulate the mass of `seed`, and measure it inside its true outline."""
    study = limb_study(seed)
    grid = study_grid(study, *GRID)
    images = study.on(grid)

    def volume(name: str, **told_apart: float) -> Volume:
        return Volume(images.render(name), grid, (), "study", name, "frame of reference", "MR", told_apart)

    weighted = tuple(volume(f"dwi_b{b:g}", **{B_VALUE: b}) for b in DWI_B_VALUES)
    maps = {name: (volume(name),) for name in ("t1_map", "t2_map")}
    quantities = measure_panel({"dwi": weighted, **maps}, weighted[0])
    told = [quantities.statistics(quantity, images.masks["mass"]) for quantity in FEATURES]
    mask, inside = images.masks["mass"], mixture(images.anatomy.mass_layers, density=False)
    true = [inside.image(level)[mask].mean() for level in (lambda t: t.adc, lambda t: t.t1, lambda t: t.t2)]
    return SimulatedMass(
        np.array([one.mean if isinstance(one, Statistics) else np.nan for one in told]), np.array(true), study.grade
    )
