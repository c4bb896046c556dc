"""Metas and kept headers as a receiver writes them, with the bytes of the instance still in memory."""

import hashlib
import zlib
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)
from pynetdicom.sop_class import MRImageStorage

from dicom_node.dimse.messages import LARGE_BYTES
from storage.log.headers.kept_header import decode_kept_header, is_enough
from storage.log.patient_key import PATIENT_KEY, PatientKey
from storage.log.segments.frames import Frame, FrameKind
from storage.log.segments.names import list_segments
from storage.log.segments.reader import SegmentReader
from storage.records.patients import NOBODY, PatientIdentity
from tests.receive.conftest import Receive
from tests.receive.kept import KeptJournal
from tests.receive.raw import RawPeer, association_request
from tests.receive.test_streaming import send
from tests.storage.log.test_header import HEADER
from tests.storage.log.test_kept_header import encoded, image

UID = HEADER.sop_instance_uid
SYNTAXES = [
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, JPEGLSLossless,
]  # fmt: skip
SECRETS = (b"SECRET", b"PERSON", b"19600103")
BY = PatientIdentity("SECRET1", "SECRETS", "19600103", "F", others=(("SECRET3", ""),))
PICTURE = {False: b"\1\2" * 400, True: bytes(range(256)) * (LARGE_BYTES // 256 + 4096)}


def request() -> Dataset:
    ds = Dataset()
    ds.AccessionNumber, ds.RequestedProcedureDescription = "A-17", "Thigh"
    return ds


def sent(syntax: str, pixels: bytes) -> tuple[bytes, bytes]:
    """A dataset, and the value of its pixel data as it is encoded there."""
    ds = image()
    ds.RequestAttributesSequence = Sequence([request()])
    ds.OtherPatientIDs = "SECRET3"
    if syntax == JPEGLSLossless:
        pixels = encapsulate([pixels])
        ds.PixelData, ds["PixelData"].is_undefined_length = pixels, True
        ds["PixelData"].VR = "OB"
        pixels += b"\xfe\xff\xdd\xe0\0\0\0\0"  # pydicom writes it behind the value
    else:
        ds["PixelData"].VR = "OB"  # whose bytes have one order in all encodings
        ds.PixelData = pixels
    return encoded(ds, syntax), pixels


def outside_of_bodies(folder: Path) -> tuple[bytes, list[Frame]]:
    """All bytes of the segments but those of bodies, and the frames of instances."""
    rest, instances = b"", []
    for path in list_segments(folder):
        content = bytearray(path.read_bytes())
        with SegmentReader(path) as reader:
            for frame in reader.frames(0):
                content[frame.body_offset : frame.end] = bytes(frame.head.body_bytes)
                if frame.kind in (FrameKind.INSTANCE, FrameKind.LARGE_INSTANCE):
                    instances.append(frame)
        rest += bytes(content)
    return rest, instances


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("large", [False, True], ids=["in a segment", "beside it"])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_an_instance_is_read_once_and_names_nobody_outside_of_its_body(
    receive: Receive, journal: KeptJournal, syntax: str, large: bool
) -> None:
    dataset, pixels = sent(syntax, PICTURE[large])
    if large and syntax == DeflatedExplicitVRLittleEndian:  # to stay large, although it repeats itself
        dataset = zlib.compress(zlib.decompress(dataset, -15), 0, wbits=-15)
    receiver, target = receive()
    with RawPeer(target, association_request([(MRImageStorage, [syntax])])) as peer:
        assert send(peer, UID, dataset) == 0x0000
    receiver.stop(grace=1)
    (kept,) = journal.kept
    assert (kept.dataset, kept.large) == (dataset, large)

    content = zlib.decompress(dataset, -15) if syntax == DeflatedExplicitVRLittleEndian else dataset
    assert content.count(pixels) == 1
    assert kept.instance.hashes is not None
    assert kept.instance.hashes.pixels == sha256(pixels)
    assert kept.instance.hashes.rest == sha256(content.replace(pixels, b""))

    assert kept.instance.subject == PatientKey(journal.folder.parent / PATIENT_KEY).subject(BY)
    assert kept.instance.patient == NOBODY
    log, (frame,) = outside_of_bodies(journal.folder)
    assert not [secret for secret in SECRETS if secret in log or secret.decode() in str(frame.meta)]

    ds = decode_kept_header(frame.kept)
    assert is_enough(frame.kept)
    assert (ds.SeriesDescription, ds.Rows) == ("Oberschenkel quer, Übersicht", 20)
    assert ds.RequestAttributesSequence[0].RequestedProcedureDescription == "Thigh"
    assert ds.private_block(0x0019, "SIEMENS MR HEADER")[0x0C].value == 800


@pytest.mark.parametrize("large", [False, True], ids=["in a segment", "beside it"])
@pytest.mark.parametrize("damage", ["a folder", "a part of it", "nothing in it"])
def test_without_the_key_nothing_is_acknowledged(
    receive: Receive, journal: KeptJournal, caplog: pytest.LogCaptureFixture, damage: str, large: bool
) -> None:
    key = journal.folder.parent / PATIENT_KEY
    if damage == "a folder":
        key.mkdir()
    else:
        key.write_bytes(b"half a key"[: 10 * (damage == "a part of it")])
    dataset, _ = sent(ExplicitVRLittleEndian, PICTURE[large])
    receiver, target = receive()
    with RawPeer(target) as peer:
        assert send(peer, UID, dataset) == 0xA700
        assert f"The key {PATIENT_KEY}" in caplog.text
        assert not journal.kept
        if damage == "a folder":
            key.rmdir()
        else:
            key.unlink()
        assert send(peer, UID, dataset) == 0x0000
    receiver.stop(grace=1)
    (kept,) = journal.kept
    assert kept.instance.subject is not None
    assert not list(journal.folder.glob("*.large")) or large
    log, _ = outside_of_bodies(journal.folder)
    assert not [secret for secret in SECRETS if secret in log]
