"""`dicom-node fsck`: every kind of fault is found, and what can be mended is."""

import json
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
    assert (status, census["instances"], census["waiting"], census["problems"]) == (0, 5, 5, [])


def test_faults_are_found_and_mended_from_the_journal(config: Path) -> None:
    folder = config.parent / "data" / "instances" / STUDY / f"{STUDY}.1"
    (folder / f"{STUDY}.1.1.dcm").unlink()
    (folder / f"{STUDY}.1.2.dcm").write_bytes(received(2).file[:-4] + b"xxxx")
    content = received(9).file
    (folder / f"{STUDY}.1.9.dcm").write_bytes(content)
    status, census = fsck(config)
    assert status == 1
    assert faults(census) == [
        "file differs from what was received", "file without a row", "row without its file",
    ]  # fmt: skip
    status, census = fsck(config, "--repair")
    assert (status, census["instances"], census["problems"]) == (0, 6, [])
    assert (folder / f"{STUDY}.1.1.dcm").read_bytes() == received(1).file
    assert (folder / f"{STUDY}.1.2.dcm").read_bytes() == received(2).file
    assert fsck(config)[1]["waiting"] == 0


def test_what_no_journal_holds_stays_a_problem(config: Path) -> None:
    fsck(config, "--repair")  # the journal is filed and gone
    path = config.parent / "data" / "instances" / STUDY / f"{STUDY}.1" / f"{STUDY}.1.3.dcm"
    path.unlink()
    status, census = fsck(config, "--repair")
    assert status == 1
    (problem,) = census["problems"]
    assert problem["fault"] == "row without its file"
    assert problem["sop_instance_uid"] == f"{STUDY}.1.3"


def test_a_damaged_journal_is_told_of(config: Path) -> None:
    (segment,) = (config.parent / "data" / "journal" / "receive-0").glob("*.log")
    content = bytearray(segment.read_bytes())
    content[content.index(received(2).dataset) + 5] ^= 1
    segment.write_bytes(content)
    status, census = fsck(config)
    assert (status, faults(census)) == (1, ["journal damaged"])
