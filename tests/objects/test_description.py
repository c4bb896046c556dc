"""What every object takes from its source: names in any character set, and headers that are not as they should be."""

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.base.description import series_description
from dicom_node.objects.base.source_headers import source_header
from dicom_node.objects.build import build_objects
from dicom_node.objects.no_result import build_no_result
from dicom_node.objects.profiles import ObjectProfile
from inference.contract.findings import NoResult, NotComputed
from inference.volumes.reading import read_volume
from storage.blobs import FileBlob, file_blobs
from storage.errors import WhyNoResult
from storage.records.results import ObjectKind
from tests.objects.sources import findings, write_oblique
from tests.objects.test_no_result import STARTED
from tests.objects.test_sr import save
from tests.validators import dciodvfy_errors

CONTEXT = ObjectContext("NODE", "seed")
FAILED = NoResult((NotComputed("Test mass", WhyNoResult.FAILURE, "Broken."),), STARTED)


def _name(path: Path) -> bytes:
    """The bytes of PatientName as they are stored."""
    value: bytes = dcmread(path, specific_tags=["PatientName"]).get_item("PatientName").value
    return value.rstrip(b" =")


def test_names_keep_their_character_set(test_data: Path, tmp_path: Path) -> None:
    """Arabic, Chinese, French, German, Greek, Hebrew, Japanese in three component groups, Korean and Russian names."""
    sources = sorted((test_data / "malformed" / "charsets_pydicom").glob("chr[!S]*.dcm"))
    assert len(sources) == 15
    for source in sources:
        path = save(build_no_result(FAILED, file_blobs([source]), CONTEXT), tmp_path / source.name)
        ours, theirs = dcmread(path), dcmread(source)
        assert ours.SpecificCharacterSet == theirs.SpecificCharacterSet, source.name
        assert str(ours.PatientName) == str(theirs.PatientName), source.name
        if source.name != "chrKoreanMulti.dcm":  # its second component lacks the escape sequence
            assert _name(path) == _name(source), source.name
        assert dciodvfy_errors(path) == [], source.name


@pytest.mark.parametrize(
    ("declared", "stored", "charset", "read"),
    [
        (b"ISO_IR 192", b"M\xfcller^\xc4nne", "ISO_IR 192", "M\ufffdller^\ufffdnne"),  # Latin 1, not UTF-8
        (b"ISO_IR 6  ", b"M\xfcller^\xc4nne", "ISO_IR 192", "Müller^Änne"),  # Latin 1, not ASCII
        (b"ISO_IR 13 ", b"\x83\x5c\x83\x6a\x81\x5b^Taro", "ISO_IR 192", "ソニー^Taro"),  # Shift JIS: a backslash in it
        (b"ISO_IR 999", b"M\xfcller^\xc4nne", "ISO_IR 192", "Müller^Änne"),  # no such character set
        (b"ISO_IR 999", b"Muller^Anne", None, "Muller^Anne"),  # nor is one needed
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_name_that_breaks_its_character_set(
    tmp_path: Path, declared: bytes, stored: bytes, charset: str | None, read: str
) -> None:
    folder = write_oblique(tmp_path / "mr", "Placehol^der", "ISO_IR 100")
    for path in folder.iterdir():
        data = path.read_bytes().replace(b"Placehol^der", stored.ljust(12))
        path.write_bytes(data.replace(b"ISO_IR 100", declared))
    for ds in _valid_objects(folder, tmp_path):
        assert ds.get("SpecificCharacterSet") == charset
        assert ds.PatientName == read


@pytest.mark.parametrize(
    "change",
    [
        {"StudyID": None, "FrameOfReferenceUID": None},
        {"PatientName": None, "PatientID": None, "ReferringPhysicianName": None, "SpecificCharacterSet": None},
        {"PatientSex": "X", "StudyID": "longer than sixteen", "StudyDescription": "long " * 14},
        {"PlacerOrderNumberImagingServiceRequest": "9" * 70},
        {"PatientBirthDate": "19701301", "StudyTime": "999999", "ProcedureCodeSequence": []},
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_header_that_is_not_as_it_should_be(tmp_path: Path, change: dict[str, object]) -> None:
    folder = write_oblique(tmp_path / "mr", "A^B", "ISO_IR 100")
    for path in folder.iterdir():
        ds = dcmread(path)
        ds.PatientWeight = "70.00000"
        for keyword, value in change.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
        ds.save_as(path)
        path.write_bytes(path.read_bytes().replace(b"70.00000", b"heavy   "))  # no number, though its VR says so
    for ds in _valid_objects(folder, tmp_path):
        assert "PatientWeight" not in ds
        assert ds.StudyID in ("", "1")  # an identifier is never cut
    assert "PlacerOrderNumberImagingServiceRequest" not in source_header(FileBlob(next(folder.iterdir())))


def _valid_objects(folder: Path, out: Path) -> list[Dataset]:
    """Every object that may be sent of a series, and a report of no AI result, proven valid and read back."""
    found = findings(read_volume(file_blobs(sorted(folder.iterdir()))))
    everything = ObjectProfile(objects=frozenset({ObjectKind.SEG, ObjectKind.SR, ObjectKind.KO}))
    results = [built.dataset for built in build_objects(found, CONTEXT, everything)]
    results.append(build_no_result(FAILED, file_blobs(sorted(folder.iterdir())), CONTEXT))
    paths = [save(ds, out / f"{number}.dcm") for number, ds in enumerate(results)]
    assert [dciodvfy_errors(path) for path in paths] == [[]] * len(paths)
    return [dcmread(path) for path in paths]


def test_a_long_title_leaves_notice_and_kind_whole() -> None:
    title = "A title that is longer than any list of series shows"
    result = NoResult((NotComputed(title, WhyNoResult.FAILURE, ""),), STARTED)
    described = series_description(result, CONTEXT, "No AI result")
    assert described == "A title that No AI result, RESEARCH - not for diagnosis"
    assert len(described) <= 64
