"""RT Structure Sets as others read them: a planning tool's masks, a validator, the references."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.rtstruct import build_rtstruct
from inference.contract.findings import Code, Findings, Segment
from inference.volumes.reading import read_volume
from inference.volumes.volume import Volume
from storage.blobs import file_blobs
from tests.objects.sources import ABNORMAL, MASS, findings, read, write_oblique
from tests.validators import dciodvfy_errors, plastimatch_masks

CONTEXT = ObjectContext("NODE", "seed")
ANATOMICAL = Code("91723000", "SCT", "Anatomical Structure")
BONE = Code("272673000", "SCT", "Bone")


def segment(label: str, mask: NDArray[np.bool_], category: Code = ABNORMAL, kind: Code = MASS) -> Segment:
    return Segment(label, mask, category, kind, (220, 60, 30), label, f"2.25.{sum(label.encode())}")


def written(found: Findings, folder: Path) -> tuple[Dataset, Path]:
    ds = build_rtstruct(found, CONTEXT)
    assert ds is not None
    path = folder / "rtstruct.dcm"
    ds.save_as(path, enforce_file_format=True)
    return ds, path


def assert_read_back(found: Findings, path: Path, images: Path, folder: Path) -> None:
    """Every voxel of every mask, as plastimatch rasterises the contours on its own reading of the images."""
    files = plastimatch_masks(path, images, folder)
    geometry = found.source.geometry
    for one in found.segments:
        image = SimpleITK.ReadImage(str(files[one.label]))
        found_there = np.argwhere(SimpleITK.GetArrayFromImage(image))
        lps = np.array([image.TransformIndexToPhysicalPoint(index[::-1].tolist()) for index in found_there])
        indices = np.linalg.solve(geometry.affine[:3, :3], (lps - geometry.affine[:3, 3]).T).T
        assert np.abs(indices - np.round(indices)).max() < 0.01
        again = np.zeros_like(one.mask)
        again[tuple(np.round(indices).astype(int).T)] = True
        assert np.array_equal(again, one.mask), one.label


def test_an_independent_reader_gets_the_very_masks(tmp_path: Path) -> None:
    """A ring with an island in its hole, two islands, parts one voxel thin, one voxel, and noise; on oblique slices."""
    images = write_oblique(tmp_path / "images", "A^B", "ISO_IR 100")
    volume = read(images)
    ring, islands, thin, dot = (np.zeros(volume.array.shape, bool) for _ in range(4))
    ring[2:9, 10:40, 8:30], ring[3:8, 15:30, 12:25], ring[4:7, 20:24, 15:19] = True, False, True
    islands[3:6, 2:8, 2:8] = islands[3:6, 2:8, 38:44] = True
    thin[5, 10, 5:30] = thin[5, 10:30, 5] = thin[6, np.arange(20), np.arange(20)] = True
    dot[7, 25, 20] = True
    noise = np.random.default_rng(1).random(volume.array.shape) < 0.5
    masks = {"Ring": ring, "Islands": islands, "Thin": thin, "Dot": dot, "Noise": noise}
    found = findings(volume, tuple(segment(label, mask) for label, mask in masks.items()))
    _, path = written(found, tmp_path)
    assert dciodvfy_errors(path) == []
    assert_read_back(found, path, images, tmp_path / "masks")


@pytest.mark.parametrize("series", ["siemens_prisma_t1_sag_HFDR", "ge_hdxt_prostate_adc"])
def test_real_series_read_back(tmp_path: Path, test_data: Path, series: str) -> None:
    """Sagittal, head first on the right side; and axial."""
    images = test_data / "mr" / series
    found = findings(read_volume(file_blobs(images.iterdir())))
    _, path = written(found, tmp_path)
    assert dciodvfy_errors(path) == []
    assert_read_back(found, path, images, tmp_path / "masks")


def test_a_contour_longer_than_an_explicit_vr_can_be(tmp_path: Path, test_data: Path) -> None:
    images = test_data / "mr" / "ge_hdxt_prostate_adc"
    volume = read_volume(file_blobs(images.iterdir()))
    mask = np.zeros(volume.array.shape, bool)
    mask[5] = np.random.default_rng(1).random(mask.shape[1:]) < 0.7
    ds, path = written(findings(volume, (segment("Noise", mask),)), tmp_path)
    sent, received = (one.ROIContourSequence[0].ContourSequence for one in (ds, dcmread(path)))
    assert max(len(contour.get_item("ContourData").value) for contour in sent) > 0xFFFF
    assert [contour["ContourData"].VR for contour in received] == ["DS"] * len(sent)
    assert [contour.ContourData for contour in received] == [contour.ContourData for contour in sent]


def test_contours_name_the_frames_of_an_enhanced_source(tmp_path: Path, test_data: Path) -> None:
    """Frame 1 of this object is the last slice."""
    folder = test_data / "mr" / "siemens_xa30_study" / "5_anat-T1w_acq-tfl"
    found = findings(read_volume(file_blobs(folder.iterdir())))
    ds, path = written(found, tmp_path)
    assert dciodvfy_errors(path) == []
    (study,) = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    (image,) = study.RTReferencedSeriesSequence[0].ContourImageSequence
    assert list(image.ReferencedFrameNumber) == list(range(1, found.source.array.shape[0] + 1))
    for contour in ds.ROIContourSequence[0].ContourSequence:
        point = np.array([float(v) for v in contour.ContourData[:3]])
        k = slice_of(point, found.source)
        frame = found.source.frames[k]
        assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID == frame.sop_instance_uid
        assert contour.ContourImageSequence[0].ReferencedFrameNumber == frame.frame_number


def slice_of(point: NDArray[np.float64], volume: Volume) -> int:
    affine = volume.geometry.affine
    k = float(np.linalg.solve(affine[:3, :3], point - affine[:3, 3])[0])
    assert k == pytest.approx(round(k), abs=1e-3)
    return round(k)


def test_names_and_types(tmp_path: Path) -> None:
    volume = read(write_oblique(tmp_path / "images", "Müller^Änne", "ISO_IR 100"))
    mask = np.zeros(volume.array.shape, bool)
    mask[3, 4:9, 5:9] = True
    oedema = Code("79654002", "SCT", "Edema")
    long = "x" * 70
    segments = (
        segment(long, mask), segment(long + "y", mask, ANATOMICAL, BONE), segment("Ödem", mask, ABNORMAL, oedema)
    )  # fmt: skip
    ds, _ = written(replace(findings(volume, segments), title="A title of more than 16 characters"), tmp_path)
    assert [roi.ROIName for roi in ds.StructureSetROISequence] == ["x" * 16, "x" * 14 + " 2", "Ödem"]
    assert [item.RTROIInterpretedType for item in ds.RTROIObservationsSequence] == ["", "ORGAN", ""]
    assert {roi.ROIGenerationAlgorithm for roi in ds.StructureSetROISequence} == {"AUTOMATIC"}
    assert str(ds.PatientName) == "Müller^Änne"
    assert ds.SeriesDescription.endswith("RESEARCH - not for diagnosis")
    assert ds.StructureSetLabel == "RESEARCH A title"
    again = build_rtstruct(replace(findings(volume, segments), title="Other"), CONTEXT)
    assert again is not None
    assert (again.SOPInstanceUID, again.SeriesInstanceUID) == (ds.SOPInstanceUID, ds.SeriesInstanceUID)


def test_planning_systems_get_short_names_and_a_gtv_only_where_the_site_says_so(tmp_path: Path) -> None:
    volume = read(write_oblique(tmp_path / "images", "A^B", "ISO_IR 100"))
    mask = np.zeros(volume.array.shape, bool)
    mask[3, 4:9, 5:9] = True
    labels = ("Mass", "mass", "Neurovascular bundle", "Kidney left upper pole", "Kidney left lower pole")
    found = findings(volume, tuple(segment(label, mask) for label in labels))
    context = ObjectContext("NODE", "seed", side="R", edition=2)
    research, site = (build_rtstruct(found, context, names_gtv) for names_gtv in (False, True))
    assert research is not None
    assert site is not None
    names = [roi.ROIName for roi in research.StructureSetROISequence]
    assert names[:3] == ["Mass R", "mass 2 R", "Neurovascular R"]
    assert len({name.lower() for name in names}) == len(labels)
    assert all(len(name) <= 16 and name.endswith(" R") for name in names)
    assert "u" in names[3]
    assert "lo" in names[4]
    assert research.StructureSetLabel == "RESEARCH Te R r2"
    assert [{o.RTROIInterpretedType for o in ds.RTROIObservationsSequence} for ds in (research, site)] == [
        {""},
        {"GTV"},
    ]


def test_no_frame_of_reference_no_structure_set(tmp_path: Path) -> None:
    volume = replace(read(write_oblique(tmp_path / "images", "A^B", "ISO_IR 100")), frame_of_reference_uid="")
    assert build_rtstruct(findings(volume), CONTEXT) is None
