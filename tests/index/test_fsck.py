"""`dicom-node fsck`: every kind of fault is found, and what can be mended is."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dicom_node.read.stores import open_stores
from dicom_node.roles import build_indexer
from dicom_node.settings.loading import load_settings
from storage.log.journal import Journal
from tests.storage.node import STUDY, received


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text('[node]\ndata_dir = "data"\n')
    settings = load_settings(path)
    journal = Journal(tmp_path / "data" / "journal" / "receive-0")
    journal.open()
    for number in range(1, 6):
        journal.store(received(number).instance, received(number).file)
    stores = open_stores(settings.stores, upgrade=True)
    build_indexer(settings).advance()
    stores.database.close()
    journal.close()
    return path


def fsck(config: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "dicom_node.cli.main", "fsck", "--json", "--config", config, *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)


def faults(census: dict[str, Any]) -> list[str]:
    return sorted(p["fault"] for p in census["problems"])


def test_nothing_is_wrong(config: Path) -> None:
    status, census = fsck(config)
    assert (status, census["instances"], census["waiting"], census["problems"]) == (0, 5, 0, [])


def segment_of(config: Path) -> Path:
    (segment,) = (config.parent / "data" / "journal" / "receive-0").glob("*.log")
    return segment


def change(segment: Path, before: bytes, after: bytes) -> None:
    content = segment.read_bytes()
    assert content.count(before) == 1
    segment.write_bytes(content.replace(before, after))


def test_what_waits_is_no_problem(config: Path) -> None:
    journal = Journal(config.parent / "data" / "journal" / "receive-0")
    journal.open()
    journal.store(received(6).instance, received(6).file)
    status, census = fsck(config)
    assert (status, census["instances"], census["waiting"], census["problems"]) == (0, 5, 1, [])
    journal.close()
    assert fsck(config, "--repair")[1]["instances"] == 6


def test_a_damaged_instance_is_told_and_mended_by_what_comes_again(config: Path) -> None:
    change(segment_of(config), received(2).dataset, received(2).dataset[:-2] + b"xx")
    status, census = fsck(config)
    assert (status, faults(census)) == (1, ["file differs from what was received"])
    (problem,) = census["problems"]
    assert problem["sop_instance_uid"] == f"{STUDY}.1.2"
    assert fsck(config, "--repair")[0] == 1  # nothing has the instance but these bytes
    journal = Journal(config.parent / "data" / "journal" / "receive-0")
    journal.open()
    journal.store(received(2).instance, received(2).file)
    journal.close()
    status, census = fsck(config, "--repair")
    assert (status, census["instances"], census["problems"]) == (0, 5, [])


def test_a_segment_that_is_gone_is_told(config: Path) -> None:
    segment_of(config).unlink()
    status, census = fsck(config)
    assert (status, faults(census)) == (1, ["row without its file"] * 5)


def test_rows_that_are_lost_come_back(config: Path) -> None:
    with sqlite3.connect(config.parent / "data" / "node.sqlite") as connection:
        connection.execute("DELETE FROM instance WHERE sop_instance_uid = ?", (f"{STUDY}.1.3",))
    status, census = fsck(config)
    assert (status, faults(census)) == (1, ["file without a row"])
    status, census = fsck(config, "--repair")
    assert (status, census["instances"], census["problems"]) == (0, 5, [])


def test_a_damaged_journal_is_told_of(config: Path) -> None:
    """Bytes between frames are damaged: here the meta of one."""
    change(segment_of(config), b'"sop_instance_uid":"1.2.3.1.2"', b'"sop_instance_uid":"1.2.3.1.X"')
    status, census = fsck(config)
    assert (status, faults(census)) == (1, ["file differs from what was received", "journal damaged"])
