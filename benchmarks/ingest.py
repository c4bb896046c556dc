"""How fast the node receives, beside Orthanc and dcmtk's storescp: `make bench-ingest`, or this module with options.

One run, interleaved: in each round every server starts with an empty folder on the same disk, and each case is sent to
one server after the other, in an order that turns with the rounds. Printed are medians over the rounds, and ratios.
What arrived is counted at every server after every send; a wrong count ends the run.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import slow_flush
from benchmarks.association import Association
from benchmarks.network import NotPossible, Place, two_namespaces
from benchmarks.peak import Peak
from benchmarks.report import Failed, Goal, console, markdown, show, verdicts, versions
from benchmarks.servers import KINDS, Server, environment
from benchmarks.workloads import Renewer, Workload, enhanced_mr, mr_slices

STORESCU, DCMSEND = "/usr/bin/storescu", "/usr/bin/dcmsend"
SENDERS = ("storescu x1", "storescu x4", "storescu x8", "dcmsend")
SEND_SECONDS = 600.0
CATCH_UP_SECONDS = 300.0
WARM_UP = 20  # images before anything is measured
IDLE_ASSOCIATIONS = 50
GROUPS = (  # nodelay, namespaces, slow flush: each has servers of its own
    (True, False, False),
    (False, False, False),
    (True, True, False),
    (False, True, False),
    (True, False, True),
)
SET_UPS = 50
SAMPLE_SECONDS = 0.01
SETTLE_SECONDS = 2.0
FLUSH_MILLISECONDS = 4.0  # what a disk takes that has no cache of its own


@dataclass(frozen=True)
class Case:
    """One thing that is sent. `nodelay` holds for senders and servers; without it both are as Debian ships them."""

    name: str
    workload: Workload
    sender: str
    nodelay: bool = True
    namespaces: bool = False
    slow_flush: bool = False  # each flush of the servers takes FLUSH_MILLISECONDS longer


@dataclass(frozen=True)
class Sent:
    """One case, one server, one round."""

    images: int
    seconds: float
    cpu_seconds: float  # of the server, until everything is filed
    lag_seconds: float  # from the last answer to the last row
    growth_bytes: int  # highest resident memory during the send, above the idle server's


@dataclass(frozen=True)
class AtRest:
    """What a server costs before the first case of a round."""

    idle_bytes: int
    associations_bytes: int  # above idle, with IDLE_ASSOCIATIONS that say nothing
    setup_seconds: float  # median


@dataclass
class Results:
    sent: dict[str, dict[str, list[Sent]]] = field(default_factory=dict)  # by case, by server
    at_rest: dict[str, list[AtRest]] = field(default_factory=dict)  # by server

    def median(self, case: str, server: str, of: Callable[[Sent], float]) -> float | None:
        found = self.sent.get(case, {}).get(server)
        return statistics.median(map(of, found)) if found else None

    def rate(self, case: str, server: str) -> float | None:
        return self.median(case, server, lambda s: s.images / s.seconds)

    def rest(self, server: str, of: Callable[[AtRest], float]) -> float | None:
        found = self.at_rest.get(server)
        return statistics.median(map(of, found)) if found else None


# -- goals: issue 3, "Speed" -------------------------------------------------------------------------------------------


def goals(results: Results) -> list[Goal]:
    def faster(case: str, text: str, limit: float, than: str = "orthanc") -> Goal:
        ours, theirs = results.rate(case, "node"), results.rate(case, than)
        return Goal(text, ours / theirs if ours and theirs else None, limit, True, f"× {than}")

    cpu = [results.median("mr256 x1", s, lambda s: s.cpu_seconds / s.images) for s in ("node", "orthanc")]
    growth = results.median("enhanced x1", "node", lambda s: s.growth_bytes / 2**20)
    associations = results.rest("node", lambda r: r.associations_bytes / 2**20)
    setup = results.rest("node", lambda r: r.setup_seconds * 1000)
    return [
        faster("mr256 x1", "1 sender, 256² MR, NODELAY", 2.5),
        faster("mr256 x1", "1 sender, 256² MR, NODELAY", 0.5, "storescp"),
        faster("mr256 x4", "4 senders", 2),
        faster("mr256 x8", "8 senders", 2),
        faster("mr512 x1", "512² MR", 2),
        faster("enhanced x1", "Enhanced MR", 1.5),
        Goal("memory above idle, Enhanced MR", growth, 32, False, "MB"),
        faster("mr256 shipped", "1 sender, senders and servers as shipped (Nagle on)", 6),
        faster("mr256 veth", "two network namespaces, MTU 1500, offloads off", 1.2),
        Goal("server CPU per image", cpu[0] / cpu[1] if cpu[0] and cpu[1] else None, 0.25, False, "× orthanc"),
        Goal(f"memory above idle, {IDLE_ASSOCIATIONS} idle associations", associations, 50, False, "MB"),
        Goal("association set-up", setup, 20, False, "ms"),
    ]


# -- sending -----------------------------------------------------------------------------------------------------------


def commands(sender: str, server: Server, paths: Sequence[Path]) -> list[list[str]]:
    """One command for each association."""
    where = ["-aec", server.ae_title, server.host, str(server.port)]
    if sender == "dcmsend":
        return [[DCMSEND, *where, *map(str, paths)]]
    number = int(sender.rpartition("x")[2])
    syntax = ["-xt"] if "jpegls" in str(paths[0]) else []
    return [[STORESCU, *syntax, *where, *map(str, paths[i::number])] for i in range(number) if paths[i::number]]


def send(case: Case, server: Server) -> float:
    """Seconds until the last of the senders has ended."""
    wanted = commands(case.sender, server, case.workload.paths)
    started = time.perf_counter()
    running = [
        subprocess.Popen(
            [*server.place.in_sender, *command],
            env=environment(case.nodelay),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in wanted
    ]
    try:
        for process in running:
            _, errors = process.communicate(timeout=SEND_SECONDS)
            if process.returncode != 0:
                raise Failed(f"{case.name} to {server.kind}: the sender ended with {process.returncode}: {errors}")
    except subprocess.TimeoutExpired:
        raise Failed(f"{case.name} to {server.kind}: the sender did not end in {SEND_SECONDS:.0f} s") from None
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    return time.perf_counter() - started


class Round:
    """All servers of one round, and how many instances each must hold."""

    def __init__(self, servers: dict[str, Server], renewer: Renewer) -> None:
        self._servers = servers
        self._renewer = renewer
        self._expected = dict.fromkeys(servers, 0)

    def rest(self, name: str, warm_up: Case) -> AtRest:
        self.run(name, warm_up)
        server = self._servers[name]
        time.sleep(SETTLE_SECONDS)
        idle = server.rss()
        held = []
        try:
            for _ in range(IDLE_ASSOCIATIONS):
                held.append(server.place.run(Association, server.host, server.port, server.ae_title))
            time.sleep(SETTLE_SECONDS)
            with_associations = server.rss()
        except OSError as error:
            raise Failed(f"{name}: {len(held)} idle associations, then: {error}") from None
        finally:
            for association in held:
                association.release()
        setups = []
        for _ in range(SET_UPS):
            association = server.place.run(Association, server.host, server.port, server.ae_title)
            setups.append(association.setup_seconds)
            association.echo()
            association.release()
        return AtRest(idle, with_associations - idle, statistics.median(setups))

    def run(self, name: str, case: Case, sample: bool = False) -> Sent:
        server = self._servers[name]
        self._renewer.renew(case.workload.paths)
        os.sync()  # what another server has left to be written is not this one's to wait for
        idle = server.rss()
        cpu = server.cpu_seconds()
        if sample:
            with Peak(server.rss, SAMPLE_SECONDS) as memory:
                seconds = send(case, server)
            highest = memory.highest
        else:
            seconds, highest = send(case, server), server.rss()
        images = len(case.workload.paths)
        self._expected[name] += images
        lag = self._catch_up(name, case)
        return Sent(images, seconds, server.cpu_seconds() - cpu, lag, highest - idle)

    def _catch_up(self, name: str, case: Case) -> float:
        start = time.monotonic()
        expected = self._expected[name]
        while (stored := self._servers[name].stored()) != expected:
            if stored > expected or time.monotonic() - start > CATCH_UP_SECONDS:
                raise Failed(f"{case.name}: {name} holds {stored} instances, and was sent {expected}")
            time.sleep(0.05)
        return time.monotonic() - start


# -- the run -----------------------------------------------------------------------------------------------------------


def cases(options: argparse.Namespace, folder: Path) -> list[Case]:
    count: int = options.images
    chosen = []
    if "mr256" in options.workloads:
        mr256 = mr_slices(folder / "mr256", "mr256", 256, count)
        chosen += [Case(f"mr256 {s.removeprefix('storescu ')}", mr256, s) for s in SENDERS]
        shipped = mr256.head(max(1, count // 5))
        chosen += [Case("mr256 shipped", shipped, "storescu x1", nodelay=False)]
        chosen += [Case("mr256 shipped x4", shipped, "storescu x4", nodelay=False)]
        if options.namespaces:
            chosen += [Case("mr256 veth", mr256, "storescu x1", namespaces=True)]
            chosen += [Case("mr256 veth shipped", shipped, "storescu x1", nodelay=False, namespaces=True)]
        if options.slow_flush:
            chosen += [
                Case(f"mr256 {s.removeprefix('storescu ')} slow flush", mr256, s, slow_flush=True) for s in SENDERS
            ]
    if "mr512" in options.workloads:
        mr512 = mr_slices(folder / "mr512", "mr512", 512, max(1, count * 3 // 10))
        chosen += [Case("mr512 x1", mr512, "storescu x1"), Case("mr512 x4", mr512, "storescu x4")]
    if "jpegls" in options.workloads:
        jpegls = mr_slices(folder / "jpegls", "jpegls", 256, count, compress=True)
        chosen += [Case("jpegls x1", jpegls, "storescu x1"), Case("jpegls dcmsend", jpegls, "dcmsend")]
    return chosen


def one_round(
    number: int, options: argparse.Namespace, chosen: Sequence[Case], folder: Path, renewer: Renewer, results: Results
) -> None:
    """Each group has servers of its own: the variables, and the namespace, are theirs from the start."""
    warm_up = Case("warm up", mr_slices(folder / f"warm-up-{number}", "mr256", 256, WARM_UP), "storescu x1")
    enhanced = None
    if "enhanced" in options.workloads:
        path = folder / "enhanced"
        enhanced = Case("enhanced x1", enhanced_mr(path, "enhanced", options.enhanced_megabytes), "storescu x1")
    for nodelay, namespaces, slow in GROUPS:
        group = [c for c in chosen if (c.nodelay, c.namespaces, c.slow_flush) == (nodelay, namespaces, slow)]
        first = (nodelay, namespaces, slow) == GROUPS[0]
        if not group and not (first and enhanced):
            continue
        with ExitStack() as stack:
            place = stack.enter_context(two_namespaces()) if namespaces else Place()
            servers: dict[str, Server] = {}
            for name in options.servers:
                preload = options.slow_flush if slow else None
                servers[name] = KINDS[name](Path(options.folder) / f"{number}-{name}", place, nodelay, preload)
                stack.callback(servers[name].stop)
                servers[name].start()
            order = list(servers)
            order = order[number % len(order) :] + order[: number % len(order)]
            this = Round(servers, renewer)
            for name in order:
                if first:
                    results.at_rest.setdefault(name, []).append(this.rest(name, warm_up))
                else:
                    this.run(name, warm_up)
            for case in [*([enhanced] if first and enhanced else []), *group]:
                for name in order:
                    sent = this.run(name, case, sample=case is enhanced)
                    results.sent.setdefault(case.name, {}).setdefault(name, []).append(sent)
                    console.log(
                        f"round {number + 1}, {case.name}, {name}: {sent.images} in {sent.seconds:.2f} s "
                        f"({sent.images / sent.seconds:.0f}/s), index {sent.lag_seconds:.2f} s behind",
                        highlight=False,
                    )
    shutil.rmtree(folder / f"warm-up-{number}")
    shutil.rmtree(folder / "enhanced", ignore_errors=True)


# -- what is printed ---------------------------------------------------------------------------------------------------


def rates(results: Results) -> tuple[list[str], list[list[str]]]:
    heads = ["case", "server", "images/s", "least–most", "node ÷ it", "CPU ms/image", "index behind, s"]
    rows = []
    for case, by_server in results.sent.items():
        ours = results.rate(case, "node")
        for server, sent in by_server.items():
            each = sorted(s.images / s.seconds for s in sent)
            middle = statistics.median(each)
            ratio = f"{ours / middle:.2f}" if ours and server != "node" else ""
            cpu = statistics.median(s.cpu_seconds / s.images for s in sent) * 1000
            lag = statistics.median(s.lag_seconds for s in sent)
            label = case if server == next(iter(by_server)) else ""
            shown = f"{middle:.2f}" if middle < 10 else f"{middle:.0f}"
            rows.append([label, server, shown, f"{each[0]:.4g}–{each[-1]:.4g}", ratio, f"{cpu:.2f}", f"{lag:.2f}"])
    return heads, rows


def resting(results: Results) -> tuple[list[str], list[list[str]]]:
    heads = ["server", "idle MB", f"{IDLE_ASSOCIATIONS} associations, MB above", "set-up ms", "Enhanced MR, MB above"]
    rows = []
    for server in results.at_rest:
        idle = results.rest(server, lambda r: r.idle_bytes / 2**20)
        associations = results.rest(server, lambda r: r.associations_bytes / 2**20)
        setup = results.rest(server, lambda r: r.setup_seconds * 1000)
        growth = results.median("enhanced x1", server, lambda s: s.growth_bytes / 2**20)
        rows.append([server, *("–" if v is None else f"{v:.1f}" for v in (idle, associations, setup, growth))])
    return heads, rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000, help="of 256²; the other workloads follow")
    parser.add_argument("--enhanced-megabytes", type=int, default=105)
    parser.add_argument("--workloads", nargs="+", default=["mr256", "mr512", "enhanced", "jpegls"], metavar="NAME",
                        choices=["mr256", "mr512", "enhanced", "jpegls"])  # fmt: skip
    parser.add_argument("--servers", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="NAME")
    parser.add_argument("--no-namespaces", dest="namespaces", action="store_false")
    parser.add_argument("--minutes", type=float, default=45, help="no further round begins after this")
    parser.add_argument("--folder", default="/var/tmp", help="where the servers keep what they receive")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single measurement")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables, for benchmarks/README.md")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.namespaces:
        try:
            with two_namespaces():
                pass
        except NotPossible as error:
            console.print(f"[yellow]The run between two network namespaces is left out: {error}[/]")
            options.namespaces = False
    memory = Path("/dev/shm")
    results, renewer = Results(), Renewer()
    deadline = time.monotonic() + options.minutes * 60
    with ExitStack() as stack:
        options.folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="dicom-node-bench-", dir=options.folder)
        )
        # Senders read from memory, so that the disk is the servers' alone.
        source = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="dicom-node-bench-", dir=memory if memory.is_dir() else None)
        )
        options.slow_flush = None
        try:
            options.slow_flush = slow_flush.slow_flush_library(Path(options.folder), FLUSH_MILLISECONDS)
        except slow_flush.NotPossible as error:
            console.print(f"[yellow]The cases with slow flushes are left out: {error}[/]")
        chosen = cases(options, Path(source))
        try:
            for number in range(options.rounds):
                one_round(number, options, chosen, Path(source), renewer, results)
                if time.monotonic() > deadline and number + 1 < options.rounds:
                    console.print(f"[yellow]Ended after {number + 1} rounds: the time is over[/]")
                    break
        except Failed as error:
            console.print(f"[red]The run is worthless:[/] {error}", highlight=False)
            return 1
    descriptions = {c.name: f"{c.workload.description}, {_how(c)}" for c in chosen}
    descriptions["enhanced x1"] = f"one Enhanced MR of {options.enhanced_megabytes} MB, {SENDERS[0]}"
    found = goals(results)
    tables = [
        ("Received", *rates(results)),
        ("At rest", *resting(results)),
        ("Goals", *verdicts(found)),
    ]
    legend = [f"{case}: {descriptions[case]}" for case in results.sent]
    for title, heads, rows in tables:
        show(title, heads, rows)
    console.print("\n".join(legend), highlight=False)
    rounds = max((len(r) for r in results.at_rest.values()), default=0)
    console.print(f"Medians of {rounds} rounds; {versions()}", highlight=False)
    if options.json:
        options.json.write_text(json.dumps({
            "machine": versions(), "rounds": rounds, "images": options.images,
            "sent": {c: {s: [asdict(x) for x in xs] for s, xs in by.items()} for c, by in results.sent.items()},
            "at_rest": {s: [asdict(x) for x in xs] for s, xs in results.at_rest.items()},
            "goals": [{**asdict(g), "met": g.met} for g in found],
        }, indent=1))  # fmt: skip
    if options.markdown:
        text = "\n".join(f"**{title}**\n\n{markdown(heads, rows)}" for title, heads, rows in tables)
        notes = "\n".join(f"- {line}" for line in legend)
        options.markdown.write_text(f"{text}\n{notes}\n\nMedians of {rounds} rounds; {versions()}.\n")
    return 0


def _how(case: Case) -> str:
    nagle = "" if case.nodelay else ", Nagle on"
    slow = f", each flush {FLUSH_MILLISECONDS:g} ms longer" if case.slow_flush else ""
    return f"{case.sender}{nagle}{', two namespaces' if case.namespaces else ''}{slow}"


if __name__ == "__main__":
    sys.exit(main())
