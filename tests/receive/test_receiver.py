"""Through real associations: DCMTK and pynetdicom on one side, a Receiver on the other."""

import hashlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import UID, generate_uid
from pynetdicom import AE
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import split_dataset
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, StorageCommitmentPushModel, Verification

from dicom_node.dimse import acceptor, scu
from dicom_node.dimse.pdu import encode_store_response
from dicom_node.dimse.scu import StorageSCU, Target
from dicom_node.receive.policy import Peer, ReceivePolicy, ServiceName
from dicom_node.receive.receiver import Receiver
from storage.blobs import FileBlob, file_blobs
from storage.log.segments.frames import FrameKind
from storage.log.segments.names import list_segments
from storage.log.segments.reader import SegmentReader
from storage.records.evidence import AssociationEnd
from storage.records.instances import ReceivedInstance
from tests.instances import MakeFile
from tests.receive.conftest import Receive, disk_full, unusable
from tests.receive.kept import KeptJournal
from tests.receive.raw import RELEASE, RawPeer, association_request

STORESCU, DCMSEND, ECHOSCU = "/usr/bin/storescu", "/usr/bin/dcmsend", "/usr/bin/echoscu"
needs_dcmtk = pytest.mark.skipif(not Path(STORESCU).exists(), reason="DCMTK is not installed (Debian: dcmtk)")


def run(*command: object, status: int = 0) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60)
    output = done.stdout + done.stderr
    assert done.returncode == status, output
    return output


def dataset_digest(path: Path) -> str:
    _, offset = split_dataset(path)
    return hashlib.sha256(path.read_bytes()[offset:]).hexdigest()


