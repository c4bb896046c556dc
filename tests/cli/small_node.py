"""A small node on disk, whose rows were written by the version of schema 0004: what every command shows of it."""

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage.tables.database.connection import Database, default_url

DATA = Path(__file__).parent / "data"
CONFIG = """\
[node]
data_dir = "data"
[work]
devices = "cpu"
[completion]
source = "pacs"
[[destinations]]
name = "pacs"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = 4242
[[applications]]
id = "soft_tissue_mass"
name = "liver"
destinations = ["pacs"]
"""
ROUTED, RECEIVING, IGNORED = "1.2.3", "1.2.4", "1.2.5"  # studies, by their state


@pytest.fixture(scope="module")
def small_node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of the node. Tests only look at it."""
    tmp_path = tmp_path_factory.mktemp("node")
    config = tmp_path / "node.toml"
    config.write_text(CONFIG)
    folder = tmp_path / "data"
    folder.mkdir()
    database = Database(default_url(folder))
    database.upgrade()
    database.close()
    with sqlite3.connect(folder / "node.sqlite") as connection:
        connection.executescript((DATA / "node.sql").read_text())
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}"  # a study that arrives now is not complete yet
        times = ", ".join(
            f"{column} = :now" for column in ("revision_started_at", "first_received_at", "last_received_at")
        )
        connection.execute(f"UPDATE study SET {times} WHERE study_instance_uid = :uid", {"now": now, "uid": RECEIVING})
    connection.close()
    return config
