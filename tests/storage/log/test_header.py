import struct
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from random import Random

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)
from pynetdicom.dsutils import split_dataset

from storage.log.headers.header import (
    GE_PRIVATE_IMPLICIT,
    InstanceHeader,
    UnreadableDataset,
    scan_by_hand,
    scan_header,
    scan_with_pydicom,
)

UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
HEADER = InstanceHeader("1.2.840.10008.5.1.4.1.1.4", "1.2.3.4", "1.2.3", "1.2.3.5", "MR")


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


# -- the quick reader and pydicom give the same answer -----------------------------------------------------------------


def both(dataset: bytes, syntax: str) -> tuple[dict[int, bytes] | None, dict[int, bytes] | None]:
    try:
        return scan_by_hand(dataset, syntax), scan_with_pydicom(dataset, syntax)
    except UnreadableDataset:
        return scan_by_hand(dataset, syntax), None


def test_both_readers_agree_on_real_files(test_data: Path) -> None:
    compared, declined = 0, []
    for path in sorted(p for folder in ("mr", "malformed", "conformance") for p in (test_data / folder).rglob("*")):
        try:
            meta, offset = split_dataset(path)
            syntax = str(meta.TransferSyntaxUID)
        except Exception:  # a folder, no DICOM file, or one that is broken on purpose
            continue
        by_hand, with_pydicom = both(path.read_bytes()[offset:], syntax)
        if by_hand is None:
            declined.append(path.name)
            continue
        assert by_hand == with_pydicom, path
        compared += 1
    assert compared > 500
    assert len(declined) < 10, declined


@pytest.mark.parametrize("folder", ["mr", "malformed", "conformance"])
def test_headers_are_what_dcmread_reads(test_data: Path, folder: str) -> None:
    compared = 0
    for path in sorted((test_data / folder).rglob("*")):
        try:
            meta, offset = split_dataset(path)
            syntax = str(meta.TransferSyntaxUID)
            ds = dcmread(path, stop_before_pixels=True)
            uids = [str(ds[keyword].value) for keyword in UIDS]
        except Exception:  # a folder, no DICOM file, or one that is broken on purpose
            continue
        if not all(uids):
            continue
        header = scan_header(path.read_bytes()[offset:], syntax)
        assert [
            header.sop_class_uid,
            header.sop_instance_uid,
            header.study_instance_uid,
            header.series_instance_uid,
        ] == uids, path
        assert header.modality == str(ds.get("Modality") or "")
        facts = header.facts
        for number, keyword in (
            (facts.instance_number, "InstanceNumber"),
            (facts.acquisition_number, "AcquisitionNumber"),
            (facts.images_in_acquisition, "ImagesInAcquisition"),
            (facts.frames, "NumberOfFrames"),
            (facts.temporal_position, "TemporalPositionIdentifier"),
            (facts.temporal_positions, "NumberOfTemporalPositions"),
            (facts.position, "ImagePositionPatient"),
            (facts.orientation, "ImageOrientationPatient"),
            (facts.spacing, "SpacingBetweenSlices"),
        ):
            value = ds.get(keyword)
            if value is None or isinstance(value, str):  # empty, or no number
                assert number is None, (path, keyword)
            elif isinstance(number, tuple):
                assert number == tuple(float(v) for v in value), (path, keyword)
            else:
                assert number == value, (path, keyword)
        compared += 1
    assert compared > 30


def nested(random: Random, depth: int) -> Sequence:
    items = []
    for _ in range(random.randrange(3)):
        item = Dataset()
        item.is_undefined_length_sequence_item = random.random() < 0.5
        item.ReferencedSOPInstanceUID = "1.2.3"
        item.add_new(0x00091010, "OB", bytes(random.randrange(0, 40, 2)))
        if depth:
            item.PurposeOfReferenceCodeSequence = nested(random, depth - 1)
            item["PurposeOfReferenceCodeSequence"].is_undefined_length = random.random() < 0.5
        items.append(item)
    return Sequence(items)


