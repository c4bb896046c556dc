"""Segmentations as other readers see them: the same voxels at the same places, whatever the source and the form."""

from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.base.description import anatomy_of_findings, describe
from dicom_node.objects.base.encoding import add_sequence, element, item
from dicom_node.objects.base.series_numbers import SEG_SERIES
from dicom_node.objects.base.source_headers import reduced_enhanced, source_headers
from dicom_node.objects.profiles import ObjectProfile, SegmentationForm
from dicom_node.objects.seg import _description, build_seg
from inference.contract.findings import Findings, Segment
from inference.headers.reading import read_header
from inference.volumes.volume import Volume
from storage.log.files import write_durable
from tests.objects.sources import blobs, findings, read, write_oblique
from tests.validators import dciodvfy_errors, dcmqi_segments

BINARY, FRACTIONAL, LABELMAP = SegmentationForm.BINARY, SegmentationForm.FRACTIONAL, SegmentationForm.LABELMAP
LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
CONTEXT = ObjectContext("NODE", "seed")
LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
REAL = {  # one series of each vendor; where a series holds several volumes, the first
    "Canon, Enhanced, oblique": "mr/canon_galan_dti_enhanced_oblique",
    "GE": "mr/ge_hdxt_prostate_adc",
    "Philips, Enhanced": "mr/philips_elition_fieldmap_enhanced",
    "Enhanced, groups per frame alone": "../cases/mr/per_frame_groups_only_no_shared",
    "Siemens, sagittal, HFDR": "mr/siemens_prisma_t1_sag_HFDR",
    "Siemens, Enhanced": "mr/siemens_xa30_study/27_asl_2d_tra",
}
# How a patient lies: where the axes of a patient who lies head first and supine point, in LPS.
POSITIONS = {
    "HFS": np.diag([1, 1, 1]),
    "HFP": np.diag([-1, -1, 1]),
    "HFDR": np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]),
    "HFDL": np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
    "FFS": np.diag([-1, 1, -1]),
    "FFP": np.diag([1, -1, -1]),
    "FFDR": np.array([[0, -1, 0], [-1, 0, 0], [0, 0, -1]]),
    "FFDL": np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]]),
}


def overlapping(volume: Volume) -> tuple[Segment, ...]:
    one, other = blobs(volume)
    shifted = np.roll(one.mask, 2, axis=2)
    assert (one.mask & shifted).any()
    return one, replace(other, mask=shifted)


