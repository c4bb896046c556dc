"""Any sequence of good and bad PDUs and messages: the receiver goes on serving, and keeps what it acknowledged."""

import random
import shutil
import socket
import struct
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dicom_node.receive.policy import ReceivePolicy
from dicom_node.receive.receiver import Receiver
from storage.log.journal import Journal
from storage.log.patient_key import PATIENT_KEY, PatientKey
from storage.log.segments.frames import FrameKind
from storage.log.segments.names import list_segments
from storage.log.segments.reader import SegmentReader
from tests.faults.wire import (
    C_STORE_RSP,
    COMMAND,
    LAST,
    MR_IMAGE_STORAGE,
    Instance,
    Sender,
    abort,
    associate_rq,
    command_set,
    make_instance,
    p_data,
    part10_dataset,
    pdu,
    release_rq,
    store_rq,
    store_rq_command,
)

NETWORK_TIMEOUT = 20.0  # seconds; no rule waits for it
ANSWER_SECONDS = 10.0
EXAMPLES, STEPS = 60, 12

sizes = st.sampled_from([2, 100, 5000, 40_000])
fragments = st.sampled_from([1, 64, 1000, 16_000, 60_000])
noise = st.binary(max_size=64)


class Peers(RuleBasedStateMachine):
    """One misbehaving connection at a time, and after each step a fresh association that behaves."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="dicom-node-"))
        self.receiver = Receiver(
            ReceivePolicy(
                ae_title="NODE",
                host="127.0.0.1",
                port=0,
                network_timeout=NETWORK_TIMEOUT,
                request_timeout=NETWORK_TIMEOUT,
            ),
            Journal(self.folder / "journal"),
            PatientKey(self.folder / PATIENT_KEY),
            "receive-0",
        )
        self.receiver.start()
        self.acknowledged: dict[str, Instance] = {}
        self.sender: Sender | None = None  # an association as the standard wants it, until a rule spoils it
        self.spoiled: socket.socket | None = None
        self.generator = random.Random(1)

    @initialize(seed=st.integers(0, 2**32))
    def seed(self, seed: int) -> None:
        self.generator = random.Random(seed)

    def teardown(self) -> None:
        try:
            self._drop()
            self.receiver.stop(grace=0.5)
            self._look_into_the_journal()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- as it should be -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.sender is None)
    @rule()
    def associate(self) -> None:
        self._drop()
        self.sender = self._associate()

    @precondition(lambda self: self.sender is not None)
    @rule(size=sizes, fragment=fragments)
    def store(self, size: int, fragment: int) -> None:
        assert self.sender is not None
        if fragment == 1 and size > 5000:
            fragment = 64
        assert self.sender.store(make_instance(self.generator, size), fragment) == 0
        self.acknowledged |= self.sender.acknowledged

    @precondition(lambda self: self.acknowledged and self.sender is not None)
    @rule()
    def store_again(self) -> None:
        assert self.sender is not None
        instance = self.generator.choice(list(self.acknowledged.values()))
        assert self.sender.store(instance) == 0

    @precondition(lambda self: self.sender is not None)
    @rule()
    def echo(self) -> None:
        assert self.sender is not None
        assert self.sender.echo() == 0

    @precondition(lambda self: self.sender is not None)
    @rule()
    def store_with_another_uid_in_the_dataset(self) -> None:
        """Refused, and the association goes on."""
        assert self.sender is not None
        one, other = make_instance(self.generator, 100), make_instance(self.generator, 100)
        assert self.sender.store(Instance(one.sop_instance_uid, other.dataset)) != 0
        assert self.sender.echo() == 0

    @precondition(lambda self: self.sender is not None)
    @rule(dataset=noise)
    def store_noise(self, dataset: bytes) -> None:
        assert self.sender is not None
        uid = make_instance(self.generator, 2).sop_instance_uid
        assert self.sender.store(Instance(uid, dataset)) != 0
        assert self.sender.echo() == 0

    @precondition(lambda self: self.sender is not None)
    @rule()
    def pipeline(self) -> None:
        """Several requests before the first answer is read."""
        assert self.sender is not None
        instances = [make_instance(self.generator, 1000) for _ in range(3)]
        numbers = [self.sender._message_id + 1 + i for i in range(3)]
        stream = b"".join(b"".join(store_rq(i, n)) for i, n in zip(instances, numbers, strict=True))
        self.sender.socket.sendall(stream)
        for instance, number in zip(instances, numbers, strict=True):
            self.sender._message_id = number
            assert self.sender.read_status(C_STORE_RSP) == 0
            self.acknowledged[instance.sop_instance_uid] = instance

    @precondition(lambda self: self.sender is not None)
    @rule()
    def release(self) -> None:
        assert self.sender is not None
        self.sender.release()
        self._drop()

    # -- as it should not be: the connection is spoiled, whatever the receiver makes of it -----------------------------

    @precondition(lambda self: self.sender is not None)
    @rule()
    def break_off(self) -> None:
        self._spoil(abort())

    @precondition(lambda self: self.sender is not None)
    @rule(kind=st.integers(0, 255), body=noise)
    def any_pdu(self, kind: int, body: bytes) -> None:
        self._spoil(pdu(kind, body))

    @precondition(lambda self: self.sender is not None)
    @rule(kind=st.integers(1, 8), length=st.sampled_from([0, 1, 3, 6, 2**16, 2**31 - 1, 2**32 - 1]), body=noise)
    def any_length(self, kind: int, length: int, body: bytes) -> None:
        self._spoil(struct.pack(">BxI", kind, length) + body)

    @precondition(lambda self: self.sender is not None)
    @rule(context=st.integers(0, 255), control=st.integers(0, 255), fragment=noise)
    def any_pdv(self, context: int, control: int, fragment: bytes) -> None:
        self._spoil(p_data(context, control, fragment))

    @precondition(lambda self: self.sender is not None)
    @rule(
        elements=st.lists(
            st.tuples(st.sampled_from([0x0002, 0x0100, 0x0110, 0x0120, 0x0800, 0x0900, 0x1000]), noise), max_size=6
        )
    )
    def any_command(self, elements: list[tuple[int, bytes]]) -> None:
        self._spoil(p_data(3, COMMAND | LAST, command_set(*elements)))

    @precondition(lambda self: self.sender is not None)
    @rule(share=st.floats(0.05, 0.95))
    def stop_in_the_middle(self, share: float) -> None:
        stream = b"".join(store_rq(make_instance(self.generator, 20_000), 77))
        self._spoil(stream[: int(len(stream) * share)])

    @precondition(lambda self: self.sender is not None)
    @rule()
    def command_in_the_middle_of_a_dataset(self) -> None:
        command = p_data(3, COMMAND | LAST, store_rq_command(MR_IMAGE_STORAGE, "2.25.7", 78))
        self._spoil(command + p_data(3, 0, b"abcd") + command)

    @precondition(lambda self: self.sender is not None)
    @rule()
    def release_in_the_middle_of_a_dataset(self) -> None:
        command = p_data(3, COMMAND | LAST, store_rq_command(MR_IMAGE_STORAGE, "2.25.7", 79))
        self._spoil(command + p_data(3, 0, b"abcd") + release_rq())

    @precondition(lambda self: self.sender is not None)
    @rule()
    def associate_twice(self) -> None:
        self._spoil(associate_rq("NODE", "STATES"))

    @precondition(lambda self: self.sender is None)
    @rule(first=st.one_of(noise, st.just(release_rq()), st.just(abort()), st.just(associate_rq("NODE", "STATES")[:50])))
    def begin_otherwise(self, first: bytes) -> None:
        self._drop()
        self.spoiled = socket.create_connection(("127.0.0.1", self.receiver.port), timeout=ANSWER_SECONDS)
        self.spoiled.sendall(first)

    @precondition(lambda self: self.spoiled is not None)
    @rule(more=noise)
    def more_noise(self, more: bytes) -> None:
        assert self.spoiled is not None
        with suppress(OSError):
            self.spoiled.sendall(more)

    @precondition(lambda self: self.spoiled is not None)
    @rule()
    def hang_up(self) -> None:
        self._drop()

    # -- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def a_fresh_association_is_served(self) -> None:
        with self._associate() as sender:
            assert sender.echo() == 0
            assert sender.store(make_instance(self.generator, 500)) == 0
            self.acknowledged |= sender.acknowledged

    def _associate(self) -> Sender:
        return Sender("127.0.0.1", self.receiver.port, "NODE", "STATES", timeout=ANSWER_SECONDS)

    def _spoil(self, stream: bytes) -> None:
        assert self.sender is not None
        self.spoiled, self.sender = self.sender.socket, None
        with suppress(OSError):
            self.spoiled.sendall(stream)

    def _drop(self) -> None:
        for connection in (self.spoiled, self.sender and self.sender.socket):
            if connection is not None:
                connection.close()
        self.spoiled = self.sender = None

    def _look_into_the_journal(self) -> None:
        kept: dict[str, bytes] = {}
        for path in list_segments(self.folder / "journal"):
            with SegmentReader(path) as reader:
                for frame in reader.frames(0):
                    if frame.kind is FrameKind.INSTANCE:
                        kept[frame.meta["sop_instance_uid"]] = part10_dataset(reader.body(frame))
        missing = [uid for uid in self.acknowledged if uid not in kept]
        assert not missing, f"{len(missing)} of {len(self.acknowledged)} are not in the journal"
        changed = [uid for uid, i in self.acknowledged.items() if kept[uid] != i.dataset]
        assert not changed, changed


def check(examples: int, steps: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Peers,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(250)
def test_any_sequence() -> None:
    check(EXAMPLES, STEPS)


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_any_longer_sequence() -> None:
    check(250, 30)