def generated(random: Random, implicit: bool) -> bytes:
    """A dataset with some of what is wanted, some of it odd, and sequences of either length before and behind."""
    ds = Dataset()
    for keyword, value in (
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.4"),
        ("SOPInstanceUID", "1.2.3.4"),
        ("StudyInstanceUID", "1.2.3"),
        ("SeriesInstanceUID", "1.2.3.5"),
        ("Modality", "MR"),
        ("ReferencedImageSequence", nested(random, 3)),
        ("SourceImageSequence", nested(random, 2)),
        ("RequestAttributesSequence", nested(random, 1)),
        ("PatientName", "SECRET^PERSON"),
        ("EchoNumbers", random.choice([1, 7, [1, 2]])),
        ("SpacingBetweenSlices", random.choice(["3.3", "-1", "1e-3"])),
        ("AcquisitionNumber", random.randrange(100)),
        ("InstanceNumber", random.choice(["", 0, 12, -3])),
        ("ImagePositionPatient", ["1", "-2.5", "1e2"]),
        ("ImageOrientationPatient", ["1", "0", "0", "0", "1", "0"]),
        ("TemporalPositionIdentifier", 3),
        ("NumberOfTemporalPositions", 5),
        ("ImagesInAcquisition", 60),
        ("NumberOfFrames", 4),
        ("RequestedProcedurePriority", random.choice(["STAT", "ROUTINE"])),
        ("ReasonForTheRequestedProcedure", "SECRET"),
    ):
        if random.random() < 0.7:
            setattr(ds, keyword, value)
            if isinstance(value, Sequence):
                ds[keyword].is_undefined_length = random.random() < 0.5
    ds.add_new(0x00291010, "OB", bytes(random.randrange(0, 3000, 2)))
    ds.add_new(0x7FE00010, "OW", b"\1\2" * 50)
    buffer = BytesIO()
    dcmwrite(buffer, ds, implicit_vr=implicit, little_endian=True)
    return buffer.getvalue()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_both_readers_agree_on_generated_datasets(syntax: str) -> None:
    random = Random(1)
    for _ in range(300):
        dataset = generated(random, implicit=syntax == ImplicitVRLittleEndian)
        by_hand, with_pydicom = both(dataset, syntax)
        assert by_hand is not None
        assert by_hand == with_pydicom


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_damage_never_gives_another_answer_or_another_exception(syntax: str) -> None:
    """What the quick reader does read is not always what pydicom reads of damaged bytes; that it ends, and how, is."""
    random = Random(2)
    for _ in range(2000):
        dataset = bytearray(generated(random, implicit=syntax == ImplicitVRLittleEndian))
        for _ in range(random.randrange(1, 5)):
            dataset[random.randrange(len(dataset))] = random.randrange(256)
        with suppress(UnreadableDataset):
            scan_header(bytes(dataset[: random.randrange(len(dataset))]), syntax)


@pytest.mark.parametrize(
    ("element", "text", "expected"),
    [
        (0x00201002, b"abc ", None),
        (0x00201002, b"60", 60),
        (0x00201002, b"1_0 ", None),
        (0x00201002, b"99999999999999", None),
        (0x00201002, b"12.0", 12),
        (0x00201002, b"12.5", None),
        (0x00201002, b"-3", -3),
        (0x00201002, b"1e400 ", None),
        (0x00180086, b"2\\3 ", 2),
    ],
)
def test_what_is_no_number_is_none_and_no_reason_to_refuse(element: int, text: bytes, expected: int | None) -> None:
    dataset = encode()
    at = dataset.index(b"\x7f\xe0"[::-1] + b"\x10\x00")
    added = struct.pack("<HH2sH", element >> 16, element & 0xFFFF, b"IS", len(text)) + text
    facts = scan_header(dataset[:at] + added + dataset[at:], ExplicitVRLittleEndian).facts
    assert {facts.images_in_acquisition, facts.echo_number} - {None} == ({expected} - {None})


def test_positions_must_be_finite_and_complete() -> None:
    for value, expected in ((b"1\\2\\3 ", (1.0, 2.0, 3.0)), (b"1\\2 ", None), (b"nan\\1\\1 ", None)):
        added = struct.pack("<HH2sH", 0x0020, 0x0032, b"DS", len(value)) + value
        dataset = encode()
        at = dataset.index(b"\x7f\xe0"[::-1] + b"\x10\x00")
        assert scan_header(dataset[:at] + added + dataset[at:], ExplicitVRLittleEndian).facts.position == expected


def test_the_beginning_of_a_dataset_is_enough() -> None:
    whole = encode()
    at = whole.index(b"\x7f\xe0"[::-1] + b"\x10\x00")
    assert scan_header(whole[: at + 20], ExplicitVRLittleEndian) == HEADER
