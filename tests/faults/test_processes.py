"""Several receiving processes on one port, under their supervisor: one that falls harms none of the others."""

import random
import threading
import time
from collections.abc import Callable
from functools import partial

import psutil
import pytest

from tests.acceptance.node import Node
from tests.faults.conftest import MakeNode
from tests.faults.ledger import assert_kept, receive_lines
from tests.faults.test_kill import Batch
from tests.faults.wire import Instance, Sender, make_instance

PROCESSES = 3
SENDERS = 6
BATCH = 60  # instances of one sender
SEED = 5
SECONDS = 60.0

SHORT, LONG = 1, 15  # rounds, each with a receiver and the indexer killed


class Sending(threading.Thread):
    """One association that sends a batch. `broken` says whether it ended before the batch did."""

    def __init__(self, node: Node, instances: list[Instance]) -> None:
        super().__init__()
        self.batch = Batch(instances)
        self.sender = Sender(node.target.host, node.target.port)
        self.sender.acknowledged = self.batch.acknowledged
        self.port = self.sender.socket.getsockname()[1]
        self.broken = False

    def run(self) -> None:
        try:
            with self.sender:
                for instance in self.batch.instances:
                    self.sender.store(instance)
        except OSError:
            self.broken = True


def serves(process: psutil.Process, sending: Sending) -> bool:
    return any(c.raddr and c.raddr.port == sending.port for c in process.net_connections("tcp"))


def begin(node: Node, generator: random.Random) -> tuple[list[Sending], psutil.Process, list[Sending]]:
    """Associations of which one process serves some, but not all; that process, and those it serves."""
    while True:
        study = make_instance(generator, 2).study_instance_uid
        sending = [
            Sending(node, [make_instance(generator, 137_000, study) for _ in range(BATCH)]) for _ in range(SENDERS)
        ]
        for process in node.processes("receive"):
            served = [s for s in sending if serves(process, s)]
            if served and len(served) < SENDERS:
                return sending, process, served
        for one in sending:
            one.sender.release()
            one.sender.socket.close()


def wait(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def reached(sending: list[Sending], number: int) -> bool:
    return all(len(one.batch.acknowledged) >= number for one in sending)


def sent_again(batch: Batch, node: Node) -> bool:
    batch.send(node)
    return batch.complete


def rounds(make_node: MakeNode, number: int) -> None:
    generator = random.Random(SEED)
    node = make_node(roles=("run",), receive=receive_lines() + f"processes = {PROCESSES}\n")
    everything: dict[str, Instance] = {}
    for i in range(number):
        wait(lambda: len(node.processes("receive")) == PROCESSES, "not all receivers are up again")
        sending, victim, served = begin(node, generator)
        (indexer,) = node.processes("index")
        for one in sending:
            one.start()
        moment = generator.randrange(1, BATCH // 2)
        wait(partial(reached, served, moment), "nothing is acknowledged")
        indexer.kill()
        victim.kill()
        for one in sending:
            one.join(SECONDS)
            assert not one.is_alive(), "a sender hangs"
        for one in sending:
            if one in served:
                assert one.broken, "the process was killed after the end: the round shows nothing"
            else:
                assert not one.broken, f"round {i}: another process lost its association"
                assert one.batch.complete
        acknowledged = {uid: x for one in sending for uid, x in one.batch.acknowledged.items()}
        assert_kept(node.data_dir, acknowledged, node.log, f"round {i}")
        for one in served:  # what was not acknowledged is sent again, to whoever listens
            wait(partial(sent_again, one.batch, node), node.log.read_text()[-3000:])
            acknowledged |= one.batch.acknowledged
        everything |= acknowledged
    assert_kept(node.data_dir, everything, node.log, f"after {number} rounds")
    wait(lambda: len(node.processes("receive")) == PROCESSES, "not all receivers are up again")


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_one_process_falls_and_the_others_go_on(make_node: MakeNode) -> None:
    rounds(make_node, SHORT)


@pytest.mark.faults
@pytest.mark.timeout(1500)
def test_one_process_falls_many_times(make_node: MakeNode) -> None:
    rounds(make_node, LONG)
