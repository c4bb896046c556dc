"""The limb of a trial: what is said to be true of it is true, its images show it, and nothing gives the label away."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from inference.phantoms.limb.anatomy import NeurovascularBundle
from inference.phantoms.limb.images import CONTRASTS
from inference.phantoms.limb.random_limb import limb_grid
from inference.phantoms.limb.study import FIRST_TRAINING_SEED, HELD_OUT_SEEDS, SHIFTED_SEEDS, limb_study, study_grid
from inference.phantoms.limb.tissues import MUSCLE
from inference.phantoms.limb.truth import RecistCategory, recist_category
from inference.phantoms.scene import Lobe, mixture, paint
from inference.phantoms.signals import SHIFTED, Acquisition, Tissue, signal
from inference.volumes.measurements import diameters, volume_ml

SEEDS = (8, 9)  # both with necrosis and oedema; nothing is in the way when they grow
COARSE = ((18, 96, 96), (8.0, 2.3, 2.3))


def test_a_ball_beside_tubes_is_measured_as_geometry_says() -> None:
    """A ball of 25 mm radius; the limb leans along x, the bundle lies in that direction and the bone across it."""
    tissue = Tissue(1500.0, 90.0, 1.0, 1200.0, fat=0.1)
    study = limb_study(1)
    limb = replace(
        study.phantom, tilt=(0.12, 0.0), lobes=(Lobe((0.0, 40.0, 0.0), (25.0, 25.0, 25.0), 0.0),), roughness=0.0,
        mass_tissue=tissue, variant=None, necrosis=(), bundle=NeurovascularBundle((45.0, 40.0), 8.0, 0.0),
        bone=(0.0, 0.0, 12.0, 4.0),
    )  # fmt: skip
    truth = replace(study, phantom=limb).truth
    assert truth.volume_ml == pytest.approx(4 / 3 * np.pi * 2.5**3, rel=0.005)
    assert (truth.long_axis, truth.short_axis, truth.maximum_3d) == pytest.approx((50.0, 50.0, 50.0), abs=0.8)
    assert truth.bundle_distance == pytest.approx((45.0 - 8.0) / np.hypot(1.0, 0.12) - 25.0, abs=0.05)
    assert truth.bone_distance == pytest.approx(40.0 - 12.0 - 25.0, abs=0.05)
    assert (truth.adc, truth.t1, truth.t2, truth.fat_fraction) == pytest.approx((1200.0, 1500.0, 90.0, 0.1), rel=1e-4)
    dead = replace(study, phantom=replace(limb, necrosis=(Lobe((0.0, 40.0, 0.0), (12.5, 12.5, 12.5), 0.0),))).truth
    assert dead.necrosis_fraction == pytest.approx(1 / 8, rel=0.02)
    assert dead.adc == pytest.approx(1200 + (2300 - 1200) / 8, rel=0.01)
    assert (
        replace(study, phantom=replace(limb, bundle=NeurovascularBundle((30.0, 40.0), 8.0, 0.0))).truth.bundle_distance
        == 0.0
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_the_masks_of_a_grid_agree_with_the_truth(seed: int) -> None:
    study = limb_study(seed)
    grid = study_grid(study, (36, 120, 120), (4.0, 1.8, 1.8))
    masks = study.on(grid).masks
    size = diameters(masks["mass"], grid)
    assert volume_ml(masks["mass"], grid) == pytest.approx(study.truth.volume_ml, rel=0.02)
    assert size.long_axis == pytest.approx(study.truth.long_axis, abs=1.8)
    assert size.short_axis == pytest.approx(study.truth.short_axis, abs=3.6)
    assert masks["necrosis"].sum() / masks["mass"].sum() == pytest.approx(study.truth.necrosis_fraction, abs=0.02)
    assert not (masks["necrosis"] & ~masks["mass"]).any()
    apart = [masks[name] for name in ("mass", "oedema", "bundle", "bone")]
    assert np.max(np.sum(apart, axis=0)) == 1
    away = ndimage.distance_transform_edt(~masks["bundle"], grid.spacing)[masks["mass"]].min()
    assert away == pytest.approx(study.truth.bundle_distance, abs=4.0)


def test_no_mass_leaves_the_field_of_view() -> None:
    for seed in (1, 2, 3, *HELD_OUT_SEEDS[::6], *SHIFTED_SEEDS[::6]):
        for time_point in (0, 1):
            study = limb_study(seed, time_point)
            mass = study.on(study_grid(study, (36, 48, 48), (4.0, 4.6, 4.6))).masks["mass"]
            assert mass.any(), seed
            assert not any(np.take(mass, [0, -1], axis).any() for axis in range(3)), seed


@pytest.mark.parametrize("seed", SEEDS)
def test_the_second_time_point_is_the_first_with_its_change(seed: int) -> None:
    before, after = limb_study(seed), limb_study(seed, 1)
    change = after.change
    assert after.truth.long_axis == pytest.approx(change.size * before.truth.long_axis, rel=0.02)
    assert after.truth.volume_ml == pytest.approx(change.size**3 * before.truth.volume_ml, rel=0.03)
    assert after.phantom.mass_tissue.adc == pytest.approx(change.adc * before.phantom.mass_tissue.adc)
    assert after.truth.necrosis_fraction >= before.truth.necrosis_fraction
    grid = study_grid(before, *COARSE)
    assert np.array_equal(after.on(grid).masks["bone"], before.on(grid).masks["bone"])
    assert np.array_equal(after.on(grid).masks["bundle"], before.on(grid).masks["bundle"])
    assert limb_study(seed, 2).phantom.growth == pytest.approx(change.size**2)


def test_responses_are_of_all_kinds_and_clear_of_their_thresholds() -> None:
    sizes = [limb_study(seed, 1).change.size for seed in range(60)]
    for factor in (0.7, 1.2):
        assert min(abs(size / factor - 1) for size in sizes) > 0.06
    assert {recist_category([50.0, 50.0 * size]) for size in sizes} == set(RecistCategory)


@pytest.mark.parametrize(
    ("long_axes", "expected"),
    [
        ((100.0, 70.0), "PR"),
        ((100.0, 71.0), "SD"),
        ((100.0, 120.0), "PD"),
        ((20.0, 24.5), "SD"),  # a fifth more, but less than 5 mm
        ((100.0, 50.0, 60.0), "PD"),  # from the smallest there was
        ((100.0, 50.0, 55.0), "PR"),  # from the baseline
    ],
)
def test_recist_categories(long_axes: tuple[float, ...], expected: str) -> None:
    assert recist_category(long_axes) == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_the_images_show_the_truth(seed: int) -> None:
    study = limb_study(seed)
    images = study.on(study_grid(study, (36, 120, 120), (4.0, 1.8, 1.8)))
    inside = ndimage.binary_erosion(images.masks["mass"], iterations=2)
    expected = {"adc": study.truth.adc, "t1_map": study.truth.t1, "t2_map": study.truth.t2}
    parts = mixture(images.anatomy.mass_layers, density=False)
    for name, value in (
        ("adc", parts.image(lambda tissue: tissue.adc)),
        ("t1_map", parts.image(lambda tissue: tissue.t1)),
        ("t2_map", parts.image(lambda tissue: tissue.t2)),
    ):
        image = images.render(name)
        assert image[inside].mean() == pytest.approx(value[inside].mean(), rel=0.03), name
        assert image[images.masks["mass"]].mean() == pytest.approx(expected[name], rel=0.08), name
        assert np.count_nonzero(image[:, 0, :]) <= 2, name  # air
    water, fat = images.render("water")[inside], images.render("fat")[inside]
    fraction = parts.image(lambda tissue: tissue.fat)[inside].mean()
    assert (fat / (water + fat)).mean() == pytest.approx(fraction, abs=0.03)
    post, plain, t2w = (images.render(name) for name in ("t1w_fs_post", "t1w", "t2w_fs"))
    viable = inside & ~images.masks["necrosis"]
    muscle = signal(MUSCLE, Acquisition(4000.0, 80.0, True))
    assert post[viable].mean() > 1.3 * plain[viable].mean()  # though the fat in it is suppressed
    assert muscle < 0.5 * signal(study.phantom.mass_tissue, Acquisition(4000.0, 80.0, True))
    if images.masks["necrosis"].any():
        dead = ndimage.binary_erosion(images.masks["necrosis"])
        assert post[dead].mean() < 0.7 * post[viable].mean()
        assert t2w[dead].mean() > 1.2 * t2w[viable].mean()


def test_the_sum_over_tissues_is_the_painted_scene() -> None:
    layers = limb_study(6).on(limb_grid(*COARSE)).anatomy.layers
    acquisition = Acquisition(600.0, 12.0)

    def level(tissue: Tissue) -> float:
        return signal(tissue, acquisition)

    assert mixture(layers).image(level) == pytest.approx(paint(layers, level), abs=1e-5)


def test_images_are_repeatable_and_examinations_differ() -> None:
    study = limb_study(6)
    grid = study_grid(study, (4, 48, 48), (8.0, 4.6, 4.6))
    one, again = study.on(grid), study.on(grid)
    for name in CONTRASTS:
        assert np.array_equal(one.render(name), again.render(name)), name
    assert not np.array_equal(one.render("t1w"), one.render("t1w", seed=1))
    shifted = study.on(SHIFTED.grid(grid), SHIFTED)
    air = [image.render("t1w")[:, :3].mean() for image in (one, shifted)]
    assert air[1] == pytest.approx(3 * air[0], rel=0.1)


def test_seeds_of_training_and_test_are_apart() -> None:
    assert not set(HELD_OUT_SEEDS) & set(SHIFTED_SEEDS)
    assert max(*HELD_OUT_SEEDS, *SHIFTED_SEEDS) < FIRST_TRAINING_SEED


CASES = 320


@cache
def cases() -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Return the malignancy of many limbs, all features that could betray it, and the means inside the mass."""
    labels, shortcuts, inside = [], [], []
    for seed in range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + CASES):
        study = limb_study(seed)
        grid = study_grid(study, (10, 36, 36), (14.0, 6.0, 6.0))
        images = study.on(grid)
        masks = images.masks
        mass = masks["mass"]
        rendered = [images.render(name) for name in ("t1w", "t2w_fs", "adc")]
        near = ndimage.binary_dilation(mass, np.ones((3, 3, 3)))
        limb = (rendered[0] > 100) & ~near
        air = (rendered[0] < 100) & ~near
        indices = np.argwhere(mass)
        centre = grid.to_lps(indices.mean(axis=0, keepdims=True))[0]
        geometry = [mask.sum() for mask in masks.values()] + [*np.ptp(indices, axis=0), *indices.std(axis=0)]
        truth = [study.phantom.diameter, study.phantom.roughness, len(study.phantom.lobes)]
        background = [
            value for image in rendered for value in (
                image[limb].mean(), image[limb].std(), *np.percentile(image[limb], (10, 50, 90)), image[air].mean()
            )
        ]  # fmt: skip
        header = [seed, seed % 2, seed % 3]
        shortcuts.append([*geometry, *centre, *truth, *background, *header])
        inside.append([image[mass].mean() for image in rendered])
        labels.append(study.malignant)
    return np.array(labels), np.array(shortcuts, float), np.array(inside, float)


