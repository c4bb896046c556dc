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
from inference.findings import Mask
from inference.measurements import Diameters, diameters, volume_ml
from inference.panel import ADC, T1, T2, Panel, Volumes, bring, panel
from inference.quantities.distances import shortest_distance
from inference.quantities.statistics import Statistics
from inference.volume import Array, Volume
from storage.errors import InputRefused

REQUIRED = ("t1w", "t2w_fs")  # the network does not know a limb without both
WEIGHTED = ("t2w_fs", "t1w_fs_post")
MAPS = {"adc": "adc", "t1": "t1_map", "t2": "t2_map"}  # quantity of the panel -> contrast of the network

Infer = Callable[[Tensor], Tensor]
"""The network on prepared images: (1, contrast, slice, row, column) to logits (1, structure, slice, row, column)."""


@dataclass(frozen=True, eq=False)
class Examination:
    """`masks` are the structures that were found, on the grid of `source`; `seen` the contrasts the network had."""

    source: Volume
    inputs: tuple[Volume, ...]
    seen: tuple[str, ...]
    masks: Mapping[str, Mask]
    panel: Panel
    notes: tuple[str, ...]

    @cached_property
    def diameters(self) -> Diameters:
        """Of the mass, which must have been found."""
        return diameters(self.masks["mass"], self.source.geometry)

    def volume(self, structure: str) -> float:
        """mL; 0 where it was not found."""
        return volume_ml(self.masks[structure], self.source.geometry) if structure in self.masks else 0.0

    @property
    def necrotic(self) -> float:
        """% of the mass."""
        return 100.0 * self.volume("necrosis") / self.volume("mass")

    @property
    def adc(self) -> float | None:
        """um2/s, the mean over the mass."""
        found = self.panel.statistics(ADC, self.masks["mass"])
        return found.mean if isinstance(found, Statistics) else None

    def distance(self, structure: str) -> float | None:
        """mm between the surfaces of the mass and a structure; None where it was not found."""
        if structure not in self.masks:
            return None
        return shortest_distance(self.masks["mass"], self.masks[structure], self.source.geometry).distance


def examine(volumes: Volumes, infer: Infer, threshold: float) -> Examination:
    """`volumes` by the names of the application's inputs; "t1w" is the one whose grid counts. Raises InputRefused where
    one of REQUIRED cannot be brought onto that grid."""
    (source,) = volumes["t1w"]
    quantities = panel(volumes, source, (ADC, T1, T2))
    images: dict[str, Array] = {"t1w": source.array}
    used, notes = [source], []
    for name in WEIGHTED:
        if name not in volumes:
            continue
        volume = volumes[name][0]
        try:
            images[name] = np.nan_to_num(bring(volume.array, volume, source))
            used.append(volume)
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
        masks=structures(probability, source.geometry, threshold),
        panel=quantities,
        notes=tuple(notes),
    )
