"""Recovery from a copy of the device taken at the kill. The page cache survives SIGKILL, but is not in the copy."""

import random
import shutil
import threading
import time
from pathlib import Path

import pytest

from tests.acceptance.node import Node
from tests.faults.conftest import MakeNode
from tests.faults.devices import disk
from tests.faults.ledger import assert_kept, faults
from tests.faults.test_kill import LARGE, Batch
from tests.faults.wire import Instance, make_instance

DEVICE_MEGABYTES = 384
SENDERS = 2
LIVE_SECONDS = (0.5, 3.0)  # less than the kernel takes to write by itself what nobody has flushed
ENOUGH = 10  # acknowledged instances before the power goes
# Every flush that Python asks for succeeds and does nothing. SQLite's own go on: it is the images that are at stake.
NO_FLUSH = "import os\nos.fsync = os.fdatasync = lambda descriptor: None\n"
# So that segments are filed, flushed and removed before the power goes, as they are in a longer life.
SMALL_SEGMENTS = "from storage.log import journal\njournal.SEGMENT_BYTES = 3 * 2**20\n"


def send_until_the_power_goes(node: Node, generator: random.Random) -> dict[str, Instance]:
    """All roles are killed in the middle. What was acknowledged until then."""
    study = make_instance(generator, 2).study_instance_uid
    sizes = (3_000, 137_000, 137_000, 137_000)
    batches = [Batch([make_instance(generator, generator.choice(sizes), study) for _ in range(250)]) for _ in range(2)]
    batches[0].instances.insert(5, make_instance(generator, LARGE, study))
    threads = [threading.Thread(target=b.send, args=(node,)) for b in batches]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while sum(len(b.acknowledged) for b in batches) < ENOUGH:
        assert time.monotonic() < deadline, "the node answers too slowly, or not at all"
        time.sleep(0.005)
    time.sleep(generator.uniform(*LIVE_SECONDS) - LIVE_SECONDS[0])
    node.kill()
    acknowledged = {uid: i for b in batches for uid, i in dict(b.acknowledged).items()}
    for thread in threads:
        thread.join(60)
    return acknowledged | {uid: i for b in batches for uid, i in b.acknowledged.items()}


def lose_power(make_node: MakeNode, folder: Path, seed: int, *, flush: bool = True) -> tuple[Node, dict[str, Instance]]:
    """The node that was started from the copy, and what its predecessor had acknowledged."""
    customise = folder / "customise"
    customise.mkdir(parents=True)
    (customise / "sitecustomize.py").write_text(SMALL_SEGMENTS if flush else NO_FLUSH)
    environment = {"PYTHONPATH": f"{customise}:{Path(__file__).parent.parent.parent}"}
    with disk(folder, DEVICE_MEGABYTES) as device:
        node = make_node(f"before-{seed}-{flush}", data_dir=device.data_dir, environment=environment)
        acknowledged = send_until_the_power_goes(node, random.Random(seed))
        copy = device.as_after_a_loss_of_power(folder / "copy.img", folder / "copy")
    copy.mount()
    try:
        recovered = folder / "recovered"  # off the device, so that it can go
        shutil.copytree(copy.folder, recovered, symlinks=True)
    finally:
        copy.unmount()
        (folder / "copy.img").unlink()
        (folder / "disk.img").unlink()
    return make_node(f"after-{seed}-{flush}", data_dir=recovered / "data"), acknowledged


def check(make_node: MakeNode, tmp_path: Path, seed: int) -> None:
    node, acknowledged = lose_power(make_node, tmp_path / str(seed), seed)
    assert_kept(node.data_dir, acknowledged, node.log, f"recovered from the copy, seed {seed}")
    node.kill()
    shutil.rmtree(tmp_path / str(seed))


@pytest.mark.timeout(250)
def test_nothing_acknowledged_is_lost_with_the_page_cache(make_node: MakeNode, tmp_path: Path) -> None:
    check(make_node, tmp_path, 1)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_nothing_acknowledged_is_lost_with_the_page_cache_many_times(make_node: MakeNode, tmp_path: Path) -> None:
    for seed in range(2, 12):
        check(make_node, tmp_path, seed)


@pytest.mark.timeout(250)
def test_without_flushes_this_test_would_notice(make_node: MakeNode, tmp_path: Path) -> None:
    """The control: the same node, whose flushes do nothing, loses what it acknowledged."""
    node, acknowledged = lose_power(make_node, tmp_path / "control", 1, flush=False)
    found = faults(node.data_dir, acknowledged, seconds=10)
    assert len(found) > len(acknowledged) / 10, f"only {len(found)} of {len(acknowledged)} were lost"
