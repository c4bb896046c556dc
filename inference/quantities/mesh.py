"""The surface of a mask as triangles: marching cubes (Lorensen and Cline 1987, doi 10.1145/37402.37422) at half height.

A cube spans eight neighbouring voxel centres; the surface crosses its edges half-way between a centre inside and one
outside. How the crossings join follows from the corners alone and is worked out once for each of the 256 cases: on each
face of a cube every crossing that leaves the inside is joined to the next that enters it, and round the cube these
make closed polygons. Where two opposite corners of a face are inside alone, they are connected, as 26-connected
components are.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from inference.contract.findings import Mask
from inference.volumes.volume import Geometry

Points = NDArray[np.float64]

CORNERS = np.array(
    [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
)  # of a cube; bit n of a case is corner n


def surface_mesh(mask: Mask, geometry: Geometry) -> Points:
    """(n, 3, 3): the triangles of the closed surface, each of three points in LPS mm, all turned the same way."""
    inside = np.pad(mask, 1)
    cases = np.zeros(np.array(inside.shape) - 1, np.uint8)
    for bit, (i, j, k) in enumerate(CORNERS):
        s, r, c = cases.shape
        cases |= inside[i : i + s, j : j + r, k : k + c].astype(np.uint8) << np.uint8(bit)
    cut = np.argwhere((cases > 0) & (cases < 255))
    found = [np.empty((0, 3, 3))]
    kinds = cases[tuple(cut.T)]
    for case in np.unique(kinds):
        origins = cut[kinds == case] - 1.0  # of the padding
        found.append((origins[:, None, None, :] + _triangles(int(case))[None]).reshape(-1, 3, 3))
    triangles = np.concatenate(found)
    return geometry.to_lps(triangles.reshape(-1, 3)).reshape(-1, 3, 3)


def mesh_area(triangles: Points) -> float:
    """mm2."""
    return float(np.linalg.norm(_normals(triangles), axis=1).sum() / 2.0)


def mesh_volume(triangles: Points) -> float:
    """mm3 inside a closed surface whose triangles are all turned the same way."""
    return abs(_signed_volume(triangles - triangles.mean(axis=(0, 1))))


def _signed_volume(triangles: Points) -> float:
    """Between the triangles and the origin; positive where they are seen counter-clockwise from outside."""
    return float(np.einsum("ni,ni->", triangles[:, 0], _normals(triangles)) / 6.0)


def _normals(triangles: Points) -> Points:
    return np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])


@cache
def _triangles(case: int) -> Points:
    """(n, 3, 3): the triangles of one case, in steps from the cube's first corner along the array axes."""
    inside = [bool(case >> bit & 1) for bit in range(8)]
    following: dict[frozenset[int], frozenset[int]] = {}
    for face in _faces():
        edges = [(face[n], face[(n + 1) % 4]) for n in range(4)]
        for n, (a, b) in enumerate(edges):
            if inside[a] and not inside[b]:
                turn = edges[n + 1 :] + edges[:n]
                following[frozenset((a, b))] = frozenset(next(e for e in turn if not inside[e[0]] and inside[e[1]]))
    triangles = []
    while following:
        start, crossing = following.popitem()
        polygon = [start]
        while crossing != start:
            polygon.append(crossing)
            crossing = following.pop(crossing)
        points = np.array([CORNERS[list(edge)].mean(axis=0) for edge in polygon])
        # A polygon need not be flat: of its fans, the one that takes in most (the IBSI's reference values have it so).
        triangles.append(max((_fan(np.roll(points, -n, axis=0)) for n in range(len(points))), key=_signed_volume))
    return np.concatenate(triangles)


def _fan(polygon: Points) -> Points:
    """(n - 2, 3, 3): triangles from the first of n points to each two that follow one another."""
    return np.stack([np.stack([polygon[0], polygon[n], polygon[n + 1]]) for n in range(1, len(polygon) - 1)])


def _faces() -> list[list[int]]:
    """The corners of each face of the cube, clockwise as seen from outside; so the polygons are counter-clockwise."""
    found = []
    for axis in range(3):
        for side in (0, 1):
            square = [(0, 0), (1, 0), (1, 1), (0, 1)][:: -1 if side else 1]
            corners = [tuple(np.roll((side, *pair), axis)) for pair in square]
            found.append([4 * i + 2 * j + k for i, j, k in corners])
    return found
