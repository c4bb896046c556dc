"""Datasets that violate the standard, or hold more than others: stored as they came if their UIDs are known."""

import struct
import zlib
from io import BytesIO
from random import Random

import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.sop_class import MRImageStorage

from dicom_node.dimse.messages import LARGE_BYTES
from tests.receive.conftest import Receive
from tests.receive.kept import KeptJournal
from tests.receive.raw import RawPeer, association_request
from tests.receive.test_streaming import send
from tests.storage.log.test_header import HEADER

LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"ZZ")
ITEM, ITEM_END, SEQUENCE_END = (struct.pack("<HH", 0xFFFE, e) for e in (0xE000, 0xE00D, 0xE0DD))
OPEN = b"\xff" * 4
NOTHING = bytes(4)
NOISE = Random(1).randbytes(9 * 2**20)


def element(tag: int, vr: bytes, value: bytes = b"", length: bytes | None = None) -> bytes:
    """An element in explicit VR little endian; `length` is of four bytes, for long VRs."""
    value += b"\0" * (len(value) % 2)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in LONG:
        return head + b"\0\0" + (length or struct.pack("<L", len(value))) + value
    return head + struct.pack("<H", len(value)) + value


def bare(tag: int, value: bytes) -> bytes:
    """An element in implicit VR little endian."""
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


UIDS = {
    0x00080016: HEADER.sop_class_uid,
    0x00080018: HEADER.sop_instance_uid,
    0x0020000D: HEADER.study_instance_uid,
    0x0020000E: HEADER.series_instance_uid,
}
ENCODED = {tag: element(tag, b"UI", uid.encode()) for tag, uid in UIDS.items()}
CLASS, INSTANCE, STUDY, SERIES = ENCODED.values()
SOP = CLASS + INSTANCE + element(0x00080060, b"CS", b"MR")
OTHER = element(0x00080005, b"CS", b"ISO_IR 100")
END = STUDY + SERIES + element(0x00200013, b"IS", b"7") + element(0x7FE00010, b"OW", b"\1\2" * 50)
REFERENCE = element(0x00081155, b"UI", b"1.2.9")
ELSEWHERE = element(0x0020000D, b"UI", b"1.2.99")
REQUEST = element(0x00400275, b"SQ", length=OPEN)
SEQUENCE = element(0x00081140, b"SQ", length=OPEN)
NESTED = element(0x00081140, b"SQ", ITEM + struct.pack("<L", len(REFERENCE)) + REFERENCE)
SEQUENCE_DELIMITER, ITEM_DELIMITER = SEQUENCE_END + NOTHING, ITEM_END + NOTHING


def deflated(dataset: bytes) -> bytes:
    return zlib.compress(dataset, 1, wbits=-15)


