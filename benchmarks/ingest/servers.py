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
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import psutil

from benchmarks.ingest.association import echo
from benchmarks.ingest.network import LOOPBACK, Place
from benchmarks.report import Failed
from dicom_node.demo.pacs.ports import free_port
from storage.tables.database.connection import Database, default_url

START_SECONDS = 60.0
STOP_SECONDS = 30.0
DATABASE_SECONDS = 30.0
STORESCP = "/usr/bin/storescp"  # pynetdicom puts a script of the same name into the environment
NODE = (sys.executable, "-m", "dicom_node.cli.main")

T = TypeVar("T")

NODE_CONFIG = """\
[node]
ae_title = "{ae_title}"
data_dir = "data"
[receive]
host = "{host}"
port = {port}
maximum_associations = 100
[completion]
quiet_seconds = 6
[[destinations]]
name = "nobody"
ae_title = "NOBODY"
host = "127.0.0.1"
port = 9
[[applications]]
id = "soft_tissue_mass"
destinations = ["nobody"]
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
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def host(self) -> str:
        return self.place.server_address

    def start(self) -> None:
        for name, command in self._commands().items():
            self._start(name, command)
            self.wait(self._answers, START_SECONDS, 0.1, "it does not answer")

    def _start(self, name: str, command: Sequence[str]) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*self.place.in_server, *command],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        processes = list(reversed(self._processes.values()))
        for process in processes:
            process.terminate()
        for process in processes:
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
    def _commands(self) -> dict[str, Sequence[str]]:
        """One for each process, by its name, in the order of starting."""

    def _answers(self) -> bool:
        return self.place.run(echo, self.host, self.port, self.ae_title)

    def wait(self, condition: Callable[[], bool], seconds: float, pause: float, otherwise: str) -> None:
        """Raises Failed after `seconds`, with the text `otherwise`, or when one of the processes has ended."""
        deadline = time.monotonic() + seconds
        while not condition():
            ended = [name for name, process in self._processes.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                why = f"{ended[0]} has ended" if ended else otherwise
                raise Failed(f"{self.kind}: {why}\n{(self.folder / 'server.log').read_text()[-2000:]}")
            time.sleep(pause)

    # -- what it costs -------------------------------------------------------------------------------------------------

    def _each(self, of: Callable[[psutil.Process], T]) -> Iterator[tuple[str, T]]:
        """Yield what `of` says of the processes that run now, each under the name of the one that it comes from."""
        for name, process in self._processes.items():
            own = psutil.Process(process.pid)
            for found in (own, *own.children(recursive=True)):
                try:
                    said = of(found)
                except psutil.NoSuchProcess:
                    continue
                yield name, said

    def cpu_seconds(self) -> Mapping[str, float]:
        """By name, of all processes that are or were; a child that has ended counts with its parent."""
        total: defaultdict[str, float] = defaultdict(float)
        for name, times in self._each(lambda p: p.cpu_times()):
            total[name] += times.user + times.system + times.children_user + times.children_system
        return total

    def rss(self) -> int:
        """Resident bytes of all processes together."""
        return sum(bytes_ for _, bytes_ in self._each(lambda p: p.memory_info().rss))

    def written_bytes(self) -> int:
        """Bytes that the processes gave the kernel to write to a disk: each page counts when it becomes dirty."""
        return sum(bytes_ for _, bytes_ in self._each(lambda p: p.io_counters().write_bytes))


class Orthanc(Server):
    """With its defaults, which are Debian's."""

    kind = "orthanc"

    def __init__(self, folder: Path, place: Place, nodelay: bool, preload: Path | None = None) -> None:
        super().__init__(folder, place, nodelay, preload)
        self._http_port = free_port()

    def _commands(self) -> dict[str, Sequence[str]]:
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
        return {self.kind: [program, str(configuration)]}

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

    def _commands(self) -> dict[str, Sequence[str]]:
        if not Path(STORESCP).exists():
            raise Failed("dcmtk is not installed: run tests/install-peers.sh")
        (self.folder / "files").mkdir()
        options = ["--fork", "+xa", "-aet", self.ae_title, "-od", str(self.folder / "files")]
        return {self.kind: [STORESCP, *options, str(self.port)]}

    def stored(self) -> int:
        with os.scandir(self.folder / "files") as entries:
            return sum(1 for _ in entries)


class Node(Server):
    """This node: a receiver and the indexer."""

    kind = "node"
    roles: tuple[str, ...] = ("receive", "index")

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    def _commands(self) -> dict[str, Sequence[str]]:
        text = NODE_CONFIG.format(ae_title=self.ae_title, host=self.host, port=self.port)
        (self.folder / "node.toml").write_text(text)
        self.data_dir.mkdir()
        database = Database(default_url(self.data_dir))  # `schedule` does not start without its tables
        database.upgrade()
        database.close()
        return {role: self._command(role) for role in self.roles}

    def _command(self, role: str) -> Sequence[str]:
        return [*NODE, role, "--config", str(self.folder / "node.toml")]

    def stored(self) -> int:
        """Instances that have a row, which may come after the answers.

        Rows are counted by study, because counting a million of them takes longer than what is measured.
        """
        return int(self._ask("SELECT coalesce(sum(instances), 0) FROM study", default=0))

    def rows(self) -> int:
        return int(self._ask("SELECT count(*) FROM instance", default=0))

    def unrouted(self) -> int:
        """Studies that are not routed yet."""
        return int(self._ask("SELECT count(*) FROM study WHERE state NOT IN ('ROUTED', 'IGNORED')", default=1))

    def revisions(self) -> int:
        return int(self._ask("SELECT max(revision) FROM study", default=0))

    def routing_seconds(self) -> float:
        """From complete to routed, of the study that came last."""
        return float(
            self._ask(
                "SELECT (julianday(max(routing.at)) - julianday(max(event.at))) * 86400 FROM study"
                " JOIN routing USING (study_instance_uid) JOIN event USING (study_instance_uid)"
                " WHERE stage = 'complete' GROUP BY study_instance_uid ORDER BY last_received_at DESC LIMIT 1",
                default=0,
            )
        )

    def checkpoint(self) -> None:
        """Moves what the write-ahead log of the database holds to its place."""
        with closing(sqlite3.connect(self.data_dir / "node.sqlite", timeout=DATABASE_SECONDS)) as connection:
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise Failed(f"{self.kind}: the database stays busy")

    def _ask(self, query: str, default: float) -> float:
        database = self.data_dir / "node.sqlite"
        try:
            address = f"file:{database}?mode=ro"
            with closing(sqlite3.connect(address, uri=True, timeout=DATABASE_SECONDS)) as connection:
                found = connection.execute(query).fetchone()
        except sqlite3.OperationalError:  # the indexer has not made it yet
            return default
        return default if found is None or found[0] is None else float(found[0])


class ReceivingNode(Node):
    """The node with `index` stopped: what a receiver reaches alone. Once that is started, it tells what it holds."""

    kind = "receive"
    roles = ("receive",)

    def start_index(self) -> None:
        self._start("index", self._command("index"))


class RoutingNode(Node):
    """The same node with `schedule` beside it, so that studies are routed."""

    kind = "routing"
    roles = ("receive", "index", "schedule")


KINDS: dict[str, type[Server]] = {kind.kind: kind for kind in (Node, ReceivingNode, RoutingNode, Orthanc, Storescp)}
