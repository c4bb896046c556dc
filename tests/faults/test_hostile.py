"""Peers that send nonsense, or nothing: no crash, no leak, and the others do not suffer."""

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
import pytest
from pydicom.uid import UID

from dicom_node.dimse.scu import find_files
from tests.acceptance.node import Node
from tests.faults.conftest import MakeNode
from tests.faults.ledger import assert_kept, receive_lines, wait_indexed
from tests.faults.mutation import mutated_session, valid_session
from tests.faults.wire import (
    COMMAND,
    CONTEXTS,
    EXPLICIT,
    LAST,
    MR_IMAGE_STORAGE,
    Instance,
    Refused,
    Sender,
    associate_rq,
    make_instance,
    new_uid,
    p_data,
    part10_dataset,
    pdu,
    store_rq,
    store_rq_command,
)

SILENCE_SECONDS = 4  # the node's time-out
MOST_GROWTH = 30 * 2**20  # bytes of memory, once it has seen all kinds of hostility
ASSOCIATION_BYTES = 2 * 2**20  # of memory, while there is one
LEAST_SHARE = 0.8  # of its rate is what a well-behaved sender must keep
SILENT_CONNECTIONS = 500
STALLED_SENDERS = 20
WINDOW_SECONDS = 0.5
WINDOWS = 5
SHORT_PDUS, LONG_PDUS = 3_000, 100_000
HOSTILE_THREADS = 4
GIGABYTES_2 = 0x7FFFFFFF


@pytest.fixture
def node(make_node: MakeNode) -> Node:
    return make_node(receive=receive_lines(network_timeout_seconds=SILENCE_SECONDS))


def connect(node: Node) -> socket.socket:
    connection = socket.create_connection((node.target.host, node.target.port), timeout=20)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def associate(node: Node) -> socket.socket:
    """A connection with an accepted association."""
    connection = connect(node)
    connection.sendall(associate_rq("DICOM_NODE", "HOSTILE"))
    kind, length = struct.unpack(">BxI", exactly(connection, 6))
    assert kind == 2
    exactly(connection, length)
    return connection


