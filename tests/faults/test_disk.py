"""A full disk, a broken one, a database that is locked or gone: nothing acknowledged is lost, and receiving goes on."""

import random
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.conftest import MakeNode
from tests.faults.devices import disk, small_memory
from tests.faults.ledger import assert_kept, indexed, receive_lines, wait_indexed
from tests.faults.wire import Instance, Sender, make_instance

SIZE = 300_000  # bytes of an instance
OUT_OF_RESOURCES = range(0xA700, 0xA800)
RECOVERY_SECONDS = 30.0
LOCKED_SECONDS = 4.0


def send_until_refused(sender: Sender, generator: random.Random, most: int) -> int:
    """The first status that is not Success."""
    for _ in range(most):
        status = sender.store(make_instance(generator, SIZE))
        if status:
            return status
    pytest.fail(f"all of {most} instances were accepted")


def send_until_accepted(sender: Sender, generator: random.Random) -> None:
    deadline = time.monotonic() + RECOVERY_SECONDS
    while status := sender.store(make_instance(generator, SIZE)):
        assert status in OUT_OF_RESOURCES, hex(status)
        assert time.monotonic() < deadline, "it does not accept again"
        time.sleep(0.2)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("watermark", [8, 0], ids=["watermark", "to the last byte"])
def test_a_full_disk(make_node: MakeNode, tmp_path: Path, watermark: int) -> None:
    generator = random.Random(watermark)
    with disk(tmp_path / "disk", 256) as device:
        node = make_node(data_dir=device.data_dir, receive=receive_lines(watermark))
        filler = device.fill(leave=24 * 2**20)
        with Sender(node.target.host, node.target.port) as sender:
            assert send_until_refused(sender, generator, 200) in OUT_OF_RESOURCES
            assert sender.echo() == 0  # the association is alive
            assert sender.acknowledged
            before = dict(sender.acknowledged)
            for _ in range(5):  # and stays so while nothing fits
                status = sender.store(make_instance(generator, SIZE))
                assert status == 0 or status in OUT_OF_RESOURCES, hex(status)
            filler.unlink()
            send_until_accepted(sender, generator)
            for _ in range(20):
                assert sender.store(make_instance(generator, SIZE)) == 0
            acknowledged = dict(sender.acknowledged)
        assert len(acknowledged) > len(before)
        assert_kept(node.data_dir, acknowledged, node.log, "after the disk was full")
        node.kill()


@pytest.mark.timeout(200)
def test_a_node_killed_on_a_full_disk(make_node: MakeNode, tmp_path: Path) -> None:
    """It starts on the full disk too, or when there is room again; everything acknowledged is there then."""
    generator = random.Random(5)
    with disk(tmp_path / "disk", 256) as device:
        node = make_node(data_dir=device.data_dir, receive=receive_lines(0))
        filler = device.fill(leave=24 * 2**20)
        with Sender(node.target.host, node.target.port) as sender:
            send_until_refused(sender, generator, 200)
            acknowledged = dict(sender.acknowledged)
            node.kill()
            filler.unlink()
            sender.socket.close()
            sender.release = lambda: None  # type: ignore[method-assign]
        node.start()
        assert_kept(node.data_dir, acknowledged, node.log, "killed on a full disk")
        node.kill()


