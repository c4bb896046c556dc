"""ADC and fat fraction: known tissue under Rician noise, a scanner's own ADC map, any numbers at all."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from inference.quantities.fits.adc import adc_map
from inference.quantities.fits.common import noise_sd
from inference.quantities.fits.fat_fraction import fat_fraction
from inference.quantities.panel import Panel, measure_panel
from inference.volumes.geometry import Geometry
from inference.volumes.planes import B_VALUE
from inference.volumes.reading import read_volume
from inference.volumes.volume import Volume
from storage.blobs import file_blobs
from storage.errors import InputRefused

SHAPE = (6, 96, 96)
TISSUE = np.zeros(SHAPE, bool)
TISSUE[:, 20:76, 20:76] = True
SIGNAL = 1000.0  # of the brightest image
B_VALUES = (0.0, 50.0, 400.0, 800.0)


def diffusion(adc: float) -> list[float]:
    return [SIGNAL * np.exp(-b * adc * 1e-6) for b in B_VALUES]


def images_of(signals: list[float], snr: float) -> list[NDArray[np.float32]]:
    """A block of tissue in air, with Rician noise. `snr` is that of SIGNAL."""
    rng = np.random.default_rng(1)
    real, imaginary = rng.normal(0.0, SIGNAL / snr, (2, len(signals), *SHAPE))
    clean = np.array(signals)[:, None, None, None] * TISSUE
    return list(np.hypot(clean + real, imaginary).astype(np.float32))


@pytest.mark.parametrize(
    ("truth", "snr", "percent"), [(800.0, 25, 0.5), (1500.0, 25, 0.5), (2500.0, 25, 0.5), (2500.0, 15, 1.0)]
)
def test_a_fit_recovers_the_tissue_from_noise(truth: float, snr: float, percent: float) -> None:
    found = adc_map(images_of(diffusion(truth), snr), B_VALUES)
    inside = found.values[TISSUE]
    assert np.isfinite(inside).mean() > 0.99
    assert np.nanmean(inside) == pytest.approx(truth, rel=percent / 100)
    assert np.isnan(found.values[~TISSUE]).mean() > 0.9, "air has no tissue"
    assert found.noise == pytest.approx(SIGNAL / snr, rel=0.05)


def test_without_noise_the_fit_is_exact() -> None:
    adc = np.geomspace(100.0, 4000.0, 500).reshape(5, 10, 10)
    assert adc_map([np.exp(-b * adc * 1e-6) for b in B_VALUES], B_VALUES, 0.0).values == pytest.approx(adc, rel=1e-5)


def test_perfusion_below_b_50_does_not_count() -> None:
    images = [np.full((3, 2, 2), s) for s in (1100.0, *diffusion(1000.0)[1:], 1050.0)]  # the blood is gone at b 50
    found = adc_map(images, (*B_VALUES, 20.0), 0.0)
    assert found.used == (50.0, 400.0, 800.0)
    assert found.values == pytest.approx(np.full((3, 2, 2), 1000.0), rel=1e-5)
    two = adc_map([images[2], np.full((3, 2, 2), SIGNAL)], (400.0, 0.0), 0.0)
    assert two.used == (0.0, 400.0)
    assert two.values == pytest.approx(np.full((3, 2, 2), 1000.0), rel=1e-5)


def test_b_values_that_scatter_around_one_are_one() -> None:
    """Vendors state the b-value of each direction: over 995 to 1005 the fit would be one of noise."""
    stated = (0.0, 995.0, 1000.0, 1005.0)
    images = [np.full((3, 2, 2), SIGNAL * np.exp(-b * 1e-3)) for b in stated]
    images[1], images[3] = images[3], images[1]  # noise
    found = adc_map(images, stated, 0.0)
    assert found.used == stated
    assert found.values == pytest.approx(np.full((3, 2, 2), 1000.0), rel=1e-2)
    assert adc_map(images, (0.0, 50.0, 100.0, 150.0), 0.0).used == (0.0, 50.0, 100.0, 150.0), "50 to 150 is too short"
    with pytest.raises(InputRefused, match="at least 2 different b-values, and 995, 1000, 1005 are one"):
        adc_map(images[1:], stated[1:], 0.0)


def test_volumes_in_different_places_make_no_adc() -> None:
    """Two volumes of the same length, of which one lacks its first slices and the other its last."""

    def volume(b: float, z: float) -> Volume:
        affine = np.diag([3.0, 1.0, 1.0, 1.0])
        affine[0, 3] = z
        image = np.full((3, 4, 4), SIGNAL * np.exp(-b * 1e-3), np.float32)
        return Volume(image, Geometry(image.shape, affine), (), "study", "dwi", "frame", "MR", {B_VALUE: b})

    def made(z: float) -> Panel:
        weighted = (volume(50.0, 0.0), volume(800.0, z))
        return measure_panel({"dwi": weighted}, weighted[0])

    assert made(0.01).values["adc"] == pytest.approx(np.full((3, 4, 4), 1000.0), rel=1e-5)
    assert "lie in different places" in made(6.0).missing["adc"].reason


def test_an_adc_below_zero_is_none_and_is_counted() -> None:
    first = np.full((3, 2, 2), 100.0)
    second = first * 0.5
    second[0] = 130.0
    found = adc_map([first, second], (0.0, 800.0), 0.0)
    assert np.isnan(found.values[0]).all()
    assert found.implausible == 4
    assert found.values[1:] == pytest.approx(np.full((2, 2, 2), 1e6 * np.log(2) / 800), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (6, 3, 2, 2), elements=st.floats(0, 2.0**17, width=32)), st.floats(0, 1000))
def test_whatever_the_numbers_a_fit_is_plausible_or_none(stack: NDArray[np.float32], noise: float) -> None:
    found = adc_map(list(stack), (0, 50, 400, 400, 800, 1000), noise)
    values = found.values[~np.isnan(found.values)]
    assert ((values > 0) & (values < 5000 * 1.0001)).all()
    assert found.implausible <= found.values.size


def test_the_adc_is_the_scanners_own(test_data: Path) -> None:
    """A head at b 0 and 2500, whose 80 directions the scanner fitted one by one."""
    study = test_data / "mr" / "siemens_xa30_study"
    paths = {n: sorted((study / f"{n}_DWI_dir80_PA").glob("*.dcm")) for n in (11, 12, 16)}
    own, trace, b0 = (read_volume(file_blobs(paths[n])) for n in (11, 12, 16))
    high = trace.told_apart["b-value"]
    found = adc_map([b0.array, trace.array], (0.0, high))
    both = np.isfinite(found.values) & (own.array > 0)
    ratio = found.values[both] / own.array[both]
    assert both.sum() > 80_000
    assert np.median(ratio) == pytest.approx(1.0, abs=0.01)
    assert np.percentile(ratio, (5, 95)) == pytest.approx([1.0, 1.0], abs=0.05)
    assert 650 < np.median(found.values[both]) < 850, "brain, um2/s"


def test_the_fat_fraction_of_known_mixtures() -> None:
    water, fat = np.full((3, 4, 4), 700.0, np.float32), np.full((3, 4, 4), 300.0, np.float32)
    water[0], fat[0] = 1.0, 2.0  # air
    found = fat_fraction(water, fat, noise=2.0)
    assert np.isnan(found[0]).all()
    assert found[1:] == pytest.approx(np.full((2, 4, 4), 30.0), rel=1e-5)


def test_noise_is_told_from_tissue_and_from_a_masked_background() -> None:
    noisy = images_of([SIGNAL], 25)[0]
    assert noise_sd(noisy) == pytest.approx(40.0, rel=0.05)
    assert noise_sd(noisy[:, 20:76, 20:76]) is None
    assert noise_sd(np.where(TISSUE, noisy, 0.0)) is None


def test_images_that_make_no_fit_are_refused() -> None:
    image = np.ones((3, 4, 4), np.float32)
    with pytest.raises(InputRefused, match="at least 2 different b-values"):
        adc_map([image, image], (800.0, 800.0))
    with pytest.raises(InputRefused, match="different shapes"):
        adc_map([image, image[:2]], (0.0, 800.0))
    with pytest.raises(InputRefused, match="2 images do not go with 3 b-values"):
        adc_map([image] * 2, (1.0, 2.0, 3.0))