def exactly(connection: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        part = connection.recv(length - len(content))
        if not part:
            raise ConnectionError("closed")
        content += part
    return content


def answer(connection: socket.socket, seconds: float) -> bytes | None:
    """What the node says until it closes; None when it does not close."""
    deadline = time.monotonic() + seconds
    said = b""
    try:
        while True:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            part = connection.recv(65536)
            if not part:
                return said
            said += part
    except TimeoutError:
        return None
    except OSError:
        return said


def closed_within(connection: socket.socket, seconds: float) -> bool:
    return answer(connection, seconds) is not None


# -- what the node costs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    pids: tuple[int, ...]
    rss: int
    threads: int
    files: int

    @classmethod
    def of(cls, node: Node) -> "Usage":
        family = [psutil.Process(pid) for pid in node.pids()]
        return cls(
            tuple(p.pid for p in family),
            sum(p.memory_info().rss for p in family),
            sum(p.num_threads() for p in family),
            sum(p.num_fds() for p in family),
        )


def assert_back_to(before: Usage, node: Node, seconds: float = 40) -> None:
    """The same processes, and no more threads and open files than before, as soon as time-outs have passed."""
    deadline = time.monotonic() + seconds
    while True:
        now = Usage.of(node)
        # SQLite and logging may open a file or two late
        settled = now.threads <= before.threads + 1 and now.files <= before.files + 4
        if settled or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert now.pids == before.pids, "a process has died"
    assert settled, f"{before} became {now}"
    assert now.rss - before.rss < MOST_GROWTH, f"{before} became {now}"


def at_rest(node: Node, generator: random.Random) -> Usage:
    """What it costs once it has loaded and opened all it ever needs."""
    for _ in range(3):
        acknowledged = assert_serves(node, generator)
        assert not wait_indexed(node.data_dir, acknowledged)
    time.sleep(0.5)
    return Usage.of(node)


def assert_serves(node: Node, generator: random.Random) -> dict[str, Instance]:
    """A well-behaved sender is served; what it sent."""
    with Sender(node.target.host, node.target.port) as sender:
        assert sender.echo() == 0
        assert sender.store(make_instance(generator, 5000)) == 0
        return sender.acknowledged


# -- mutated PDUs ------------------------------------------------------------------------------------------------------


@dataclass
class Attack:
    """Whole sessions at once, each on a connection of its own, until `pdus` mutated PDUs are out."""

    node: Node
    seed: str
    pdus: int
    connections: int = 0
    associations: int = 0  # connections that were accepted before they went wrong
    error: BaseException | None = None

    def run(self) -> None:
        generator = random.Random(self.seed)
        sent = 0
        try:
            while sent < self.pdus:
                session, mutated = mutated_session(valid_session(generator), generator)
                sent += mutated
                self._send(session)
        except BaseException as error:
            self.error = error

    def _send(self, session: list[bytes]) -> None:
        self.connections += 1
        with connect(self.node) as connection:
            with suppress(OSError):  # it may close while we still speak
                connection.sendall(b"".join(session))
                connection.shutdown(socket.SHUT_WR)
            said = answer(connection, 20)
        assert said is not None, f"seed {self.seed}: the node keeps a connection that is over"
        self.associations += said[:1] == b"\x02"


def attack_from_many(node: Node, seed: str, pdus: int) -> None:
    attacks = [Attack(node, f"{seed}-{i}", pdus // HOSTILE_THREADS) for i in range(HOSTILE_THREADS)]
    threads = [threading.Thread(target=attack.run) for attack in attacks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for attack in attacks:
        if attack.error is not None:
            raise attack.error
    # a node that turns everything away at the door would pass for the wrong reason
    assert sum(a.associations for a in attacks) > sum(a.connections for a in attacks) / 4


def mutated_pdus(node: Node, number: int) -> None:
    generator = random.Random(number)
    attack_from_many(node, "warm up", 500)
    acknowledged = assert_serves(node, generator)
    before = at_rest(node, generator)
    attack_from_many(node, "mutations", number)
    acknowledged |= assert_serves(node, generator)
    assert_back_to(before, node)
    assert_kept(node.data_dir, acknowledged, node.log, "after mutated PDUs")
    assert "Traceback" not in node.log.read_text(errors="replace")


@pytest.mark.timeout(280)
def test_mutated_pdus(node: Node) -> None:
    mutated_pdus(node, SHORT_PDUS)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_mutated_pdus(node: Node) -> None:
    mutated_pdus(node, LONG_PDUS)


# -- wrong lengths -----------------------------------------------------------------------------------------------------


def _claims() -> Iterator[tuple[str, bytes]]:
    """Bytes on an accepted association whose lengths lie."""
    command = store_rq_command(MR_IMAGE_STORAGE, "2.25.1", 1)
    for kind in range(1, 8):
        yield f"PDU type {kind} of 2 GB", struct.pack(">BxI", kind, GIGABYTES_2) + bytes(64)
    yield "PDU of 4 GB", struct.pack(">BxI", 4, 0xFFFFFFFF) + bytes(64)
    yield "PDV of 2 GB in a small PDU", pdu(4, struct.pack(">IBB", GIGABYTES_2, 3, COMMAND | LAST) + command)
    yield "PDV of 4 GB in a small PDU", pdu(4, struct.pack(">IBB", 0xFFFFFFFF, 3, COMMAND | LAST) + command)
    yield "PDV of length 0", pdu(4, struct.pack(">I", 0))
    yield "PDV of length 1", pdu(4, struct.pack(">IB", 1, 3))
    yield "PDV cut short", pdu(4, struct.pack(">IBB", 100, 3, COMMAND | LAST) + command[:20])
    yield "empty P-DATA", pdu(4, b"") + pdu(9, b"")
    yield "command element of 2 GB", p_data(3, COMMAND | LAST, struct.pack("<HHI", 0, 0x0002, GIGABYTES_2) + command)
    yield "command without its elements", p_data(3, COMMAND | LAST, command[:12]) + pdu(9, b"")
    yield "command of noise", p_data(3, COMMAND | LAST, bytes(range(251))) + pdu(9, b"")
    yield "dataset without a command", p_data(3, LAST, bytes(100)) + pdu(9, b"")
    yield "unknown context", p_data(99, COMMAND | LAST, command) + pdu(9, b"")
    yield (
        "command in the middle of a dataset",
        p_data(3, COMMAND | LAST, command)
        + p_data(3, 0, b"abcd") * 2
        + p_data(3, COMMAND | LAST, command)
        + pdu(9, b""),
    )
    yield "unknown PDU type", pdu(0x77, bytes(10))
    yield "a second association request", associate_rq("DICOM_NODE", "HOSTILE")


@pytest.mark.timeout(200)
def test_wrong_lengths(node: Node) -> None:
    generator = random.Random(11)
    acknowledged = assert_serves(node, generator)
    for _ in range(2):  # the first time it may have to load something
        before = at_rest(node, generator)
        with ExitStack() as stack:
            held = [(name, stack.enter_context(associate(node)), claim) for name, claim in _claims()]
            for _, connection, claim in held:
                connection.sendall(claim)
            time.sleep(0.5)
            growth = Usage.of(node).rss - before.rss
            assert growth < MOST_GROWTH + len(held) * ASSOCIATION_BYTES, "it reserves what a peer only claims"
            for name, connection, _ in held:
                assert closed_within(connection, 3 * SILENCE_SECONDS), f"{name}: the connection is kept"
    assert_back_to(before, node)
    acknowledged |= assert_serves(node, generator)
    assert_kept(node.data_dir, acknowledged, node.log, "after wrong lengths")
    assert "Traceback" not in node.log.read_text(errors="replace")


@pytest.mark.timeout(100)
@pytest.mark.parametrize("size", [GIGABYTES_2, 0xFFFFFFFF, 2**24])
def test_an_association_request_of_gigabytes(node: Node, size: int) -> None:
    before = at_rest(node, random.Random(size))
    with connect(node) as connection:
        connection.sendall(struct.pack(">BxI", 1, size))
        with suppress(OSError):
            for _ in range(40):
                connection.sendall(bytes(2**20))
        assert Usage.of(node).rss - before.rss < MOST_GROWTH
        assert closed_within(connection, 3 * SILENCE_SECONDS)
    assert_serves(node, random.Random(12))


# -- slow and silent peers ---------------------------------------------------------------------------------------------


@pytest.mark.timeout(100)
def test_fragments_of_one_byte(node: Node) -> None:
    generator = random.Random(13)
    acknowledged: dict[str, Instance] = {}
    with Sender(node.target.host, node.target.port) as sender:  # each byte of the dataset in a PDU of its own
        assert sender.store(make_instance(generator, 2_000), fragment=1) == 0
        acknowledged |= sender.acknowledged
    with Sender(node.target.host, node.target.port) as sender:  # each byte in a packet of its own
        instance = make_instance(generator, 2_000)
        for byte in b"".join(store_rq(instance)):
            sender.socket.sendall(bytes([byte]))
        sender._message_id = 1
        assert sender.read_status(0x8001) == 0
        acknowledged[instance.sop_instance_uid] = instance
    assert_kept(node.data_dir, acknowledged, node.log, "in fragments of one byte")


@pytest.mark.timeout(100)
def test_a_sender_that_stops_in_the_middle_of_a_dataset(node: Node) -> None:
    generator = random.Random(14)
    before = at_rest(node, generator)
    small, large = make_instance(generator, 50_000), make_instance(generator, 12 * 2**20)
    with ExitStack() as stack:
        stalled = []
        for instance in (small, large):
            connection = stack.enter_context(associate(node))
            stream = b"".join(store_rq(instance))
            connection.sendall(stream[: len(stream) * 9 // 10])
            stalled.append(connection)
        acknowledged = assert_serves(node, generator)
        for connection in stalled:
            assert closed_within(connection, 3 * SILENCE_SECONDS)
    assert_back_to(before, node)
    assert_kept(node.data_dir, acknowledged, node.log, "beside a stalled sender")
    kept = [p.name for p in node.data_dir.rglob("*") if p.is_file()]
    assert not [n for n in kept if small.sop_instance_uid in n or large.sop_instance_uid in n]
    assert not [n for n in kept if n.endswith(".large")], "half of a large instance is still there"


def trickle(node: Node, stop: threading.Event) -> None:
    """Mutated sessions, ten in a second."""
    generator = random.Random(15)
    while not stop.wait(0.1):
        with suppress(OSError), connect(node) as connection:
            session, _ = mutated_session(valid_session(generator), generator)
            connection.sendall(b"".join(session))


@contextmanager
def hostility(node: Node) -> Iterator[None]:
    """500 connections that say nothing, senders that stop in the middle, lies about lengths, mutated sessions."""
    stop = threading.Event()
    thread = threading.Thread(target=trickle, args=(node, stop))
    generator = random.Random(16)
    with ExitStack() as stack:
        for _ in range(STALLED_SENDERS):
            connection = stack.enter_context(associate(node))
            connection.sendall(b"".join(store_rq(make_instance(generator, 50_000)))[:30_000])
        for _ in range(SILENT_CONNECTIONS):
            stack.enter_context(connect(node))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@pytest.mark.faults  # rates of a machine that does other work say little
@pytest.mark.timeout(200)
def test_others_keep_their_rate(make_node: MakeNode) -> None:
    """Windows with and without hostility take turns, so that a busy machine slows down both."""
    node = make_node(receive=receive_lines(network_timeout_seconds=4 * SILENCE_SECONDS))
    generator = random.Random(17)
    quiet, disturbed = [], []
    with Sender(node.target.host, node.target.port) as sender:

        def rate() -> float:
            start, number = time.monotonic(), 0
            while time.monotonic() - start < WINDOW_SECONDS:
                assert sender.store(make_instance(generator, 20_000)) == 0
                number += 1
            return number / (time.monotonic() - start)

        rate()
        with hostility(node):
            rate()
        assert not wait_indexed(node.data_dir, sender.acknowledged)
        before = Usage.of(node)
        for _ in range(WINDOWS):
            quiet.append(rate())
            with hostility(node):
                disturbed.append(rate())
            time.sleep(0.3)
        acknowledged = dict(sender.acknowledged)
    share = median(disturbed) / median(quiet)
    assert share >= LEAST_SHARE, f"{share:.2f}: {quiet} became {disturbed}"
    acknowledged |= assert_serves(node, generator)
    assert_kept(node.data_dir, acknowledged, node.log, "beside hostile peers")
    assert_back_to(before, node)


# -- datasets that are not what they should be -------------------------------------------------------------------------


def malformed(test_data: Path) -> Iterator[tuple[Path, Instance, str]]:
    """The files of the corpora, as bytes: as what they claim to be, or as an MR image where they cannot say."""
    generator = random.Random(18)
    seen: set[str] = set()
    for path in find_files([test_data / "malformed"]):
        content = path.read_bytes()
        syntax, sop_class, uid, dataset = EXPLICIT, MR_IMAGE_STORAGE, new_uid(generator), content
        try:
            dataset = part10_dataset(content)
            meta = content[144 : len(content) - len(dataset)]
            values = _explicit_elements(meta)
            syntax = values.get((2, 0x10), syntax)
            sop_class = values.get((2, 2), sop_class)
            uid = values.get((2, 3), uid)
        except (AssertionError, struct.error, UnicodeDecodeError):
            pass
        known = uid in seen  # the same UID twice is another test's matter
        seen.add(uid)
        if UID(syntax).is_valid and UID(sop_class).is_valid and sop_class and not known:
            yield path, Instance(uid, dataset + b"\0" * (len(dataset) % 2), sop_class), syntax


def _explicit_elements(meta: bytes) -> dict[tuple[int, int], str]:
    values, at = {}, 0
    while at + 8 <= len(meta):
        group, element, vr, length = struct.unpack_from("<HH2sH", meta, at)
        at += 8
        if vr in (b"OB", b"UN"):
            (length,) = struct.unpack_from("<I", meta, at)
            at += 4
        if vr == b"UI":
            values[group, element] = meta[at : at + length].rstrip(b"\0 ").decode("ascii")
        at += length
    return values


@pytest.mark.timeout(200)
def test_malformed_datasets(node: Node, test_data: Path) -> None:
    """Each is answered, and stored or refused; what is acknowledged is kept as it came."""
    generator = random.Random(19)
    acknowledged = assert_serves(node, generator)
    statuses: dict[str, int] = {}
    for path, instance, syntax in malformed(test_data):
        contexts = (CONTEXTS[0], (3, instance.sop_class_uid, (syntax,)))
        try:
            with Sender(node.target.host, node.target.port, contexts=contexts) as sender:
                statuses[path.name] = sender.store(instance)
                acknowledged |= sender.acknowledged
        except Refused as refused:
            raise AssertionError(f"{path.name}: {refused}") from None
    assert len(statuses) > 50
    assert 0 in statuses.values()
    assert any(statuses.values()), "not one was refused"
    acknowledged |= assert_serves(node, generator)
    assert_kept(node.data_dir, acknowledged, node.log, "malformed datasets")
    assert "Traceback" not in node.log.read_text(errors="replace")
