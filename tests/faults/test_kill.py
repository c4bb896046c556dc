"""SIGKILL at any moment: whatever the sender saw acknowledged is there, byte-identical, indexed, once."""

import random
import threading
import time
from dataclasses import dataclass, field

import pytest

from tests.acceptance.node import Node
from tests.faults.conftest import MakeNode, receiving_roles
from tests.faults.ledger import assert_kept
from tests.faults.wire import Instance, Sender, make_instance

SENDERS = 2
BATCH = 50  # instances of one sender in one round
SIZES = (2_000, 40_000, 137_000)  # bytes
LARGE = 9 * 2**20  # does not go through memory
SEED = 3
SEND_SECONDS = 60.0

SHORT = 2  # rounds of each kind in `make test`
LONG = {"receive": 34, "index": 34, "all": 22, "run": 10}  # 100 rounds


@dataclass
class Batch:
    """What one sender wants to send, and what it saw acknowledged."""

    instances: list[Instance]
    acknowledged: dict[str, Instance] = field(default_factory=dict)

    def send(self, node: Node) -> None:
        """Until everything is acknowledged or the connection breaks."""
        waiting = [i for i in self.instances if i.sop_instance_uid not in self.acknowledged]
        try:
            with Sender(node.target.host, node.target.port) as sender:
                sender.acknowledged = self.acknowledged
                for instance in waiting:
                    sender.store(instance)
        except OSError:
            return

    @property
    def complete(self) -> bool:
        return len(self.acknowledged) == len(self.instances)


def batch(generator: random.Random, large: bool) -> Batch:
    study = make_instance(generator, 2).study_instance_uid
    instances = [make_instance(generator, generator.choice(SIZES), study) for _ in range(BATCH)]
    if large:
        instances.insert(generator.randrange(BATCH), make_instance(generator, LARGE, study))
    return Batch(instances)


def kill_while_sending(node: Node, victim: str, generator: random.Random) -> tuple[list[Batch], bool]:
    """The batches, as far as they came, and whether the kill came before their end. What lived goes on living.

    The moment is counted in instances, not in seconds, so that it lies within the sends on a machine of any speed.
    """
    batches = [batch(generator, large=generator.random() < 0.3) for _ in range(SENDERS)]
    threads = [threading.Thread(target=b.send, args=(node,)) for b in batches]
    for thread in threads:
        thread.start()
    moment = generator.randrange(SENDERS * BATCH * 3 // 4)
    deadline = time.monotonic() + SEND_SECONDS
    while sum(len(b.acknowledged) for b in batches) < moment:
        assert time.monotonic() < deadline, "the node answers too slowly, or not at all"
        time.sleep(0.001)
    time.sleep(generator.uniform(0, 0.005))
    in_time = not all(b.complete for b in batches)
    if victim == "all":
        node.kill()
    else:
        node.kill_role(victim)
    for thread in threads:
        thread.join(SEND_SECONDS)
        assert not thread.is_alive(), "a sender hangs"
    return batches, in_time


def rounds(make_node: MakeNode, victim: str, number: int) -> None:
    generator = random.Random(f"{SEED} {victim}")
    node = make_node(roles=("run",) if victim == "run" else receiving_roles())
    everything: dict[str, Instance] = {}
    in_time = 0
    for i in range(number):
        batches, before_the_end = kill_while_sending(node, victim, generator)
        in_time += before_the_end
        node.start()
        acknowledged = {uid: x for b in batches for uid, x in b.acknowledged.items()}
        if acknowledged:
            assert_kept(node.data_dir, acknowledged, node.log, f"round {i}, {victim} killed")
        for b in batches:  # what was not acknowledged is sent again, and may be here already
            b.send(node)
            assert b.complete, node.log.read_text()[-3000:]
            acknowledged |= b.acknowledged
        everything |= acknowledged
    assert_kept(node.data_dir, everything, node.log, f"after {number} rounds, {victim} killed")
    assert in_time >= number / 2, "too few kills hit a send: the test shows little"


@pytest.mark.timeout(280)
@pytest.mark.parametrize("victim", ["receive", "index", "all"])
def test_nothing_acknowledged_is_lost(make_node: MakeNode, victim: str) -> None:
    if victim not in (*receiving_roles(), "all"):
        pytest.skip(f"there is no role {victim}")
    rounds(make_node, victim, SHORT)


@pytest.mark.faults
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("victim", ["receive", "index", "all", "run"])
def test_nothing_acknowledged_is_lost_many_times(make_node: MakeNode, victim: str) -> None:
    if victim not in (*receiving_roles(), "all", "run"):
        pytest.skip(f"there is no role {victim}")
    rounds(make_node, victim, LONG[victim])
