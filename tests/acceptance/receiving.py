"""The roles of a node that take in and tell others, in processes of their own: receive, index and dispatch."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dicom_node.dimse.scu import Target, send_echo
from tests.storage.node import received

CONFIG = """
[node]
ae_title = "DICOM_NODE"
data_dir = "data"
[receive]
host = "127.0.0.1"
port = {port}
minimum_free_megabytes = 0
[dispatch]
first_retry_seconds = 1
longest_retry_seconds = 2
timeout_seconds = 5
"""
ROLES = ("index", "dispatch", "receive")


class ReceivingNode:
    """Starts, stops and asks. `peers` are tables of [[peers]]."""

    def __init__(self, folder: Path, port: int, peers: Sequence[dict[str, Any]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.target = Target("DICOM_NODE", "127.0.0.1", port)
        self.config = folder / "node.toml"
        tables = [
            "\n".join(["[[peers]]", *(f"{key} = {json.dumps(value)}" for key, value in peer.items())]) for peer in peers
        ]
        self.config.write_text(CONFIG.format(port=port) + "\n".join(tables) + "\n")
        self.log = folder / "node.log"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *roles: str) -> None:
        """All roles when none is named. Returns when the receiver answers, if that is among them."""
        if not self._processes:
            done = subprocess.run(self._command("db", "upgrade"), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        for role in roles or ROLES:
            with self.log.open("ab") as output:
                self._processes[role] = subprocess.Popen(self._command(role), stdout=output, stderr=output)
        deadline = time.monotonic() + 60
        while "receive" in (roles or ROLES) and not send_echo("MR1", self.target, timeout=2).ok:
            assert self._processes["receive"].poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, "the receiver does not answer"
            time.sleep(0.2)

    def stop(self, *roles: str) -> None:
        for role in roles or list(self._processes):
            process = self._processes.pop(role)
            process.terminate()
            assert process.wait(30) == 0, self.log.read_text()[-3000:]

    def command(self, *arguments: str) -> Any:
        """Return what a command prints as JSON."""
        done = subprocess.run(
            self._command(*arguments, "--json"), capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def commitment(self, transaction: str, until: Callable[[dict[str, Any]], bool], seconds: float = 30) -> Any:
        """The request with this transaction UID, as `dicom-node commitments` shows it, once it is so."""
        deadline = time.monotonic() + seconds
        while True:
            found = [c for c in self.command("commitments") if c["transaction_uid"] == transaction]
            if found and until(found[0]):
                return found[0]
            assert time.monotonic() < deadline, (found, self.log.read_text()[-3000:])
            time.sleep(0.2)

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "dicom_node.cli.main", *arguments, "--config", str(self.config)]


def write_images(folder: Path, study: str, number: int) -> list[Path]:
    """Small MR images of one series, as files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for n in range(1, number + 1):
        sent = received(n, study=study)
        paths.append(folder / f"{n}.dcm")
        paths[-1].write_bytes(sent.file)
    return paths


def uids(study: str, number: int) -> list[str]:
    """The SOP Instance UIDs of `write_images`."""
    return [f"{study}.1.{n}" for n in range(1, number + 1)]
