"""Regions: statistics, distances, and response between time points."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from scipy import stats

from dicom_node.objects.report.units import check_unit
from inference.contract.findings import MEASUREMENT_FAILURE, NOT_ATTEMPTED, OUT_OF_RANGE, Code
from inference.headers.reading import read_object
from inference.quantities.distances import shortest_distance
from inference.quantities.missing import Missing
from inference.quantities.response import Course, Response, recist
from inference.quantities.statistics import Statistics, as_measurements, region_statistics
from inference.volumes.geometry import Geometry
from inference.volumes.reading import read_volume
from storage.blobs import file_blobs
from storage.errors import InputRefused

Mask = NDArray[np.bool_]

ADC = Code("113041", "DCM", "Apparent Diffusion Coefficient")
DIFFUSIVITY = Code("um2/s", "UCUM", "um2/s")
TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
SHAPE = (30, 60, 70)


@pytest.fixture
def geometry() -> Geometry:
    """Slices 4 mm apart, rows 1.5 mm, columns 1.2 mm; turned about z, origin off zero."""
    affine = np.eye(4)
    affine[:3, :3] = TURN @ np.array([[0, 0, 1.2], [0, 1.5, 0], [4.0, 0, 0]])
    affine[:3, 3] = [5, -7, 30]
    return Geometry(SHAPE, affine)


def ball(geometry: Geometry, centre: NDArray[np.float64], radius: float) -> Mask:
    """`centre` in LPS mm."""
    points = geometry.to_lps(np.indices(SHAPE).reshape(3, -1).T.astype(float))
    return np.asarray(np.linalg.norm(points - centre, axis=1) <= radius).reshape(SHAPE)


def block(*where: slice) -> Mask:
    mask = np.zeros(SHAPE, bool)
    mask[where] = True
    return mask


def test_statistics_of_a_scanners_adc_map(test_data: Path) -> None:
    """A block in the prostate, against scipy on the pixels of the one file."""
    paths = sorted((test_data / "mr" / "ge_hdxt_prostate_adc").glob("*.dcm"))
    volume = read_volume(file_blobs(paths))
    where = (slice(9, 10), slice(120, 140), slice(115, 140))
    mask = np.zeros(volume.array.shape, bool)
    mask[where] = True
    found = region_statistics(volume.array, mask, limits=(0.0, 5000.0))
    assert isinstance(found, Statistics)
    ds = read_object(volume.frames[9].blob)
    pixels = ds.pixel_array[120:140, 115:140].ravel().astype(float)
    assert found.count == 500
    assert (found.mean, found.median, found.sd) == pytest.approx((pixels.mean(), np.median(pixels), pixels.std()))
    assert (found.p10, found.p90) == pytest.approx(tuple(np.percentile(pixels, (10, 90))))
    assert (found.skewness, found.kurtosis) == pytest.approx((stats.skew(pixels), stats.kurtosis(pixels)))
    assert 500 < found.median < 2500


def test_voxels_without_a_value_do_not_count() -> None:
    values = np.full(SHAPE, np.nan, np.float32)
    values[0, 0, :40] = np.arange(40)
    found = region_statistics(values, block(slice(0, 1), slice(0, 1), slice(0, 60)))
    assert isinstance(found, Statistics)
    assert (found.count, found.mean) == (40, 19.5)
    assert found.kurtosis == pytest.approx(-1.2, abs=0.01), "of a uniform distribution; a normal one has 0"


def test_why_there_are_no_statistics() -> None:
    values = np.full(SHAPE, 900.0, np.float32)
    values[0, 0, :40] = np.nan
    row = block(slice(0, 1), slice(0, 1), slice(0, 60))
    assert region_statistics(values, block(slice(0, 1), slice(5, 6), slice(0, 9))) == Missing(
        NOT_ATTEMPTED, "the region has 9 voxels, and statistics need 10"
    )
    assert region_statistics(values, row) == Missing(
        MEASUREMENT_FAILURE, "only 20 of the 60 voxels of the region have a value"
    )
    assert region_statistics(values, block(slice(3, 4)), limits=(0.0, 800.0)) == Missing(
        OUT_OF_RANGE, "the mean 900 is outside 0 to 800"
    )


def test_measurements_carry_codes_and_units_of_the_standard() -> None:
    found = as_measurements(ADC, DIFFUSIVITY, Statistics(50, 1000.0, 990.0, 80.0, 900.0, 1100.0, 0.1, np.nan))
    for one in found:
        check_unit(one)
    named = [
        codes.SCT.Mean, codes.SCT.Median, codes.SCT.StandardDeviation, codes.SCT._10thPercentileValueOfPopulation,
        codes.SCT._90thPercentileValueOfPopulation, codes.DCM.Skewness, codes.DCM.Kurtosis,
    ]  # fmt: skip
    derivations = [one.derivation for one in found if one.derivation is not None]
    assert [(d.value, d.scheme) for d in derivations] == [(c.value, c.scheme_designator) for c in named]
    assert (found[-1].value, found[-1].missing) == (None, OUT_OF_RANGE), "a constant has no kurtosis"
    (missing,) = as_measurements(ADC, DIFFUSIVITY, Missing(NOT_ATTEMPTED, "too small"))
    assert (missing.value, missing.missing) == (None, NOT_ATTEMPTED)


@pytest.mark.parametrize("seed", range(8))
def test_the_gap_between_spheres(geometry: Geometry, seed: int) -> None:
    rng = np.random.default_rng(seed)
    centre = geometry.to_lps(np.array([[11.0, 25, 25]]))[0]
    towards = geometry.affine[:3, :3] @ (rng.uniform(0.2, 1, 3) / geometry.spacing)
    towards /= np.linalg.norm(towards)
    gap = rng.uniform(6, 14)
    one, other = ball(geometry, centre, 16.0), ball(geometry, centre + (16.0 + gap + 9.0) * towards, 9.0)
    found = shortest_distance(one, other, geometry)
    voxel = np.abs(towards @ geometry.affine[:3, :3]).sum()  # how long one is in that direction
    assert abs(found.distance - gap) <= voxel
    first, second = np.array(found.first), np.array(found.second)
    assert np.linalg.norm(first - second) == pytest.approx(found.distance)
    assert np.linalg.norm(first - centre) == pytest.approx(16.0, abs=max(geometry.spacing) / 2)
    assert shortest_distance(other, one, geometry).distance == pytest.approx(found.distance)


def test_flat_surfaces_are_exactly_as_far_apart_as_their_voxels(geometry: Geometry) -> None:
    low = block(slice(2, 5), slice(10, 20), slice(10, 20))
    assert shortest_distance(low, block(slice(8, 9), slice(10, 20), slice(10, 20)), geometry).distance == pytest.approx(
        12
    )
    assert shortest_distance(low, block(slice(2, 5), slice(24, 25), slice(10, 20)), geometry).distance == pytest.approx(
        6
    )
    assert shortest_distance(low, block(slice(2, 5), slice(10, 20), slice(30, 31)), geometry).distance == pytest.approx(
        12
    )


def test_what_touches_is_at_no_distance(geometry: Geometry) -> None:
    low = block(slice(2, 5), slice(10, 20), slice(10, 20))
    corner = block(slice(5, 6), slice(20, 21), slice(20, 21))
    found = shortest_distance(low, corner, geometry)
    assert found.distance == 0
    assert found.first == found.second == pytest.approx(tuple(geometry.to_lps(np.array([[5.0, 20, 20]]))[0]))
    assert shortest_distance(low, block(slice(4, 9), slice(15, 16), slice(15, 16)), geometry).distance == 0
    with pytest.raises(InputRefused, match="not found"):
        shortest_distance(low, np.zeros(SHAPE, bool), geometry)


@pytest.mark.parametrize(
    ("sums", "expected"),
    [
        ((50.0, 35.0), Response.PARTIAL),  # -30 % exactly
        ((50.0, 35.1), Response.STABLE),
        ((50.0, 60.0), Response.PROGRESSIVE),  # +20 % and 10 mm
        ((50.0, 59.9), Response.STABLE),
        ((20.0, 24.5), Response.STABLE),  # +22 %, but under 5 mm
        ((100.0, 50.0, 61.0), Response.PROGRESSIVE),  # from the nadir, though -39 % from baseline
        ((100.0, 50.0, 54.0), Response.PARTIAL),
        ((50.0, 0.0), Response.COMPLETE),
        ((50.0, 0.0, 3.0), Response.PROGRESSIVE),  # what came back
    ],
)
def test_recist(sums: tuple[float, ...], expected: Response) -> None:
    found = recist(sums)
    assert isinstance(found, Course)
    assert found.response is expected
    assert found.from_baseline == pytest.approx(100 * (sums[-1] / sums[0] - 1))


def test_response_needs_an_earlier_measurable_lesion() -> None:
    assert recist((9.9, 30.0)) == Missing(
        NOT_ATTEMPTED, "the disease was not measurable at baseline (9.9 mm, needs 10 mm)"
    )
    assert recist((50.0,)) == Missing(NOT_ATTEMPTED, "a response needs an earlier time point")


def test_responses_carry_the_codes_of_the_standard() -> None:
    for response in Response:
        assert response.value.value in {c.value for c in (
            codes.DCM.TargetLesionCompleteResponse, codes.DCM.TargetLesionPartialResponse,
            codes.DCM.TargetLesionProgressiveDisease, codes.DCM.TargetLesionStableDisease)}  # fmt: skip
