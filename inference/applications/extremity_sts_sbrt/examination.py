"""The examination of a limb at one time point: structures and quantities on the grid of its T1w series.

Training measures with this same code, so that the model card states the performance of the application.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from inference.applications.extremity_sts_sbrt.preprocessing import find_structures, prepare_limb, restore_structures
from inference.quantities.alignment import align
from inference.quantities.distances import shortest_distance
from inference.quantities.panel import Panel, Volumes, measure_panel
from inference.quantities.panel_quantities import ADC, T1, T2
from inference.quantities.size import is_cut_off
from inference.quantities.statistics import Statistics
from inference.volumes.geometry import Array, Mask
from inference.volumes.measurements import Diameters, diameters, volume_ml
from inference.volumes.volume import Volume
from storage.errors import InputRefused

REQUIRED = ("t1w", "t2w_fs")  # The network was not trained on limbs without both.
WEIGHTED = ("t2w_fs", "t1w_fs_post")
COVERED = 0.5  # of the limb in T1w: the least part that each of REQUIRED must show
MAPS = {"adc": "adc", "t1": "t1_map", "t2": "t2_map"}  # quantity of the panel -> contrast of the network

SliceInference = Callable[[Tensor], Tensor]
"""Runs the network on prepared images: (1, contrast, slice, row, column) to logits (1, structure, ...)."""


@dataclass(frozen=True, eq=False)
class Examination:
    """The result of one examination, on the grid of `source`.

    `masks` are the structures that were found and `seen` the contrasts that the network had. `searched` is the region
    in which the network had all of REQUIRED; nothing is outlined outside of it.
    """

    source: Volume
    inputs: tuple[Volume, ...]
    seen: tuple[str, ...]
    masks: Mapping[str, Mask]
    searched: Mask
    panel: Panel
    notes: tuple[str, ...]

    @cached_property
    def diameters(self) -> Diameters:
        """The diameters of the mass, which must have been found."""
        return diameters(self.masks["mass"], self.source.geometry)

    @cached_property
    def cut_off(self) -> bool:
        """True if the mass, which must have been found, reaches the edge of the searched region."""
        return is_cut_off(self.masks["mass"], self.searched)

    @property
    def searched_share(self) -> float:
        """The part of the limb in T1w that was searched, 0..1."""
        return _share(self.searched, self.source.array)

    def volume(self, structure: str) -> float:
        """Return the volume of a structure in mL, 0 where it was not found."""
        return volume_ml(self.masks[structure], self.source.geometry) if structure in self.masks else 0.0

    @property
    def necrotic(self) -> float:
        """The necrotic part of the mass in %."""
        return 100.0 * self.volume("necrosis") / self.volume("mass")

    @cached_property
    def adc(self) -> float | None:
        """The mean ADC of the mass in um2/s; None where it is missing."""
        found = self.panel.statistics(ADC, self.masks["mass"])
        return found.mean if isinstance(found, Statistics) else None

    def distance(self, structure: str) -> float | None:
        """Return the distance in mm between the surfaces of mass and structure, None if the structure was not found."""
        if structure not in self.masks:
            return None
        return shortest_distance(self.masks["mass"], self.masks[structure], self.source.geometry).distance


def examine_limb(volumes: Volumes, infer: SliceInference, threshold: float) -> Examination:
    """Outline and measure one time point on the grid of "t1w".

    The keys of `volumes` are the names of the application's inputs. Raises InputRefused if a series of REQUIRED cannot
    be brought onto that grid, or covers less than COVERED of the limb.
    """
    (source,) = volumes["t1w"]
    quantities = measure_panel(volumes, source, (ADC, T1, T2))
    images: dict[str, Array] = {"t1w": source.array}
    used, notes = [source], []
    searched = np.ones(source.array.shape, bool)
    for name in WEIGHTED:
        if name not in volumes:
            continue
        volume = volumes[name][0]
        try:
            brought = align(volume.array, volume, source)
            images[name] = np.nan_to_num(brought)
            used.append(volume)
            if name in REQUIRED:
                searched &= _covered(brought, source.array)
        except InputRefused as error:
            if name in REQUIRED:
                raise InputRefused(f"the series for {name} cannot be used: {error}") from error
            notes.append(f"The series for {name} was not used: {error}.")
    images |= {MAPS[name]: values for name, values in quantities.values.items() if name in MAPS}
    prepared = prepare_limb(images, source.geometry)
    logits = infer(torch.from_numpy(prepared.array)[None])
    probability = restore_structures(torch.sigmoid(logits)[0].numpy(), prepared, source.geometry)
    return Examination(
        source=source,
        inputs=tuple(dict.fromkeys([*used, *quantities.inputs])),
        seen=tuple(images),
        masks=find_structures(probability * searched, source.geometry, threshold),
        searched=searched,
        panel=quantities,
        notes=tuple(notes),
    )


def _covered(brought: Array, t1w: Array) -> Mask:
    """Return the voxels of T1w for which a series has values. Raises InputRefused if they cover too little."""
    known = np.isfinite(brought)
    if (share := _share(known, t1w)) < COVERED:
        raise InputRefused(f"it shows {share:.0%} of what T1w shows of the limb, and {COVERED:.0%} are needed")
    return known


def _share(where: Mask, t1w: Array) -> float:
    """Return the fraction of the limb in T1w that a mask covers; every voxel that is not air is limb."""
    return float(where[t1w > t1w.mean()].mean())
