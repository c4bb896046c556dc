"""The outline of the mass in a T1w image, and the agreement of the networks of the ensemble on it.

Training measures with this same code, so that the model card states the performance of the application.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from inference.applications.soft_tissue_mass import preprocessing
from inference.volumes.geometry import Array, Geometry, Mask

TRAINING_VIEW = (80, 64, 64)  # voxels of preprocessing.SPACING: the size of a view in training
LARGEST_WINDOW = (112, 96, 96)
OVERLAP = 0.5  # of windows, if an image needs several
STEP = 16  # The networks halve their grid four times, so that windows must be multiples of it.

WindowedInference = Callable[[Tensor, Sequence[int]], Tensor]
"""Runs the ensemble on a prepared image in windows of this size: (1, 1, slice, row, column) to logits with one channel
for each network."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """The probability that a voxel is mass, as the ensemble estimates it.

    `probability` is the mean over the networks on the grid `geometry` of the image; `members` is [network, slice, row,
    column] on the networks' own grid `coarse`.
    """

    probability: Array
    geometry: Geometry
    members: Array
    coarse: Geometry

    def mass(self, threshold: float) -> Mask:
        return preprocessing.largest_mass(self.probability, self.geometry, threshold)

    def agreement(self, threshold: float) -> float:
        """Return the mean Dice coefficient, 0..1, between the masks that any two networks would outline alone.

        Networks that were trained separately disagree about images of which the training images tell too little
        (Lakshminarayanan et al. 2017, arXiv 1612.01474). The agreement is 1 where no network outlines anything, and for
        a single network.
        """
        masses = [preprocessing.largest_mass(member, self.coarse, threshold) for member in self.members]
        pairs = [_dice(one, other) for one, other in combinations(masses, 2)]
        return float(np.mean(pairs)) if pairs else 1.0


def estimate_mass(array: Array, geometry: Geometry, infer: WindowedInference) -> Estimate:
    """Run the ensemble on a T1w image [slice, row, column]."""
    prepared = preprocessing.prepare_image(array, geometry)
    logits = infer(torch.from_numpy(prepared.array)[None, None], window(prepared.array.shape))
    members: Array = torch.sigmoid(logits)[0].numpy()
    probability = preprocessing.restore_probability(members.mean(axis=0), prepared, geometry)
    return Estimate(probability, geometry, members, prepared.geometry)


def window(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the size of the windows for an image of this shape: that of the image, but at most LARGEST_WINDOW."""
    return tuple(
        min(max(STEP * -(-n // STEP), least), most)
        for n, least, most in zip(shape, TRAINING_VIEW, LARGEST_WINDOW, strict=True)
    )


def _dice(one: Mask, other: Mask) -> float:
    total = int(one.sum() + other.sum())
    return 2.0 * int((one & other).sum()) / total if total else 1.0