def wait_until(condition: object, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


# -- what is received is what was sent ---------------------------------------------------------------------------------


@needs_dcmtk
def test_echo(receive: Receive) -> None:
    _, target = receive()
    run(ECHOSCU, "-aec", target.ae_title, target.host, target.port)


@needs_dcmtk
def test_storescu_bytes_arrive_as_sent_and_the_association_is_noted(
    receive: Receive, journal: KeptJournal, make_file: MakeFile
) -> None:
    _, target = receive()
    paths = [make_file() for _ in range(10)]
    run(STORESCU, "-aet", "MR1", "-aec", "NODE", target.host, target.port, *paths)
    assert journal.digests == {dataset_digest(p) for p in paths}
    assert {k.instance.source_ae_title for k in journal.kept} == {"MR1"}
    wait_until(lambda: journal.ends)
    assert journal.ends == [AssociationEnd.RELEASED]
    assert list(journal.opened_associations.values()) == [("MR1", "NODE", "127.0.0.1")]
    assert {k.instance.association for k in journal.kept} == set(journal.opened_associations)


REAL_FILES = [
    "malformed/pydicom/MR_small.dcm",
    "malformed/pydicom/MR_small_implicit.dcm",
    "malformed/pydicom/MR_small_bigendian.dcm",
    "malformed/pydicom/MR_small_jpeg_ls_lossless.dcm",
    "malformed/pydicom/MR_small_jp2klossless.dcm",
    "malformed/pydicom/MR_small_RLE.dcm",
    "malformed/pydicom/image_dfl.dcm",
    "malformed/pydicom/emri_small_jpeg_2k_lossless.dcm",
    "malformed/pydicom/waveform_ecg.dcm",
    "malformed/orthanc/UnknownSopClassUid.dcm",
    "malformed/orthanc/2026-05-06-Deeply-Nested-Sequence.dcm",
]


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_files_arrive_byte_for_byte(receive: Receive, journal: KeptJournal, test_data: Path, name: str) -> None:
    _, target = receive()
    path = test_data / name
    assert scu.send_files(file_blobs([path]), "MR1", target)[0].ok
    (kept,) = journal.kept
    assert kept.digest == dataset_digest(path)
    assert kept.instance.transfer_syntax_uid == str(split_dataset(path)[0].TransferSyntaxUID)


@needs_dcmtk
@pytest.mark.parametrize("name", [n for n in REAL_FILES[:7] if "bigendian" not in n])
def test_dcmsend_delivers_every_transfer_syntax(
    receive: Receive, journal: KeptJournal, test_data: Path, name: str
) -> None:
    """DCMTK encodes padding, lengths and native syntaxes anew, so the pixels are what is compared."""
    _, target = receive()
    ds = dcmread(test_data / name)
    run(DCMSEND, "--decompress-never", "-aec", "NODE", target.host, target.port, test_data / name)
    (kept,) = journal.kept
    if ds.file_meta.TransferSyntaxUID.is_compressed:
        assert kept.instance.transfer_syntax_uid == ds.file_meta.TransferSyntaxUID
    dataset = kept.dataset
    if UID(kept.instance.transfer_syntax_uid).is_deflated:
        dataset = zlib.decompress(dataset, wbits=-15)
    assert ds.PixelData[-1000:].rstrip(b"\0") in dataset


def test_private_classes_and_syntaxes_are_accepted(receive: Receive, journal: KeptJournal, make_file: MakeFile) -> None:
    _, target = receive()
    sop_class, syntax = generate_uid(), generate_uid()
    path = make_file(SOPClassUID=sop_class)
    instance = scu.OutgoingInstance(FileBlob(path), sop_class, *_identity(path), syntax, _offset(path))
    with StorageSCU("MR1", target, [(sop_class, syntax)], 5) as client:
        assert client.store(instance).ok
    received = journal.kept[0].instance
    assert (received.sop_class_uid, received.transfer_syntax_uid) == (sop_class, syntax)


def test_only_verification_and_storage_are_accepted(receive: Receive) -> None:
    _, target = receive()
    ae = AE()
    for uid in (Verification, MRImageStorage, CTImageStorage, StorageCommitmentPushModel):
        ae.add_requested_context(uid)
    assoc = ae.associate(target.host, target.port)
    try:
        assert {c.abstract_syntax for c in assoc.accepted_contexts} == {Verification, MRImageStorage, CTImageStorage}
        assert assoc.send_c_echo().Status == 0x0000
    finally:
        assoc.release()


def test_a_large_instance_arrives_whole(receive: Receive, journal: KeptJournal, make_file: MakeFile) -> None:
    _, target = receive()
    path = make_file(pixels=8 * 2**20)
    (result,) = scu.send_files(file_blobs([path]), "MR1", target)
    assert result.ok
    assert journal.digests == {dataset_digest(path)}


# -- statuses ----------------------------------------------------------------------------------------------------------


def status_of(target: Target, path: Path, **changed: str) -> int:
    """The raw status of one C-STORE whose command may name something else than the dataset."""
    sop_instance, sop_class = _identity(path)[0], str(MRImageStorage)
    instance = scu.OutgoingInstance(
        FileBlob(path),
        changed.get("sop_class", sop_class),
        changed.get("sop_instance", sop_instance),
        EVR,
        _offset(path),
    )
    with StorageSCU("MR1", target, [(instance.sop_class_uid, EVR)], 5) as client:
        return int(client._send(instance, 1, instance.encoded(EVR)).Status)


EVR = "1.2.840.10008.1.2.1"


def _identity(path: Path) -> tuple[str]:
    return (str(dcmread(path, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID", "1.2.3")),)


def _offset(path: Path) -> int:
    return split_dataset(path)[1]


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_dataset_without_uids_is_not_understood(
    receive: Receive, journal: KeptJournal, make_file: MakeFile, keyword: str
) -> None:
    _, target = receive()
    assert status_of(target, make_file(**{keyword: None})) == 0xC000
    assert not journal.kept


def test_garbage_as_dataset_is_not_understood_and_the_association_goes_on(
    receive: Receive, journal: KeptJournal, make_file: MakeFile
) -> None:
    _, target = receive()
    good = scu.OutgoingInstance.from_blob(FileBlob(make_file()))
    with StorageSCU("MR1", target, good.contexts(), 5) as client:
        assert client._send(good, 1, b"\xff" * 5000).Status == 0xC000
        assert client.store(good).ok


def test_a_dataset_that_is_another_instance_is_refused(
    receive: Receive, journal: KeptJournal, make_file: MakeFile
) -> None:
    _, target = receive()
    assert status_of(target, make_file(), sop_instance="1.2.3.4") == 0xA900
    assert status_of(target, make_file(), sop_class=str(CTImageStorage)) == 0xA900
    assert not journal.kept


def test_an_instance_again_is_success_whether_its_bytes_are_the_same_or_not(
    receive: Receive, journal: KeptJournal, make_file: MakeFile
) -> None:
    _, target = receive()
    uid = generate_uid()
    first = make_file(SOPInstanceUID=uid)
    assert status_of(target, first) == 0x0000
    assert status_of(target, first) == 0x0000
    assert status_of(target, make_file(SOPInstanceUID=uid)) == 0x0000  # other study and series
    assert journal.uids == [uid] * 3  # which is the right one is for the indexer to find out


def test_a_full_disk_is_out_of_resources_and_recovers(
    receive: Receive, journal: KeptJournal, make_file: MakeFile
) -> None:
    _, target = receive()
    path = make_file()
    journal.before = disk_full
    assert status_of(target, path) == 0xA700
    journal.before = lambda instance: None
    assert status_of(target, path) == 0x0000


def test_an_unusable_instance_is_refused_for_good(receive: Receive, journal: KeptJournal, make_file: MakeFile) -> None:
    _, target = receive()
    journal.before = unusable
    assert status_of(target, make_file()) == 0xC000


def test_an_unexpected_failure_is_logged_and_answered(
    receive: Receive, journal: KeptJournal, make_file: MakeFile, caplog: pytest.LogCaptureFixture
) -> None:
    _, target = receive()

    def broken(instance: ReceivedInstance) -> None:
        raise RuntimeError("SECRET^PERSON")

    journal.before = broken
    assert status_of(target, make_file()) == 0x0110
    (message,) = [r.message for r in caplog.records if r.levelno >= logging.ERROR]
    assert message.startswith("An instance could not be stored: RuntimeError at dicom_node/receive/storage.py:")
    assert "SECRET" not in caplog.text


def test_success_comes_only_after_the_store_has_returned(
    receive: Receive, journal: KeptJournal, make_file: MakeFile
) -> None:
    _, target = receive()
    stored = threading.Event()
    journal.before = lambda instance: (time.sleep(0.3), stored.set())[0]  # type: ignore[func-returns-value]
    path = make_file()
    answered_early = []
    thread = threading.Thread(target=lambda: (status_of(target, path), answered_early.append(not stored.is_set())))
    thread.start()
    thread.join(10)
    assert answered_early == [False]


@pytest.mark.parametrize("comment", ["", "odd", "SOP Class UID of dataset and request differ"])
def test_a_response_is_what_the_standard_says(comment: str) -> None:
    """pynetdicom's decoder is the judge."""
    pdu = P_DATA_TF()
    pdu.decode(encode_store_response(5, 77, "1.2.840.10008.5.1.4.1.1.4", "1.2.3", 0xA900, comment))
    message = DIMSEMessage()
    assert message.decode_msg(pdu.to_primitive())
    response = message.message_to_primitive()
    assert isinstance(response, C_STORE)
    assert response.is_valid_response
    assert (message.context_id, response.MessageIDBeingRespondedTo, response.Status) == (5, 77, 0xA900)
    assert (response.AffectedSOPClassUID, response.AffectedSOPInstanceUID) == ("1.2.840.10008.5.1.4.1.1.4", "1.2.3")
    assert (response.ErrorComment or "") == comment
    assert message.command_set.CommandGroupLength == len(pdu.presentation_data_value_items[0].data) - 1 - 12


def test_responses_do_not_wait_for_a_delayed_acknowledgement(receive: Receive, make_file: MakeFile) -> None:
    receiver, target = receive()
    instance = scu.OutgoingInstance.from_blob(FileBlob(make_file()))
    with StorageSCU("MR1", target, instance.contexts(), 5):
        (assoc,) = receiver._listener.connections  # type: ignore[union-attr]
        assert assoc.connection._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# -- who may associate -------------------------------------------------------------------------------------------------


def reject_reason(target: Target, calling: str, called: str) -> tuple[int, int, int] | None:
    """pynetdicom's client misses a rejection that comes at once, hence a raw one."""
    with RawPeer(target, b"") as peer:
        peer.send(association_request(calling=calling, called=called))
        kind, content = peer.receive()
        if kind == 0x02:
            peer.send(RELEASE)
            assert peer.receive()[0] == 0x06
            return None
        assert kind == 0x03
        return content[1], content[2], content[3]


def test_strangers_are_rejected_with_the_right_reason(receive: Receive) -> None:
    _, target = receive(peers=(Peer("MR1"), Peer("MR2", "192.0.2.1"), Peer("MR3", "localhost")))
    assert reject_reason(target, "MR1", "NODE") is None
    assert reject_reason(target, "MR3", "NODE") is None
    assert reject_reason(target, "MR2", "NODE") == (0x01, 0x01, 0x03)
    assert reject_reason(target, "MR9", "NODE") == (0x01, 0x01, 0x03)
    assert reject_reason(target, "MR1", "EDON") == (0x01, 0x01, 0x07)


def test_our_own_client_understands_a_rejection_however_quick(receive: Receive) -> None:
    _, target = receive(peers=(Peer("MR1"),))
    for _ in range(20):
        assert "rejects the association" in scu.send_echo("MR9", target).reason


def test_one_association_too_many_is_rejected_for_now(receive: Receive) -> None:
    receiver, target = receive(maximum_associations=2)
    with RawPeer(target), RawPeer(target) as second:
        assert reject_reason(target, "MR1", "NODE") == (0x02, 0x03, 0x02)
        second.send(RELEASE)
        wait_until(lambda: receiver._service.established < 2)
        assert reject_reason(target, "MR1", "NODE") is None


def test_a_peer_has_its_own_limits(receive: Receive) -> None:
    peer = Peer("MR1", maximum_associations=1, maximum_pdu_bytes=8192, services=frozenset({ServiceName.STORE}))
    _, target = receive(peers=(peer, Peer("MR2")))
    proposed = [(MRImageStorage, [EVR]), (Verification, [EVR])]
    with RawPeer(target, association_request(proposed)) as limited:
        primitive = limited.accepted.to_primitive()
        assert [c.result for c in primitive.presentation_context_definition_results_list] == [0x00, 0x03]
        assert primitive.maximum_length_received == 8192
        assert reject_reason(target, "MR1", "NODE") == (0x02, 0x03, 0x02)
        assert reject_reason(target, "MR2", "NODE") is None


# -- peers that misbehave ----------------------------------------------------------------------------------------------


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in caplog.records if r.message.startswith("A connection ended")]


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"GET / HTTP/1.1\r\nHost: node\r\n\r\n", "is not DICOM"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200, "is not DICOM"),
        (b"\x01\x00\xff\xff\xff\xff" + b"\0" * 100, "incomplete or unreadable"),
        (b"\x01\x00\x00\x00\x00\x64" + b"\xff" * 100, "incomplete or unreadable"),
        (b"", "sent nothing"),
    ],
)
def test_a_port_scan_costs_one_line_and_nothing_else(
    receive: Receive,
    journal: KeptJournal,
    make_file: MakeFile,
    caplog: pytest.LogCaptureFixture,
    sent: bytes,
    words: str,
) -> None:
    _, target = receive()
    with socket.create_connection((target.host, target.port)) as connection:
        connection.sendall(sent)
    wait_until(lambda: refusals(caplog))
    time.sleep(0.05)
    assert len(refusals(caplog)) == 1
    assert words in refusals(caplog)[0]
    assert scu.send_files(file_blobs([make_file()]), "MR1", target)[0].ok


