"""A study is deleted where the disk has no byte left."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage.log.deletion.records import DeletionRequest
from storage.log.deletion.requests import DeletionRequests
from storage.tables.database.connection import Database, default_url
from tests.faults.devices import disk
from tests.storage.node import Node, received
from tests.stores import indexer_of

GONE, LEFT, INSTANCES = "1.2.3", "1.2.4", 200
NAME = "GONE^PATIENT"

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
