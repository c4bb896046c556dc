"""Regular grids in patient space, and the arrays that lie on them.

Array axes are [slice, row, column]; space is the patient coordinate system of PS3.3 C.7.6.2.1.1 (LPS, mm).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Affine = NDArray[np.float64]
Mask = NDArray[np.bool_]


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
