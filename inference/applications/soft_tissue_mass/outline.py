"""From a T1w image to the outline of its mass, and how far the networks of the ensemble agree on it.

Training measures with exactly this, so that what the model card promises is what the application does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from inference.applications.soft_tissue_mass import preprocessing
from inference.volumes.geometry import Array, Geometry, Mask

VIEW = (80, 64, 64)  # voxels of preprocessing.SPACING that a network sees at once in training
LARGEST_WINDOW = (112, 96, 96)
OVERLAP = 0.5  # of windows, where the image needs several
STEP = 16  # the networks halve their grid that often: windows are multiples of it

Infer = Callable[[Tensor, Sequence[int]], Tensor]
"""The ensemble on a prepared image in windows of this size: (1, 1, slice, row, column) to logits with one channel for
each network."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """The probability of being mass.

    `probability` is the mean over the networks on the grid `geometry` of the image; `members` is [network, slice, row,
    column] on the networks' own grid `coarse`.
    """

    probability: Array
    geometry: Geometry
    members: Array
    coarse: Geometry

    def mass(self, threshold: float) -> Mask:
        return preprocessing.mass(self.probability, self.geometry, threshold)

    def agreement(self, threshold: float) -> float:
        """The mean Dice coefficient between the masses that any two networks would outline alone, 0..1.

        Networks that were trained apart disagree where the images did not decide (Lakshminarayanan et al. 2017,
        arXiv 1612.01474). 1 where no network outlines anything, and for a single network.
        """
        masses = [preprocessing.mass(member, self.coarse, threshold) for member in self.members]
        pairs = [_dice(one, other) for one, other in combinations(masses, 2)]
        return float(np.mean(pairs)) if pairs else 1.0


def estimate(array: Array, geometry: Geometry, infer: Infer) -> Estimate:
    """What the ensemble says of a T1w image [slice, row, column]."""
    prepared = preprocessing.prepare(array, geometry)
    logits = infer(torch.from_numpy(prepared.array)[None, None], window(prepared.array.shape))
    members: Array = torch.sigmoid(logits)[0].numpy()
    probability = preprocessing.restore(members.mean(axis=0), prepared, geometry)
    return Estimate(probability, geometry, members, prepared.geometry)


def window(shape: Sequence[int]) -> tuple[int, ...]:
    """The size of the windows for an image of this shape: it is seen whole unless it is larger than LARGEST_WINDOW."""
    return tuple(
        min(max(STEP * -(-n // STEP), least), most) for n, least, most in zip(shape, VIEW, LARGEST_WINDOW, strict=True)
    )


def _dice(one: Mask, other: Mask) -> float:
    total = int(one.sum() + other.sum())
    return 2.0 * int((one & other).sum()) / total if total else 1.0
