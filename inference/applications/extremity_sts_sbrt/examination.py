"""One examination of a limb: its structures and quantities, on the grid of its T1w series.

Training measures with exactly this, so that what the model card promises is what the application does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from inference.applications.extremity_sts_sbrt.preprocessing import prepare, restore, structures
from inference.quantities.alignment import align
from inference.quantities.distances import shortest_distance
from inference.quantities.panel import ADC, T1, T2, Panel, Volumes, measure_panel
from inference.quantities.size import is_cut_off
from inference.quantities.statistics import Statistics
from inference.volumes.geometry import Array, Mask
from inference.volumes.measurements import Diameters, diameters, volume_ml
from inference.volumes.volume import Volume
from storage.errors import InputRefused

REQUIRED = ("t1w", "t2w_fs")  # the network does not know a limb without both
WEIGHTED = ("t2w_fs", "t1w_fs_post")
COVERED = 0.5  # of the limb in T1w, by each of REQUIRED at least
MAPS = {"adc": "adc", "t1": "t1_map", "t2": "t2_map"}  # quantity of the panel -> contrast of the network

Infer = Callable[[Tensor], Tensor]
"""The network on prepared images: (1, contrast, slice, row, column) to logits (1, structure, slice, row, column)."""


@dataclass(frozen=True, eq=False)
class Examination:
    """`masks` are the structures that were found, on the grid of `source`; `seen` the contrasts the network had.
    `searched` is where it had all of REQUIRED: nothing is outlined elsewhere.
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
        """Of the mass, which must have been found."""
        return diameters(self.masks["mass"], self.source.geometry)

    @cached_property
    def cut_off(self) -> bool:
        """Whether the mass, which must have been found, goes on where nothing was searched."""
        return is_cut_off(self.masks["mass"], self.searched)

    @property
    def searched_share(self) -> float:
        """Of what T1w shows of the limb."""
        return _share(self.searched, self.source.array)

    def volume(self, structure: str) -> float:
        """mL; 0 where it was not found."""
        return volume_ml(self.masks[structure], self.source.geometry) if structure in self.masks else 0.0

    @property
    def necrotic(self) -> float:
        """% of the mass."""
        return 100.0 * self.volume("necrosis") / self.volume("mass")

    @cached_property
    def adc(self) -> float | None:
        """um2/s, the mean over the mass."""
        found = self.panel.statistics(ADC, self.masks["mass"])
        return found.mean if isinstance(found, Statistics) else None

    def distance(self, structure: str) -> float | None:
        """Mm between the surfaces of the mass and a structure; None where it was not found."""
        if structure not in self.masks:
            return None
        return shortest_distance(self.masks["mass"], self.masks[structure], self.source.geometry).distance


def examine(volumes: Volumes, infer: Infer, threshold: float) -> Examination:
    """`volumes` by the names of the application's inputs; "t1w" is the one whose grid counts. Raises InputRefused where
    one of REQUIRED cannot be brought onto that grid, or covers less than COVERED of it.
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
    prepared = prepare(images, source.geometry)
    logits = infer(torch.from_numpy(prepared.array)[None])
    probability = restore(torch.sigmoid(logits)[0].numpy(), prepared, source.geometry)
    return Examination(
        source=source,
        inputs=tuple(dict.fromkeys([*used, *quantities.inputs])),
        seen=tuple(images),
        masks=structures(probability * searched, source.geometry, threshold),
        searched=searched,
        panel=quantities,
        notes=tuple(notes),
    )


def _covered(brought: Array, t1w: Array) -> Mask:
    """Where a series has values on the grid of T1w. Raises InputRefused where it shows too little of the body."""
    known = np.isfinite(brought)
    if (share := _share(known, t1w)) < COVERED:
        raise InputRefused(f"it shows {share:.0%} of what T1w shows of the limb, and {COVERED:.0%} are needed")
    return known


def _share(where: Mask, t1w: Array) -> float:
    """Of what is no air in T1w."""
    return float(where[t1w > t1w.mean()].mean())
