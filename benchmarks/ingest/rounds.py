"""One round: every setting with servers of its own, every case to one server after the other."""

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import objects
from benchmarks.ingest.cases import ALL, AT_REST, GROWTH, PLAIN, READ, SETTINGS, Case, Setting
from benchmarks.ingest.device import own_disk
from benchmarks.ingest.network import Place, two_namespaces
from benchmarks.ingest.results import Read, Results
from benchmarks.ingest.rows import fill
from benchmarks.ingest.sending import Round
from benchmarks.ingest.servers import KINDS, Node, Server
from benchmarks.report import console
from benchmarks.vendors.images import vendor_images
from benchmarks.workloads import Renewer

WARM_UP = 20  # images before anything is measured
READERS = ("node", "pydicom")


@dataclass(frozen=True)
class Plan:
    """The work of every round. `servers` are those that take part; without `has_disk` none gets a disk of its own."""

    names: Sequence[str]
    cases: Sequence[Case]
    servers: Sequence[str]
    folder: Path  # of servers
    slow_flush: Path | None
    has_disk: bool
    rows: int
    growth: tuple[int, int]  # instances at the first point, and at the last


class Rounds:
    """All rounds of a run, which share the files that are sent."""

    def __init__(self, plan: Plan, source: Path) -> None:
        self._plan = plan
        self._warm_up = Case("warm-up", vendor_images(source / "warm-up", "warm-up", 256, WARM_UP))
        self._renewer = Renewer()
        self._read: tuple[Path, int] | None = None
        self._source = source
        self.results = Results()

    def run(self, number: int) -> None:
        for setting in SETTINGS:
            cases = [case for case in self._plan.cases if case.setting == setting]
            at_rest = setting == PLAIN and AT_REST in self._plan.names
            taking_part = {name for case in cases for name in case.servers} | set(ALL if at_rest else ())
            names = [name for name in self._plan.servers if name in taking_part]
            if names:
                turn = number % len(names)
                self._run_setting(number, setting, cases, names[turn:] + names[:turn], at_rest)
        if READ in self._plan.names:
            self._run_reading(number)

    def _run_setting(
        self, number: int, setting: Setting, cases: Sequence[Case], names: Sequence[str], at_rest: bool
    ) -> None:
        with ExitStack() as stack:
            place = stack.enter_context(two_namespaces()) if setting.namespaces else Place()
            folder = self._plan.folder / f"{number}-{setting.name.replace(' ', '-')}"
            disk = None
            if setting.full_index and self._plan.has_disk:
                disk = stack.enter_context(own_disk(folder))
                folder = disk.folder
            preload = self._plan.slow_flush if setting.slow_flush else None
            servers: dict[str, Server] = {}
            for name in names:
                servers[name] = KINDS[name](folder / name, place, setting.nodelay, preload)
                stack.callback(servers[name].stop)
                servers[name].start()
            this = Round(servers, self._renewer, disk)
            for name in names:
                this.run(name, self._warm_up)
                if at_rest and name in ALL:
                    self.results.at_rest.setdefault(name, []).append(this.rest(name))
            if setting.full_index:
                self._fill(servers, this)
            for case in cases:
                for name in (n for n in names if n in case.servers):
                    self._run_case(number, this, name, case)
            this.finish()

    def _fill(self, servers: dict[str, Server], this: Round) -> None:
        for name, server in servers.items():
            assert isinstance(server, Node)
            started = time.monotonic()
            self.results.rows = fill(server.data_dir, self._plan.rows)
            this.expect(name, self.results.rows)
            server.checkpoint()
            console.log(f"{self.results.rows} rows in {time.monotonic() - started:.0f} s", highlight=False)

    def _run_case(self, number: int, this: Round, name: str, case: Case) -> None:
        if case.name == GROWTH:
            points = this.grow(name, case, *self._plan.growth)
            self.results.growth.append(points)
            told = ", ".join(f"{p.rate:.0f}/s at {p.instances}" for p in points)
        else:
            sent = this.run(name, case, sample=case.name.startswith("enhanced"))
            self.results.sent.setdefault(case.name, {}).setdefault(name, []).append(sent)
            told = f"{sent.images} in {sent.seconds:.2f} s ({sent.images / sent.seconds:.0f}/s)"
            told += f", index {sent.lag_seconds:.2f} s behind"
        console.log(f"round {number + 1}, {case.name}, {name}: {told}", highlight=False)

    def _run_reading(self, number: int) -> None:
        """Read the series of `make bench-objects`, each reader in a process of its own."""
        if self._read is None:
            folder = self._source / READ
            objects.prepare(objects.READ, folder)
            self._read = folder, objects.expectation(objects.READ, folder)
        folder, expected = self._read
        turn = number % len(READERS)
        for who in READERS[turn:] + READERS[:turn]:
            with tempfile.TemporaryDirectory(dir=self._plan.folder) as temporary:
                output = Path(temporary) / "volume.npy"
                measured = objects.measure(objects.READ, who, folder, output)
                objects.check(objects.READ, output, expected)
            self.results.read.setdefault(who, []).append(Read(measured.seconds, measured.cpu_seconds))
            console.log(f"round {number + 1}, {READ}, {who}: {measured.seconds:.3f} s", highlight=False)
