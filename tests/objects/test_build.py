"""SEG and SR of a synthetic oblique series: same UIDs on repetition, masks and names read back."""

import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    KeyObjectSelectionDocumentStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    ParametricMapStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

from dicom_node.demo.overlay import masks_of
from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.build import NO_STRUCTURES, BuiltObject, build_objects
from dicom_node.objects.drawing.outline import outline
from dicom_node.objects.profiles import ObjectProfile, SegmentationForm
from dicom_node.objects.registry import WRITTEN_SOP_CLASSES
from inference.contract.findings import Code, ParametricMap
from inference.volumes.reading import read_volume
from storage.blobs import file_blobs
from storage.records.results import ObjectKind
from tests.objects.sources import findings, read, write_oblique

ADC = Code("113041", "DCM", "Apparent Diffusion Coefficient")
UM2_PER_S = Code("um2/s", "UCUM", "square micrometer per second")


def primary(objects: list[BuiltObject]) -> list[Dataset]:
    """Without those that stand for others."""
    return [built.dataset for built in objects if not built.stands_for]


def test_outline_is_exact_on_pixel_edges() -> None:
    mask = np.zeros((5, 6), bool)
    mask[1:3, 2:5] = True
    assert outline(mask).tolist() == [[2, 1], [5, 1], [5, 3], [2, 3], [2, 1]]