def test_half_open_connections_block_nobody_and_are_dropped(receive: Receive, make_file: MakeFile) -> None:
    receiver, target = receive(maximum_associations=2, request_timeout=0.5, network_timeout=1.0)
    silent = [socket.create_connection((target.host, target.port)) for _ in range(3)]
    silent += [socket.create_connection((target.host, target.port)) for _ in range(3)]
    for connection in silent[3:]:
        connection.sendall(b"\x01\x00\x00\x00\x01\x00half a request")
    try:
        assert scu.send_files(file_blobs([make_file()]), "MR1", target)[0].ok
        wait_until(lambda: not receiver._listener.connections, 10)  # type: ignore[union-attr]
    finally:
        for connection in silent:
            connection.close()


def test_connections_are_bounded(receive: Receive, make_file: MakeFile, caplog: pytest.LogCaptureFixture) -> None:
    receiver, target = receive(maximum_associations=1)
    held = [socket.create_connection((target.host, target.port)) for _ in range(10)]
    wait_until(lambda: len([r for r in caplog.records if r.message.startswith("Too many connections")]) == 6)
    wait_until(lambda: len(receiver._listener.connections) == 4)  # type: ignore[union-attr]
    for connection in held:
        connection.close()
    wait_until(lambda: not receiver._listener.connections)  # type: ignore[union-attr]
    assert scu.send_files(file_blobs([make_file()]), "MR1", target)[0].ok


