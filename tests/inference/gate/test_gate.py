"""The quality and distribution gate on real series, phantoms, and images made bad."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from inference.contract.manifest import APPLICATIONS
from inference.gate.assessment import assess, check_volume
from inference.gate.image_quality import METRICS
from inference.gate.reference import TrainingReference, fit_reference, load_reference, save_reference
from inference.training import sarcoma_collection
from inference.training.gate import volume_of
from inference.training.soft_tissue_mass import phantom_cases
from inference.volumes.geometry import Geometry
from inference.volumes.reading import read_volume, read_volumes
from inference.volumes.volume import Volume
from storage.blobs import file_blobs
from storage.errors import InputRefused, ModelRefused, WhyNoResult

SHIPPED = APPLICATIONS / "soft_tissue_mass" / "gate_t1w.json"
SEED = phantom_cases.FIRST_TEST_SEED
HEADS = ["philips_elition_mprage_classic", "siemens_prisma_t1_sag_HFDR", "siemens_xa30_study/5_anat-T1w_acq-tfl"]


@pytest.fixture(scope="module")
def reference() -> TrainingReference:
    return load_reference(SHIPPED)


@pytest.fixture(scope="module")
def limb() -> Volume:
    return volume_of(phantom_cases.phantom_case(SEED))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def changed(volume: Volume, array: np.ndarray) -> Volume:
    return replace(volume, array=array.astype(np.float32))


def noisy(volume: Volume, sd: float) -> Volume:
    rng = np.random.default_rng(1)
    real, imaginary = rng.normal(0, sd, (2, *volume.array.shape))
    return changed(volume, np.hypot(volume.array + real, imaginary))


def ghost(volume: Volume, share: float) -> Volume:
    return changed(volume, volume.array + share * np.roll(volume.array, volume.array.shape[1] // 2, axis=1))


def moved(volume: Volume, millimetres: float) -> Volume:
    """Move the limb to and fro along the rows during the acquisition of k-space, seven lines for each breath."""
    n = volume.array.shape[1]
    frequency, line = np.fft.fftfreq(n), np.fft.fftshift(np.arange(n))
    shift = millimetres / volume.geometry.spacing[1] * np.sin(2 * np.pi * line / 7.3)
    phase = np.exp(-2j * np.pi * frequency * shift)
    return changed(volume, np.abs(np.fft.ifft(np.fft.fft(volume.array, axis=1) * phase[:, None], axis=1)))


def whys(volume: Volume, reference: TrainingReference) -> set[WhyNoResult]:
    return {refusal.why for refusal in assess(volume, reference).refusals}


def test_patients_that_it_was_not_made_from_are_accepted(test_data: Path, reference: TrainingReference) -> None:
    _, held_out = sarcoma_collection.split(sarcoma_collection.patients(test_data / "sarcoma"))
    assert [
        n for n in held_out if whys(volume_of(sarcoma_collection.load_patient(test_data / "sarcoma", n)), reference)
    ] == []


@pytest.mark.parametrize("seed", range(SEED, SEED + 2))
def test_limbs_are_accepted_with_and_without_a_mass(reference: TrainingReference, seed: int) -> None:
    for case in (phantom_cases.phantom_case(seed), phantom_cases.healthy_case(seed), phantom_cases.shifted_case(seed)):
        assert whys(volume_of(case), reference) == set()


@pytest.mark.parametrize("head", HEADS)
def test_heads_are_not_what_the_model_learned_from(test_data: Path, reference: TrainingReference, head: str) -> None:
    with pytest.raises(InputRefused, match="do not look like those the model learned from: distance") as refused:
        check_volume(read_volume(file_blobs(files(test_data / "mr" / head))), reference)
    assert refused.value.why == WhyNoResult.OUT_OF_DISTRIBUTION


@pytest.mark.parametrize("name", ["brain1", "breast1"])
def test_other_organs_are_refused(test_data: Path, reference: TrainingReference, name: str) -> None:
    (path,) = (test_data / "nrrd_tumour_masks").rglob(f"{name}*image*.nrrd")
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = (np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing()))[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    array = SimpleITK.GetArrayFromImage(image).astype(np.float32)
    volume = Volume(array, Geometry(array.shape, affine), (), "", "", "", "MR")
    assert WhyNoResult.OUT_OF_DISTRIBUTION in whys(volume, reference)


@pytest.mark.parametrize("folder", ["philips_achieva_phantom_enhanced", "small/hitachi_anatomical_001"])
def test_a_physical_phantom_and_a_few_slices_are_refused(
    test_data: Path, reference: TrainingReference, folder: str
) -> None:
    (volume, *_) = read_volumes(file_blobs(files(test_data / "mr" / folder)))
    assert whys(volume, reference) == {WhyNoResult.POOR_QUALITY, WhyNoResult.OUT_OF_DISTRIBUTION}


def test_a_colour_map_is_no_volume(test_data: Path) -> None:
    with pytest.raises(InputRefused, match="colour"):
        read_volume(file_blobs(files(test_data / "mr/siemens_xa30_study/14_DWI_dir80_PA")))


def test_what_holds_no_picture_is_refused(limb: Volume, reference: TrainingReference) -> None:
    rng, shape = np.random.default_rng(1), limb.array.shape
    empty = changed(limb, np.zeros(shape))
    for volume in (
        changed(limb, rng.normal(500, 100, shape)),
        changed(limb, rng.uniform(0, 1000, shape)),
        noisy(empty, 50),
        changed(limb, np.full(shape, 7.0)),
        empty,
    ):
        assert WhyNoResult.POOR_QUALITY in whys(volume, reference)


@pytest.mark.parametrize(
    ("spoil", "amount", "told"),
    [(noisy, 12.0, "signal-to-noise ratio"), (ghost, 0.03, "ghost"), (moved, 0.2, "ghost")],
    ids=["noise", "ghost", "motion"],
)
def test_poor_images_are_refused_and_fair_ones_are_not(
    limb: Volume, reference: TrainingReference, spoil: Callable[[Volume, float], Volume], amount: float, told: str
) -> None:
    assert whys(spoil(limb, 3 * amount), reference) == set()
    with pytest.raises(InputRefused, match=rf"{told}.*, at (least|most) \d") as refused:
        check_volume(spoil(limb, 9 * amount), reference)
    assert refused.value.why == WhyNoResult.POOR_QUALITY


def test_what_is_cut_off_is_refused(limb: Volume, reference: TrainingReference) -> None:
    third = limb.array.shape[0] // 3
    part = Volume(
        limb.array[third : 2 * third], Geometry((third, *limb.geometry.shape[1:]), limb.geometry.affine),
        (), "", "", "", "MR",
    )  # fmt: skip
    assert any("field of view from feet to head" in r.explanation for r in assess(part, reference).refusals)


def test_the_limb_may_lie_anywhere_but_both_at_once_are_refused(limb: Volume, reference: TrainingReference) -> None:
    columns = limb.array.shape[2]
    beside = np.zeros_like(limb.array)
    beside[:, :, : columns * 2 // 3] = limb.array[:, :, columns // 3 :]
    assert whys(changed(limb, beside), reference) == set()
    both = np.concatenate([limb.array, limb.array[:, :, ::-1]], axis=2)
    pair = replace(limb, array=both, geometry=Geometry(both.shape, limb.geometry.affine))
    assert whys(pair, reference) == {WhyNoResult.OUT_OF_DISTRIBUTION}


def test_the_command_shows_every_measurement_and_loads_no_torch(test_data: Path) -> None:
    folders = [test_data / "sarcoma/STS_012/MR_T1", test_data / "mr/siemens_xa30_study/14_DWI_dir80_PA"]
    script = "import sys; from inference.gate.__main__ import main; main(); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, SHIPPED, *folders], capture_output=True, text=True, check=True)
    names, limits, patient, colour = (line.split("\t") for line in done.stdout.splitlines())
    assert len(names) == len(patient) == len(limits) + 1 == len(METRICS) + 3
    assert patient[-1] == "accepted"
    assert colour[1].startswith("unusable-images: ")


def test_a_reference_is_kept_exactly_enough(tmp_path: Path, limb: Volume) -> None:
    def limbs(seeds: Sequence[int]) -> list[Volume]:
        return [volume_of(phantom_cases.phantom_case(seed)) for seed in seeds]

    made = fit_reference({"phantoms": limbs(range(SEED + 10, SEED + 14))})
    save_reference(made, tmp_path / "gate.json")
    kept = load_reference(tmp_path / "gate.json")
    assert assess(limb, kept).distance == pytest.approx(assess(limb, made).distance, rel=1e-2)
    assert kept.limits.keys() == made.limits.keys()


@pytest.mark.parametrize("text", [None, "", "{}", '{"format": 0}'])
def test_an_unusable_reference_names_the_way_out(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "gate.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ModelRefused, match="make it again: python -m inference"):
        load_reference(path)
