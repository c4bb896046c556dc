"""The report: what it holds, read back by others, and its forms for destinations that take less."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage, EnhancedSRStorage, SegmentationStorage, generate_uid
from rich.console import Console

from dicom_node.demo.report_tree import report_tree
from dicom_node.objects.base.context import ObjectContext, ResultReference
from dicom_node.objects.seg import build_seg
from dicom_node.objects.sr import MOST_REGIONS, as_sop_class, build_sr
from inference.contract.findings import NOT_ATTEMPTED, Code, Evaluation, Findings, Measurement, Segment, TimePoint
from inference.headers.reading import read_object
from tests.objects.sources import CM3, VOLUME, findings, read, write_oblique
from tests.validators import dciodvfy_errors, dcmqi_measurements, dsrdump_errors, pixelmed_report_errors

MM = Code("mm", "UCUM", "mm")
ONE = Code("1", "UCUM", "no units")
LONG_AXIS = Code("103339001", "SCT", "Long axis")
ADC = Code("113041", "DCM", "Apparent Diffusion Coefficient")
ADC_UNIT = Code("um2/s", "UCUM", "um2/s")
MEAN = Code("373098007", "SCT", "Mean")
PROBABILITY = Code("122157", "DCM", "Probability")
BENIGN = Evaluation(Code("121071", "DCM", "Finding"), Code("30807003", "SCT", "Benign"))
CONTEXT = ObjectContext("NODE", "seed")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Two masses, images of this and an earlier study, results of the whole patient, a value that is missing."""
    folder = tmp_path_factory.mktemp("sources")
    source, earlier = (read(write_oblique(folder / name, "Müller^Änne", "ISO_IR 100")) for name in ("one", "two"))
    one = findings(source)
    more = (Measurement(LONG_AXIS, 12.5, MM), Measurement(ADC, None, ADC_UNIT, MEAN, NOT_ATTEMPTED))
    return replace(
        one,
        inputs=(source, earlier),
        segments=tuple(replace(s, measurements=(*s.measurements, *more)) for s in one.segments),
        measurements=(Measurement(PROBABILITY, 0.83, ONE),),
        evaluations=(BENIGN,),
        time_point=TimePoint("Baseline", 1),
    )


def items(ds: Dataset, *path: str) -> list[Dataset]:
    """The content items below `ds` whose concept names have these meanings, one for each level."""
    found = [item for item in ds.get("ContentSequence", []) if item.ConceptNameCodeSequence[0].CodeMeaning == path[0]]
    return found if len(path) == 1 else [below for item in found for below in items(item, *path[1:])]


def all_items(ds: Dataset) -> Iterator[Dataset]:
    for item in ds.get("ContentSequence", []):
        yield item
        yield from all_items(item)


def groups(report: Dataset) -> list[Dataset]:
    return items(report, "Imaging Measurements", "Measurement Group")


def save(ds: Dataset, path: Path) -> Path:
    ds.save_as(path, enforce_file_format=True)
    return path


def name_of(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning)


def evidence(report: Dataset) -> set[str]:
    return {
        str(reference.ReferencedSOPInstanceUID)
        for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in report.get(keyword, [])
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }


def test_the_report_is_read_back_by_others(found: Findings, tmp_path: Path) -> None:
    seg = build_seg(found, CONTEXT)
    path = save(build_sr(found, CONTEXT, seg), tmp_path / "sr.dcm")
    assert dciodvfy_errors(path) == []
    assert dsrdump_errors(path) == []
    numbers = [
        (item["quantity"]["CodeMeaning"], item["value"])
        for group in dcmqi_measurements(path, tmp_path)
        for item in group["measurementItems"]
    ]
    assert [value for name, value in numbers if name == "Volume"] == [volume_of(s) for s in found.segments]  # once each
    assert [value for name, value in numbers if name == "Probability"] == ["0.83"]
    report = dcmread(path)
    used = {frame.sop_instance_uid for volume in found.inputs for frame in volume.frames}
    assert evidence(report) == used | {str(seg.SOPInstanceUID)}
    for segment, described in zip(found.segments, seg.SegmentSequence, strict=True):
        group, drawn = (
            g for g in groups(report) if segment.tracking_uid == items(g, "Tracking Unique Identifier")[0].UID
        )
        assert described.TrackingUID == segment.tracking_uid
        assert items(group, "Volume")
        assert items(drawn, "Image Region")
        assert not items(drawn, "Volume")
        assert [item.TextValue for item in items(group, "Time Point")] == ["Baseline (time point 1)"]
        assert [i.ConceptCodeSequence[0].CodeMeaning for i in items(group, "Time Point Type")] == ["Baseline"]
    # without a region in every group OHIF 3.13.2 draws none of them, see build_sr
    assert items(groups(report)[-1], "Image Region")
    assert [item.ConceptCodeSequence[0].CodeMeaning for item in items(groups(report)[-1], "Finding")] == ["Benign"]


