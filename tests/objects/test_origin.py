"""The origin that results state: images, derivation, body part, side, order, place among other results, and time."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as SRCode

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.objects.base.anatomy import code_item
from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.base.dates import CLOCKS_DIFFER
from dicom_node.objects.build import build_objects
from dicom_node.objects.no_result import build_no_result
from dicom_node.objects.pm import build_pm
from dicom_node.objects.profiles import ObjectProfile
from dicom_node.objects.sc import _legend, _number
from dicom_node.work.applications import WarmApplications
from inference.contract.concepts import DIFFUSION_ANALYSIS
from inference.contract.findings import Code, Measurement, ParametricMap
from inference.headers.reading import read_object
from inference.volumes.volume import Volume
from storage.records.results import ObjectKind
from tests.objects.sources import findings, read, write_oblique
from tests.objects.test_description import FAILED
from tests.objects.test_pm import ADC, MODEL, UM2_S
from tests.objects.test_sc import disc, segment
from tests.objects.test_sr import groups, items, save
from tests.validators import dciodvfy_errors

CONTEXT = ObjectContext("NODE", "seed")
EVERYTHING = ObjectProfile(
    objects=frozenset({ObjectKind.SEG, ObjectKind.PM, ObjectKind.RTSTRUCT, ObjectKind.SC, ObjectKind.SR, ObjectKind.KO})
)
IMAGES = ("Image Library", "Image Library Group")


def written(folder: Path, change: Callable[[Dataset], None] = lambda ds: None) -> Volume:
    for path in write_oblique(folder, "A^B", "ISO_IR 100").iterdir():
        ds = dcmread(path)
        change(ds)
        ds.save_as(path, enforce_file_format=True)
    return read(folder)


def ordered(ds: Dataset) -> None:
    """A thigh on the right, ordered by a physician."""
    request = Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepID = "RP-1", "SPS-1"
    request.RequestedProcedureDescription, request.StudyInstanceUID = "MR thigh", ds.StudyInstanceUID
    request.RequestedProcedureCodeSequence = [code_item(codes.DCM.MultiparametricMRI)]
    request.PatientComments = "no attribute of a request"
    ds.RequestAttributesSequence = [request]
    ds.BodyPartExamined, ds.Laterality = "THIGH", "R"
    ds.InstitutionName, ds.ReferringPhysicianName = "Hospital", "Ref^Phys"


def objects(found: Volume, context: ObjectContext = CONTEXT) -> dict[ObjectKind, Dataset]:
    one = ParametricMap("ADC", ADC, UM2_S, found.array, (found,), DIFFUSION_ANALYSIS, MODEL)
    built = build_objects(replace(findings(found), maps=(one,)), context, EVERYTHING)
    return {b.kind: b.dataset for b in built if not b.stands_for}


def test_a_map_names_the_images_it_was_computed_from_and_how(tmp_path: Path) -> None:
    """Each slice lies between two of the diffusion series, which alone says what it shows."""
    source = written(tmp_path / "t1w")
    header = read_object(source.frames[0].blob)
    step = source.geometry.affine[:3, 0]

    def between(ds: Dataset) -> None:
        ds.StudyInstanceUID, ds.FrameOfReferenceUID = header.StudyInstanceUID, header.FrameOfReferenceUID
        ds.ImagePositionPatient = [
            round(float(p - s / 2), 6) for p, s in zip(ds.ImagePositionPatient, step, strict=True)
        ]
        ds.BodyPartExamined, ds.Laterality = "THIGH", "L"

    diffusion = written(tmp_path / "dwi", between)
    one = ParametricMap("ADC", ADC, UM2_S, source.array, (diffusion,), DIFFUSION_ANALYSIS, MODEL)
    found = replace(findings(source), inputs=(source, diffusion), maps=(one,))
    ds = dcmread(save(build_pm(found, one, CONTEXT), tmp_path / "pm.dcm"))
    assert dciodvfy_errors(tmp_path / "pm.dcm") == []
    for k, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        (derivation,) = frame.DerivationImageSequence
        named = [image.ReferencedSOPInstanceUID for image in derivation.SourceImageSequence]
        assert named == [one.sop_instance_uid for one in diffusion.frames[k : k + 2]]
        assert [code.CodeValue for code in derivation.DerivationCodeSequence] == ["129105"]  # diffusion image analysis
    grid, series = ds.ReferencedSeriesSequence  # viewers draw the map over the first
    assert grid.SeriesInstanceUID == source.series_instance_uid
    assert series.SeriesInstanceUID == diffusion.series_instance_uid
    assert len(series.ReferencedInstanceSequence) == len(diffusion.frames)
    (anatomy,) = ds.SharedFunctionalGroupsSequence[0].FrameAnatomySequence
    assert (anatomy.AnatomicRegionSequence[0].CodeMeaning, anatomy.FrameLaterality) == ("Thigh", "L")
    assert ds.BodyPartExamined == "THIGH"
    assert ds.FrameOfReferenceUID == source.frame_of_reference_uid
    scanners = replace(one, derivation=None, method=None)  # a map of the scanner's own
    other = build_pm(replace(found, maps=(scanners,)), scanners, CONTEXT)
    derived = other.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
    assert derived.DerivationCodeSequence[0].CodeMeaning == "Spatial resampling"


def test_body_part_side_order_and_institution_are_in_every_object(tmp_path: Path) -> None:
    volume = written(tmp_path / "images", ordered)
    made = objects(volume)
    made[ObjectKind.REJECTION] = build_no_result(FAILED, [volume.frames[0].blob], CONTEXT)
    for kind, ds in made.items():
        assert dciodvfy_errors(save(ds, tmp_path / f"{kind}.dcm")) == [], kind
        assert (ds.InstitutionName, str(ds.ReferringPhysicianName)) == ("Hospital", "Ref^Phys")
        documents = ds.Modality in ("SR", "KO")
        (order,) = ds.ReferencedRequestSequence if documents else ds.RequestAttributesSequence
        assert (order.RequestedProcedureID, order.RequestedProcedureDescription) == ("RP-1", "MR thigh")
        assert order.get("AccessionNumber") == ("A1" if documents else None)
        assert "PatientComments" not in order
        if ds.Modality not in ("SR", "KO", "RTSTRUCT"):
            assert ds.BodyPartExamined == "THIGH"
    assert made[ObjectKind.SC].Laterality == "R"
    (region,) = made[ObjectKind.SEG].SegmentSequence[0].AnatomicRegionSequence
    assert (region.CodeMeaning, region.AnatomicRegionModifierSequence[0].CodeMeaning) == ("Thigh", "Right")
    report = made[ObjectKind.SR]
    site = items(groups(report)[0], "Finding Site")[0]
    assert site.ConceptCodeSequence[0].CodeMeaning == "Thigh"
    assert items(site, "Laterality")[0].ConceptCodeSequence[0].CodeMeaning == "Right"
    for ds in (report, made[ObjectKind.REJECTION]):
        assert [i.ConceptCodeSequence[0].CodeValue for i in items(ds, "Procedure reported")] == ["126020"]
        assert [code.CodeValue for code in ds.PerformedProcedureCodeSequence] == ["126020"]


@pytest.mark.parametrize(
    ("value", "keyword"),
    [("0123456789123456", "CodeValue"), ("01234567891234567", "LongCodeValue"), ("urn:oid:1.2", "URNCodeValue")],
)
def test_a_code_is_written_where_its_value_belongs(value: str, keyword: str) -> None:
    item = code_item(SRCode(value, "99TEST", "meaning"))
    assert item.get(keyword) == value
    assert sum(name in item for name in ("CodeValue", "LongCodeValue", "URNCodeValue")) == 1


@pytest.mark.parametrize(
    ("parts", "region", "procedure"),
    [
        (("THIGH", "THIGH"), "Thigh", "MRI of Thigh"),
        (("upper-leg", None), "Thigh", "MRI of Thigh"),
        (("EXTREMITY", "KNEE"), "Knee", "MRI of Knee"),  # one is a part of the other
        (("LEG", "KNEE"), "Knee", "MRI of Knee"),
        (("BRAIN", "BRAIN"), "Brain", "MRI of Brain"),
        (("LEG", "HAND"), None, "MRI unspecified body region"),
        (("THIGH", "KNEE"), None, "MRI unspecified body region"),
        ((None, None), None, "MRI unspecified body region"),
        (("OBERSCHENKEL", None), None, "MRI unspecified body region"),
    ],
)
def test_body_parts_that_contradict_one_another_are_not_told(
    tmp_path: Path, parts: tuple[str | None, ...], region: str | None, procedure: str
) -> None:
    def named(ds: Dataset) -> None:
        part = parts[int(ds.InstanceNumber) % 2]
        if part is not None:
            ds.BodyPartExamined = part

    made = objects(written(tmp_path / "images", named))
    report = made[ObjectKind.SR]
    assert [i.ConceptCodeSequence[0].CodeMeaning for i in items(report, "Procedure reported")] == [procedure]
    sites = [i.ConceptCodeSequence[0].CodeMeaning for i in items(groups(report)[0], "Finding Site")]
    assert sites == ([region] if region else [])
    targets = [i.ConceptCodeSequence[0].CodeMeaning for i in items(report, *IMAGES, "Target Region")]
    assert targets == ([region] if region in ("Thigh", "Knee") else [])  # CID 4031 has no brain
    anatomy = made[ObjectKind.PM].SharedFunctionalGroupsSequence[0].FrameAnatomySequence[0]
    assert (anatomy.AnatomicRegionSequence[0].CodeMeaning == region) == bool(region)


def test_sides_that_contradict_one_another_are_not_told_but_the_jobs_side_is(tmp_path: Path) -> None:
    def both(ds: Dataset) -> None:
        ds.BodyPartExamined, ds.ImageLaterality = "THIGH", "LR"[int(ds.InstanceNumber) % 2]

    volume = written(tmp_path / "images", both)
    for side, told in (("", []), ("L", ["Left"])):
        report = objects(volume, ObjectContext("NODE", "seed", side=side))[ObjectKind.SR]
        site = items(groups(report)[0], "Finding Site")[0]
        assert [i.ConceptCodeSequence[0].CodeMeaning for i in items(site, "Laterality")] == told


def test_the_first_words_and_numbers_of_series_tell_results_apart(tmp_path: Path) -> None:
    """Two applications with one title, both sides, and a first and a second result."""
    volume = written(tmp_path / "images")
    applications = WarmApplications(
        [
            ConfiguredApplication("one", (), None),
            ConfiguredApplication("two", (), None, series_label="Other mass", series_number=500),
        ]
    )
    shown: list[tuple[int, str]] = []
    for name in ("one", "two"):
        naming = applications.naming(name)
        for side in ("L", "R"):
            for edition in (1, 2):
                context = ObjectContext(
                    "NODE", "seed", side=side, label=naming.label, first_series=naming.first_series, edition=edition
                )
                shown += [(ds.SeriesNumber, ds.SeriesDescription) for ds in objects(volume, context).values()]
    assert len({number for number, _ in shown}) == len(shown) == 48
    assert len({text[:20] for _, text in shown}) >= 8
    assert {text[:13] for _, text in shown if text.startswith("Other")} == {"Other mass L ", "Other mass R "}
    assert {number // 100 for number, text in shown if text.startswith("Other")} == {5, 6}
    assert all(len(text) <= 64 and text.endswith("RESEARCH - not for diagnosis") for _, text in shown)
    assert all("r2" in text[:20] for number, text in shown if number // 100 in (91, 6))


def test_a_legend_begins_with_the_structure_of_its_image(tmp_path: Path) -> None:
    """The first slice is the key image of the last segment alone, and shows five others, too."""
    volume = written(tmp_path / "images")
    others = []
    for n in range(5):
        mask = disc(volume, 5, (0, 0), 12 + n)
        mask[4] = disc(volume, 4, (0, 0), 3 + n)[4]
        others.append(segment(f"Other {n}", mask))
    own = segment("Own", disc(volume, 4, (15, 10), 8))
    lines = _legend(findings(volume, (*others, own)), 4)
    assert lines[0].text == "Own"
    assert lines[-1].text == "and 2 more on this image"
    assert [line.text for line in _legend(findings(volume, (*others, own)), 5)] == [f"Other {n}" for n in range(5)]


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (1737.4, "um2/s", "1740 x10⁻⁶ mm²/s"), (945123.0, "mm3", "945000 mm³"), (0.0123456, "1", "0.0123"),
        (99.96, "ms", "100 ms"), (0.0, "%", "0 %"),
    ],
)  # fmt: skip
def test_numbers_in_pictures_have_three_digits_and_a_readable_unit(value: float, unit: str, shown: str) -> None:
    name = Code("1", "99TEST", "Name")
    assert _number(Measurement(name, value, Code(unit, "UCUM", unit))) == f"Name {shown}"


@pytest.mark.parametrize(
    ("offset", "zone", "told", "time"),
    [
        ("-0500", "Europe/Berlin", "-0500", "070000"),  # the images know best
        (None, "Europe/Berlin", "+0200", "140000"),  # summer time, as at the time of the study
        (None, "Asia/Kolkata", "+0530", "173000"),
        (None, None, None, None),
    ],
)
def test_times_are_those_of_the_scanners_zone(
    tmp_path: Path, offset: str | None, zone: str | None, told: str | None, time: str | None
) -> None:
    def dated(ds: Dataset) -> None:
        ds.StudyDate = "20260701"
        if offset:
            ds.TimezoneOffsetFromUTC = offset

    volume = written(tmp_path / "images", dated)  # the result is of 23 November, 12:00 UTC
    context = ObjectContext("NODE", "seed", time_zone=ZoneInfo(zone) if zone else None)
    for ds in objects(volume, context).values():
        assert ds.get("TimezoneOffsetFromUTC") == told
        if time is not None:
            assert {ds.SeriesTime, ds.ContentTime, ds.InstanceCreationTime} == {time}
        assert ds.SeriesDate == ds.ContentDate == ds.InstanceCreationDate


def test_a_result_that_is_older_than_its_images_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The scanner is eight hours ahead of a node that does not know its own time zone."""

    def ahead(ds: Dataset) -> None:
        ds.StudyDate = ds.AcquisitionDate = "20261123"
        ds.StudyTime = ds.AcquisitionTime = "195500"

    volume = written(tmp_path / "images", ahead)
    found = replace(findings(volume), started_at=datetime(2026, 11, 23, 12, 0, tzinfo=UTC))
    for zone, warned in ((None, True), (ZoneInfo("Asia/Shanghai"), False)):
        caplog.clear()
        built = build_objects(found, ObjectContext("NODE", "seed", time_zone=zone), EVERYTHING)
        report = next(b.dataset for b in built if b.kind is ObjectKind.SR)
        assert any(i.TextValue == CLOCKS_DIFFER for i in items(report, "Comment")) == warned
        assert any(getattr(r, "action", "") == "clocks_differ" for r in caplog.records) == warned
    assert np.array_equal(found.source.array, volume.array)
