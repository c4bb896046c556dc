"""The commands that check destinations, and what is wired from their settings, for every kind."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.deliver.destinations.dicomweb import BearerAuth, DicomwebDestination
from dicom_node.deliver.destinations.folder import FolderDestination
from dicom_node.roles import build_destination, build_source
from dicom_node.settings.loading import load_settings
from tests.deliver.web import Answer, Scripted

CONFIG = """
[node]
data_dir = "data"
[completion]
source = "pacs"
[dispatch]
timeout_seconds = 7
[[destinations]]
name = "pacs"
ae_title = "NOBODY"
host = "127.0.0.1"
port = 9
[[destinations]]
name = "archive"
kind = "dicomweb"
url = "{url}"
token_file = "token"
[[destinations]]
name = "inbox"
kind = "folder"
path = "inbox"
"""
TOKEN = "very.secret-TOKEN"


@pytest.fixture
def archive() -> Iterator[Scripted]:
    """Knows the token, and quotes a patient to everybody else."""
    refusal = Answer(401, b"SECRET^PERSON", "text/plain", {"Warning": '299 x "SECRET^PERSON"'})
    right = f"Bearer {TOKEN}"
    scripted = Scripted(lambda asked: Answer(204) if asked.headers.get("authorization") == right else refusal)
    yield scripted
    scripted.close()


@pytest.fixture
def config(archive: Scripted, tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(CONFIG.format(url=archive.url))
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "inbox").mkdir()
    return path


def run(config: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "dicom_node.cli.main", *arguments, "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    told = done.stdout + done.stderr
    assert TOKEN not in told
    assert "SECRET" not in told
    assert "Traceback" not in told
    return done.returncode, told


def test_they_are_wired_with_absolute_paths_and_the_time_out(config: Path, archive: Scripted) -> None:
    settings = load_settings(config)
    pacs, web, inbox = (build_destination(d, settings) for d in settings.destinations)
    assert web == DicomwebDestination("archive", archive.url, 7, BearerAuth(config.parent / "token"))
    assert inbox == FolderDestination("inbox", config.parent / "inbox")
    assert (pacs.name, [d.profile.key for d in settings.destinations]) == ("pacs", ["", "", ""])
    source = build_source(settings)
    assert source is not None
    assert source.name == "pacs"


def test_echo_asks_each_in_its_own_way(config: Path, archive: Scripted) -> None:
    code, told = run(config, "echo")
    assert code == 1  # neither the node nor its PACS is running
    assert f"{archive.url}: answers" in told
    assert f"{config.parent / 'inbox'}: answers" in told
    assert "NOBODY at 127.0.0.1:9: no answer" in told
    (config.parent / "token").write_text("another")
    (config.parent / "inbox").rmdir()
    code, told = run(config, "echo", "archive")
    assert code == 1
    assert "HTTP 401" in told
    code, told = run(config, "echo", "inbox")
    assert code == 1
    assert "is not there" in " ".join(told.split())  # the terminal breaks lines
    code, told = run(config, "send", str(config), "--to", "archive")
    assert code == 1
    assert "'archive' is a destination of kind 'dicomweb'" in told


def test_check_config_looks_at_what_destinations_name(config: Path, archive: Scripted) -> None:
    code, told = run(config, "check-config", "--json")
    assert code == 0
    assert [d["kind"] for d in json.loads(told)["settings"]["destinations"]] == ["dimse", "dicomweb", "folder"]
    (config.parent / "inbox").rmdir()
    (config.parent / "token").unlink()
    config.write_text(config.read_text().replace("port = 9", "port = 0"))  # a mistake elsewhere hides none of these
    code, told = run(config, "check-config")
    assert code == 2
    assert "destinations[0].port = 0" in told
    assert f"destinations: archive: token_file = '{config.parent / 'token'}': cannot be read" in told
    assert f"destinations: inbox: the folder {config.parent / 'inbox'} is not there" in told
    assert archive.asked == []
