"""Series to volumes: exact geometry from real scanners, and a reason for whatever is not one volume."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread, dcmwrite
from pydicom.uid import DeflatedExplicitVRLittleEndian

from inference.planes import planes_of
from inference.volume import Stack, differences, read_volume, stacks_of
from storage.errors import InputRefused
from tests.objects.sources import write_oblique


def files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    ("series", "shape", "spacing"),
    [
        ("mr/philips_elition_mprage_classic", (170, 256, 256), (1.0, 1.0, 1.0)),
        ("mr/siemens_xa30_study/5_anat-T1w_acq-tfl", (96, 128, 128), (2.0, 2.0, 2.0)),
        ("mr/siemens_prisma_t1_sag_HFDR", (35, 256, 256), (4.8, 1.02, 1.02)),
        ("mr/ge_hdxt_prostate_adc", (20, 256, 256), (3.0, 0.703, 0.703)),
        ("mr/small/hitachi_anatomical_001", (4, 64, 64), (4.0, 2.34, 2.34)),
        ("mr/small/generic_compressed_jpegls_001", (4, 256, 256), (1.0, 1.0, 1.0)),
        ("mr/small/generic_anatomical_002_non_isotropic", (4, 28, 64), (0.5, 4.0, 6.4)),
        ("sarcoma/STS_001/MR_T1", (59, 158, 174), (3.27, 0.977, 0.977)),
    ],
)
def test_real_series_have_exact_geometry(
    test_data: Path, series: str, shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    """Every voxel centre that the affine gives agrees with the plane's own header (PS3.3 C.7.6.2.1.1)."""
    volume = read_volume(files(test_data / series))
    assert volume.array.shape == shape
    assert volume.geometry.spacing == pytest.approx(spacing, abs=0.01)
    for k in (0, shape[0] // 2, shape[0] - 1):
        frame = volume.frames[k]
        ds = dcmread(frame.path, stop_before_pixels=True)
        if frame.frame_number is None:
            position, orientation, pixel = ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing
        else:
            own, shared = (
                ds.PerFrameFunctionalGroupsSequence[frame.frame_number - 1],
                ds.SharedFunctionalGroupsSequence[0],
            )
            position = own.PlanePositionSequence[0].ImagePositionPatient
            orientation = (
                (own if "PlaneOrientationSequence" in own else shared)
                .PlaneOrientationSequence[0]
                .ImageOrientationPatient
            )
            pixel = (own if "PixelMeasuresSequence" in own else shared).PixelMeasuresSequence[0].PixelSpacing
        o, at = np.array(orientation, float), np.array(position, float)
        corner = at + (shape[1] - 1) * pixel[0] * o[3:] + (shape[2] - 1) * pixel[1] * o[:3]
        computed = volume.geometry.to_lps(np.array([[k, 0, 0], [k, shape[1] - 1, shape[2] - 1]], float))
        assert np.allclose(computed, [at, corner], atol=0.02)


def test_voxels_agree_with_simpleitk(test_data: Path) -> None:
    folder = test_data / "mr" / "philips_elition_mprage_classic"
    volume = read_volume(files(folder))
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    for index in ((0, 0, 0), (85, 100, 120), (169, 255, 255)):
        place = volume.geometry.to_lps(np.array([index], float))[0]
        i, j, k = image.TransformPhysicalPointToIndex([float(v) for v in place])
        assert volume.array[index] == pytest.approx(image.GetPixel(i, j, k), abs=0.5)


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        ("malformed/geometry_sliceincrement_001", "1 slice(s) missing: distances from 5.00 to 10.00 mm"),
        ("malformed/geometry_sliceorientation_001", "differ in orientation, matrix or pixel spacing"),
        ("malformed/geometry_slicecount_001", "only 2 slices"),
        ("mr/philips_elition_fieldmap_classic_2echo_magphase", "4 volumes: EchoTime 2.3, 4.6; image component"),
        ("mr/philips_elition_fieldmap_enhanced", "4 volumes: EchoTime 2.3, 4.6; image component"),
        ("mr/canon_galan_dti_enhanced_oblique", "13 volumes: b-value 0, 1500"),
        ("mr/ge_mr750_dynamic_10phases", "135 images lie where another one lies"),
        ("mr/siemens_prisma_epi_mosaic", "MOSAIC"),
        ("mr/uih_umr770_dti_vframe", "VFRAME"),
        ("mr/siemens_xa30_study/14_DWI_dir80_PA", "colour image"),
        ("mr/siemens_xa30_study/99_Phoenix_Document", "not an image"),
    ],
)
def test_what_is_no_single_volume_is_refused_with_the_reason(test_data: Path, series: str, reason: str) -> None:
    with pytest.raises(InputRefused, match=reason.replace("(", r"\(").replace(")", r"\)")):
        read_volume(files(test_data / series))


