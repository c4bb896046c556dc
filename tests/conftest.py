"""Fixtures for every test."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from storage.log.segments.writer import SegmentWriter
from tests.storage.node import RECEIVER

pytest_plugins = ["tests.instances"]

REPOSITORY = Path(__file__).parent.parent


def _folder(variable: str, default: Path, what: str) -> Path:
    folder = Path(os.environ.get(variable, default)).resolve()
    if not folder.is_dir():
        pytest.skip(f"{what} are not here: set {variable} to their folder")
    return folder


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Public DICOM files, outside the repository."""
    return _folder("DICOM_NODE_TEST_DATA", REPOSITORY.parent / "shared" / "data", "test images")


@pytest.fixture(scope="session")
def test_models() -> Path:
    """Public models, outside the repository."""
    return _folder("DICOM_NODE_TEST_MODELS", REPOSITORY.parent / "shared" / "models", "test models")


@pytest.fixture(autouse=True)
def segments_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the segments that a test leaves open: each has nine descriptors, and `select` takes no more than 1024.

    A `Node` may outlive a test, and closes its own.
    """
    opened: list[SegmentWriter] = []
    begin = SegmentWriter.__init__

    def noted(segment: SegmentWriter, path: Path, reserved_bytes: int) -> None:
        if path.parent.name != RECEIVER:
            opened.append(segment)
        begin(segment, path, reserved_bytes)

    monkeypatch.setattr(SegmentWriter, "__init__", noted)
    yield
    for segment in opened:
        with suppress(OSError, AttributeError):  # it has no descriptors if it could not be opened
            segment._close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for about 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a small file system cannot be mounted here: that takes root")
    yield folder
    subprocess.run(["umount", folder], check=True)
