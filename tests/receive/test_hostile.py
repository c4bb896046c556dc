"""Peers that break the rules, or keep others waiting: bytes on a socket against a running receiver."""

import logging
import os
import socket
import struct
import time
from contextlib import suppress
from random import Random

import pytest
from pydicom.uid import generate_uid
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, Verification

from dicom_node.dimse import scu
from dicom_node.dimse.pdu import LARGEST_PDU_BYTES
from dicom_node.dimse.scu import Target
from storage.blobs import FileBlob, file_blobs
from storage.records.evidence import AssociationEnd
from tests.instances import MakeFile
from tests.receive.conftest import Receive
from tests.receive.kept import KeptJournal
from tests.receive.raw import (
    COMMAND,
    DATASET,
    EXPLICIT,
    LAST,
    RELEASE,
    RawPeer,
    association_request,
    command_set,
    data,
    fragment,
    pdu,
    store_command,
)
from tests.receive.test_receiver import wait_until

UNRECOGNIZED_PDU, UNEXPECTED_PDU, UNEXPECTED_PARAMETER, INVALID_PARAMETER = ((0x02, reason) for reason in (1, 2, 5, 6))


@pytest.fixture
def dataset(make_file: MakeFile) -> tuple[str, bytes]:
    """SOP Instance UID and encoded dataset of an instance."""
    instance = scu.OutgoingInstance.from_blob(FileBlob(make_file()))
    return instance.sop_instance_uid, instance.encoded(instance.transfer_syntax_uid)


def whole(uid: str, encoded: bytes) -> bytes:
    """A C-STORE request."""
    return data(fragment(COMMAND | LAST, store_command(uid))) + data(fragment(DATASET | LAST, encoded))


COMPLETE = fragment(COMMAND | LAST, store_command("1.2.3"))