def stacks(folder: Path) -> list[Stack]:
    return stacks_of([p for path in files(folder) for p in planes_of(dcmread(path, stop_before_pixels=True), path)])


def test_classic_and_enhanced_split_alike(test_data: Path) -> None:
    """The same acquisition, stored both ways: two echoes, magnitude and phase."""
    classic = stacks(test_data / "mr/philips_elition_fieldmap_classic_2echo_magphase")
    enhanced = stacks(test_data / "mr/philips_elition_fieldmap_enhanced")
    assert [s.geometry.shape for s in classic] == [s.geometry.shape for s in enhanced] == [(53, 80, 80)] * 4
    assert differences(classic) == differences(enhanced) == "EchoTime 2.3, 4.6; image component magnitude, phase"
    for one, other in zip(classic, enhanced, strict=True):
        assert np.allclose(one.geometry.affine, other.geometry.affine, atol=0.01)


def test_order_of_files_does_not_matter(tmp_path: Path) -> None:
    paths = sorted(write_oblique(tmp_path, "A^B", "ISO_IR 100").iterdir())
    forward, backward = read_volume(paths), read_volume(paths[::-1])
    assert np.array_equal(forward.array, backward.array)
    assert np.array_equal(forward.geometry.affine, backward.geometry.affine)


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("PixelSpacing", [0, 1], "PixelSpacing is not positive"),
        ("ImagePositionPatient", None, "ImagePositionPatient is missing"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "not two perpendicular unit vectors"),
        ("ImagePositionPatient", [-30, -40, 11.5], "not evenly spaced|missing"),
    ],
)
def test_a_broken_header_is_named(tmp_path: Path, keyword: str, value: list[float] | None, reason: str) -> None:
    paths = sorted(write_oblique(tmp_path, "A^B", "ISO_IR 100").iterdir())
    ds = dcmread(paths[5])
    if value is None:
        delattr(ds, keyword)
    else:
        setattr(ds, keyword, value)
    dcmwrite(paths[5], ds)
    with pytest.raises(InputRefused, match=reason):
        read_volume(paths)


def test_rescale_is_applied(tmp_path: Path) -> None:
    paths = sorted(write_oblique(tmp_path, "A^B", "ISO_IR 100").iterdir())
    plain = read_volume(paths).array
    for path in paths:
        ds = dcmread(path)
        ds.RescaleSlope, ds.RescaleIntercept = "2.5", "-10"
        dcmwrite(path, ds)
    assert np.allclose(read_volume(paths).array, plain * 2.5 - 10)


def test_a_deflated_file_is_read_like_any_other(tmp_path: Path) -> None:
    """Its pixels stand at no byte of the file (PS3.5 A.5)."""
    paths = sorted(write_oblique(tmp_path, "A^B", "ISO_IR 100").iterdir())
    plain = read_volume(paths).array
    for path in paths:
        ds = dcmread(path)
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dcmwrite(path, ds)
    assert np.array_equal(read_volume(paths).array, plain)
