"""The receive role by itself is small: no torch, little memory."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from dicom_node.demo.pacs.ports import free_port
from dicom_node.dimse.scu import Target, send_echo
from dicom_node.settings.loading import load_settings

LARGEST_RSS = 150e6  # bytes


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(f'[receive]\nhost = "127.0.0.1"\nport = {free_port()}\n')
    return path


def command(config: Path) -> list[str]:
    return [sys.executable, "-m", "dicom_node.cli.main", "receive", "--config", str(config)]


@contextmanager
def receiving(config: Path, processes: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "DICOM_NODE__RECEIVE__PROCESSES": str(processes)}
    process = subprocess.Popen(command(config), stderr=subprocess.DEVNULL, env=environment)
    try:
        deadline = time.monotonic() + 30
        target = Target("DICOM_NODE", "127.0.0.1", load_settings(config).receive.port)
        while not send_echo("ANY", target, timeout=1).ok:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_receive_is_small_and_loads_no_torch(config: Path) -> None:
    with receiving(config) as process:
        time.sleep(1)
        running = psutil.Process(process.pid)
        assert running.memory_info().rss < LARGEST_RSS
        assert not [m.path for m in running.memory_maps() if "torch" in m.path.lower()]


def test_several_receivers_share_a_new_database(config: Path) -> None:
    with receiving(config, processes=2) as process:
        assert len(psutil.Process(process.pid).children()) == 2


def test_a_second_node_in_the_same_place_is_refused(config: Path, tmp_path: Path) -> None:
    with receiving(config):
        same_port = subprocess.run(command(config), capture_output=True, text=True, check=False, timeout=30)
        assert same_port.returncode == 1
        assert "set receive.port" in same_port.stderr
        other = tmp_path / "other.toml"
        other.write_text(f'[receive]\nhost = "127.0.0.1"\nport = {free_port()}\n')
        same_folder = subprocess.run(command(other), capture_output=True, text=True, check=False, timeout=30)
        assert same_folder.returncode == 1
        assert "another process already runs the role receive-0" in " ".join(same_folder.stderr.split())