VIOLATIONS = {
    "no PDU type": (b"\x00\0\0\0\0\x04abcd", UNRECOGNIZED_PDU),
    "unknown PDU type": (b"\x77\0\0\0\0\x04abcd", UNRECOGNIZED_PDU),
    "another request": (association_request(), UNEXPECTED_PDU),
    "an accept": (pdu(0x02, b"\0" * 68), UNEXPECTED_PDU),
    "a release response": (pdu(0x06, b"\0" * 4), UNEXPECTED_PDU),
    "a release that is too long": (pdu(0x05, b"\0" * 8), INVALID_PARAMETER),
    "no fragment": (pdu(0x04, b""), INVALID_PARAMETER),
    "half a fragment header": (pdu(0x04, b"\0\0\0"), INVALID_PARAMETER),
    "2 GB of PDU": (struct.pack(">BBL", 4, 0, 2**31) + b"x" * 100, INVALID_PARAMETER),
    "more than we read": (struct.pack(">BBL", 4, 0, LARGEST_PDU_BYTES + 1) + b"x" * 100, INVALID_PARAMETER),
    "2 GB of fragment": (pdu(0x04, struct.pack(">LBB", 2**31, 1, 3) + b"x" * 100), INVALID_PARAMETER),
    "a fragment beyond its PDU": (pdu(0x04, struct.pack(">LBB", 103, 1, 3) + b"x" * 100), INVALID_PARAMETER),
    "a fragment without a header": (pdu(0x04, struct.pack(">LBB", 1, 1, 3) + b"x" * 100), INVALID_PARAMETER),
    "bytes behind the fragment": (data(fragment(COMMAND, b"ab"), b"xyz"), INVALID_PARAMETER),
    "a context nobody accepted": (data(fragment(COMMAND | LAST, store_command("1.2"), 77)), INVALID_PARAMETER),
    "a dataset without a command": (data(fragment(DATASET | LAST, b"\0" * 8)), UNEXPECTED_PARAMETER),
    "a command within a dataset": (data(COMPLETE, fragment(DATASET, b"ab"), COMPLETE), UNEXPECTED_PARAMETER),
    "a release within a dataset": (data(COMPLETE) + RELEASE, UNEXPECTED_PDU),
    "a release within a command": (data(fragment(COMMAND, b"ab")) + RELEASE, UNEXPECTED_PDU),
    "a command that is cut off": (data(fragment(COMMAND | LAST, store_command("1.2.3")[:-3])), INVALID_PARAMETER),
    "a command that is noise": (data(fragment(COMMAND | LAST, b"\xff" * 50)), INVALID_PARAMETER),
    "an empty command": (data(fragment(COMMAND | LAST, b"")), INVALID_PARAMETER),
    "a command without a field": (data(fragment(COMMAND | LAST, command_set(e0800=1))), INVALID_PARAMETER),
    "a store without a number": (
        data(fragment(COMMAND | LAST, command_set(e0002=MRImageStorage, e0100=1, e0800=1))),
        INVALID_PARAMETER,
    ),
    "an unknown command": (
        data(fragment(COMMAND | LAST, command_set(e0002="1.2.840.10008.1.1", e0100=0x0666, e0110=1, e0800=0x0101))),
        INVALID_PARAMETER,
    ),
    "an endless command": (data(fragment(COMMAND, b"\0" * 60_000)) * 2, INVALID_PARAMETER),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violations_are_answered_with_an_abort_and_its_reason(
    receive: Receive, journal: KeptJournal, make_file: MakeFile, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    sent, answer = VIOLATIONS[name]
    receiver, target = receive()
    with RawPeer(target) as peer:
        peer.send(sent)
        assert peer.abort_of() == answer
    wait_until(lambda: not receiver._service.established)
    wait_until(lambda: [r for r in caplog.records if "aborted: 0 stored" in r.message])
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert not journal.kept
    assert scu.send_files(file_blobs([make_file()]), "MR1", target)[0].ok


def test_a_context_may_not_change_within_a_message(receive: Receive) -> None:
    _, target = receive()
    proposed = [(MRImageStorage, ["1.2.840.10008.1.2"]), (MRImageStorage, ["1.2.840.10008.1.2.1"])]
    with RawPeer(target, association_request(proposed)) as peer:
        peer.send(data(fragment(COMMAND | LAST, store_command("1.2.3"))), data(fragment(DATASET, b"ab", 3)))
        assert peer.abort_of() == UNEXPECTED_PARAMETER


def test_the_unused_bits_of_a_control_header_are_not_checked(
    receive: Receive, journal: KeptJournal, dataset: tuple[str, bytes]
) -> None:
    """PS3.8 E.2: never checked by the receiver."""
    uid, encoded = dataset
    _, target = receive()
    with RawPeer(target) as peer:
        peer.send(data(fragment(0xA4 | COMMAND | LAST, store_command(uid))), data(fragment(0x58 | LAST, encoded)))
        assert peer.status() == 0x0000
    assert journal.uids == [uid]


@pytest.mark.parametrize("together", [True, False])
def test_fragments_may_be_of_one_byte_or_none(
    receive: Receive, journal: KeptJournal, dataset: tuple[str, bytes], together: bool
) -> None:
    uid, encoded = dataset
    _, target = receive()
    command = store_command(uid)
    parts = [fragment(COMMAND, command[i : i + 1]) for i in range(len(command))]
    parts += [fragment(COMMAND | LAST, b"")]
    parts += [fragment(DATASET, encoded[i : i + 1]) for i in range(len(encoded))]
    parts += [fragment(DATASET, b""), fragment(DATASET | LAST, b"")]
    with RawPeer(target) as peer:
        peer.send(data(*parts) if together else b"".join(map(data, parts)))
        assert peer.status() == 0x0000
    assert journal.kept[0].dataset == encoded


def test_requests_that_come_before_the_last_answer_are_all_answered(
    receive: Receive, journal: KeptJournal, make_file: MakeFile
) -> None:
    instances = [scu.OutgoingInstance.from_blob(FileBlob(make_file())) for _ in range(5)]
    _, target = receive()
    with RawPeer(target) as peer:
        requests = [whole(i.sop_instance_uid, i.encoded(i.transfer_syntax_uid)) for i in instances]
        peer.send(*requests, RELEASE)
        assert [peer.status() for _ in instances] == [0x0000] * 5
        assert peer.receive()[0] == 0x06
    assert journal.uids == [i.sop_instance_uid for i in instances]
    wait_until(lambda: journal.ends == [AssociationEnd.RELEASED])


def test_a_store_without_a_dataset_is_not_understood(receive: Receive) -> None:
    _, target = receive()
    request = command_set(e0002=MRImageStorage, e0100=1, e0110=7, e0800=0x0101, e1000="1.2.3")
    with RawPeer(target) as peer:
        peer.send(data(fragment(COMMAND | LAST, request)))
        assert peer.status() == 0xC000
        peer.send(RELEASE)
        assert peer.receive()[0] == 0x06


def test_responses_and_cancels_nobody_waits_for_are_passed_over(receive: Receive, dataset: tuple[str, bytes]) -> None:
    _, target = receive()
    stray = command_set(e0002=MRImageStorage, e0100=0x8001, e0120=9, e0800=0x0101, e0900=0)
    cancel = command_set(e0100=0x0FFF, e0120=9, e0800=0x0101)
    with RawPeer(target) as peer:
        peer.send(data(fragment(COMMAND | LAST, stray)), data(fragment(COMMAND | LAST, cancel)), whole(*dataset))
        assert peer.status() == 0x0000


def test_a_peer_that_aborts_or_vanishes_within_a_message_stores_nothing(
    receive: Receive, journal: KeptJournal, dataset: tuple[str, bytes]
) -> None:
    uid, encoded = dataset
    receiver, target = receive()
    for last in (pdu(0x07, b"\0" * 4), b""):
        with RawPeer(target) as peer:
            peer.send(whole(*dataset))
            assert peer.status() == 0x0000
            peer.send(data(fragment(COMMAND | LAST, store_command(uid))), data(fragment(DATASET, encoded)), last)
    wait_until(lambda: not receiver._service.established)
    assert journal.ends == [AssociationEnd.ABORTED] * 2
    assert len(journal.kept) == 2


# -- time --------------------------------------------------------------------------------------------------------------


def seconds_until_aborted(target: Target, peer: RawPeer, drip: bytes, pause: float) -> float:
    """How long a peer holds its place that sends `drip` over and over."""
    start = time.monotonic()
    peer.socket.settimeout(pause)
    while time.monotonic() - start < 10:
        try:
            peer.socket.sendall(drip)
            if not peer.socket.recv(100):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - start


@pytest.mark.parametrize(
    ("first", "drip"),
    [
        (b"", b""),  # silence
        (data(fragment(COMMAND | LAST, store_command("1.2.3"))), b""),  # stops within a message
        (data(fragment(COMMAND | LAST, store_command("1.2.3"))), data(fragment(DATASET, b"x"))),  # tiny PDUs
        (data(fragment(COMMAND | LAST, store_command("1.2.3"))), data(fragment(DATASET, b""))),  # empty ones
        (struct.pack(">BBL", 4, 0, 60_004) + struct.pack(">LBB", 60_000, 1, 1), b"x"),  # a slow PDU
        (b"", data(fragment(COMMAND, b"x"))),  # a slow command
    ],
)
def test_slow_and_silent_peers_hold_no_place_for_ever(receive: Receive, first: bytes, drip: bytes) -> None:
    receiver, target = receive(network_timeout=0.6)
    with RawPeer(target) as peer:
        peer.send(first)
        assert 0.4 < seconds_until_aborted(target, peer, drip, 0.05) < 3
    wait_until(lambda: not receiver._service.established)


def test_a_silent_peer_hears_why_it_is_cut_off(receive: Receive) -> None:
    _, target = receive(network_timeout=0.3)
    for sent in (b"", data(fragment(COMMAND, b"half a command"))):
        with RawPeer(target) as peer:
            peer.send(sent)
            assert peer.abort_of() == (0x02, 0x00)


@pytest.mark.parametrize("in_one_fragment", [True, False])
def test_a_slow_peer_with_enough_bytes_is_served(
    receive: Receive, journal: KeptJournal, make_file: MakeFile, in_one_fragment: bool
) -> None:
    """Several times the time-out in all, and never silent for as long as that."""
    instance = scu.OutgoingInstance.from_blob(FileBlob(make_file(pixels=8_000)))
    encoded = instance.encoded(instance.transfer_syntax_uid)
    _, target = receive(network_timeout=0.3)
    request = data(fragment(DATASET | LAST, encoded))
    with RawPeer(target) as peer:
        peer.send(data(fragment(COMMAND | LAST, store_command(instance.sop_instance_uid))))
        for start in range(0, len(encoded) + 20, 1000):
            time.sleep(0.1)
            part = data(fragment(DATASET, encoded[start : start + 1000]))
            peer.send(request[start : start + 1000] if in_one_fragment else part)
        if not in_one_fragment:
            peer.send(data(fragment(DATASET | LAST, b"")))
        assert peer.status() == 0x0000
    assert journal.kept[0].dataset == encoded


def test_a_peer_that_does_not_read_is_given_up(receive: Receive, dataset: tuple[str, bytes]) -> None:
    receiver, target = receive(network_timeout=0.5)
    echo = data(fragment(COMMAND | LAST, store_command("1.2.3")), fragment(DATASET | LAST, b""))
    peer = RawPeer(target, b"")
    peer.socket.close()
    peer.socket = socket.socket()
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    peer.socket.connect((target.host, target.port))
    peer.socket.settimeout(0.5)
    peer._request = association_request()
    with peer:
        with suppress(OSError):
            while True:
                peer.send(echo * 100)
        wait_until(lambda: not receiver._service.established)


# -- noise -------------------------------------------------------------------------------------------------------------


def test_mutated_messages_end_in_an_answer_or_an_abort(
    receive: Receive, journal: KeptJournal, dataset: tuple[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Two hundred here; more in the fault tests."""
    receiver, target = receive(network_timeout=0.3, request_timeout=0.5)
    random = Random(3)
    request = association_request()
    for _ in range(200):
        message = bytearray(whole(dataset[0], dataset[1][:200]) + RELEASE)
        for _ in range(random.randrange(1, 4)):
            message[random.randrange(min(len(message), 150))] = random.randrange(256)
        opening = bytearray(request)
        if random.random() < 0.2:
            opening[random.randrange(len(opening))] = random.randrange(256)
        peer = RawPeer(target, b"")
        with peer:
            peer.send(bytes(opening), bytes(message))
            peer.socket.shutdown(socket.SHUT_WR)
            while peer.receive()[0]:
                pass
    wait_until(lambda: not receiver._listener.connections)  # type: ignore[union-attr]
    assert receiver._service.established == 0
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR and r.name.startswith("dicom_node")]
    with RawPeer(target) as peer:
        peer.send(whole(*dataset))
        assert peer.status() == 0x0000


def test_connections_leave_no_descriptors_behind(receive: Receive, dataset: tuple[str, bytes]) -> None:
    receiver, target = receive()

    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with RawPeer(target) as peer:
        peer.send(whole(*dataset))
        peer.status()
    wait_until(lambda: not receiver._listener.connections)  # type: ignore[union-attr]
    before = open_descriptors()
    for number in range(30):
        with RawPeer(target, None if number % 2 else b"") as peer:
            peer.send(b"\x04\0\xff" if number % 3 else whole(*dataset))
    wait_until(lambda: not receiver._listener.connections)  # type: ignore[union-attr]
    assert open_descriptors() == before


def test_a_class_is_stored_in_its_own_context_only(
    receive: Receive, journal: KeptJournal, dataset: tuple[str, bytes]
) -> None:
    """PS3.7 9.1.1.1.9: the SOP class was not negotiated for what the message uses."""
    uid, encoded = dataset
    _, target = receive()
    proposed = [(CTImageStorage, [EXPLICIT]), (MRImageStorage, [EXPLICIT]), (Verification, [EXPLICIT])]
    with RawPeer(target, association_request(proposed)) as peer:

        def store(context: int, sop_class: str, content: bytes) -> int:
            command = fragment(COMMAND | LAST, store_command(uid, sop_class), context)
            peer.send(data(command), data(fragment(DATASET | LAST, content, context)))
            return peer.status()

        verified = encoded.replace(MRImageStorage.encode() + b"\0", Verification.encode().ljust(26, b"\0"))
        assert len(verified) == len(encoded)
        assert store(1, MRImageStorage, encoded) == 0x0122
        assert store(5, MRImageStorage, encoded) == 0x0122
        assert store(5, Verification, verified) == 0x0122
        assert store(1, CTImageStorage, encoded) == 0xA900
        assert store(3, MRImageStorage, encoded) == 0x0000
    assert journal.uids == [uid]


def test_uids_that_cannot_be_filed_are_refused_before_they_are_acknowledged(
    receive: Receive, journal: KeptJournal, make_file: MakeFile
) -> None:
    instance = scu.OutgoingInstance.from_blob(FileBlob(make_file()))
    encoded = instance.encoded(instance.transfer_syntax_uid)
    bad = "../" + "1" * (len(instance.sop_instance_uid) - 3)
    _, target = receive()
    with RawPeer(target) as peer:
        peer.send(whole(bad, encoded.replace(instance.sop_instance_uid.encode(), bad.encode())))
        assert peer.status() == 0xC000
        peer.send(whole(generate_uid(), encoded))
        assert peer.status() == 0xA900
    assert not journal.kept