DATASETS = {
    "9 MiB before the UIDs": SOP + element(0x00091010, b"OB", NOISE) + END,
    "9 MiB in an open sequence before the UIDs": (
        SOP + SEQUENCE + ITEM + OPEN + element(0x00091010, b"UN", NOISE) + ITEM_DELIMITER + SEQUENCE_DELIMITER + END
    ),
    "all UIDs behind 9 MiB": OTHER + element(0x00080014, b"UT", NOISE) + SOP + END,
    "UIDs behind the pixels": (
        OTHER + element(0x7FE00010, b"OW", NOISE[:500]) + STUDY + SERIES + SOP + element(0x00200013, b"IS", b"7")
    ),
    "UIDs behind large pixels": OTHER + element(0x7FE00010, b"OW", NOISE) + SOP + END[: len(STUDY + SERIES) + 10],
    "UIDs behind encapsulated pixels": (
        OTHER + element(0x7FE00010, b"OB", length=OPEN) + ITEM + NOTHING
        + ITEM + struct.pack("<L", len(NOISE)) + NOISE + SEQUENCE_DELIMITER + SOP + STUDY + SERIES
        + element(0x00200013, b"IS", b"7")
    ),
    "elements in reverse order": b"".join(reversed([OTHER, CLASS, INSTANCE, NESTED, STUDY, SERIES, END])),
    "a VR of question marks": SOP + element(0x00091010, b"??", b"abcdef") + END,
    "a VR of zeros": SOP + element(0x00091010, b"\0\0", b"abcdef") + END,
    "a VR of the future": SOP + element(0x00091010, b"ZZ", b"abcdef") + END,
    "a future VR with a short length": SOP + element(0x00091010, b"XY", b"abcdef") + END,
    "two odd VRs": SOP + element(0x00091010, b"??", b"abcdef") + element(0x00091011, b"??", b"gh") + END,
    "a UID of an odd VR": SOP + STUDY.replace(b"UI", b"??") + SERIES.replace(b"UI", b"--"),
    "an odd VR behind 9 MiB": SOP + element(0x00091010, b"OB", NOISE) + element(0x00091011, b"??", b"ab") + END,
    "reserved bytes in use": SOP + element(0x00091010, b"OB", b"abcdef").replace(b"OB\0\0", b"OB\1\2") + END,
    "an element without VR": SOP + bare(0x00091010, b"abcdef") + END,
    "implicit VR in an item": (
        SOP + SEQUENCE + ITEM + OPEN + bare(0x00081150, b"1.2.8") + bare(0x00081155, b"1.2.9") + ITEM_DELIMITER
        + SEQUENCE_DELIMITER + END
    ),
    "an unknown sequence": (
        SOP + element(0x00091010, b"UN", length=OPEN) + ITEM + OPEN + bare(0x00081155, b"1.2.9") + ITEM_DELIMITER
        + SEQUENCE_DELIMITER + END
    ),
    "the end of a sequence for that of its item": (
        SOP + SEQUENCE + ITEM + OPEN + REFERENCE + SEQUENCE_DELIMITER + SEQUENCE_DELIMITER + END
    ),
    "no end of an item": SOP + SEQUENCE + ITEM + OPEN + REFERENCE + SEQUENCE_DELIMITER + END,
    "no end of a first item": (
        SOP + SEQUENCE + (ITEM + OPEN + REFERENCE) * 2 + ITEM_DELIMITER + SEQUENCE_DELIMITER + END
    ),
    "no end of a sequence": SOP + SEQUENCE + ITEM + OPEN + REFERENCE + ITEM_DELIMITER + END,
    "an item of known length with an end": (
        SOP + SEQUENCE + NESTED[12:] + ITEM_DELIMITER + NESTED[12:] + ITEM_DELIMITER + SEQUENCE_DELIMITER + END
    ),
    "a sequence of known length with an end": SOP + NESTED + SEQUENCE_DELIMITER + END,
    "the same inside an item, before the UID of another study": (
        SOP + END + REQUEST + ITEM + OPEN + NESTED + SEQUENCE_DELIMITER + ELSEWHERE + ITEM_DELIMITER
        + SEQUENCE_DELIMITER
    ),
    "two ends of a sequence, before the UID of another study": (
        SOP + END + REQUEST + ITEM + OPEN + SEQUENCE + ITEM + OPEN + REFERENCE + SEQUENCE_DELIMITER * 2 + ELSEWHERE
        + ITEM_DELIMITER + SEQUENCE_DELIMITER
    ),
    "delimiters outside of sequences": ITEM_DELIMITER + SOP + SEQUENCE_DELIMITER + ITEM_DELIMITER * 2 + END,
    "an item outside of sequences": SOP + ITEM + OPEN + REFERENCE + ITEM_DELIMITER + END,
    "noise for a value": SOP + element(0x00081140, b"SQ", NOISE[:333]) + element(0x00080020, b"DA", NOISE[:9]) + END,
    "noise behind the UIDs": SOP + STUDY + SERIES + element(0x00200013, b"IS", b"7") + NOISE[:5000],
    "an element that is cut off": SOP + STUDY + SERIES + element(0x00200013, b"IS", b"7") + element(
        0x00291010, b"OB", b"abc", length=b"\0\0\0\1"
    ),
    "zeros at the end": SOP + END + bytes(20 * 2**20),
    "no VRs at all": b"".join(bare(tag, uid.encode()) for tag, uid in UIDS.items()) + bare(0x00200013, b"7"),
}  # fmt: skip