def test_images_of_an_earlier_study_are_evidence_of_theirs(found: Findings, tmp_path: Path) -> None:
    """Two volumes of one of its series, both of them used."""
    source, earlier = found.inputs
    halves = [
        replace(
            earlier,
            array=earlier.array[half],
            geometry=replace(earlier.geometry, shape=earlier.array[half].shape),
            frames=earlier.frames[half],
        )
        for half in (slice(0, 6), slice(6, 12))
    ]
    used = replace(found, inputs=(source, *halves))
    seg = build_seg(used, CONTEXT)
    path = save(build_sr(used, CONTEXT, seg), tmp_path / "sr.dcm")
    assert dciodvfy_errors(path) == []
    report = dcmread(path)
    assert report.StudyInstanceUID == source.study_instance_uid != earlier.study_instance_uid
    (current,), (other,) = report.CurrentRequestedProcedureEvidenceSequence, report.PertinentOtherEvidenceSequence
    assert (current.StudyInstanceUID, other.StudyInstanceUID) == (source.study_instance_uid, earlier.study_instance_uid)
    assert {s.SeriesInstanceUID for s in current.ReferencedSeriesSequence} == {
        source.series_instance_uid,
        seg.SeriesInstanceUID,
    }
    (series,) = other.ReferencedSeriesSequence
    referenced = [str(one.ReferencedSOPInstanceUID) for one in series.ReferencedSOPSequence]
    assert (str(series.SeriesInstanceUID), referenced) == (
        earlier.series_instance_uid,
        [frame.sop_instance_uid for frame in earlier.frames],
    )
    library = items(report, "Image Library", "Image Library Group")
    assert [sum(item.ValueType == "IMAGE" for item in group.ContentSequence) for group in library] == [12, 6, 6]


def volume_of(segment: Segment) -> str:
    assert segment.measurements[0].value is not None
    return f"{segment.measurements[0].value:.6g}"


def test_a_missing_value_says_why(found: Findings, tmp_path: Path) -> None:
    report = dcmread(save(build_sr(found, CONTEXT, None), tmp_path / "sr.dcm"))
    missing = [item for group in groups(report) for item in items(group, "Apparent Diffusion Coefficient")]
    assert [item.NumericValueQualifierCodeSequence[0].CodeValue for item in missing] == [NOT_ATTEMPTED.value] * 2
    assert all(len(item.MeasuredValueSequence) == 0 for item in missing)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(report_tree(report))
    assert "Apparent Diffusion Coefficient: missing (Measurement not attempted)" in captured.get()


def test_the_image_library_tells_how_the_images_were_acquired(found: Findings) -> None:
    report = build_sr(found, CONTEXT, None)
    source, earlier = items(report, "Image Library", "Image Library Group")
    numbers = {
        name_of(item): float(item.MeasuredValueSequence[0].NumericValue)
        for item in source.ContentSequence
        if item.ValueType == "NUM"
    }
    assert (numbers["Pixel Data Rows"], numbers["Pixel Data Columns"]) == (50, 46)
    assert (numbers["Vertical Pixel Spacing"], numbers["Horizontal Pixel Spacing"]) == (1.5, 1.25)
    assert (numbers["Slice Thickness"], numbers["Spacing between slices"]) == (4, 4)
    header = read_object(found.source.frames[0].blob)
    orientation = [numbers[f"Image Orientation (Patient) {axis}"] for axis in (
        "Row X", "Row Y", "Row Z", "Column X", "Column Y", "Column Z"
    )]  # fmt: skip
    assert np.allclose(orientation, np.array(header.ImageOrientationPatient, float), atol=1e-6)
    assert str(items(source, "Study Date")[0].Date).strip('"') == "20261101"
    assert found.source.frame_of_reference_uid == items(source, "Frame of Reference UID")[0].UID
    assert len([item for item in earlier.ContentSequence if item.ValueType == "IMAGE"]) == len(found.inputs[1].frames)


