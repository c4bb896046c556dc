"""`dicom-node export` and `dicom-node delete`, as an operator calls them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dicom_node.read.stores import open_stores
from dicom_node.roles import build_indexer
from dicom_node.settings import check
from dicom_node.settings.loading import inspect_config, load_settings
from storage.log.journal import Journal
from tests.storage.node import STUDY, received


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text('[node]\ndata_dir = "data"\n')
    settings = load_settings(path)
    journal = Journal(tmp_path / "data" / "journal" / "receive-0")
    journal.open()
    for number in range(1, 4):
        sent = received(number)
        journal.store(sent.instance, sent.file, kept=sent.kept)
    journal.close()
    open_stores(settings.stores, upgrade=True).database.close()
    indexer = build_indexer(settings)
    indexer.advance()
    indexer.close()
    return path


def command(config: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "dicom_node.cli.main", *map(str, arguments), "--config", config],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def as_json(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_study_is_exported_as_it_was_received(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "study"
    told = as_json(command(config, "export", STUDY, folder, "--json"))
    assert (told["instances"], told["failures"]) == (3, [])
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == [Path(f"{STUDY}.1/{STUDY}.1.{number}.dcm") for number in (1, 2, 3)]
    assert (folder / files[1]).read_bytes() == received(2).file
    again = command(config, "export", STUDY, folder)
    assert again.returncode == 1
    assert "not empty" in again.stderr


def test_a_damaged_instance_is_not_exported(config: Path, tmp_path: Path) -> None:
    (segment,) = (config.parent / "data" / "journal" / "receive-0").glob("*.log")
    content = segment.read_bytes()
    segment.write_bytes(content.replace(received(2).dataset, received(2).dataset[:-2] + b"xx"))
    done = command(config, "export", STUDY, tmp_path / "out")
    assert done.returncode == 1
    assert "2 instances" in done.stdout
    assert f"{STUDY}.1.2: its bytes are not those that were received" in done.stderr


def test_a_study_is_deleted_where_the_node_does_not_run(config: Path) -> None:
    refused = command(config, "delete", STUDY, "--reason", "asked for")
    assert refused.returncode == 1  # nobody confirms
    assert "3 instances" in refused.stderr
    told = as_json(command(config, "delete", STUDY, "--reason", "asked for", "--yes", "--json"))
    assert (told["study_instance_uid"], told["instances"], told["reason"]) == (STUDY, 3, "asked for")
    gone = command(config, "study", STUDY)
    assert gone.returncode == 1
    assert "deleted with 3 instances: asked for" in " ".join(gone.stderr.split())
    assert command(config, "delete", STUDY, "--reason", "again", "--yes").returncode == 1
    census = as_json(command(config, "fsck", "--json"))
    assert (census["instances"], census["problems"]) == (0, [])
    *_, segment = sorted((config.parent / "data" / "index-log").glob("*.log"))
    segment.write_bytes(segment.read_bytes().replace(b"asked for", b"xxxxx for"))
    damaged = command(config, "fsck", "--json")
    assert damaged.returncode == 1
    assert "index-log" in {problem["path"].split("/")[0] for problem in json.loads(damaged.stdout)["problems"]}


def test_the_index_role_deletes_where_it_runs(config: Path) -> None:
    role = subprocess.Popen(
        [sys.executable, "-m", "dicom_node.cli.main", "index", "--config", config], stderr=subprocess.DEVNULL
    )
    try:
        locks = config.parent / "data" / "locks"
        while not list(locks.glob("everywhere-index")):
            assert role.poll() is None
        told = command(config, "delete", STUDY, "--reason", "asked for", "--yes")
        assert told.returncode == 0, told.stderr
        assert f"study {STUDY}: deleted with 3 instances: asked for" in told.stdout
        assert role.poll() is None
    finally:
        role.terminate()
        role.wait()


def test_what_deleting_costs_without_holes_is_told(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check.find_notes(inspect_config(config)) == []
    monkeypatch.setattr(check, "has_holes", lambda folder: False)
    (note,) = check.find_notes(inspect_config(config))
    assert "writes zeros over all its bytes" in note
