"""A whole node in processes of its own, for tests that drive it from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from dicom_node.demo.pacs.base import Pacs
from dicom_node.dimse.scu import Target, send_echo
from dicom_node.read.stores import open_stores
from dicom_node.read.study import read_study
from dicom_node.settings.loading import load_settings

SCANNER = "SCANNER1"
START_SECONDS = 150.0

CONFIG = """
[node]
ae_title = "DICOM_NODE"
data_dir = "{data_dir}"
[receive]
host = "127.0.0.1"
port = {port}
{receive}
[completion]
quiet_seconds = 1.5
report_quiet_seconds = 1
[work]
devices = "cpu"
heartbeat_seconds = 0.5
[dispatch]
first_retry_seconds = 1
longest_retry_seconds = 3
"""

PEERS = """
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
{destination}
"""

MODEL = """
[[applications]]
id = "segmentation"
name = "model"
bundle = "{bundle}"
no_result = "always"
destinations = ["pacs"]
"""

APPLICATION = """
[[applications]]
id = "{id}"
no_result = "always"
destinations = ["pacs"]
"""


ALONE = """
[[destinations]]
name = "nobody"
ae_title = "NOBODY"
host = "127.0.0.1"
port = 9
"""


class Node:
    """Starts, kills and asks one node. Everything it writes is below `folder`, or `data_dir`.

    Each of `roles` is a process: "run" is the whole node under its supervisor. Without a PACS it computes nothing and
    admits every peer. It runs the model `bundle`, or the node's own `applications` without one. `receive` and
    `destination` are lines of these sections.
    """

    def __init__(  # noqa: PLR0913 - a test names the few that it changes
        self,
        folder: Path,
        port: int,
        pacs: Pacs | None = None,
        bundle: Path | None = None,
        *,
        applications: Sequence[str] = (),
        destination: str = "",
        roles: Sequence[str] = ("run",),
        data_dir: Path | None = None,
        receive: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "node.toml"
        self.data_dir = data_dir or folder / "data"
        text = CONFIG.format(port=port, data_dir=self.data_dir, receive=receive)
        text += ALONE if pacs is None else PEERS.format(scanner=SCANNER, pacs=pacs, destination=destination)
        text += "" if bundle is None else MODEL.format(bundle=bundle)
        text += "".join(APPLICATION.format(id=name) for name in applications)
        self.config.write_text(text)
        self.log = folder / "node.log"
        self.target = Target("DICOM_NODE", "127.0.0.1", port)
        self.roles = tuple(roles)
        self._environment = {**os.environ, **(environment or {})}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Starts the roles that do not run."""
        self._processes = {role: p for role, p in self._processes.items() if p.poll() is None}
        for role in self.roles:
            if role in self._processes:
                continue
            with self.log.open("ab") as output:
                self._processes[role] = subprocess.Popen(
                    [sys.executable, "-m", "dicom_node.cli.main", role, "--config", str(self.config)],
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    env=self._environment,
                )
            self.wait_echo()  # the first role is the one that brings the database up to date
        # An echo is answered as soon as the receiver is there, which is before the log says that all roles are up.

    def wait_echo(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not send_echo(SCANNER, self.target, timeout=2).ok:
            for process in self._processes.values():
                assert process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, f"the node does not answer an echo\n{self.log.read_text()[-3000:]}"
            time.sleep(0.1)

    def stop(self) -> None:
        running = [p for p in self._processes.values() if p.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            assert process.wait(40) == 0, self.log.read_text()[-3000:]

    def kill(self) -> None:
        """Kill all processes at once, without a word, as a power cut does."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._processes.values():
            process.wait()

    def kill_role(self, role: str) -> None:
        """SIGKILL to the processes that run `role`, and to nothing else: with "run", to the supervisor alone."""
        family, found = self._family(), self.processes(role)
        assert found, [p.cmdline() for p in family]
        for process in found:
            process.kill()
        psutil.wait_procs(found, timeout=10)
        if role == "run":  # its children end by themselves, or the node cannot start again
            _, alive = psutil.wait_procs(family, timeout=40)
            assert not alive, alive

    def processes(self, role: str) -> list[psutil.Process]:
        """Return the processes that run `role` now, in the order of their index."""
        return sorted((p for p in self._family() if role in p.cmdline()[3:4]), key=lambda p: p.cmdline()[4:])

    def pids(self) -> list[int]:
        return [int(p.pid) for p in self._family()]

    def _family(self) -> list[psutil.Process]:
        found = []
        for process in self._processes.values():
            with suppress(psutil.NoSuchProcess):
                own = psutil.Process(process.pid)
                found += [own, *own.children(recursive=True)]
        return found

    def worker(self) -> int:
        """The worker's process id."""
        (pid,) = [p.pid for p in self._family() if "dicom_node.work.process" in p.cmdline()]
        return int(pid)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of this node."""
        return subprocess.run(
            [sys.executable, "-m", "dicom_node.cli.main", *arguments, "--config", str(self.config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )

    def command(self, *arguments: str) -> Any:
        """Return what a command prints as JSON."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def study(self, uid: str) -> dict[str, Any] | None:
        """Return what `dicom-node study UID --json` prints, without the cost of a process."""
        stores = open_stores(load_settings(self.config).stores)
        try:
            found = stores.studies.get(uid)
            if found is None:
                return None
            return read_study(stores, found).to_json()
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


def committed(detail: dict[str, Any]) -> bool:
    """Every delivery has been confirmed by its destination."""
    return bool(detail["deliveries"]) and all(d["state"] == "COMMITTED" for d in detail["deliveries"])


def running(detail: dict[str, Any]) -> bool:
    return any(j["state"] == "RUNNING" for j in detail["jobs"])