def test_regions_hold_every_part_of_every_slice(found: Findings, tmp_path: Path) -> None:
    """Without a SEG the outlines alone are the segment: their areas add up to its voxels, islands too."""
    mask = found.segments[0].mask.copy()
    mask[:2] = False
    mask[0, 1:3, 1:4] = mask[0, 40:42, 30:31] = True  # two islands far from the rest
    drawn = replace(found, segments=(replace(found.segments[0], mask=mask), found.segments[1]))
    report = build_sr(drawn, CONTEXT, None)
    assert SegmentationStorage not in {
        r.ReferencedSOPClassUID for i in all_items(report) for r in i.get("ReferencedSOPSequence", [])
    }
    for group, segment in zip(groups(report), drawn.segments, strict=False):
        areas: dict[str, float] = {}
        regions = items(group, "Image Region")
        for region in regions:
            x, y = np.array(region.GraphicData, float).reshape(-1, 2).T
            uid = region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            areas[uid] = areas.get(uid, 0) + abs(float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))) / 2
        by_slice = [areas.get(frame.sop_instance_uid, 0) for frame in drawn.source.frames]
        assert by_slice == segment.mask.sum(axis=(1, 2)).tolist()
        first = regions[0].ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        assert max(areas, key=lambda uid: areas[uid]) == first  # the one that viewers draw
        assert [f"{i.MeasuredValueSequence[0].NumericValue:.6g}" for i in items(group, "Volume")] == [
            volume_of(segment)
        ]
    for sop_class in (report.SOPClassUID, ComprehensiveSRStorage, EnhancedSRStorage):
        one = as_sop_class(report, sop_class, generate_uid(), generate_uid())
        path = save(one, tmp_path / f"{sop_class}.dcm")
        assert dciodvfy_errors(path) == []
        assert dsrdump_errors(path) == []
        assert dcmread(path).SOPClassUID == sop_class
        assert [name_of(i) for i in all_items(dcmread(path))] == [name_of(i) for i in all_items(report)]


def test_regions_of_a_speckled_segment_are_bounded(found: Findings) -> None:
    mask = np.zeros(found.source.array.shape, bool)
    mask[2:5, ::2, ::2] = True
    report = build_sr(replace(found, segments=(replace(found.segments[0], mask=mask),)), CONTEXT, None)
    assert len(items(groups(report)[0], "Image Region")) == MOST_REGIONS
    left_out = int(mask.sum()) - MOST_REGIONS
    assert any(f"its {left_out} smallest parts are not outlined" in i.TextValue for i in items(report, "Comment"))


@pytest.mark.parametrize(
    "wrong",
    [
        Measurement(VOLUME, 1.0, MM),  # no validator notices
        Measurement(LONG_AXIS, 1.0, CM3),
        Measurement(PROBABILITY, 0.5, MM),
        Measurement(ADC, None, MM, MEAN, NOT_ATTEMPTED),
        Measurement(LONG_AXIS, float("nan"), MM),
    ],
)
def test_a_number_that_cannot_be_is_refused(found: Findings, wrong: Measurement) -> None:
    segment = replace(found.segments[0], measurements=(wrong,))
    with pytest.raises(ValueError, match=r"cannot be in|not a finite number"):
        build_sr(replace(found, segments=(segment,)), CONTEXT, None)


def test_nothing_found_is_a_page_of_text(found: Findings, tmp_path: Path) -> None:
    """Viewers draw a report titled Imaging Measurement Report, and show a blank page where it holds no outline."""
    report = build_sr(replace(found, segments=()), CONTEXT, None)
    assert name_of(report) == "AI result without findings"
    path = save(report, tmp_path / "nothing.dcm")
    assert dciodvfy_errors(path) == []
    assert dsrdump_errors(path) == []


def test_a_revision_names_what_it_replaces(found: Findings) -> None:
    earlier = ResultReference(ComprehensiveSRStorage, "2.25.77", "2.25.7")
    report = build_sr(found, ObjectContext("NODE", "seed", edition=2, predecessors=(earlier,)), None)
    (series,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    assert (series.SeriesInstanceUID, series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) == ("2.25.7", "2.25.77")
    assert [i.TextValue for i in items(report, "Superseded result")] == ["Result r2 replaces the report 2.25.77"]


@pytest.mark.slow
@pytest.mark.parametrize("segments", [0, 1, 2])
@pytest.mark.parametrize("refers_to_seg", [True, False])
def test_pixelmed_finds_the_template_kept(found: Findings, tmp_path: Path, segments: int, refers_to_seg: bool) -> None:
    some = replace(found, segments=found.segments[:segments])
    report = build_sr(some, CONTEXT, build_seg(some, CONTEXT) if refers_to_seg and segments else None)
    assert pixelmed_report_errors(save(report, tmp_path / "sr.dcm"), "TID_1500") == []


@pytest.mark.slow
def test_pixelmed_finds_the_template_kept_without_results_of_the_patient(found: Findings, tmp_path: Path) -> None:
    alone = replace(found, segments=found.segments[:1], measurements=(), evaluations=())
    report = build_sr(alone, CONTEXT, build_seg(alone, CONTEXT))
    assert pixelmed_report_errors(save(report, tmp_path / "sr.dcm"), "TID_1500") == []
