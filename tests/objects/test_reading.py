"""Objects by other writers, and the node's own, read back: same voxels, same measurements; or a reason why not."""

import copy
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.build import build_objects
from dicom_node.objects.profiles import SegmentationForm
from dicom_node.objects.reading.report import read_report
from dicom_node.objects.reading.segmentation import read_segmentation
from inference.contract.findings import MEASUREMENT_FAILURE, Code
from inference.volumes.geometry import Geometry
from inference.volumes.reading import read_volume
from storage.blobs import FileBlob, file_blobs
from storage.errors import InputRefused
from tests.objects.sources import findings, read, write_oblique


@pytest.fixture(scope="module")
def conformance(test_data: Path) -> Path:
    return test_data / "conformance"


def labels(path: Path) -> tuple[np.ndarray, Geometry]:
    """An NRRD label map: [slice, row, column], and its grid."""
    image = SimpleITK.ReadImage(str(path))
    array = SimpleITK.GetArrayFromImage(image)
    affine = np.eye(4)
    directions = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, :3] = directions[:, ::-1]  # ITK's axes are column, row, slice
    affine[:3, 3] = image.GetOrigin()
    return array, Geometry(array.shape, affine)


@pytest.mark.parametrize(
    ("seg", "nrrd", "background"),
    [
        ("dcmqi_seg/liver.dcm", ["dcmqi_seg/liver_seg.nrrd"], ()),
        ("dcmqi_seg/partial_overlaps.dcm", [f"dcmqi_seg/partial_overlaps-{n}.nrrd" for n in (1, 2, 3)], ()),
        ("dcmqi_23x38x3/label.seg", ["dcmqi_23x38x3/label.nrrd"], ()),
        ("dcmqi_24x38x3/label.seg", ["dcmqi_24x38x3/label.nrrd"], ()),
        ("dcmqi_labelmap_seg/sparse-labelmap-noppv.dcm", ["dcmqi_seg/sparse_labelmap_noppv_seg.nrrd"], ()),
        # 5 is what dcmqi pads with where it left frames out
        ("dcmqi_labelmap_seg/sparse-labelmap-ppv5.dcm", ["dcmqi_seg/sparse_labelmap_ppv5_seg.nrrd"], (5,)),
        ("pydicom_rt_sr/liver_expb.dcm", ["dcmqi_seg/liver_seg.nrrd"], ()),
        ("pydicom_rt_sr/liver_j2k.dcm", ["dcmqi_seg/liver_seg.nrrd"], ()),
    ],
)
def test_the_voxels_are_those_of_the_label_map_beside(
    conformance: Path, seg: str, nrrd: list[str], background: tuple[int, ...]
) -> None:
    found: dict[int, np.ndarray] = {}
    for name in nrrd:
        array, grid = labels(conformance / name)
        for number in set(np.unique(array).tolist()) - {0, *background}:
            found[number] = array == number
    read_back = read_segmentation(FileBlob(conformance / seg), grid)
    assert {s.number for s in read_back.segments} == set(found)
    for segment in read_back.segments:
        assert np.array_equal(segment.mask, found[segment.number])


def test_a_label_map_holds_several_segments(conformance: Path) -> None:
    ds = dcmread(conformance / "dcmqi_labelmap_seg" / "sparse-labelmap-noppv.dcm")
    pixels = ds.pixel_array.copy()
    first = int((pixels[0] == 1).sum())
    second = int((pixels[1:] == 1).sum())
    pixels[0] *= 2
    ds.PixelData = pixels.tobytes()
    added = copy.deepcopy(ds.SegmentSequence[1])
    added.SegmentNumber, added.SegmentLabel = 2, "Spleen"
    ds.SegmentSequence.append(added)
    segments = read_segmentation(ds).segments
    assert [(s.number, s.label, s.mask.sum()) for s in segments] == [(1, "Liver", second), (2, "Spleen", first)]


def test_the_own_grid_is_that_of_the_frames(conformance: Path) -> None:
    """Frames of 13 slices, the first not the first in the file; and four frames with a wide gap between two of them."""
    _, grid = labels(conformance / "dcmqi_23x38x3" / "label.nrrd")
    own = read_segmentation(FileBlob(conformance / "dcmqi_23x38x3" / "label.seg")).geometry
    assert own.shape == grid.shape
    assert np.allclose(own.affine, grid.affine, atol=1e-3)
    gapped = read_segmentation(FileBlob(conformance / "highdicom" / "seg_image_ct_binary_overlap.dcm"))
    assert gapped.geometry.spacing == pytest.approx((1.25, 0.488281, 0.488281))
    assert [np.flatnonzero(s.mask.any(axis=(1, 2))).tolist() for s in gapped.segments] == [[0, 162, 163, 164]] * 2


