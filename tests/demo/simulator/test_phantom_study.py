"""Phantom studies as files: conformant, truthful about geometry and physics, repeatable."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.demo.simulator.mr_series import Stack
from dicom_node.demo.simulator.phantom_study import B_VALUES, ImagedLimb, PhantomStudy, write_phantom_study
from dicom_node.demo.simulator.scanner import PushOptions, push
from dicom_node.demo.simulator.study_files import load_study
from dicom_node.dimse.scu import Target
from dicom_node.receive.policy import ReceivePolicy
from dicom_node.receive.receiver import Receiver
from tests.receive.kept import KeptJournal

DCIODVFY = Path("/usr/bin/dciodvfy")


@pytest.fixture(scope="module")
def limb() -> ImagedLimb:
    """A cylinder with a ball in it; the diffusion grid is coarser than the anatomical one."""

    def grid(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
        affine = np.eye(4)
        affine[:3, :3] = [[0, 0, spacing[2]], [0, spacing[1], 0], [spacing[0], 0, 0]]  # slices along z, LPS
        affine[:3, 3] = [-(shape[2] - 1) * spacing[2] / 2, -(shape[1] - 1) * spacing[1] / 2, -40.0]
        indices = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1).reshape(-1, 3)
        points = (indices @ affine[:3, :3].T + affine[:3, 3]).reshape(*shape, 3)
        return affine, points

    def ball(points: np.ndarray) -> np.ndarray:
        return np.linalg.norm(points - np.array([10.0, -5.0, -10.0]), axis=-1) < 15

    def leg(points: np.ndarray) -> np.ndarray:
        return np.linalg.norm(points[..., :2], axis=-1) < 60

    anatomy, fine = grid((12, 80, 96), (5.0, 1.5, 1.5))
    diffusion, coarse = grid((10, 48, 48), (6.0, 3.0, 3.0))
    adc = (1.6e-3 * leg(coarse) - 0.6e-3 * ball(coarse)).astype(np.float32)  # mm2/s
    dwi = tuple(
        Stack((1000 * leg(coarse) * np.exp(-b * adc)).astype(np.float32), diffusion, b_value=b) for b in B_VALUES
    )
    return ImagedLimb(
        images={
            "t1w": (Stack((700.0 * leg(fine) - 200 * ball(fine)).astype(np.float32), anatomy),),
            "t2w_fs": (Stack((300.0 * leg(fine) + 900 * ball(fine)).astype(np.float32), anatomy),),
            "dwi": dwi,
            "adc": (Stack((adc * 1e6).astype(np.float32), diffusion),),
        },
        mask=ball(fine),
    )


def read(study: PhantomStudy, name: str) -> list[Dataset]:
    return [dcmread(path) for path in study.series[name].paths]


@pytest.mark.skipif(not DCIODVFY.exists(), reason="dciodvfy is not installed (Debian: dicom3tools)")
@pytest.mark.parametrize("oblique", [False, True])
def test_every_series_conforms(tmp_path: Path, limb: ImagedLimb, oblique: bool) -> None:
    study = write_phantom_study(tmp_path, limb, 1, oblique=oblique)
    for name, series in study.series.items():
        done = subprocess.run([DCIODVFY, "-new", series.paths[-1]], capture_output=True, text=True, check=False)
        errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
        assert not errors, (name, errors)


def test_physics_is_in_the_headers(tmp_path: Path, limb: ImagedLimb) -> None:
    study = write_phantom_study(tmp_path, limb, 1)
    t1w, t2w, adc = (read(study, name)[0] for name in ("t1w", "t2w_fs", "adc"))
    assert (t1w.RepetitionTime, t1w.EchoTime, t1w.FlipAngle, t1w.ScanningSequence) == (600, 12, 90, "SE")
    assert not t1w.ScanOptions
    assert (t2w.RepetitionTime, t2w.EchoTime, t2w.ScanOptions) == (4000, 80, "FS")
    assert list(adc.ImageType) == ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]
    assert "DiffusionBValue" not in adc
    assert [float(ds.DiffusionBValue) for ds in read(study, "dwi")] == [b for b in B_VALUES for _ in range(10)]
    everything = [ds for name in study.series for ds in read(study, name)]
    assert {(str(d.PatientName), d.BodyPartExamined, d.Manufacturer, d.MagneticFieldStrength) for d in everything} == {
        ("PHANTOM^LIMB", "THIGH", "dicom-node phantom", 3)
    }
    assert len({d.FrameOfReferenceUID for d in everything}) == len({d.StudyInstanceUID for d in everything}) == 1
    assert len({d.SOPInstanceUID for d in everything}) == len(everything) == len(study.paths)


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("name", ["t1w", "dwi"])
def test_geometry_survives_the_headers(tmp_path: Path, limb: ImagedLimb, oblique: bool, name: str) -> None:
    """The affine rebuilt from the headers, the way a reader does it, is the one that was written."""
    study = write_phantom_study(tmp_path, limb, 1, oblique=oblique)
    first, second = read(study, name)[:2]
    across, down = np.reshape(np.array(first.ImageOrientationPatient, float), (2, 3))
    rows, columns = map(float, first.PixelSpacing)
    rebuilt = np.eye(4)
    rebuilt[:3, 0] = np.array(second.ImagePositionPatient, float) - np.array(first.ImagePositionPatient, float)
    rebuilt[:3, 1], rebuilt[:3, 2] = down * rows, across * columns
    rebuilt[:3, 3] = first.ImagePositionPatient
    expected = limb.images[name][0].affine
    if oblique:
        assert not np.allclose(rebuilt, expected, atol=0.1)
        assert np.allclose(np.linalg.norm(rebuilt[:3, :3], axis=0), np.linalg.norm(expected[:3, :3], axis=0), atol=1e-5)
        expected = study.affine if name == "t1w" else rebuilt
    assert np.allclose(rebuilt, expected, atol=1e-5)
    assert np.isclose(np.linalg.norm(np.cross(across, down)), 1, atol=1e-6)
    assert float(second.SliceLocation) - float(first.SliceLocation) == pytest.approx(float(first.SpacingBetweenSlices))


def test_pixels_keep_the_signal(tmp_path: Path, limb: ImagedLimb) -> None:
    study = write_phantom_study(tmp_path, limb, 1)
    adc = np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in read(study, "adc")])
    assert np.allclose(adc, limb.images["adc"][0].array, atol=0.51)  # um2/s
    dwi = np.stack([ds.pixel_array for ds in read(study, "dwi")]).reshape(3, 10, 48, 48).astype(float)
    inside = limb.images["adc"][0].array > 0
    fitted = 1e6 * np.log(dwi[0][inside] / dwi[2][inside]) / (B_VALUES[2] - B_VALUES[0])
    assert np.allclose(fitted, limb.images["adc"][0].array[inside], rtol=0.01)
    t1w = np.stack([ds.pixel_array for ds in read(study, "t1w")]).astype(float)
    assert np.corrcoef(t1w.ravel(), limb.images["t1w"][0].array.ravel())[0, 1] > 0.9999
    assert t1w.max() == 4095


def test_uids_are_new_each_time_unless_asked_otherwise(tmp_path: Path, limb: ImagedLimb) -> None:
    studies = [
        write_phantom_study(tmp_path / str(i), limb, seed, fresh_uids=fresh)
        for i, (seed, fresh) in enumerate([(1, True), (1, True), (1, False), (1, False), (2, False)])
    ]
    uids = [study.study_instance_uid for study in studies]
    assert uids[2] == uids[3]
    assert len(set(uids)) == 4
    assert [p.read_bytes() for p in studies[2].paths] == [p.read_bytes() for p in studies[3].paths]


def test_from_the_phantom_to_the_receiver(tmp_path: Path, limb: ImagedLimb) -> None:
    study = write_phantom_study(tmp_path / "study", limb, 1)
    journal = KeptJournal(tmp_path / "journal")
    receiver = Receiver(ReceivePolicy("NODE", "127.0.0.1", 0), journal, journal.key, "receive-0")
    receiver.start()
    try:
        loaded = load_study(tmp_path / "study")
        assert set(loaded.series) == {series.series_instance_uid for series in study.series.values()}
        report = push(
            list(loaded.series.values()), Target("NODE", "127.0.0.1", receiver.port), options=PushOptions(shuffle=1)
        )
    finally:
        receiver.stop(grace=1)
    assert not report.failures
    assert len(journal.kept) == len(study.paths) == 12 + 12 + 30 + 10
    assert {k.instance.study_instance_uid for k in journal.kept} == {study.study_instance_uid}
