"""What is kept is what was on the wire, in every transfer syntax and of every size; large instances go to disk while
they arrive, and no failure on the way ends the association."""

import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pydicom.uid import UID, AllTransferSyntaxes
from pynetdicom.sop_class import MRImageStorage

from dicom_node.dimse import scu
from dicom_node.dimse.messages import LARGE_BYTES
from dicom_node.dimse.pdu import LARGEST_PDU_BYTES
from dicom_node.dimse.scu import Target
from storage.blobs import FileBlob, file_blobs
from storage.errors import Retriable
from storage.log.files import IMPLEMENTATION_CLASS_UID, FileMeta
from storage.log.headers.encodings import GE_PRIVATE_IMPLICIT, JPIP_HTJ2K_REFERENCED_DEFLATE, JPIP_REFERENCED_DEFLATE
from storage.log.segments.large import LargeFile
from storage.log.segments.names import LARGE_SUFFIX
from storage.records.evidence import AssociationEnd
from tests.instances import MakeFile
from tests.receive.conftest import Receive, disk_full
from tests.receive.kept import KeptJournal
from tests.receive.raw import (
    COMMAND,
    DATASET,
    LAST,
    RELEASE,
    RawPeer,
    association_request,
    data,
    fragment,
    store_command,
)
from tests.receive.test_receiver import wait_until
from tests.storage.log.test_header import HEADER, encode

FRAGMENT_BYTES = 100_000


def send(peer: RawPeer, uid: str, encoded: bytes, fragment_bytes: int = FRAGMENT_BYTES) -> int:
    """One C-STORE; its status."""
    peer.send(data(fragment(COMMAND | LAST, store_command(uid))))
    for start in range(0, len(encoded), fragment_bytes):
        part = encoded[start : start + fragment_bytes]
        peer.send(data(fragment(DATASET | (LAST if start + fragment_bytes >= len(encoded) else 0), part)))
    return peer.status()


SYNTAXES = [*AllTransferSyntaxes, UID(GE_PRIVATE_IMPLICIT), UID("1.2.3.4.5.6.7")]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_datasets_are_kept_as_they_came_in_every_transfer_syntax(
    receive: Receive, journal: KeptJournal, tmp_path: Path, syntax: UID
) -> None:
    implicit, little = syntax in ("1.2.840.10008.1.2", GE_PRIVATE_IMPLICIT), syntax != "1.2.840.10008.1.2.2"
    encoded = encode(implicit, little)
    if syntax in ("1.2.840.10008.1.2.1.99", JPIP_REFERENCED_DEFLATE, JPIP_HTJ2K_REFERENCED_DEFLATE):
        encoded = zlib.compress(encoded, wbits=-15)
    _, target = receive()
    with RawPeer(target, association_request([(MRImageStorage, [syntax])])) as peer:
        assert send(peer, HEADER.sop_instance_uid, encoded) == 0x0000
    (kept,) = journal.kept
    assert kept.dataset == encoded
    assert kept.instance.transfer_syntax_uid == syntax
    meta = kept.file_meta(tmp_path)
    assert meta.TransferSyntaxUID == syntax
    assert meta.MediaStorageSOPInstanceUID == HEADER.sop_instance_uid
    assert meta.MediaStorageSOPClassUID == MRImageStorage
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.SourceApplicationEntityTitle == "MR1"
    assert kept.file == FileMeta(MRImageStorage, syntax, "MR1").header(HEADER.sop_instance_uid) + encoded


# -- large instances ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large() -> bytes:
    return encode() + b"\xfc\xff\xfc\xffOB\0\0" + (20_000_000).to_bytes(4, "little") + bytes(range(256)) * 78125


@pytest.mark.parametrize("fragment_bytes", [16_376, 131_060, LARGEST_PDU_BYTES - 6])
def test_a_large_instance_is_a_file_beside_the_segment(
    receive: Receive, journal: KeptJournal, large: bytes, fragment_bytes: int
) -> None:
    _, target = receive()
    with RawPeer(target) as peer:
        assert send(peer, HEADER.sop_instance_uid, large, fragment_bytes) == 0x0000
    (kept,) = journal.kept
    assert kept.large
    assert kept.dataset == large
    assert (kept.instance.study_instance_uid, kept.instance.modality) == (HEADER.study_instance_uid, "MR")


@pytest.mark.parametrize("size", [LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1])
def test_at_the_threshold_nothing_is_lost(receive: Receive, journal: KeptJournal, large: bytes, size: int) -> None:
    _, target = receive()
    with RawPeer(target) as peer:
        for fragment_bytes in (FRAGMENT_BYTES, 2**20, LARGEST_PDU_BYTES - 6):
            assert send(peer, HEADER.sop_instance_uid, large[:size], fragment_bytes) == 0x0000
    assert [kept.dataset == large[:size] for kept in journal.kept] == [True] * 3


def failing_write(journal: KeptJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: LargeFile, part: bytes) -> None:
        if self.size > 10_000_000:
            raise Retriable("an I/O error")
        real(self, part)

    real = LargeFile.write
    monkeypatch.setattr(LargeFile, "write", write)