def refused_until_mounted_anew(sender: Sender, generator: random.Random) -> None:
    """Nothing can be written: each request is refused, and the association lives."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while sender.store(make_instance(generator, SIZE)) == 0:  # what was written may not be noticed at once
        assert time.monotonic() < deadline, "it acknowledges what it cannot write"
    for _ in range(5):
        status = sender.store(make_instance(generator, SIZE))
        assert status in OUT_OF_RESOURCES or status == 0x0110, hex(status)
    assert sender.echo() == 0


@pytest.mark.timeout(200)
def test_a_disk_that_becomes_read_only(make_node: MakeNode, tmp_path: Path) -> None:
    generator = random.Random(6)
    with disk(tmp_path / "disk", 256) as device:
        node = make_node(data_dir=device.data_dir)
        with Sender(node.target.host, node.target.port) as sender:
            for _ in range(20):
                assert sender.store(make_instance(generator, SIZE)) == 0
            device.fail_for_good()
            refused_until_mounted_anew(sender, generator)
            acknowledged = dict(sender.acknowledged)
        node.kill()
        device.unmount()
        device.mount()
        node.start()
        assert_kept(node.data_dir, acknowledged, node.log, "after the disk was read-only")
        node.kill()


@pytest.mark.timeout(200)
def test_input_output_errors(make_node: MakeNode, tmp_path: Path) -> None:
    """The blocks of the device find no room where its image lies, so that writes and flushes fail with EIO."""
    generator = random.Random(7)
    with small_memory(tmp_path / "memory", 160) as memory, disk(memory, 400) as device:
        node = make_node(data_dir=device.data_dir)
        with Sender(node.target.host, node.target.port) as sender:
            for _ in range(20):
                assert sender.store(make_instance(generator, SIZE)) == 0
            for _ in range(600):  # more than the memory holds
                if sender.store(make_instance(generator, SIZE)):
                    break
            refused_until_mounted_anew(sender, generator)
            acknowledged = dict(sender.acknowledged)
        node.kill()
        # A larger memory takes its place: what the device could not write is as lost as on a broken disk.
        larger = tmp_path / "larger"
        copy = device.as_after_a_loss_of_power(tmp_path / "copy.img", tmp_path / "copy")
    copy.mount()
    try:
        shutil.copytree(copy.folder, larger)
    finally:
        copy.unmount()
        copy.image.unlink()
    after = make_node("after", data_dir=larger / "data")
    assert_kept(after.data_dir, acknowledged, after.log, "after input/output errors")


# -- the database ------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(200)
def test_a_locked_database_holds_up_no_sender(make_node: MakeNode) -> None:
    generator = random.Random(8)
    node = make_node()
    acknowledged: dict[str, Instance] = {}
    with Sender(node.target.host, node.target.port) as sender:
        sender.acknowledged = acknowledged
        assert sender.store(make_instance(generator, SIZE)) == 0
        assert not wait_indexed(node.data_dir, acknowledged)
        with closing(sqlite3.connect(node.data_dir / "node.sqlite", isolation_level=None)) as other:
            other.execute("PRAGMA busy_timeout = 10000")
            other.execute("BEGIN EXCLUSIVE")
            until = time.monotonic() + LOCKED_SECONDS
            during = 0
            while time.monotonic() < until:
                assert sender.store(make_instance(generator, 2_000)) == 0
                during += time.monotonic() < until
            with Sender(node.target.host, node.target.port) as another:  # associations need the database no more
                assert another.store(make_instance(generator, 2_000)) == 0
                acknowledged |= another.acknowledged
            other.execute("ROLLBACK")
        assert during >= 10, f"only {during} instances in {LOCKED_SECONDS} s"
    assert_kept(node.data_dir, acknowledged, node.log, "after the database was locked")


@pytest.mark.timeout(250)
@pytest.mark.parametrize("restart", [False, True], ids=["while it runs", "while it is down"])
def test_a_deleted_database_is_made_anew(make_node: MakeNode, restart: bool) -> None:
    generator = random.Random(9)
    node = make_node()
    with Sender(node.target.host, node.target.port) as sender:
        for _ in range(20):
            assert sender.store(make_instance(generator, 2_000)) == 0
        acknowledged = dict(sender.acknowledged)
    assert_kept(node.data_dir, acknowledged, node.log, "before")
    if restart:
        node.kill()
    for path in node.data_dir.glob("node.sqlite*"):
        path.unlink()
    assert not indexed(node.data_dir)
    if restart:
        node.start()
    with Sender(node.target.host, node.target.port) as sender:
        for _ in range(20):
            assert sender.store(make_instance(generator, 2_000)) == 0
        acknowledged |= sender.acknowledged
    assert_kept(node.data_dir, acknowledged, node.log, "after the database was deleted")