def answer(receive: Receive, dataset: bytes, syntax: str = ExplicitVRLittleEndian) -> int:
    _, target = receive()
    with RawPeer(target, association_request([(MRImageStorage, [syntax])])) as peer:
        return send(peer, HEADER.sop_instance_uid, dataset)


@pytest.mark.parametrize("name", DATASETS)
def test_what_has_its_uids_is_stored(receive: Receive, journal: KeptJournal, name: str) -> None:
    dataset = DATASETS[name]
    assert answer(receive, dataset) == 0x0000
    (kept,) = journal.kept
    assert kept.dataset == dataset
    assert kept.large is (len(dataset) > LARGE_BYTES)
    instance = kept.instance
    assert (instance.study_instance_uid, instance.series_instance_uid) == (
        HEADER.study_instance_uid,
        HEADER.series_instance_uid,
    )
    assert instance.facts.instance_number == (7 if b"IS" in dataset or name == "no VRs at all" else None)


@pytest.mark.parametrize("noise", [bytes(5 * 2**20), NOISE])
def test_what_is_deflated_is_stored(receive: Receive, journal: KeptJournal, noise: bytes) -> None:
    dataset = deflated(SOP + element(0x00091010, b"OB", noise) + END)
    assert answer(receive, dataset, DeflatedExplicitVRLittleEndian) == 0x0000
    assert journal.kept[0].dataset == dataset
    assert journal.kept[0].instance.facts.instance_number == 7


def test_explicit_vr_in_the_default_syntax_is_stored(receive: Receive, journal: KeptJournal) -> None:
    assert answer(receive, SOP + END, ImplicitVRLittleEndian) == 0x0000
    assert journal.kept[0].instance.facts.instance_number == 7


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        (SOP + SERIES, "The dataset has no Study Instance UID"),
        (SOP + element(0x00091010, b"OB", NOISE) + STUDY, "The dataset has no Series Instance UID"),
        (SOP + b"\x09\0\x10\x10" + b"\xff" * 99 + END, "no Study Instance UID before element (0009,1010)"),
        (SOP + SEQUENCE + ITEM + OPEN + NOISE, "The dataset has no Study Instance UID"),
    ],
)
def test_a_refusal_names_the_uid(
    receive: Receive, journal: KeptJournal, caplog: pytest.LogCaptureFixture, dataset: bytes, reason: str
) -> None:
    assert answer(receive, dataset) == 0xC000
    assert reason in caplog.text
    assert not journal.kept


def test_what_inflates_to_more_than_the_limit_is_refused(
    receive: Receive, journal: KeptJournal, caplog: pytest.LogCaptureFixture
) -> None:
    bomb = deflated(SOP + element(0x00091010, b"OB", bytes(70 * 2**20)) + END)
    assert answer(receive, bomb, DeflatedExplicitVRLittleEndian) == 0xC000
    assert "of the deflated dataset do not have all UIDs" in caplog.text
    assert not journal.kept


def test_some_of_these_cannot_be_read_by_pydicom() -> None:
    """The node's reader is what stores them, not that of pydicom."""
    unreadable = []
    for name, dataset in DATASETS.items():
        if len(dataset) > LARGE_BYTES:
            continue
        try:
            ds = dcmread(BytesIO(dataset), force=True)
            assert str(ds.SeriesInstanceUID) == HEADER.series_instance_uid
        except Exception:
            unreadable.append(name)
    assert len(unreadable) >= 5, unreadable
