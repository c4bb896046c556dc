"""Sending, and what it costs the server: the servers of one setting in one round."""

import os
import statistics
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.ingest.association import Association
from benchmarks.ingest.cases import DCMSEND, Case
from benchmarks.ingest.device import OwnDisk
from benchmarks.ingest.results import IDLE_ASSOCIATIONS, AtRest, Point, Sent
from benchmarks.ingest.servers import Node, ReceivingNode, RoutingNode, Server, environment
from benchmarks.peak import Peak
from benchmarks.report import Failed
from benchmarks.workloads import Renewer

FOLDER = Path("/usr/bin")  # pynetdicom puts scripts of the same names into the environment
SEND_SECONDS = 600.0
CATCH_UP_SECONDS = 300.0
ROUTING_SECONDS = 600.0
LOOK_SECONDS = 0.02
SAMPLE_SECONDS = 0.01
SETTLE_SECONDS = 2.0
SET_UPS = 50
WINDOW = 3  # batches that tell how fast it is now


def commands(case: Case, server: Server) -> list[list[str]]:
    """One command for each association."""
    paths = case.workload.paths
    where = ["-aec", server.ae_title, server.host, str(server.port)]
    if case.program == DCMSEND:
        return [[str(FOLDER / DCMSEND), *where, *map(str, paths)]]
    syntax = ["-xt"] if case.workload.name == "jpegls" else []
    shares = (paths[i :: case.senders] for i in range(case.senders))
    return [[str(FOLDER / case.program), *syntax, *where, *map(str, share)] for share in shares if share]


def send(case: Case, server: Server) -> float:
    """Seconds until the last of the senders has ended."""
    wanted = commands(case, server)
    started = time.perf_counter()
    running = [
        subprocess.Popen(
            [*server.place.in_sender, *command],
            env=environment(case.setting.nodelay),
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
    """The servers of one setting, and how many instances each must hold."""

    def __init__(self, servers: Mapping[str, Server], renewer: Renewer, disk: OwnDisk | None = None) -> None:
        self._servers = servers
        self._renewer = renewer
        self._disk = disk
        self._expected = dict.fromkeys(servers, 0)

    def rest(self, name: str) -> AtRest:
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

    def expect(self, name: str, instances: int) -> None:
        """For instances that came in another way."""
        self._expected[name] = instances

    def run(self, name: str, case: Case, sample: bool = False) -> Sent:
        server = self._servers[name]
        self._renewer.renew(case.workload.paths)
        device = self._written()
        os.sync()  # what another server has left to be written is not this one's to wait for
        idle, cpu, written = server.rss(), server.cpu_seconds(), server.written_bytes()
        if sample:
            with Peak(server.rss, SAMPLE_SECONDS) as memory:
                seconds = send(case, server)
            highest = memory.highest
        else:
            seconds, highest = send(case, server), server.rss()
        self._expected[name] += len(case.workload.paths)
        lag = 0.0 if isinstance(server, ReceivingNode) else self._catch_up(name, case.name)
        routing = self._routed(server, case) if isinstance(server, RoutingNode) else None
        now = server.cpu_seconds()
        device_now = self._written()
        return Sent(
            images=len(case.workload.paths),
            seconds=seconds,
            received_bytes=case.workload.size,
            cpu={process: now[process] - cpu.get(process, 0.0) for process in now},
            lag_seconds=lag,
            growth_bytes=highest - idle,
            written_bytes=server.written_bytes() - written,
            device_bytes=None if device is None or device_now is None else device_now - device,
            routing_seconds=routing,
        )

    def grow(self, name: str, case: Case, start: int, end: int) -> list[Point]:
        """Send the same files under new UIDs until there are `end`. Points: `start`, each double of it, and the end."""
        server = self._servers[name]
        os.sync()
        points: list[Point] = []
        seconds: list[float] = []
        first = self._expected[name]
        wanted = start
        while (held := self._expected[name] - first) < end:
            self._renewer.renew(case.workload.paths)
            took = send(case, server)
            self._expected[name] += len(case.workload.paths)
            seconds.append(took + self._catch_up(name, case.name))
            held += len(case.workload.paths)
            if held >= min(wanted, end):
                recent = seconds[-WINDOW:]
                points.append(Point(held, len(recent) * len(case.workload.paths) / sum(recent)))
                wanted *= 2
        return points

    def finish(self) -> None:
        """Raises Failed if a server holds anything else than it was sent."""
        for name, server in self._servers.items():
            if isinstance(server, ReceivingNode):
                server.start_index()
                self._catch_up(name, "in the end")
            if isinstance(server, Node) and server.rows() != self._expected[name]:
                raise Failed(f"{name} has {server.rows()} rows, and was sent {self._expected[name]} instances")

    def _catch_up(self, name: str, case: str) -> float:
        """Waits until the server holds what it was sent, and no more. Returns for how many seconds."""
        start = time.monotonic()
        server, expected = self._servers[name], self._expected[name]
        text = f"{case}: it does not hold the {expected} instances that it was sent"
        server.wait(lambda: server.stored() >= expected, CATCH_UP_SECONDS, LOOK_SECONDS, text)
        seconds = time.monotonic() - start
        if (stored := server.stored()) != expected:
            raise Failed(f"{case}: {name} holds {stored} instances, and was sent {expected}")
        return seconds

    def _routed(self, server: RoutingNode, case: Case) -> float:
        """Waits until every study is routed. Returns the seconds from complete to routed, of the last one."""
        text = f"{case.name}: studies are not routed"
        server.wait(lambda: not server.unrouted(), ROUTING_SECONDS, LOOK_SECONDS * 5, text)
        if server.revisions() > 1:
            raise Failed(f"{case.name}: a study was complete before its last image came; this machine is too slow now")
        return server.routing_seconds()

    def _written(self) -> int | None:
        """Bytes on the own disk. Those of rows count at their place too, and not only in the log of the database."""
        if self._disk is None:
            return None
        for server in self._servers.values():
            if isinstance(server, Node):
                server.checkpoint()
        return self._disk.written_bytes()
