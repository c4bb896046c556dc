"""A whole node in processes of its own, for tests that drive it from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from dicom_node import views
from dicom_node.app import open_stores
from dicom_node.demo_pacs import Pacs
from dicom_node.scu import Target, echo
from dicom_node.settings import load

SCANNER = "SCANNER1"
START_SECONDS = 90.0

CONFIG = """
[node]
ae_title = "DICOM_NODE"
data_dir = "data"
[receive]
host = "127.0.0.1"
port = {port}
[completion]
quiet_seconds = 1.5
[work]
devices = "cpu"
heartbeat_seconds = 0.5
[dispatch]
first_retry_seconds = 1
longest_retry_seconds = 3
[[peers]]
ae_title = "{scanner}"
[[peers]]
ae_title = "{pacs.ae_title}"
[[destinations]]
name = "pacs"
kind = "dimse"
ae_title = "{pacs.ae_title}"
host = "{pacs.host}"
port = {pacs.port}
[[applications]]
id = "segmentation"
name = "model"
bundle = "{bundle}"
destinations = ["pacs"]
"""


class Node:
    """Starts, kills and asks one node. Everything it writes is below `folder`."""

    def __init__(self, folder: Path, port: int, pacs: Pacs, bundle: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "node.toml"
        self.config.write_text(CONFIG.format(port=port, scanner=SCANNER, pacs=pacs, bundle=bundle))
        self.log = folder / "node.log"
        self.target = Target("DICOM_NODE", "127.0.0.1", port)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dicom_node.cli", "run", "--config", str(self.config)],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not echo(SCANNER, self.target, timeout=2).ok:
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, "the node does not answer an echo"
            time.sleep(0.2)
        # The log's last line when all roles are up; an echo is answered as soon as the receiver is.

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            assert self._process.wait(40) == 0

    def kill(self) -> None:
        """What a power cut does to the processes: all at once, without a word."""
        assert self._process is not None
        family = [self._process.pid, *(p.pid for p in psutil.Process(self._process.pid).children(recursive=True))]
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def worker(self) -> int:
        """The worker's process id."""
        assert self._process is not None
        (pid,) = [
            p.pid
            for p in psutil.Process(self._process.pid).children(recursive=True)
            if "dicom_node.worker_process" in p.cmdline()
        ]
        return int(pid)

    def command(self, *arguments: str) -> Any:
        """What a command prints as JSON."""
        done = subprocess.run(
            [sys.executable, "-m", "dicom_node.cli", *arguments, "--json", "--config", str(self.config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def study(self, uid: str) -> dict[str, Any] | None:
        """What `dicom-node study UID --json` prints, without the cost of a process."""
        stores = open_stores(load(self.config))
        try:
            found = stores.studies.get(uid)
            if found is None:
                return None
            return views.study_detail(found, stores.studies, stores.instances, stores.jobs, stores.deliveries)
        finally:
            stores.database.close()

    def wait(self, uid: str, until: Callable[[dict[str, Any]], bool], seconds: float = 120) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        detail = None
        while time.monotonic() < deadline:
            detail = self.study(uid)
            if detail is not None and until(detail):
                return detail
            time.sleep(0.2)
        told = (
            json.dumps({k: detail[k] for k in ("state", "revision", "reason", "jobs", "deliveries")}, indent=1)
            if detail
            else None
        )
        raise AssertionError(f"not within {seconds} s: {told}\n{self.log.read_text()[-3000:]}")


def delivered(revision: int = 1) -> Callable[[dict[str, Any]], bool]:
    """Every delivery of this revision's results has been accepted."""

    def decide(detail: dict[str, Any]) -> bool:
        jobs = {j["id"] for j in detail["jobs"] if j["revision"] == revision and j["state"] == "SUCCEEDED"}
        deliveries = [d for d in detail["deliveries"] if d["job_id"] in jobs]
        return bool(deliveries) and all(d["state"] in ("SENT", "COMMITTED") for d in deliveries)

    return decide


def running(detail: dict[str, Any]) -> bool:
    return any(j["state"] == "RUNNING" for j in detail["jobs"])
