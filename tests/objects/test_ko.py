"""Key object selections: what they name, and nothing else."""

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from dicom_node.objects.base.context import ObjectContext, ResultReference
from dicom_node.objects.build import build_objects
from dicom_node.objects.drawing.outline import key_slice
from dicom_node.objects.ko import build_ko, build_rejection
from inference.volumes.reading import read_volume
from storage.blobs import FileBlob, file_blobs
from tests.objects.sources import findings, read, write_oblique
from tests.objects.test_sr import evidence, save
from tests.validators import dciodvfy_errors, dsrdump_errors, pixelmed_report_errors

CONTEXT = ObjectContext("NODE", "seed")
WITHDRAWN = (
    ResultReference(SegmentationStorage, "2.25.1", "2.25.10"),
    ResultReference(Comprehensive3DSRStorage, "2.25.2", "2.25.20"),
)


def named(ko: Dataset) -> list[tuple[str, int | None]]:
    """The instances that the content names, with the frame where one is meant."""
    references = [item.ReferencedSOPSequence[0] for item in ko.ContentSequence if "ReferencedSOPSequence" in item]
    return [(str(r.ReferencedSOPInstanceUID), r.get("ReferencedFrameNumber")) for r in references]


def test_of_interest_ties_key_images_and_results(tmp_path: Path) -> None:
    found = findings(read(write_oblique(tmp_path / "mr", "Yamada^Tarou=山田^太郎", ["", "ISO 2022 IR 87"])))
    results = [built.dataset for built in build_objects(found, CONTEXT) if not built.stands_for]
    path = save(build_ko(found, CONTEXT, results), tmp_path / "ko.dcm")
    ko = dcmread(path)
    keys = [found.source.frames[key_slice(segment.mask)].sop_instance_uid for segment in found.segments]
    assert named(ko) == [(uid, None) for uid in [*keys, *(str(ds.SOPInstanceUID) for ds in results)]]
    assert evidence(ko) == {uid for uid, _ in named(ko)}
    assert ko.ConceptNameCodeSequence[0].CodeValue == "113000"
    assert ko.SeriesInstanceUID not in {ds.SeriesInstanceUID for ds in results}
    assert ko.StudyInstanceUID == found.source.study_instance_uid
    assert dciodvfy_errors(path) == []
    assert dsrdump_errors(path) == []


def test_the_key_image_of_a_multi_frame_source_is_a_frame(test_data: Path) -> None:
    found = findings(
        read_volume(file_blobs((test_data / "mr" / "siemens_xa30_study" / "5_anat-T1w_acq-tfl").iterdir()))
    )
    ko = build_ko(found, CONTEXT, [])
    frames = [found.source.frames[key_slice(segment.mask)] for segment in found.segments]
    assert named(ko) == [(frame.sop_instance_uid, frame.frame_number) for frame in frames]
    assert evidence(ko) == {frames[0].sop_instance_uid}


def test_a_rejection_names_what_is_withdrawn_alone(tmp_path: Path) -> None:
    """An archive takes away all that the evidence names: the images must not be in it."""
    source = next(iter(sorted(write_oblique(tmp_path / "mr", "Müller^Änne", "ISO_IR 100").iterdir())))
    path = save(build_rejection(FileBlob(source), WITHDRAWN, CONTEXT), tmp_path / "rejection.dcm")
    ko = dcmread(path)
    assert ko.ConceptNameCodeSequence[0].CodeValue == "113001"
    assert named(ko) == [("2.25.1", None), ("2.25.2", None)]
    assert evidence(ko) == {"2.25.1", "2.25.2"}
    assert ko.PatientName == "Müller^Änne"
    assert dciodvfy_errors(path) == []
    assert dsrdump_errors(path) == []
    with pytest.raises(ValueError, match="at least one object"):
        build_rejection(FileBlob(source), (), CONTEXT)


@pytest.mark.slow
def test_pixelmed_finds_the_template_kept(tmp_path: Path) -> None:
    found = findings(read(write_oblique(tmp_path / "mr", "A^B", "ISO_IR 100")))
    selection = build_ko(
        found, CONTEXT, [built.dataset for built in build_objects(found, CONTEXT) if not built.stands_for]
    )
    rejection = build_rejection(found.source.frames[0].blob, WITHDRAWN, CONTEXT)
    for name, ko in (("selection", selection), ("rejection", rejection)):
        assert pixelmed_report_errors(save(ko, tmp_path / f"{name}.dcm"), "TID_2010") == []
