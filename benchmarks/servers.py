"""The servers that are compared, each in processes of its own, with its own folder on the same disk."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import psutil

from benchmarks.association import echo
from benchmarks.network import LOOPBACK, Place
from benchmarks.report import Failed
from dicom_node.demo.pacs.ports import free_port

START_SECONDS = 60.0
STOP_SECONDS = 30.0
STORESCP = "/usr/bin/storescp"  # pynetdicom puts a script of the same name into the environment
NODE = (sys.executable, "-m", "dicom_node.cli.main")

NODE_CONFIG = """\
[node]
ae_title = "{ae_title}"
data_dir = "data"
[receive]
host = "{host}"
port = {port}
maximum_associations = 100
"""


def environment(nodelay: bool) -> dict[str, str]:
    """dcmtk, and Orthanc which is built on it, leave Nagle's algorithm on unless this variable turns it off."""
    rest = {k: v for k, v in os.environ.items() if k != "TCP_NODELAY"}
    return {**rest, "TCP_NODELAY": "1"} if nodelay else rest


class Server(ABC):
    """Started with an empty folder. `nodelay` concerns only servers that heed the variable; `preload` is a library that
    its processes load before all others."""

    kind: str

    def __init__(self, folder: Path, place: Place, nodelay: bool, preload: Path | None = None) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.place = place
        self._environment = environment(nodelay) | ({} if preload is None else {"LD_PRELOAD": str(preload)})
        self.port = free_port()
        self.ae_title = self.kind.upper()
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def host(self) -> str:
        return self.place.server_address

    def start(self) -> None:
        for command in self._commands():
            with (self.folder / "server.log").open("ab") as log:
                self._processes.append(
                    subprocess.Popen(
                        [*self.place.in_server, *command],
                        env=self._environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
            self._wait(self._answers)

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    @abstractmethod
    def stored(self) -> int:
        """How many instances it holds, in its own words."""

    @abstractmethod
    def _commands(self) -> Sequence[Sequence[str]]:
        """One for each process, in the order of starting."""

    def _answers(self) -> bool:
        return self.place.run(echo, self.host, self.port, self.ae_title)

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            if time.monotonic() > deadline or any(p.poll() is not None for p in self._processes):
                raise Failed(f"{self.kind} does not start:\n{(self.folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.1)

    # -- what it costs -------------------------------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in self._processes:
            own = psutil.Process(process.pid)
            found += [own, *own.children(recursive=True)]
        return found

    def cpu_seconds(self) -> float:
        """Of all processes that are or were; a child that has ended counts with its parent."""
        total = 0.0
        for process in self.processes():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def rss(self) -> int:
        """Resident bytes of all processes together."""
        total = 0
        for process in self.processes():
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total


class Orthanc(Server):
    """With its defaults, which are Debian's."""

    kind = "orthanc"

    def __init__(self, folder: Path, place: Place, nodelay: bool, preload: Path | None = None) -> None:
        super().__init__(folder, place, nodelay, preload)
        self._http_port = free_port()

    def _commands(self) -> Sequence[Sequence[str]]:
        program = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise Failed("Orthanc is not installed: run tests/install-peers.sh")
        configuration = self.folder / "orthanc.json"
        configuration.write_text(
            json.dumps(
                {
                    "StorageDirectory": str(self.folder / "storage"),
                    "IndexDirectory": str(self.folder / "storage"),
                    "Plugins": [],
                    "HttpPort": self._http_port,
                    "AuthenticationEnabled": False,
                    "DicomAet": self.ae_title,
                    "DicomPort": self.port,
                }
            )
        )
        return [[program, str(configuration)]]

    def stored(self) -> int:
        return int(
            json.loads(self.place.run(_get, f"http://{LOOPBACK}:{self._http_port}/statistics"))["CountInstances"]
        )


def _get(url: str) -> bytes:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as response:
        content: bytes = response.read()
        return content


class Storescp(Server):
    """dcmtk's: it writes files and never flushes them. A process for each association."""

    kind = "storescp"

    def _commands(self) -> Sequence[Sequence[str]]:
        if not Path(STORESCP).exists():
            raise Failed("dcmtk is not installed: run tests/install-peers.sh")
        (self.folder / "files").mkdir()
        options = ["--fork", "+xa", "-aet", self.ae_title, "-od", str(self.folder / "files")]
        return [[STORESCP, *options, str(self.port)]]

    def stored(self) -> int:
        with os.scandir(self.folder / "files") as entries:
            return sum(1 for _ in entries)


class Node(Server):
    """This node: a receiver and, where it is a role of its own, the indexer."""

    kind = "node"

    def _commands(self) -> Sequence[Sequence[str]]:
        config = self.folder / "node.toml"
        config.write_text(NODE_CONFIG.format(ae_title=self.ae_title, host=self.host, port=self.port))
        return [[*NODE, role, "--config", str(config)] for role in self._roles()]

    def _roles(self) -> Sequence[str]:
        listing = subprocess.run([*NODE, "index", "--help"], capture_output=True, check=False, timeout=60)
        return ("receive", "index") if listing.returncode == 0 else ("receive",)

    def stored(self) -> int:
        """Rows of the index, which may come after the answers."""
        database = self.folder / "data" / "node.sqlite"
        try:
            with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
                (count,) = connection.execute("SELECT count(*) FROM instance").fetchone()
                return int(count)
        except sqlite3.OperationalError:  # the indexer has not made it yet
            return 0


KINDS: dict[str, type[Server]] = {kind.kind: kind for kind in (Node, Orthanc, Storescp)}
