"""Lengths and volumes of shapes whose true size is known, on an oblique anisotropic grid."""

import numpy as np
import pytest

from inference.volumes.geometry import Geometry
from inference.volumes.measurements import diameters, largest_component, volume_ml
from inference.volumes.resampling import resample_to_grid
from tests.inference.volumes.centroid import centroid_lps

TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
SHAPE = (30, 60, 70)


@pytest.fixture
def geometry() -> Geometry:
    """Make a grid of slices 4 mm, rows 1.5 mm, columns 1.2 mm apart; turned about z, its origin off zero."""
    affine = np.eye(4)
    affine[:3, :3] = TURN @ np.array([[0, 0, 1.2], [0, 1.5, 0], [4.0, 0, 0]])
    affine[:3, 3] = [5, -7, 30]
    return Geometry(SHAPE, affine)


def ellipsoid(geometry: Geometry, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
    """Make an ellipsoid: axes along those of the array (slice, row, column), centre in indices, radii in mm."""
    grid = np.indices(SHAPE).transpose(1, 2, 3, 0)
    distance = (grid - centre) * geometry.spacing / np.array(radii)
    return np.asarray(np.linalg.norm(distance, axis=-1) <= 1)


def test_an_ellipsoid_has_its_true_measures(geometry: Geometry) -> None:
    mask = ellipsoid(geometry, (15, 30, 35), (40, 30, 18))
    assert volume_ml(mask, geometry) == pytest.approx(4 / 3 * np.pi * 40 * 30 * 18 / 1000, rel=0.02)
    found = diameters(mask, geometry)
    assert found.long_axis == pytest.approx(60, abs=2)
    assert found.short_axis == pytest.approx(36, abs=2)
    assert found.maximum_3d == pytest.approx(80, abs=4)
    assert centroid_lps(mask, geometry) == pytest.approx(tuple(geometry.to_lps(np.array([[15.0, 30, 35]]))[0]), abs=0.1)


def test_one_voxel_is_one_voxel_wide(geometry: Geometry) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[3, 4, 5] = True
    found = diameters(mask, geometry)
    assert (found.long_axis, found.short_axis, found.maximum_3d) == pytest.approx((1.5, 1.2, 4.0))


def test_the_largest_component_is_kept(geometry: Geometry) -> None:
    large, small = ellipsoid(geometry, (8, 30, 35), (12, 12, 12)), ellipsoid(geometry, (24, 30, 35), (8, 8, 8))
    assert np.array_equal(largest_component(large | small), large)
    assert not largest_component(np.zeros(SHAPE, bool)).any()


def test_resampling_keeps_places(geometry: Geometry) -> None:
    """A ramp along patient x is still that ramp on a finer grid with other axes."""
    grid = np.indices(SHAPE).reshape(3, -1).T.astype(float)
    ramp = geometry.to_lps(grid)[:, 0].reshape(SHAPE)
    affine = np.eye(4)
    affine[:3, 3] = geometry.to_lps(np.array([[10.0, 20, 25]]))[0]
    moved = resample_to_grid(ramp, geometry.affine, affine, (10, 8, 12), order=1)
    expected = affine[0, 3] + np.arange(10)[:, None, None]
    assert np.allclose(moved, np.broadcast_to(expected, moved.shape), atol=1e-6)
