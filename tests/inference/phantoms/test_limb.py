"""The limb phantom: one mass, the same on every grid, and signals that follow the physics."""

import numpy as np
import pytest

from dicom_node.demo.simulator.limb import imaged_limb
from inference.phantoms.limb.random_limb import limb_grid, limb_phantom
from inference.phantoms.limb.tissues import FAT, MASSES, MUSCLE
from inference.phantoms.scanner_maps import scanner_adc_map
from inference.phantoms.signals import Acquisition, signal
from inference.volumes.geometry import Geometry

T1W = Acquisition(600.0, 12.0)
T2W_FS = Acquisition(4000.0, 80.0, fat_suppressed=True)


@pytest.mark.parametrize("seed", range(1, 7))
def test_the_mass_has_a_size_and_lies_in_the_field_of_view(seed: int) -> None:
    phantom = limb_phantom(seed)
    grid = limb_grid()
    mask = phantom.mask(grid)
    # Slender masses are half as wide as long; larger ones may leave the field of view along the limb.
    assert 0.5 < mask.sum() * grid.voxel_volume / 1000 < 900
    assert 20 <= phantom.diameter <= 151
    assert not mask[:, [0, -1], :].any()
    assert not mask[:, :, [0, -1]].any()


def test_the_same_seed_gives_the_same_images() -> None:
    grid = limb_grid((4, 48, 48), (8.0, 4.0, 4.0))
    assert np.array_equal(limb_phantom(3).render(T1W, grid), limb_phantom(3).render(T1W, grid))
    assert not np.array_equal(limb_phantom(3).render(T1W, grid), limb_phantom(4).render(T1W, grid))


def test_the_volume_does_not_depend_on_the_grid() -> None:
    phantom = limb_phantom(1)
    fine, coarse = limb_grid((60, 200, 200), (2.0, 1.1, 1.1)), limb_grid((40, 100, 100), (3.0, 2.2, 2.2))
    volumes = [phantom.mask(grid).sum() * grid.voxel_volume for grid in (fine, coarse)]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.03)


def test_a_turned_grid_sees_the_same_limb() -> None:
    phantom = limb_phantom(1)
    grid = limb_grid((30, 60, 70), (4.0, 3.0, 3.0))
    turned = Geometry((60, 30, 70), grid.affine[:, [1, 0, 2, 3]])  # coronal
    assert np.array_equal(np.swapaxes(phantom.mask(grid), 0, 1), phantom.mask(turned))


def test_tissues_have_the_contrast_of_their_sequence() -> None:
    assert signal(FAT, T1W) > 2 * signal(MUSCLE, T1W)
    assert signal(FAT, T2W_FS) < signal(MUSCLE, T2W_FS)
    for _, _, low, high in MASSES[:2]:  # cellular and myxoid masses shine on fat-suppressed T2w
        assert signal(low, T2W_FS) > 1.5 * signal(MUSCLE, T2W_FS)
        assert signal(high, T2W_FS) > signal(low, T2W_FS)


def test_adc_is_recovered_from_noiseless_diffusion() -> None:
    b_values = (50.0, 400.0, 800.0)
    images = [np.full((1, 2, 2), 900 * np.exp(-b * 1200e-6), np.float32) for b in b_values]
    assert scanner_adc_map(images, b_values) == pytest.approx(np.full((1, 2, 2), 1200.0), rel=1e-4)


def test_adc_of_air_is_zero() -> None:
    assert not scanner_adc_map([np.full((1, 2, 2), 10.0, np.float32)] * 3, (50.0, 400.0, 800.0)).any()


def test_a_study_shows_the_mass_at_its_diffusivity() -> None:
    study = imaged_limb(1)
    stack = study.images["adc"][0]
    geometry = Geometry((stack.array.shape[0], stack.array.shape[1], stack.array.shape[2]), stack.affine)
    phantom = limb_phantom(1)
    inside = stack.array[phantom.mask(geometry)]
    assert np.median(inside) == pytest.approx(phantom.mass_tissue.adc, rel=0.1)
    assert study.mask.shape == study.images["t1w"][0].array.shape
    assert [s.b_value for s in study.images["dwi"]] == [50.0, 400.0, 800.0]


def test_a_limb_without_its_mass_is_the_same_limb_elsewhere() -> None:
    grid = limb_grid((12, 96, 96), (8.0, 2.3, 2.3))
    phantom = limb_phantom(1)
    healthy = phantom.without_mass()
    assert not healthy.mask(grid).any()
    assert healthy.diameter == 0
    noiseless = Acquisition(600.0, 12.0, noise=0.0, bias=0.0)
    change = np.abs(phantom.render(noiseless, grid) - healthy.render(noiseless, grid))
    mask = phantom.mask(grid)
    assert change[mask].mean() > 20
    assert np.median(change[~mask]) == 0