def squares(x: NDArray[np.float64]) -> NDArray[np.float64]:
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    return np.concatenate([z, z**2], axis=1)


def logistic(x: NDArray[np.float64], y: NDArray[np.bool_], ridge: float = 10.0) -> NDArray[np.float64]:
    """Weights of the columns of `x` and the constant, by Newton's method."""
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    penalty = ridge * np.eye(x.shape[1])
    penalty[-1, -1] = 0.0
    w = np.zeros(x.shape[1])
    for _ in range(8):
        p = 1 / (1 + np.exp(-x @ w))
        w -= np.linalg.solve((x.T * (p * (1 - p))) @ x + penalty, x.T @ (p - y) + penalty @ w)
    return w


def area_under_curve(x: NDArray[np.float64], y: NDArray[np.bool_]) -> float:
    """Return the area for the scores of a classifier on unseen cases, in ten folds with as many of each label."""
    scores = np.zeros(len(y))
    folds = np.zeros(len(y), int)
    for value in (False, True):
        folds[y == value] = np.arange(np.sum(y == value)) % 10
    for fold in range(10):
        w = logistic(x[folds != fold], y[folds != fold])
        scores[folds == fold] = x[folds == fold] @ w[:-1] + w[-1]
    return float((scores[y][:, None] > scores[~y][None, :]).mean())


def interval(x: NDArray[np.float64], y: NDArray[np.bool_]) -> tuple[float, float]:
    """95 % of the area under the curve. Its spread is that under shuffled labels: folds share the cases they are
    trained on, so that formulas for independent cases (as DeLong's) are too narrow."""
    x = squares(x)
    rng = np.random.default_rng(1)
    spread = 1.96 * float(np.std([area_under_curve(x, rng.permutation(y)) for _ in range(200)], ddof=1))
    area = area_under_curve(x, y)
    return area - spread, area + spread


@pytest.mark.slow
def test_nothing_but_the_signal_of_the_mass_tells_what_it_is() -> None:
    malignant, shortcuts, inside = cases()
    assert 0.4 < malignant.mean() < 0.6
    low, high = interval(shortcuts, malignant)
    assert low <= 0.5 <= high
    low, _ = interval(inside, malignant)
    assert low > 0.75
