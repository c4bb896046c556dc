"""Regular grids in patient space, and the arrays that lie on them.

Array axes are [slice, row, column]; space is the patient coordinate system of PS3.3 C.7.6.2.1.1 (LPS, mm).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Affine = NDArray[np.float64]
Mask = NDArray[np.bool_]

GAP = 1.5  # a larger multiple of the usual distance of neighbours is a gap
NARROW = 1.2  # times the smallest distance: alike, but for the rounding of scanners
OFF_MULTIPLE = 0.15  # of the usual distance: how far a gap of whole slices may be from a multiple of it
CHANGED_RUN = 3  # neighbouring distances that are equally wide: the spacing changed, no slices are missing


@dataclass(frozen=True, eq=False)
class Geometry:
    """A regular grid: `affine` @ (slice, row, column, 1) is the centre of that voxel in LPS mm.

    `shape` is (slices, rows, columns). Columns of the affine are the steps along each array axis.
    """

    shape: tuple[int, int, int]
    affine: Affine

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between neighbouring voxel centres along (slice, row, column)."""
        s, r, c = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(s), float(r), float(c)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def normal(self) -> NDArray[np.float64]:
        """Normal of the slices: the unit vector across rows and columns, in LPS."""
        across = np.cross(self.affine[:3, 1], self.affine[:3, 2])
        return np.asarray(across / np.linalg.norm(across))

    def to_lps(self, indices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert (n, 3) array indices (slice, row, column) to (n, 3) LPS mm."""
        return indices @ self.affine[:3, :3].T + self.affine[:3, 3]


def spacing_varies(steps: Sequence[float], numbers_have_holes: bool = False) -> bool:
    """Return True if the distances of neighbouring slices (mm) vary by acquisition, and not because slices are missing.

    A missing slice leaves a gap of a whole multiple of the usual distance. Where the spacing of an acquisition changes,
    the wider distances are no such multiple, or several of them follow one another to the end of the stack. The second
    sign does not count if the numbers of the images have holes, because then slices are missing.
    """
    narrow = sorted(step for step in steps if step < NARROW * min(steps))
    usual = narrow[len(narrow) // 2]
    wide = [n for n, step in enumerate(steps) if step > GAP * usual]
    if any(abs(steps[n] / usual - round(steps[n] / usual)) > OFF_MULTIPLE for n in wide):
        return True
    if len(wide) < CHANGED_RUN or numbers_have_holes:
        return False
    one_run = wide[-1] - wide[0] == len(wide) - 1 and (wide[0] == 0 or wide[-1] == len(steps) - 1)
    widths = [steps[n] for n in wide]
    return one_run and max(widths) - min(widths) < OFF_MULTIPLE * usual
