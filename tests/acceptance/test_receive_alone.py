"""The receive role by itself is small: no torch, little memory."""

import subprocess
import sys
import time
from pathlib import Path

import psutil

from dicom_node.scu import Target, echo
from tests.acceptance.node import free_port

LARGEST_RSS = 150e6  # bytes


def test_receive_is_small_and_loads_no_torch(tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "node.toml"
    config.write_text(f'[receive]\nhost = "127.0.0.1"\nport = {port}\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "dicom_node.cli", "receive", "--config", str(config)], stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while not echo("ANY", Target("DICOM_NODE", "127.0.0.1", port), timeout=1).ok:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(1)
        running = psutil.Process(process.pid)
        assert running.memory_info().rss < LARGEST_RSS
        assert not [m.path for m in running.memory_maps() if "torch" in m.path.lower()]
    finally:
        process.terminate()
        assert process.wait(20) == 0
