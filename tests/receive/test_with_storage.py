"""The receiver on the node's own store: what lies on disk is what was sent."""

import hashlib
from pathlib import Path

import pytest
from pynetdicom.dsutils import split_dataset

from dicom_node import scu
from dicom_node.receiver import Receiver
from dicom_node.scp import ReceivePolicy
from dicom_node.scu import Target
from tests.instances import MakeFile


def digest(path: Path) -> str:
    _, offset = split_dataset(path)
    return hashlib.sha256(path.read_bytes()[offset:]).hexdigest()


def test_bytes_on_disk_are_the_bytes_sent(tmp_path: Path, make_file: MakeFile) -> None:
    instances = pytest.importorskip("storage.instances")
    database = pytest.importorskip("storage.database").Database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    database.upgrade()
    root = tmp_path / "instances"
    receiver = Receiver(
        ReceivePolicy("NODE", "127.0.0.1", 0),
        instances.InstanceStore(database, root, lambda *_: True),
        "receive-0",
    )
    receiver.start()
    try:
        paths = [make_file() for _ in range(5)]
        target = Target("NODE", "127.0.0.1", receiver.port)
        for _ in range(2):  # the second time they are duplicates
            assert all(result.ok for result in scu.send_files(paths, "MR1", target))
    finally:
        receiver.stop(grace=1)
    stored = [path for path in root.rglob("*") if path.is_file()]
    assert sorted(map(digest, stored)) == sorted(map(digest, paths))
