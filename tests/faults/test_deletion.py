"""Studies are deleted where the disk has no byte left, and while the index role is killed."""

import random
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage.log.deletion.records import DeletionRequest
from storage.log.deletion.requests import DeletionRequests
from storage.log.index_log import IndexLog
from storage.tables.database.connection import Database, default_url
from tests.acceptance.node import Node as RunningNode
from tests.faults.conftest import MakeNode
from tests.faults.devices import disk
from tests.faults.ledger import assert_kept
from tests.faults.test_kill import LARGE, Batch
from tests.faults.wire import Instance, make_instance
from tests.storage.node import Node, received
from tests.stores import indexer_of

GONE, LEFT, INSTANCES = "1.2.3", "1.2.4", 200
NAME = "GONE^PATIENT"
ROUNDS = 12
SEED = 4

pytestmark = pytest.mark.faults


@pytest.mark.timeout(200)
def test_a_full_disk(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", 128) as device:
        device.data_dir.mkdir()
        database = Database(default_url(device.data_dir))
        database.upgrade()
        node = Node(database, device.data_dir / "instances")
        for number in range(INSTANCES):
            for study in (GONE, LEFT):
                node.store(received(number, study=study, name=NAME if study == GONE else "", pixels=bytes(50_000)))
        indexer = indexer_of(node)
        indexer.advance()
        device.fill(leave=2**20)
        with suppress(OSError), (device.folder / "more").open("wb", buffering=0) as more:
            while True:
                more.write(bytes(1024))
        assert device.free() == 0
        wanted = DeletionRequest("a", GONE, "asked for", datetime.now(UTC))
        DeletionRequests(device.data_dir / "index-log").leave(wanted)
        indexer.carry_out_deletions()
        indexer.close()
        database.close()
        assert device.free() > INSTANCES * 40_000
        assert node.studies.get(GONE) is None
        left = node.instances.instances(LEFT)
        assert len(left) == INSTANCES
        assert all(instance.blob.is_intact() for instance in left)
        assert all(NAME.encode() not in path.read_bytes() for path in device.data_dir.rglob("*") if path.is_file())
        database.close()


def send(node: RunningNode, generator: random.Random, count: int) -> dict[str, Instance]:
    """Send a new study, one instance of which is large."""
    study = make_instance(generator, 2).study_instance_uid
    sent = Batch([make_instance(generator, size, study) for size in [*[137_000] * count, LARGE]])
    sent.send(node)
    assert sent.complete
    assert_kept(node.data_dir, sent.acknowledged, node.log, "before the deletion")
    return sent.acknowledged


def delete_under_a_kill(node: RunningNode, study: str, generator: random.Random) -> bool:
    """Delete a study, and kill the index role meanwhile. Return True if that cut a noted deletion short."""
    command = (sys.executable, "-m", "dicom_node.cli.main", "delete", study, "--reason", "asked for", "--yes")
    deleting = subprocess.Popen([*command, "--config", str(node.config)])
    requests = node.data_dir / "index-log" / "requests"
    deadline = time.monotonic() + 60
    while not (requests.exists() and any(requests.iterdir())):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(generator.uniform(0, 0.4))
    node.kill_role("index")
    cut_short = bool(IndexLog(requests.parent).unfinished())
    node.start()
    assert deleting.wait(60) == 0
    return cut_short


@pytest.mark.timeout(600)
def test_the_index_role_is_killed_meanwhile(make_node: MakeNode) -> None:
    generator = random.Random(SEED)
    node = make_node()
    left = send(node, generator, 20)
    cut_short = 0
    for _ in range(ROUNDS):
        gone = send(node, generator, 100)
        left |= send(node, generator, 2)
        cut_short += delete_under_a_kill(node, next(iter(gone.values())).study_instance_uid, generator)
        content = b"".join(path.read_bytes() for path in node.data_dir.rglob("*") if path.is_file())
        assert not [uid for uid in gone if uid.encode() in content]
        assert_kept(node.data_dir, left, node.log, "what is not deleted")
    assert cut_short, "no kill came in the middle: the test shows nothing"
