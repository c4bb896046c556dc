"""Lesions one by one, and which lesion is which at another time point."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from inference.contract.findings import Mask
from inference.volumes.measurements import centroid_lps, volume_ml
from inference.volumes.volume import Geometry

NEIGHBOURS = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Matching:
    """Indices into the earlier and the later lesions. `pairs` are (earlier, later), in the order of the earlier."""

    pairs: tuple[tuple[int, int], ...]
    gone: tuple[int, ...]  # earlier lesions that none of the later ones is
    new: tuple[int, ...]  # later lesions that were none of the earlier ones


def instances(mask: Mask, geometry: Geometry, minimum_ml: float = 0.0) -> tuple[Mask, ...]:
    """The 26-connected components of at least `minimum_ml`, the largest first."""
    labels, count = ndimage.label(mask, NEIGHBOURS)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    smallest = minimum_ml * 1000.0 / geometry.voxel_volume
    order = np.argsort(-sizes, kind="stable")
    return tuple(labels == 1 + index for index in order if sizes[index] >= smallest)


def match(earlier: Sequence[Mask], later: Sequence[Mask], geometry: Geometry, reach: float) -> Matching:
    """Which later lesion is which earlier one; all masks on one grid, so the time points must be registered.

    Those that overlap most, by volume, are paired first; then those whose centroids are closest, up to `reach` mm.
    Every lesion has one partner at most: of one that split, the larger part stays and the others are new.
    """
    overlaps = [
        (-volume_ml(a & b, geometry), i, j)
        for i, a in enumerate(earlier)
        for j, b in enumerate(later)
        if bool((a & b).any())
    ]
    before, after = ([np.array(centroid_lps(mask, geometry)) for mask in masks] for masks in (earlier, later))
    apart = [(float(np.linalg.norm(a - b)), i, j) for i, a in enumerate(before) for j, b in enumerate(after)]
    partner: dict[int, int] = {}
    for _, i, j in [*sorted(overlaps), *sorted(one for one in apart if one[0] <= reach)]:
        if i not in partner and j not in partner.values():
            partner[i] = j
    return Matching(
        pairs=tuple(sorted(partner.items())),
        gone=tuple(i for i in range(len(earlier)) if i not in partner),
        new=tuple(j for j in range(len(later)) if j not in partner.values()),
    )