@pytest.mark.parametrize(
    ("name", "charset"),
    [
        ("Müller^Änne", "ISO_IR 100"),
        ("Müller^Änne", "ISO 2022 IR 100"),
        ("Yamada^Tarou=山田^太郎", ["", "ISO 2022 IR 87"]),
        ("김^희중", "ISO_IR 192"),
    ],
)
def test_masks_and_names_read_back(tmp_path: Path, name: str, charset: str | list[str]) -> None:
    found = findings(read(write_oblique(tmp_path, name, charset)))
    context = ObjectContext("NODE", "seed")
    seg, sr = primary(build_objects(found, context))
    assert str(seg.PatientName) == str(sr.PatientName) == name
    again = primary(build_objects(found, context))
    assert [ds.SOPInstanceUID for ds in again] == [seg.SOPInstanceUID, sr.SOPInstanceUID]
    masks = np.zeros((len(found.segments), *found.source.array.shape), bool)
    slices = {frame.sop_instance_uid: k for k, frame in enumerate(found.source.frames)}
    for frame, pixels in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        k = slices[frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        masks[number - 1, k] = pixels
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        assert np.allclose(position, found.source.geometry.to_lps(np.array([[k, 0, 0]], float))[0], atol=1e-3)
    for mask, segment in zip(masks, found.segments, strict=True):
        assert np.array_equal(mask, segment.mask)
        assert not np.array_equal(mask[:, :, ::-1], segment.mask)


def test_enhanced_frames_are_named_as_they_are_stored(test_data: Path) -> None:
    """Frame 1 of this object is the last slice, and several segments lie on the same frames."""
    folder = test_data / "mr" / "siemens_xa30_study" / "5_anat-T1w_acq-tfl"
    found = findings(read_volume(file_blobs(folder.iterdir())))
    assert found.source.frames[0].frame_number == found.source.array.shape[0]
    seg, _ = primary(build_objects(found, ObjectContext("NODE", "seed")))
    masks = masks_of(seg, found.source)
    for number, segment in enumerate(found.segments, start=1):
        assert np.array_equal(masks[number], segment.mask)


@pytest.mark.parametrize("frame_of_reference_uid", ["", "2.25.1"])
def test_a_structure_set_that_cannot_be_made_is_told(tmp_path: Path, frame_of_reference_uid: str) -> None:
    volume = replace(read(write_oblique(tmp_path, "A^B", "ISO_IR 100")), frame_of_reference_uid=frame_of_reference_uid)
    profile = ObjectProfile(objects=frozenset({ObjectKind.RTSTRUCT, ObjectKind.SR}))
    built = {one.kind: one.dataset for one in build_objects(findings(volume), ObjectContext("NODE", "seed"), profile)}
    texts = [item.get("TextValue") for item in built[ObjectKind.SR].ContentSequence]
    assert (ObjectKind.RTSTRUCT in built, NO_STRUCTURES in texts) == (
        bool(frame_of_reference_uid),
        not frame_of_reference_uid,
    )


def test_who_wants_structures_alone_gets_the_report_where_there_are_none(tmp_path: Path) -> None:
    volume = replace(read(write_oblique(tmp_path, "A^B", "ISO_IR 100")), frame_of_reference_uid="")
    profile = ObjectProfile(objects=frozenset({ObjectKind.RTSTRUCT}))
    sent = [
        one for one in build_objects(findings(volume), ObjectContext("NODE", "seed"), profile) if not one.stands_for
    ]
    assert [one.kind for one in sent] == [ObjectKind.SR]
    assert NO_STRUCTURES in [item.get("TextValue") for item in sent[0].dataset.ContentSequence]


def test_a_label_map_has_a_binary_stand_in(tmp_path: Path) -> None:
    profile = ObjectProfile(segmentation=SegmentationForm.LABELMAP)
    found = findings(read(write_oblique(tmp_path, "A^B", "ISO_IR 100")))
    built = {one.kind: one for one in build_objects(found, ObjectContext("NODE", "seed"), profile)}
    label_map, binary = built[ObjectKind.SEG].dataset, built[ObjectKind.SEG_BINARY]
    assert (label_map.SegmentationType, binary.dataset.SegmentationType) == ("LABELMAP", "BINARY")
    assert binary.stands_for == (ObjectKind.SEG,)
    assert binary.dataset.SOPInstanceUID != label_map.SOPInstanceUID
    masks = masks_of(binary.dataset, found.source)
    assert all(np.array_equal(masks[number], segment.mask) for number, segment in enumerate(found.segments, 1))
    assert ObjectKind.SEG_BINARY not in {one.kind for one in build_objects(found, ObjectContext("NODE", "seed"))}


def test_nothing_found_is_reported(tmp_path: Path) -> None:
    found = findings(read(write_oblique(tmp_path, "A^B", "ISO_IR 100")), segments=())
    (sr,) = primary(build_objects(found, ObjectContext("NODE", "seed")))
    texts = [i.TextValue for i in sr.ContentSequence if i.ConceptNameCodeSequence[0].CodeMeaning == "Comment"]
    assert texts[0] == "RESEARCH - not for diagnosis"
    assert texts[1].startswith("No finding")


@pytest.fixture
def node_in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("node_in_new_york")
@pytest.mark.parametrize(
    ("source", "written", "date", "hour"),
    [
        ("+1300", "+1300", "20261124", "010000"),  # the result's times in the source's zone, beyond midnight
        ("-0330", "-0330", "20261123", "083000"),
        (None, None, "20261123", "070000"),  # none: the node's local time, as the scanner's is
        ("", None, "20261123", "070000"),
        ("UTC", None, "20261123", "070000"),
    ],
)
def test_one_time_zone_holds_for_all_dates_of_a_result(
    tmp_path: Path, source: str | None, written: str | None, date: str, hour: str
) -> None:
    """PS3.3 C.12.1.1.8: the offset is that of StudyDate and StudyTime, which come from the scanner, too."""
    found = findings(read(write_oblique(tmp_path, "A^B", "ISO_IR 100", source)))
    for ds in primary(build_objects(found, ObjectContext("NODE", "seed"))):
        assert ds.get("TimezoneOffsetFromUTC") == written
        assert (ds.StudyDate, ds.StudyTime) == ("20261101", "101010")
        for keyword in ("Content", "Series", "InstanceCreation"):
            assert (ds[f"{keyword}Date"].value, ds[f"{keyword}Time"].value) == (date, hour)


def test_the_equipment_names_the_installed_version(tmp_path: Path) -> None:
    found = findings(read(write_oblique(tmp_path, "A^B", "ISO_IR 100")))
    for ds in primary(build_objects(found, ObjectContext("NODE", "seed"))):
        assert version("dicom-node") in ds.ContributingEquipmentSequence[-1].SoftwareVersions


def test_beside_every_object_stand_those_that_may_replace_it(tmp_path: Path) -> None:
    found = findings(read(write_oblique(tmp_path, "A^B", "ISO_IR 100")))
    adc = ParametricMap("ADC", ADC, UM2_PER_S, found.source.array.astype(np.float32), (found.source,))
    everything = ObjectProfile(objects=frozenset({ObjectKind.SEG, ObjectKind.PM, ObjectKind.SR, ObjectKind.KO}))
    built = build_objects(replace(found, maps=(adc, adc)), ObjectContext("NODE", "seed"), everything)
    assert [(b.kind, " ".join(b.stands_for), b.dataset.SOPClassUID) for b in built] == [
        ("SEG", "", SegmentationStorage),
        ("PM", "", ParametricMapStorage),
        ("PM", "", ParametricMapStorage),
        ("RTSTRUCT", "SEG", RTStructureSetStorage),
        ("SC", "SEG SR", MultiFrameTrueColorSecondaryCaptureImageStorage),
        ("SR", "", Comprehensive3DSRStorage),
        ("SR-COMPREHENSIVE", "SR", ComprehensiveSRStorage),
        ("SR-ENHANCED", "SR", EnhancedSRStorage),
        ("SR-REGIONS", "SR", Comprehensive3DSRStorage),
        ("SR-REGIONS-COMP", "SR", ComprehensiveSRStorage),
        ("SR-REGIONS-ENH", "SR", EnhancedSRStorage),
        ("KO", "", KeyObjectSelectionDocumentStorage),
        ("KO-IMAGES", "KO", KeyObjectSelectionDocumentStorage),
    ]
    assert {b.dataset.SOPClassUID for b in built} <= WRITTEN_SOP_CLASSES
    own = {b.kind: b.dataset.SOPInstanceUID for b in built}
    named = {b.kind: {own_kind for own_kind, uid in own.items() if uid in str(b.dataset)} for b in built}
    for kind, kinds in named.items():  # each names itself, and beside that what `choose` takes it to refer to
        reports = (
            {ObjectKind.SEG} if kind in (ObjectKind.SR, ObjectKind.SR_COMPREHENSIVE, ObjectKind.SR_ENHANCED) else set()
        )
        assert kinds == {kind} | ({ObjectKind.SEG, ObjectKind.SR} if kind is ObjectKind.KO else reports)


def test_no_two_objects_share_a_uid(tmp_path: Path) -> None:
    found = findings(read(write_oblique(tmp_path, "A^B", "ISO_IR 100")))
    profiles = [
        ObjectProfile(objects=objects)
        for objects in (
            frozenset({ObjectKind.SEG, ObjectKind.PM, ObjectKind.SR}),
            frozenset({ObjectKind.SR}),
            frozenset({ObjectKind.SR, ObjectKind.SC}),
        )
    ]
    uids = [
        built.dataset.SOPInstanceUID
        for profile in profiles
        for built in build_objects(found, ObjectContext("NODE", "seed"), profile)
    ]
    assert len(uids) == len(set(uids)) == 9 + 4 + 4