def test_silent_connections_keep_nobody_out(receive: Receive, make_file: MakeFile) -> None:
    """The oldest of them gives way; associations stay."""
    receiver, target = receive(maximum_associations=50)
    instance = scu.OutgoingInstance.from_blob(FileBlob(make_file()))
    with StorageSCU("MR1", target, instance.contexts(), 5) as client:
        silent = [socket.create_connection((target.host, target.port)) for _ in range(500)]
        try:
            for path in (make_file(), make_file()):
                began = time.monotonic()
                assert scu.send_files(file_blobs([path]), "MR2", target)[0].ok
                assert time.monotonic() - began < 2
            assert client.store(instance).ok
            wait_until(lambda: len(receiver._listener.connections) <= 200)  # type: ignore[union-attr]
            assert not receiver._listener._dismissed  # type: ignore[union-attr]
        finally:
            for connection in silent:
                connection.close()
    wait_until(lambda: not receiver._listener.connections)  # type: ignore[union-attr]


def test_a_connection_for_which_there_is_no_thread_is_forgotten(
    receive: Receive, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    receiver, target = receive()

    def refused(assoc: object) -> None:
        raise RuntimeError("can't start new thread")

    assert scu.send_echo("MR1", target).ok
    wait_until(lambda: not receiver._listener.connections)  # type: ignore[union-attr]
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(acceptor._Accepted, "start", refused)
        for _ in range(5):
            with socket.create_connection((target.host, target.port)) as connection:
                connection.settimeout(5)
                assert connection.recv(1) == b""
    assert not receiver._listener.connections  # type: ignore[union-attr]
    wait_until(lambda: len(os.listdir("/proc/self/fd")) == before)
    assert len([r for r in caplog.records if "could not be served: RuntimeError" in r.message]) == 5
    assert scu.send_files(file_blobs([make_file()]), "MR1", target)[0].ok


def test_a_peer_that_vanishes_leaves_an_aborted_association(
    receive: Receive, journal: KeptJournal, make_file: MakeFile
) -> None:
    _, target = receive()
    instance = scu.OutgoingInstance.from_blob(FileBlob(make_file()))
    client = StorageSCU("MR1", target, instance.contexts(), 5).__enter__()
    assert client.store(instance).ok
    assert client._assoc is not None
    client._assoc.dul.socket._shutdown_socket()
    wait_until(lambda: journal.ends)
    assert journal.ends == [AssociationEnd.ABORTED]


def test_an_idle_association_is_ended(receive: Receive, journal: KeptJournal, make_file: MakeFile) -> None:
    _, target = receive(network_timeout=0.5)
    instance = scu.OutgoingInstance.from_blob(FileBlob(make_file()))
    client = StorageSCU("MR1", target, instance.contexts(), 5).__enter__()
    assert client.store(instance).ok
    wait_until(lambda: journal.ends)
    assert journal.ends == [AssociationEnd.ABORTED]


def test_an_echo_leaves_nothing_in_the_journal(receive: Receive, journal: KeptJournal) -> None:
    _, target = receive()
    assert scu.send_echo("MR1", target).ok
    assert not journal.ends
    assert not journal.opened_associations


# -- the process -------------------------------------------------------------------------------------------------------


def test_the_journal_tells_the_indexer_of_a_new_life(receive: Receive, journal: KeptJournal) -> None:
    receive()
    (segment,) = list_segments(journal.folder)
    with SegmentReader(segment) as reader:
        assert [frame.kind for frame in reader.frames(0)] == [FrameKind.STARTED]


def test_names_of_associations_are_never_used_again(journal: KeptJournal, make_file: MakeFile) -> None:
    for _ in range(2):
        receiver = Receiver(
            ReceivePolicy("NODE", "127.0.0.1", 0), journal, journal.key, "a-very-long-host-name." * 5 + "/receive-0"
        )
        receiver.start()
        for _ in range(2):
            assert scu.send_files(file_blobs([make_file()]), "MR1", Target("NODE", "127.0.0.1", receiver.port))[0].ok
        receiver.stop(grace=1)
    names = list(journal.opened_associations)
    assert len(names) == 4
    assert all("receive-0-" in name and len(name) <= 64 for name in names)


def test_stop_cuts_what_does_not_end(journal: KeptJournal, make_file: MakeFile) -> None:
    receiver = Receiver(ReceivePolicy("NODE", "127.0.0.1", 0), journal, journal.key, "receive-0")
    receiver.start()
    target = Target("NODE", "127.0.0.1", receiver.port)
    instance = scu.OutgoingInstance.from_blob(FileBlob(make_file()))
    client = StorageSCU("MR1", target, instance.contexts(), 5).__enter__()
    assert client.store(instance).ok
    start = time.monotonic()
    receiver.stop(grace=0.2)
    assert time.monotonic() - start < 5
    assert journal.ends == [AssociationEnd.ABORTED]
    assert not scu.send_echo("MR1", target, timeout=1).ok


def test_stop_is_not_held_up_by_half_a_pdu(journal: KeptJournal, make_file: MakeFile) -> None:
    before = set(threading.enumerate())
    receiver = Receiver(ReceivePolicy("NODE", "127.0.0.1", 0), journal, journal.key, "receive-0")
    receiver.start()
    target = Target("NODE", "127.0.0.1", receiver.port)
    instance = scu.OutgoingInstance.from_blob(FileBlob(make_file()))
    client = StorageSCU("MR1", target, instance.contexts(), 5).__enter__()
    assert client._assoc is not None
    client._assoc.dul.socket.socket.sendall(b"\x04\x00\x00\x00\x40\x00\x00\x00\x3f\xfc\x01\x01half a command")
    with socket.create_connection((target.host, target.port)) as half_open:
        half_open.sendall(b"\x01\x00\x00\x00\x01\x00half a request")
        wait_until(lambda: len(receiver._listener.connections) == 2)  # type: ignore[union-attr]
        time.sleep(0.1)
        start = time.monotonic()
        receiver.stop(grace=0.1)
        assert time.monotonic() - start < 4
    client._assoc.abort()
    wait_until(lambda: not set(threading.enumerate()) - before)


def test_run_ends_with_its_event(journal: KeptJournal) -> None:
    receiver, stop = (
        Receiver(ReceivePolicy("NODE", "127.0.0.1", 0), journal, journal.key, "receive-0"),
        threading.Event(),
    )
    thread = threading.Thread(target=receiver.run, args=(stop,))
    thread.start()
    wait_until(lambda: receiver._listener is not None)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


CHILD = """
import sys
from pathlib import Path
from dicom_node.receive.receiver import Receiver
from dicom_node.receive.policy import ReceivePolicy
from storage.log.journal import Journal
from storage.log.patient_key import PatientKey
journal, key = Journal(Path(sys.argv[3]) / sys.argv[2]), PatientKey(Path(sys.argv[3]) / "patients.key")
receiver = Receiver(ReceivePolicy("NODE", "127.0.0.1", int(sys.argv[1])), journal, key, sys.argv[2])
receiver.start()
loaded = sorted({name.split(".")[0] for name in sys.modules} & {"torch", "monai", "SimpleITK", "sqlalchemy"})
rss = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS"))
print(receiver.port, rss, ",".join(loaded), flush=True)
sys.stdin.readline()
receiver.stop(grace=2)
"""


def test_two_processes_share_a_port_and_are_small(make_file: MakeFile, tmp_path: Path) -> None:
    repository = Path(__file__).parents[2]
    children: list[subprocess.Popen[str]] = []
    port = "0"
    try:
        for name in ("receive-0", "receive-1"):
            child = subprocess.Popen(
                [sys.executable, "-c", CHILD, port, name, str(tmp_path / "journals")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=repository,
            )
            children.append(child)
            assert child.stdout is not None
            port, kilobytes, loaded = child.stdout.readline().rstrip("\n").split(" ")
            assert loaded == ""
            assert int(kilobytes) < 90_000
        target = Target("NODE", "127.0.0.1", int(port))
        paths = [make_file() for _ in range(24)]
        assert all(scu.send_files(file_blobs([path]), "MR1", target)[0].ok for path in paths)
        for child in children:
            child.communicate("\n", timeout=20)
        counts = [len(KeptJournal(tmp_path / "journals" / name).kept) for name in ("receive-0", "receive-1")]
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert sum(counts) == len(paths)
    assert all(counts), counts


# -- what the logs say -------------------------------------------------------------------------------------------------


@needs_dcmtk
def test_no_attribute_of_the_patient_reaches_a_log(
    receive: Receive,
    journal: KeptJournal,
    make_file: MakeFile,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("pynetdicom", "pydicom", "dicom_node"):
        caplog.set_level(logging.DEBUG, logger=name)
    _, target = receive()
    uid = generate_uid()
    paths = [make_file(SOPInstanceUID=uid), make_file(SOPInstanceUID=uid), make_file(StudyInstanceUID=None)]
    scu.send_files(file_blobs(paths), "MR1", target)
    journal.before = disk_full
    run(STORESCU, "-aec", "NODE", target.host, target.port, make_file(), status=0xA7)
    status_of(target, paths[2])
    wait_until(lambda: len([r for r in caplog.records if "released" in r.message]) >= 2)
    assert any(r.message.startswith("An instance was not stored") for r in caplog.records)
    said = caplog.text + "".join(str(vars(r)) for r in caplog.records) + "".join(capfd.readouterr())
    for secret in ("SECRET", "PERSON", "19010203"):
        assert secret not in said