def probable(volume: Volume) -> tuple[Segment, ...]:
    """A segment that has probabilities, beyond its mask too, and one that has none."""
    one, other = blobs(volume)
    values = np.random.default_rng(0).random(volume.array.shape, np.float32)
    values[: len(values) // 3] = 0
    return replace(one, probability=values), other


def profile(form: SegmentationForm, omits_empty_frames: bool = True) -> ObjectProfile:
    return ObjectProfile(segmentation=form, omits_empty_frames=omits_empty_frames)


# -- highdicom makes the same object -----------------------------------------------------------------------------------


def made_by_highdicom(found: Findings, wanted: ObjectProfile) -> Dataset:
    """The whole object as highdicom makes it, of all slices."""
    headers = source_headers(found.source)
    enhanced = "PerFrameFunctionalGroupsSequence" in headers[0]
    form = wanted.segmentation
    pixels: list[NDArray[Any]] = [segment.mask.astype(np.uint8) for segment in found.segments]
    if form is FRACTIONAL and any(segment.probability is not None for segment in found.segments):
        pixels = [s.mask.astype(np.float32) if s.probability is None else s.probability for s in found.segments]
    seg = hd.seg.Segmentation(
        source_images=[reduced_enhanced(headers[0], found.source)] if enhanced else headers,
        pixel_array=np.stack(pixels, axis=-1),
        segmentation_type=form.value,
        segment_descriptions=[
            _description(found, number, s, anatomy_of_findings(found, CONTEXT))
            for number, s in enumerate(found.segments, 1)
        ],
        series_instance_uid=CONTEXT.uid("SEG series"),
        series_number=CONTEXT.series_number(SEG_SERIES),
        sop_instance_uid=CONTEXT.uid("SEG instance"),
        instance_number=1,
        manufacturer=found.algorithm.manufacturer,
        manufacturer_model_name=found.algorithm.name,
        software_versions=found.algorithm.version,
        device_serial_number=found.algorithm.weights_sha256[:16],
        content_label="AI_SEGMENTATION",
        content_description=found.title,
        content_creator_name="AI^Node",
        omit_empty_frames=wanted.omits_empty_frames,
    )
    describe(seg, found, CONTEXT, "SEG")
    return seg


def differences(one: Dataset, other: Dataset, path: str = "") -> list[str]:
    """Where two datasets differ, but for what is only the hour, padding or rounding."""
    found = [f"{path}{one.get_item(tag) or other.get_item(tag)}" for tag in set(one.keys()) ^ set(other.keys())]
    for each in one:
        if each.tag not in other:
            continue
        mine, theirs = each.value, other[each.tag].value
        if each.keyword == "PixelData":
            equal = len(mine) == len(theirs) and np.array_equal(one.pixel_array, other.pixel_array)
        elif each.keyword == "SpacingBetweenSlices":  # highdicom copies it, we have it from the positions
            equal = float(mine) == pytest.approx(float(theirs), abs=1e-4)
        elif each.VR == "SQ":
            equal = len(mine) == len(theirs)
            for number, (a, b) in enumerate(zip(mine, theirs, strict=False)):
                found += differences(a, b, f"{path}{each.keyword}[{number}].")
        else:
            equal = each.VR == other[each.tag].VR and mine == theirs
        if not equal and each.keyword not in NOT_COMPARED:
            found.append(f"{path}{each.keyword}")
    return found


NOT_COMPARED = {
    "ContributionDateTime",  # the hour
    "DimensionOrganizationUID",  # highdicom's own
    "ReferencedFrameNumber",  # highdicom saw a reduced source, and names its frames
}


@pytest.mark.parametrize("omits_empty_frames", [True, False])
@pytest.mark.parametrize(
    ("form", "segments"),
    [
        (BINARY, blobs),
        (BINARY, lambda volume: blobs(volume)[:1]),
        (BINARY, overlapping),
        (FRACTIONAL, blobs),
        (FRACTIONAL, probable),
        (LABELMAP, blobs),
    ],
    ids=["two", "one", "overlapping", "fractional", "probabilities", "label map"],
)
@pytest.mark.parametrize("source", ["odd", "GE", "Siemens, Enhanced"])
def test_the_object_is_the_one_that_highdicom_makes(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    source: str,
    form: SegmentationForm,
    segments: Any,
    omits_empty_frames: bool,
) -> None:
    volume = volume_of(source, tmp_path, request)
    found = findings(volume, segments(volume))
    wanted = profile(form, omits_empty_frames)
    ours = write_durable(tmp_path / "ours.dcm", build_seg(found, CONTEXT, wanted)).path
    theirs = write_durable(tmp_path / "theirs.dcm", made_by_highdicom(found, wanted)).path
    assert differences(dcmread(ours), dcmread(theirs)) == []


def volume_of(source: str, folder: Path, request: pytest.FixtureRequest) -> Volume:
    """A real series, or "odd": one whose images have no whole number of bytes as bits."""
    if source == "odd":
        return read(write_oblique(folder / "source", "A^B", "ISO_IR 100"))
    return cached(request.getfixturevalue("test_data") / REAL[source])


@cache
def cached(folder: Path) -> Volume:
    return read(folder)


# -- others read it back -----------------------------------------------------------------------------------------------


def lps(volume: Volume, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n, 3) centres of the voxels of a mask, from the headers of the slices."""
    places = []
    headers = {blob: read_header(blob) for blob in {frame.blob for frame in volume.frames}}
    for frame, image in zip(volume.frames, mask, strict=True):
        header = headers[frame.blob]
        groups = [header]
        if frame.frame_number is not None:
            own = header.PerFrameFunctionalGroupsSequence[frame.frame_number - 1]
            groups = [(own if g in own else header.SharedFunctionalGroupsSequence[0])[g][0] for g in GROUPS]
        position, orientation, measures = (groups * 3)[:3]
        row, column = np.array(orientation.ImageOrientationPatient, float).reshape(2, 3)
        indices = np.argwhere(image) * np.array(measures.PixelSpacing, float)
        places.append(np.array(position.ImagePositionPatient, float) + indices @ np.array([column, row]))
    return np.concatenate(places)


GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")


def assert_voxels(image: NDArray[Any], affine: NDArray[np.float64], places: NDArray[np.float64]) -> None:
    """The image is set at the places and nowhere else; `affine` maps its indices to LPS."""
    indices = (places - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    assert np.allclose(indices, np.round(indices), atol=0.05)
    assert np.count_nonzero(image) == len(places)
    assert image[tuple(np.round(indices).astype(int).T)].all()


def assert_read_back(path: Path, found: Findings, folder: Path) -> None:
    """By dcmqi and by highdicom, in LPS."""
    of_dcmqi = dcmqi_segments(path, folder)
    volumes = hd.seg.segread(path).get_volume(combine_segments=False, allow_missing_positions=True)
    for number, segment in enumerate(found.segments, start=1):
        places = lps(found.source, segment.mask)
        nifti = nibabel.load(of_dcmqi.get(number, of_dcmqi[1]))  # a label map is one file
        assert_voxels(np.asarray(nifti.dataobj) == number, LPS_OF_RAS @ nifti.affine, places)
        assert_voxels(volumes.array[..., number - 1], volumes.affine, places)


@pytest.mark.parametrize("source", list(REAL))
def test_real_series_are_read_back(tmp_path: Path, request: pytest.FixtureRequest, source: str) -> None:
    volume = volume_of(source, tmp_path, request)
    found = findings(volume, overlapping(volume))
    path = write_durable(tmp_path / "seg.dcm", build_seg(found, CONTEXT)).path
    assert dciodvfy_errors(path) == []
    assert_read_back(path, found, tmp_path / "dcmqi")


@pytest.mark.parametrize("patient_position", list(POSITIONS))
def test_every_patient_position_is_read_back(tmp_path: Path, patient_position: str) -> None:
    """Doubly oblique slices, turned with the patient."""
    folder = write_oblique(tmp_path / "source", "A^B", "ISO_IR 100")
    turn = POSITIONS[patient_position]
    for file in folder.iterdir():
        ds = dcmread(file)
        ds.PatientPosition = patient_position
        ds.ImagePositionPatient = list(turn @ np.array(ds.ImagePositionPatient, float))
        ds.ImageOrientationPatient = list((np.array(ds.ImageOrientationPatient, float).reshape(2, 3) @ turn.T).ravel())
        ds.save_as(file)
    found = findings(read(folder))
    path = write_durable(tmp_path / "seg.dcm", build_seg(found, CONTEXT)).path
    assert_read_back(path, found, tmp_path / "dcmqi")


def test_uneven_gaps_stay_what_they_are(tmp_path: Path) -> None:
    """Places of frames are those of the source, and no spacing is claimed that not all slices have. A thickness, which
    the object must have and the source need not, is there."""
    folder = write_oblique(tmp_path / "source", "A^B", "ISO_IR 100")
    for number, file in enumerate(sorted(folder.iterdir())):
        ds = dcmread(file)
        row, column = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        position = np.array(ds.ImagePositionPatient, float) + 0.1 * number**2 * np.cross(row, column)
        ds.ImagePositionPatient = [float(f"{v:.6f}") for v in position]
        ds.SliceThickness = None
        ds.save_as(file)
    volume = read(folder)
    found = findings(volume)
    path = write_durable(tmp_path / "seg.dcm", build_seg(found, CONTEXT)).path
    assert dciodvfy_errors(path) == []
    seg = hd.seg.segread(path)
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert "SpacingBetweenSlices" not in measures
    assert measures.SliceThickness == pytest.approx(volume.geometry.spacing[0])
    pixels = seg.get_pixels_by_source_instance([frame.sop_instance_uid for frame in volume.frames])
    for number, segment in enumerate(found.segments):
        assert np.array_equal(pixels[..., number], segment.mask)
    places = {tuple(f.PlanePositionSequence[0].ImagePositionPatient) for f in seg.PerFrameFunctionalGroupsSequence}
    assert places <= {tuple(dcmread(file).ImagePositionPatient) for file in folder.iterdir()}


def test_probabilities_are_read_back(tmp_path: Path) -> None:
    volume = read(write_oblique(tmp_path / "source", "A^B", "ISO_IR 100"))
    found = findings(volume, probable(volume))
    path = write_durable(tmp_path / "seg.dcm", build_seg(found, CONTEXT, profile(FRACTIONAL))).path
    assert dciodvfy_errors(path) == []
    seg = hd.seg.segread(path)
    assert (seg.SegmentationFractionalType, seg.MaximumFractionalValue) == ("PROBABILITY", 255)
    assert seg.SegmentsOverlap == "UNDEFINED"
    pixels = seg.get_pixels_by_source_instance(
        [frame.sop_instance_uid for frame in volume.frames],
        rescale_fractional=True,
        assert_missing_frames_are_empty=True,
    )
    one, other = found.segments
    assert one.probability is not None
    assert np.abs(pixels[..., 0] - one.probability).max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(pixels[..., 1], other.mask)


def test_a_label_map_is_read_back(tmp_path: Path) -> None:
    volume = read(write_oblique(tmp_path / "source", "A^B", "ISO_IR 100"))
    found = findings(volume)
    seg = build_seg(found, CONTEXT, profile(LABELMAP))
    assert seg.SOPClassUID == LABEL_MAP_STORAGE
    assert_read_back(write_durable(tmp_path / "seg.dcm", seg).path, found, tmp_path / "dcmqi")


def test_overlapping_segments_are_no_label_map(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volume = read(write_oblique(tmp_path / "source", "A^B", "ISO_IR 100"))
    seg = build_seg(findings(volume, overlapping(volume)), CONTEXT, profile(LABELMAP))
    assert (seg.SegmentationType, seg.SegmentsOverlap) == ("BINARY", "YES")
    assert "cannot be a label map" in caplog.text


def test_more_segments_than_a_byte_can_tell(tmp_path: Path) -> None:
    """Each voxel a segment of its own; a label map takes two bytes a voxel then."""
    volume = read(write_oblique(tmp_path / "source", "A^B", "ISO_IR 100"))
    one = blobs(volume)[0]
    segments = []
    for number in range(300):
        mask = np.zeros_like(one.mask)
        mask[5, number // 40, number % 40] = True
        segments.append(replace(one, mask=mask, label=f"Spot {number}", tracking_uid=f"2.25.{number + 1}"))
    for form in (BINARY, LABELMAP):
        seg = build_seg(findings(volume, tuple(segments)), CONTEXT, profile(form))
        path = write_durable(tmp_path / f"{form}.dcm", seg).path
        read_back = hd.seg.segread(path).get_pixels_by_source_instance(
            [volume.frames[5].sop_instance_uid], combine_segments=True
        )
        assert read_back[0, :8, :40].ravel()[:300].tolist() == list(range(1, 301))


@pytest.mark.parametrize("character_set", [None, "ISO_IR 100", ["", "ISO 2022 IR 87"]])
def test_encoded_items_are_written_as_they_are(character_set: str | list[str] | None) -> None:
    """And read when someone asks for one, after which the object is written alike."""
    ds = Dataset()
    ds.PatientName = "A^B"
    if character_set is not None:
        ds.SpecificCharacterSet = character_set
    numbers = [element("ReferencedSegmentNumber", n.to_bytes(2, "little")) for n in range(1, 4)]
    add_sequence(ds, "SegmentIdentificationSequence", map(item, numbers))
    untouched = written(ds)
    assert ds.get_item("SegmentIdentificationSequence").is_raw
    assert [one.ReferencedSegmentNumber for one in ds.SegmentIdentificationSequence] == [1, 2, 3]
    assert written(ds) == untouched


def written(ds: Dataset) -> bytes:
    file = BytesIO()
    ds.save_as(file, implicit_vr=False, little_endian=True)
    return file.getvalue()