def test_what_a_segment_is(conformance: Path) -> None:
    seg = read_segmentation(FileBlob(conformance / "highdicom" / "seg_image_ct_binary_overlap.dcm"))
    source = {ds.SOPInstanceUID for ds in map(dcmread, (conformance / "dcmqi_liver_ct").iterdir())}
    liver = read_segmentation(FileBlob(conformance / "dcmqi_seg" / "liver.dcm"))
    assert {uid for _, uid in liver.sources} == source
    assert liver.segments[0].label == "Liver"
    assert [(s.number, s.label, s.tracking_id) for s in seg.segments] == [
        (1, "first segment", "Bone"), (2, "second segment", "Spine"),
    ]  # fmt: skip
    assert all(s.tracking_uid.startswith("1.2.826") and s.type is not None for s in seg.segments)


def test_fractions_are_read_as_fractions(conformance: Path) -> None:
    seg = read_segmentation(FileBlob(conformance / "highdicom" / "seg_image_ct_true_fractional.dcm"))
    assert seg.form is SegmentationForm.FRACTIONAL
    (segment,) = seg.segments
    assert segment.fraction is not None
    assert np.unique(segment.fraction).tolist() == pytest.approx([0, 64 / 255, 128 / 255])
    assert np.array_equal(segment.mask, segment.fraction > 0.5)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("highdicom/seg_image_cr_binary.dcm", "position, orientation or pixel measures"),
        ("pydicom_rt_sr/liver_rle.dcm", "cannot be decoded .*RLE Lossless"),
        ("pydicom_rt_sr/liver_deflate.dcm", "cannot be decoded .*Deflated Image Frame"),
        ("highdicom/sr_document.dcm", "is no segmentation"),
        ("dcmqi_seg/liver_seg.nrrd", "cannot be read as DICOM"),
    ],
)
def test_what_is_no_segmentation_in_space_is_refused(conformance: Path, name: str, reason: str) -> None:
    with pytest.raises(InputRefused, match=reason):
        read_segmentation(FileBlob(conformance / name))


def test_frames_off_the_grid_are_refused(conformance: Path) -> None:
    path = conformance / "dcmqi_23x38x3" / "label.seg"
    grid = read_segmentation(FileBlob(path)).geometry
    for change, reason in (
        (np.array([0, 0, 0.3]), "voxels off the grid"),
        (np.array([0, 70.0, 0]), "outside the grid"),
    ):
        affine = grid.affine.copy()
        affine[:3, 3] += change
        with pytest.raises(InputRefused, match=reason):
            read_segmentation(FileBlob(path), Geometry(grid.shape, affine))
    affine = grid.affine.copy()
    affine[:3, 2] *= -1
    with pytest.raises(InputRefused, match="another orientation"):
        read_segmentation(FileBlob(path), Geometry(grid.shape, affine))


def test_a_report_by_dcmqi(conformance: Path) -> None:
    folder = conformance / "dcmqi_sr_tid1500"
    report, seg = read_report(FileBlob(folder / "sr.dcm")), read_segmentation(FileBlob(folder / "seg.dcm"))
    (group,) = report.groups
    assert group.tracking_uid == "2.25.318774060119084600392715520575818119084"
    assert (group.tracking_id, group.time_point) == ("primary tumor", "1")
    assert group.finding == Code("M-80003", "SRT", "Neoplasm, Primary")
    assert [s.meaning for s in group.sites] == ["pharyngeal tonsil (adenoid)"]
    assert len(group.measurements) == 22
    (volume,) = group.measured(codes.SCT.Volume)  # written with the older identifier
    assert (volume.value, volume.unit) == (33.5824, Code("ml", "UCUM", "Milliliter"))
    assert volume.method == Code("126030", "DCM", "Sum of segmented voxel volumes")
    suv = group.measurements[0].name
    means = [m.value for m in group.measurements if m.name == suv and m.derivation and m.derivation.meaning == "Mean"]
    assert means == [6.01529]
    assert [(s.sop_instance_uid, s.segment_numbers) for s in group.segments] == [(seg.sop_instance_uid, (1,))]
    assert (seg.sop_class_uid, seg.sop_instance_uid) in report.evidence
    # what the report says of the segment is what the segment measures
    assert seg.segments[0].mask.sum() * seg.geometry.voxel_volume / 1000 == pytest.approx(33.5824, rel=1e-3)


