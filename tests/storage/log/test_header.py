import struct
import time
import tracemalloc
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from random import Random

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)
from pynetdicom.dsutils import split_dataset

from storage.log.headers.dataset_reader import DatasetReader
from storage.log.headers.encodings import BIG_ENDIAN, DEFLATED, GE_PRIVATE_IMPLICIT, IMPLICIT, value_of
from storage.log.headers.header import HEADER_ELEMENTS, InstanceHeader, UnreadableDataset
from storage.log.headers.instance_reader import InstanceReader, scan_header
from storage.log.headers.patient_header import OTHER_PATIENT_IDS_SEQUENCE, raw_values
from storage.log.headers.wanted import Wanted

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


CUT = struct.pack("<HH2sH", 0x0010, 0x0010, b"PN", 6)  # a name with a wrong length


@pytest.mark.parametrize("dataset", [b"", b"\xff" * 100, encode()[:50], b"SECRET^PERSON" * 40, CUT + b"SECRETPERSON"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_damaged_bytes_are_unreadable_and_not_quoted(dataset: bytes, syntax: str) -> None:
    with pytest.raises(UnreadableDataset) as caught:
        scan_header(dataset, syntax)
    assert "SECRET" not in str(caught.value)
    assert "4550" not in str(caught.value)  # PE of PERSON, as a tag is written


def test_a_deflated_bomb_is_cut_off() -> None:
    bomb = zlib.compress(b"\0" * 2**26, 9, wbits=-15)
    with pytest.raises(UnreadableDataset):
        scan_header(bomb, DeflatedExplicitVRLittleEndian)


# -- the reader and pydicom give the same answer -----------------------------------------------------------------------


def by_hand(dataset: bytes, syntax: str, parts: int = 0) -> dict[int, bytes]:
    """The values of all elements that the node wants of a header, read at once or in parts of so many bytes."""
    reader = DatasetReader(Wanted.of(frozenset(HEADER_ELEMENTS), {}), syntax in IMPLICIT, syntax not in BIG_ENDIAN)
    for start in range(0, len(dataset), parts or len(dataset)):
        reader.update(memoryview(dataset)[start : start + (parts or len(dataset))])
    reader.update(b"", final=True)
    found = {tag: value_of(element, reader.implicit) for tag, element in reader.elements.items()}
    return {tag: value for tag, value in found.items() if value and tag != OTHER_PATIENT_IDS_SEQUENCE}


def with_pydicom(dataset: bytes, syntax: str) -> dict[int, bytes]:
    ds = read_dataset(
        BytesIO(dataset),
        syntax in IMPLICIT,
        syntax not in BIG_ENDIAN,
        stop_when=lambda tag, vr, length: tag > 0x7FE00000,
    )
    found = {tag: value for tag, value in raw_values(ds).items() if tag in HEADER_ELEMENTS}
    found.pop(OTHER_PATIENT_IDS_SEQUENCE, None)
    return found


def test_the_reader_agrees_with_pydicom_on_real_files(test_data: Path) -> None:
    compared = 0
    paths = sorted(p for folder in ("mr", "malformed", "conformance") for p in (test_data / folder).rglob("*"))
    for path in paths[::4]:
        try:
            meta, offset = split_dataset(path)
            syntax = str(meta.TransferSyntaxUID)
            dataset = path.read_bytes()[offset:]
            expected = with_pydicom(dataset, syntax)
        except Exception:  # a folder, no DICOM file, or one that is broken on purpose
            continue
        if syntax not in DEFLATED:
            assert by_hand(dataset, syntax) == expected, path
            compared += 1
    assert compared > 250


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
def test_the_reader_agrees_with_pydicom_on_generated_datasets(syntax: str) -> None:
    """Also if the bytes come in small parts, which end anywhere."""
    random = Random(1)
    for _ in range(300):
        dataset = generated(random, implicit=syntax == ImplicitVRLittleEndian)
        expected = with_pydicom(dataset, syntax)
        assert by_hand(dataset, syntax) == expected
        assert by_hand(dataset, syntax, random.randrange(1, 200)) == expected


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_damage_never_gives_another_answer_or_another_exception(syntax: str) -> None:
    """Damaged bytes are not always read as pydicom reads them; but that does not depend on how they arrive."""
    random = Random(2)
    for _ in range(800):
        dataset = bytearray(generated(random, implicit=syntax == ImplicitVRLittleEndian))
        for _ in range(random.randrange(1, 5)):
            dataset[random.randrange(len(dataset))] = random.randrange(256)
        cut = bytes(dataset[: random.randrange(1, len(dataset))])
        with suppress(UnreadableDataset):
            scan_header(cut, syntax)
        assert by_hand(cut, syntax) == by_hand(cut, syntax, random.randrange(20, 500))


def test_odd_elements_are_read_up_to_a_limit() -> None:
    odd = [struct.pack("<HH2sH", 0x0009, 0x1000 + number, b"??", 0) for number in range(20_000)]
    assert scan_header(b"".join(odd[:5_000]) + encode(), ExplicitVRLittleEndian) == HEADER
    with pytest.raises(UnreadableDataset, match=r"before element \(0009,3710\)"):
        scan_header(b"".join(odd) + encode(), ExplicitVRLittleEndian)


def test_the_time_is_bounded_by_the_length() -> None:
    """Each of these once cost, or could cost, more than one step for each element."""
    small = struct.pack("<HH2sH", 0x0009, 0x1010, b"LO", 0)
    sequence = struct.pack("<HH2sHL", 0x0009, 0x1010, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    odd = struct.pack("<HH2sH", 0x0009, 0x1010, b"??", 0)
    for piece in (small, sequence, sequence + item, item, odd, odd + small, small[:7]):
        dataset = (piece * (2 * 2**20 // len(piece)))[: 2 * 2**20]
        start = time.process_time()
        for parts in (0, 2**16):
            by_hand(dataset, ExplicitVRLittleEndian, parts)
        assert time.process_time() - start < 5, piece


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
        (0x00201002, b"9" * 5000, None),  # Python refuses to convert so many digits
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


def test_of_a_uid_that_comes_again_the_last_one_counts_unless_it_is_empty_or_out_of_place() -> None:
    whole = encode()
    at = whole.index(b"\x7f\xe0"[::-1] + b"\x10\x00")
    empty, other = (struct.pack("<HH2sH", 0x0020, 0x000D, b"UI", len(v)) + v for v in (b"", b"1.2.99"))
    private = struct.pack("<HH2sH", 0x2005, 0x0010, b"LO", 25 + 1) + b"Philips MR Imaging DD 001 "
    for dataset, study in (
        (whole[:at] + other + whole[at:], "1.2.99"),
        (whole[:at] + empty + whole[at:], HEADER.study_instance_uid),
        (whole[:at] + private + other + whole[at:], HEADER.study_instance_uid),
        (whole + other, HEADER.study_instance_uid),
        (whole + empty, HEADER.study_instance_uid),
    ):
        assert scan_header(dataset, ExplicitVRLittleEndian).study_instance_uid == study


def test_the_memory_does_not_grow_with_the_instance() -> None:
    sequence = struct.pack("<HHL", 0x0040, 0x0275, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    private = [struct.pack("<HHL", 0x0029, at << 8 | 0x10, 2**16) + bytes(2**16) for at in range(0x10, 0x100)]
    creators = [
        struct.pack("<HHL", group, at, 2**13) + bytes(2**13) for group in (0x0019, 0x2005) for at in range(0x10, 0x100)
    ]
    for pieces in ([sequence * 2**12] * 128, private, creators):
        reader = InstanceReader(ImplicitVRLittleEndian)
        tracemalloc.start()
        for piece in pieces:
            reader.update(memoryview(piece))
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert used < 3 * 2**20
