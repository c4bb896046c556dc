import zlib
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)
from pynetdicom.dsutils import split_dataset

from storage.header import GE_PRIVATE_IMPLICIT, Header, UnreadableDataset, scan_header

HEADER = Header("1.2.840.10008.5.1.4.1.1.4", "1.2.3.4", "1.2.3", "1.2.3.5", "MR")


def encode(implicit: bool = False, little: bool = True, **changes: str | None) -> bytes:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = HEADER.sop_class_uid, HEADER.sop_instance_uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = HEADER.study_instance_uid, HEADER.series_instance_uid
    ds.Modality = HEADER.modality
    ds.PatientName = "SECRET^PERSON"
    ds.add_new(0x00091010, "OB", b"\0" * 300)
    ds.add_new(0x7FE00010, "OW", b"\1\2" * 500)
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    buffer = BytesIO()
    dcmwrite(buffer, ds, implicit_vr=implicit, little_endian=little)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("syntax", "dataset"),
    [
        (ExplicitVRLittleEndian, encode()),
        (ImplicitVRLittleEndian, encode(implicit=True)),
        (ExplicitVRBigEndian, encode(little=False)),
        (DeflatedExplicitVRLittleEndian, zlib.compress(encode(), wbits=-15)),
        (JPEGLSLossless, encode()),
        (GE_PRIVATE_IMPLICIT, encode(implicit=True)),
        ("1.2.3.4.5.6", encode()),  # private: explicit VR little endian, as all encapsulated ones are
    ],
)
def test_every_encoding_gives_the_same_header(syntax: str, dataset: bytes) -> None:
    assert scan_header(dataset, syntax) == HEADER


def test_padding_is_not_part_of_a_uid() -> None:
    assert scan_header(encode(SOPInstanceUID="1.2.3.4 "), ExplicitVRLittleEndian).sop_instance_uid == "1.2.3.4"


def test_modality_may_be_missing() -> None:
    assert scan_header(encode(Modality=None), ExplicitVRLittleEndian).modality == ""


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_a_missing_uid_is_named(keyword: str) -> None:
    with pytest.raises(UnreadableDataset, match=r"has no .* UID"):
        scan_header(encode(**{keyword: None}), ExplicitVRLittleEndian)


@pytest.mark.parametrize("dataset", [b"", b"\xff" * 100, encode()[:50], b"SECRET^PERSON" * 40])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_damaged_bytes_are_unreadable_and_not_quoted(dataset: bytes, syntax: str) -> None:
    with pytest.raises(UnreadableDataset) as caught:
        scan_header(dataset, syntax)
    assert "SECRET" not in str(caught.value)


def test_a_deflated_bomb_is_cut_off() -> None:
    bomb = zlib.compress(b"\0" * 2**26, 9, wbits=-15)
    with pytest.raises(UnreadableDataset):
        scan_header(bomb, DeflatedExplicitVRLittleEndian)


def test_agrees_with_pydicom_on_real_files(test_data: Path) -> None:
    compared = 0
    for path in sorted((test_data / "malformed").rglob("*.dcm")):
        try:
            meta, offset = split_dataset(path)
            ds = dcmread(path, stop_before_pixels=True)
            expected = Header(
                str(ds.SOPClassUID),
                str(ds.SOPInstanceUID),
                str(ds.StudyInstanceUID),
                str(ds.SeriesInstanceUID),
                str(ds.get("Modality", "")),
            )
            syntax = str(meta.TransferSyntaxUID)
        except Exception:  # broken on purpose
            continue
        if all((expected.sop_class_uid, expected.sop_instance_uid, expected.study_instance_uid)):
            assert scan_header(path.read_bytes()[offset:], syntax) == expected, path.name
            compared += 1
    assert compared > 40
