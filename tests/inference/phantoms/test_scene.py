"""Signals, artefacts and maps of phantoms: signals follow the physics, maps invert them, motion makes ghosts."""

from dataclasses import replace

import numpy as np
import pytest

from inference.phantoms.artefacts import moved_between_lines, periodic_shifts, rician
from inference.phantoms.limb.random_limb import limb_grid
from inference.phantoms.limb.tissues import FAT, MUSCLE
from inference.phantoms.scanner_maps import scanner_t1_map, scanner_t2_map
from inference.phantoms.signals import R1, SHIFTED, STANDARD, Acquisition, Component, Scanner, Tissue, signal
from inference.volumes.geometry import Geometry

WATER = Tissue(1500.0, 100.0, 1.0, 2000.0, uptake=0.5)


def test_a_spoiled_gradient_echo_is_brightest_at_the_ernst_angle() -> None:
    acquisition = Acquisition(20.0, 0.0, flip_angle=float(np.degrees(np.arccos(np.exp(-20 / WATER.t1)))))
    best = signal(WATER, acquisition)
    assert acquisition.flip_angle is not None
    for off in (-2.0, 2.0):
        assert signal(WATER, replace(acquisition, flip_angle=acquisition.flip_angle + off)) < best
    assert signal(WATER, replace(acquisition, flip_angle=90.0)) == pytest.approx(1 - np.exp(-20 / WATER.t1))


def test_contrast_agent_shortens_t1_by_its_relaxivity() -> None:
    before = Acquisition(500.0, 0.0)
    assert signal(WATER, replace(before, contrast_agent=True)) == pytest.approx(
        1 - np.exp(-500 * (1 / WATER.t1 + R1 * WATER.uptake))
    )
    assert signal(FAT, replace(before, contrast_agent=True)) == signal(FAT, before)  # takes none up


def test_water_and_fat_make_the_whole() -> None:
    whole = Acquisition(8.0, 2.5, flip_angle=3.0)
    water, fat = (replace(whole, component=part) for part in (Component.WATER, Component.FAT))
    for tissue in (FAT, MUSCLE, WATER):
        assert signal(tissue, water) + signal(tissue, fat) == pytest.approx(signal(tissue, whole))
        assert signal(tissue, fat) / signal(tissue, whole) == pytest.approx(tissue.fat)


@pytest.mark.parametrize("tissue", [MUSCLE, WATER, Tissue(2600.0, 250.0, 1.0, 2300.0)])
def test_maps_recover_the_tissue(tissue: Tissue) -> None:
    def image(acquisition: Acquisition) -> np.ndarray:
        return np.full((1, 2, 2), 20_000 * signal(tissue, acquisition), np.float32)

    echoes, angles = (12.0, 36.0, 60.0, 84.0), (4.0, 20.0)
    t2 = scanner_t2_map([image(Acquisition(3000.0, te)) for te in echoes], echoes)
    t1 = scanner_t1_map([image(Acquisition(15.0, 2.5, flip_angle=a)) for a in angles], angles, 15.0)
    assert t2 == pytest.approx(np.full((1, 2, 2), tissue.t2), rel=1e-3)
    assert t1 == pytest.approx(np.full((1, 2, 2), tissue.t1), rel=1e-2)


def test_maps_are_zero_in_air() -> None:
    air = [np.full((1, 2, 2), 20.0, np.float32)] * 4
    assert not scanner_t2_map(air, (12.0, 36.0, 60.0, 84.0)).any()
    assert not scanner_t1_map(air[:2], (4.0, 20.0), 15.0).any()


def test_what_does_not_move_stays_and_what_shifts_is_shifted() -> None:
    image = np.random.default_rng(1).uniform(size=(2, 16, 20)).astype(np.float32)
    still = np.zeros((16, 2))
    assert np.abs(moved_between_lines(image, still)) == pytest.approx(image, abs=1e-5)
    shifted = np.abs(moved_between_lines(image, still + np.array([3.0, -2.0])))
    assert shifted == pytest.approx(np.roll(image, (3, -2), axis=(1, 2)), abs=1e-5)


def test_motion_makes_ghosts_along_the_phase_encoding() -> None:
    rng = np.random.default_rng(1)
    image = np.zeros((1, 64, 64), np.float32)
    image[:, 24:40, 24:40] = 1.0
    ghosted = np.abs(moved_between_lines(image, periodic_shifts(rng, 64, 1.5)))[0]
    assert ghosted[:20, 24:40].mean() > 10 * ghosted[24:40, :20].mean()


def test_noise_in_air_is_that_of_rayleigh() -> None:
    air = rician(np.random.default_rng(1), np.zeros((10, 50, 50), np.float32), 2.0)
    assert air.mean() == pytest.approx(2.0 * np.sqrt(np.pi / 2), rel=0.02)


def test_another_scanner_images_the_same_field_of_view() -> None:
    grid = limb_grid((36, 192, 192))
    other = SHIFTED.grid(grid)
    assert other.spacing == pytest.approx([v * 1.25 for v in grid.spacing], rel=0.02)

    def corners(g: Geometry) -> np.ndarray:
        return g.to_lps(np.array([[-0.5, -0.5, -0.5], np.array(g.shape) - 0.5]))

    assert corners(other) == pytest.approx(corners(grid))
    assert STANDARD.grid(grid) is grid
    acquired = Scanner(noise=3.0, echo_time=1.3).acquire(Acquisition(600.0, 10.0, noise=0.01))
    assert (acquired.noise, acquired.echo_time) == pytest.approx((0.03, 13.0))