def test_reports_by_highdicom(conformance: Path) -> None:
    (group,) = read_report(FileBlob(conformance / "highdicom" / "sr_document.dcm")).groups
    (area,) = group.measurements
    assert (area.name.meaning, area.value, area.unit) == (
        "Area of defined region", 1.7, Code("cm2", "UCUM", "square centimeter"),
    )  # fmt: skip
    assert (group.regions[0].graphic_type, group.regions[0].image) == ("CIRCLE", group.images[0])
    level, nodule, aorta, vertebra = read_report(
        FileBlob(conformance / "highdicom" / "sr_document_with_multiple_groups.dcm")
    ).groups
    assert [g.tracking_id for g in (level, nodule, aorta, vertebra)] == [
        "Image0001", "LungNodule0001", "Aorta0001", "Vertebra0001",
    ]  # fmt: skip
    assert level.measurements[0].value == pytest.approx(-119.07385253906)
    assert [(e.name.meaning, e.value.meaning) for e in nodule.evaluations] == [
        ("Level of Significance", "Not significant")
    ]
    assert aorta.regions[0].points.shape[1] == 2
    assert vertebra.regions[0].points.tolist() == [pytest.approx([123.5, 234.1, -23.7], abs=1e-3)]
    assert vertebra.images


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../mr/siemens_xa30_study/99_Phoenix_Document", "no structured report"),
        ("pydicom_rt_sr/test-SR.dcm", r"no measurement report \(TID 1500\): Diagnosis"),
        ("pydicom_rt_sr/reportsi.dcm", "no measurement report"),
        ("dcmqi_sr_tid1500/seg.dcm", "no structured report"),
    ],
)
def test_what_is_no_measurement_report_is_refused(conformance: Path, name: str, reason: str) -> None:
    path = conformance / name
    with pytest.raises(InputRefused, match=reason):
        read_report(FileBlob(min(path.iterdir()) if path.is_dir() else path))  # the scanner's reports have no names


def test_the_own_objects_read_back(tmp_path: Path) -> None:
    volume = read(write_oblique(tmp_path, "A^B", "ISO_IR 100"))
    found = findings(volume)
    built = {b.kind: b.dataset for b in build_objects(found, ObjectContext("NODE", "seed"))}
    seg, report = read_segmentation(built["SEG"], volume.geometry), read_report(built["SR"])
    assert {uid for _, uid in seg.sources} <= {f.sop_instance_uid for f in volume.frames}
    for number, segment in enumerate(found.segments, 1):
        mine = seg.segments[number - 1]
        assert (mine.number, mine.label, mine.tracking_uid) == (number, segment.label, segment.tracking_uid)
        assert np.array_equal(mine.mask, segment.mask)
        (group,) = [g for g in report.groups if g.segments and g.segments[0].segment_numbers == (number,)]
        assert group.tracking_uid == segment.tracking_uid
        assert (group.finding, group.category) == (segment.type, segment.category)
        (volume_of,) = group.measured(codes.SCT.Volume)
        assert volume_of.value == pytest.approx(segment.measurements[0].value, rel=1e-5)
        assert volume_of.unit == segment.measurements[0].unit
        assert len([g for g in report.groups if g.tracking_uid == segment.tracking_uid and g.regions]) == 1


def test_a_missing_value_has_its_reason(conformance: Path) -> None:
    """PS3.3 C.18.1: no Measured Value, and a qualifier of CID 42."""
    ds = dcmread(conformance / "highdicom" / "sr_document.dcm")
    (number,) = [i for i in ds.ContentSequence[-1].ContentSequence[0].ContentSequence if i.ValueType == "NUM"]
    reason = Dataset()
    reason.CodeValue, reason.CodingSchemeDesignator, reason.CodeMeaning = "114006", "DCM", "Measurement failure"
    number.MeasuredValueSequence, number.NumericValueQualifierCodeSequence = [], [reason]
    (measured,) = read_report(ds).groups[0].measurements
    assert (measured.value, measured.unit, measured.missing) == (None, None, MEASUREMENT_FAILURE)


def test_an_enhanced_source_reads_back(test_data: Path) -> None:
    """Frame 1 of this source is the last slice; the segmentation names one instance."""
    volume = read_volume(file_blobs((test_data / "mr" / "siemens_xa30_study" / "5_anat-T1w_acq-tfl").iterdir()))
    found = findings(volume)
    seg = build_objects(found, ObjectContext("NODE", "seed"))[0].dataset
    read_back = read_segmentation(seg, volume.geometry)
    for mine, segment in zip(read_back.segments, found.segments, strict=True):
        assert np.array_equal(mine.mask, segment.mask)
    assert read_back.sources == ((volume.frames[0].sop_class_uid, volume.frames[0].sop_instance_uid),)