def failing_store(journal: KeptJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.before = disk_full


def failing_create(journal: KeptJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "large", disk_full)


def failing_header(journal: KeptJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LargeFile, "write", disk_full)


def watermark(journal: KeptJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.full = True


@pytest.mark.parametrize("fail", [failing_write, failing_store, failing_create, failing_header, watermark])
def test_a_failure_half_way_is_a_status_on_a_living_association(
    receive: Receive,
    journal: KeptJournal,
    large: bytes,
    monkeypatch: pytest.MonkeyPatch,
    fail: Callable[[KeptJournal, pytest.MonkeyPatch], None],
) -> None:
    _, target = receive()
    with RawPeer(target) as peer:
        with monkeypatch.context() as patched:
            fail(journal, patched)
            assert send(peer, HEADER.sop_instance_uid, large) == 0xA700
        journal.before, journal.full = lambda instance: None, False
        assert not list(journal.folder.glob(f"*{LARGE_SUFFIX}"))
        assert send(peer, HEADER.sop_instance_uid, large) == 0x0000
        assert send(peer, HEADER.sop_instance_uid, encode()) == 0x0000
        peer.send(RELEASE)
        assert peer.receive()[0] == 0x06
    assert [kept.large for kept in journal.kept] == [True, False]
    wait_until(lambda: journal.ends == [AssociationEnd.RELEASED])


def test_a_small_instance_below_the_watermark_is_out_of_resources(receive: Receive, journal: KeptJournal) -> None:
    _, target = receive()
    with RawPeer(target) as peer:
        journal.full = True
        assert send(peer, HEADER.sop_instance_uid, encode()) == 0xA700
        journal.full = False
        assert send(peer, HEADER.sop_instance_uid, encode()) == 0x0000
    assert len(journal.kept) == 1


def test_a_large_instance_that_names_another_one_is_refused_at_its_end(
    receive: Receive, journal: KeptJournal, large: bytes
) -> None:
    _, target = receive()
    with RawPeer(target) as peer:
        assert send(peer, "1.2.3.99", large) == 0xA900
        assert send(peer, "1.2.3.99", b"\xff" * len(large)) == 0xC000
        assert send(peer, HEADER.sop_instance_uid, large) == 0x0000
    assert len(journal.kept) == 1
    assert len(list(journal.folder.glob(f"*{LARGE_SUFFIX}"))) == 1


def test_a_sender_that_vanishes_leaves_no_file(receive: Receive, journal: KeptJournal, large: bytes) -> None:
    receiver, target = receive()
    with RawPeer(target) as peer:
        peer.send(data(fragment(COMMAND | LAST, store_command(HEADER.sop_instance_uid))))
        for start in range(0, 15_000_000, FRAGMENT_BYTES):
            peer.send(data(fragment(DATASET, large[start : start + FRAGMENT_BYTES])))
        wait_until(lambda: list(journal.folder.glob(f"*{LARGE_SUFFIX}")))
    wait_until(lambda: not receiver._service.established)
    assert not list(journal.folder.glob(f"*{LARGE_SUFFIX}"))
    assert not journal.kept


# -- memory ------------------------------------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from dicom_node.receive.receiver import Receiver
from dicom_node.receive.policy import ReceivePolicy
from storage.log.journal import Journal
from storage.log.patient_key import PatientKey
journal, key = Journal(Path(sys.argv[1])), PatientKey(Path(sys.argv[1] + ".key"))
receiver = Receiver(ReceivePolicy("NODE", "127.0.0.1", 0), journal, key, "receive-0")
receiver.start()
print(receiver.port, flush=True)
sys.stdin.readline()
receiver.stop(grace=2)
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[Target, psutil.Process]]:
    """A receiver in a process of its own."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "journal")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert child.stdout is not None
        yield Target("NODE", "127.0.0.1", int(child.stdout.readline())), psutil.Process(child.pid)
    finally:
        child.communicate("\n", timeout=20)


def highest(process: psutil.Process) -> int:
    """The most memory the process has had so far, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def test_a_large_instance_takes_little_memory(node: tuple[Target, psutil.Process], make_file: MakeFile) -> None:
    target, process = node
    assert scu.send_files(file_blobs([make_file()]), "MR1", target)[0].ok
    idle = highest(process)
    encoded = encode()
    piece = bytes(1_000_000)
    with RawPeer(target) as peer:
        for _ in range(2):
            peer.send(
                data(fragment(COMMAND | LAST, store_command(HEADER.sop_instance_uid)), fragment(DATASET, encoded))
            )
            for _ in range(105):
                peer.send(data(fragment(DATASET, piece)))
            peer.send(data(fragment(DATASET | LAST, b"")))
            assert peer.status() == 0x0000
    assert highest(process) - idle < 16 * 2**20


def test_idle_associations_take_little_memory(node: tuple[Target, psutil.Process], make_file: MakeFile) -> None:
    """Also those that have delivered something before."""
    target, process = node
    instance = scu.OutgoingInstance.from_blob(FileBlob(make_file(pixels=500_000)))
    encoded = instance.encoded(instance.transfer_syntax_uid)
    with RawPeer(target) as peer:
        assert send(peer, instance.sop_instance_uid, encoded) == 0x0000
    before = process.memory_info().rss
    peers = [RawPeer(target).__enter__() for _ in range(50)]
    for peer in peers:
        assert send(peer, instance.sop_instance_uid, encoded) == 0x0000
    time.sleep(1.5)  # they are quiet after a second
    growth = process.memory_info().rss - before
    for peer in peers:
        peer.socket.close()
    assert growth < 20 * 2**20
