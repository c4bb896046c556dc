"""dcmjs-dimse, a DICOM implementation of others, as a peer: `peer.js` driven from Python."""

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dicom-node-tests" / "dcmjs"
INSTALL_SECONDS = 180
LONGEST_SECONDS = 90


class Dcmjs:
    """`modules` is the folder that holds node_modules."""

    def __init__(self, node: str, modules: Path) -> None:
        self._node = node
        self._environment = {**os.environ, "NODE_PATH": str(modules / "node_modules")}

    def scu(
        self,
        port: int,
        requests: list[dict[str, Any]],
        *,
        calling: str = "MR1",
        called: str = "NODE",
        roles: tuple[bool, bool] | None = (True, False),
        linger: float = 0,
    ) -> dict[str, Any]:
        """Sends the requests over one association, which stays open for `linger` seconds after the last answer."""
        job = {
            "host": "127.0.0.1", "port": port, "calling": calling, "called": called, "roles": roles,
            "linger": int(linger * 1000), "requests": requests,
        }  # fmt: skip
        done = subprocess.run(
            [self._node, FOLDER / "peer.js", "scu"],
            input=json.dumps(job), capture_output=True, text=True, env=self._environment, timeout=LONGEST_SECONDS,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def listen(self, port: int, reports: int = 1) -> "Listening":
        process = subprocess.Popen(
            [self._node, FOLDER / "peer.js", "scp"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self._environment,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(json.dumps({"port": port, "reports": reports}))
        process.stdin.close()
        assert process.stderr.readline().strip() == "listening"
        _wait_for(port)
        return Listening(process)


class Listening:
    """A storage commitment SCU that waits for reports. `result` is what it heard once there were enough."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def result(self, seconds: float = 30) -> dict[str, Any]:
        try:
            assert self._process.wait(seconds) == 0
        finally:
            self._process.kill()
        assert self._process.stdout is not None
        result: dict[str, Any] = json.loads(self._process.stdout.read())
        return result


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def install() -> Dcmjs:
    """Installs what package.json pins, once for each content of it. Skips where that cannot be done."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("dcmjs-dimse needs node and npm, which are not installed")
    wanted = (FOLDER / "package.json").read_text()
    stamp = CACHE / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        CACHE.mkdir(parents=True, exist_ok=True)
        (CACHE / "package.json").write_text(wanted)
        command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        try:
            done = subprocess.run(command, cwd=CACHE, capture_output=True, check=False, timeout=INSTALL_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.skip("npm cannot install dcmjs-dimse: it takes too long")
        if done.returncode != 0:
            pytest.skip("npm cannot install dcmjs-dimse here")
        stamp.write_text(wanted)
    return Dcmjs(node, CACHE)
