"""Measurements, and the goals that they are held against."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.report import Goal

IDLE_ASSOCIATIONS = 50


@dataclass(frozen=True)
class Sent:
    """One case, one server, one round. Processor time and bytes are those until everything is indexed, or routed."""

    images: int
    seconds: float
    received_bytes: int
    cpu: Mapping[str, float]  # seconds, by process
    lag_seconds: float  # from the last answer to the last row
    growth_bytes: int  # highest resident memory during the send, above the idle server's
    written_bytes: int  # by the processes of the server
    device_bytes: int | None = None  # by the kernel, to the server's own disk
    routing_seconds: float | None = None  # from complete to routed, of the last study

    @property
    def cpu_seconds(self) -> float:
        return sum(self.cpu.values())


@dataclass(frozen=True)
class AtRest:
    """The cost of a server before the first case of a round."""

    idle_bytes: int
    associations_bytes: int  # above idle, with IDLE_ASSOCIATIONS that say nothing
    setup_seconds: float  # median


@dataclass(frozen=True)
class Point:
    """How fast small instances are received and indexed once there are `instances`."""

    instances: int
    rate: float  # a second


@dataclass(frozen=True)
class Read:
    """A series that was read to a volume."""

    seconds: float
    cpu_seconds: float


@dataclass
class Results:
    sent: dict[str, dict[str, list[Sent]]] = field(default_factory=dict)  # by case, by server
    at_rest: dict[str, list[AtRest]] = field(default_factory=dict)  # by server
    growth: list[list[Point]] = field(default_factory=list)  # by round
    read: dict[str, list[Read]] = field(default_factory=dict)  # by who reads
    rows: int = 0  # of a full index

    @property
    def rounds(self) -> int:
        sent = [len(found) for by_server in self.sent.values() for found in by_server.values()]
        return max(
            [*sent, *map(len, self.at_rest.values()), *map(len, self.read.values()), len(self.growth)], default=0
        )

    def median(self, case: str, server: str, of: Callable[[Sent], float]) -> float | None:
        found = self.sent.get(case, {}).get(server)
        return statistics.median(map(of, found)) if found else None

    def rate(self, case: str, server: str) -> float | None:
        return self.median(case, server, lambda s: s.images / s.seconds)

    def cpu(self, case: str, server: str, *names: str) -> float | None:
        """Seconds for each image, of all processes or of those named."""
        return self.median(case, server, lambda s: sum(s.cpu[n] for n in names or s.cpu) / s.images)

    def rest(self, server: str, of: Callable[[AtRest], float]) -> float | None:
        found = self.at_rest.get(server)
        return statistics.median(map(of, found)) if found else None

    def reading(self, who: str, of: Callable[[Read], float]) -> float | None:
        found = self.read.get(who)
        return statistics.median(map(of, found)) if found else None

    def points(self) -> list[Point]:
        """Medians over the rounds."""
        return [
            Point(each[0].instances, statistics.median(p.rate for p in each)) for each in zip(*self.growth, strict=True)
        ]


def ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None


def written(sent: Sent) -> float:
    return (sent.device_bytes or 0) / sent.received_bytes


def goals(results: Results) -> list[Goal]:
    def faster(case: str, text: str, limit: float, than: str = "orthanc") -> Goal:
        unit = "× index stopped" if than == "receive" else f"× {than}"
        return Goal(text, ratio(results.rate(case, "node"), results.rate(case, than)), limit, True, unit)

    def cheaper(text: str, of: tuple[str, str, str | None], than: str, limit: float) -> Goal:
        case, server, role = of
        ours = results.cpu(case, server, *([role] if role else []))
        return Goal(text, ratio(ours, results.cpu(than, "orthanc")), limit, False, "× orthanc")

    def least_written(case: str, text: str, limit: float) -> Goal:
        sent = results.sent.get(case, {}).get("node", [])
        value = results.median(case, "node", written) if any(s.device_bytes is not None for s in sent) else None
        return Goal(f"written to disk, {text}, index of {results.rows:,} rows", value, limit, False, "× received")

    points = results.points()
    few, many = (results.median(case, "routing", _routing) for case in ("study-few", "study-many"))
    growth = results.median("enhanced-x1", "node", lambda s: s.growth_bytes / 2**20)
    associations = results.rest("node", lambda r: r.associations_bytes / 2**20)
    setup = results.rest("node", lambda r: r.setup_seconds * 1000)
    reading = ratio(*(results.reading(who, lambda r: r.seconds) for who in ("node", "pydicom")))
    grown = f"{points[0].instances:,} → {points[-1].instances:,} instances of 2 KB" if points else "growing index"
    return [
        faster("mr256-x1", "1 sender, 256²", 2.2),
        faster("mr256-x4", "4 senders, 256²", 1.6),
        faster("mr256-x8", "8 senders, 256²", 1.6),
        faster("mr256-x1", "1 sender, 256²", 0.9, "receive"),
        faster("mr256-x4", "4 senders, 256²", 0.9, "receive"),
        Goal("last response → all indexed", results.median("mr256-x1", "node", _lag), 0.5, False, "s"),
        faster("mr512-x1", "1 sender, 512²", 2.6),
        cheaper("CPU per image, receive + index, 1 sender", ("mr256-x1", "node", None), "mr256-x1", 0.5),
        cheaper("CPU per image, receive + index, 4 senders", ("mr256-x4", "node", None), "mr256-x4", 0.6),
        cheaper("CPU per image of schedule, 1 sender", ("routed-x1", "routing", "schedule"), "mr256-x1", 0.2),
        cheaper("CPU per image of schedule, 4 senders", ("routed-x4", "routing", "schedule"), "mr256-x4", 0.2),
        least_written("written-256", "256²", 1.2),
        least_written("written-512", "512²", 1.06),
        Goal("complete → routed, ten times as many instances", ratio(many, few), 3, False, "× as long"),
        Goal("reading 200 × 512² to a volume", reading, 0.9, False, "× pydicom"),
        Goal(grown, ratio(points[-1].rate, points[0].rate) if points else None, 0.9, True, "× as fast"),
        faster("slow-x1", "slow flush, 1 sender", 1.38),
        faster("slow-x4", "slow flush, 4 senders", 1.36),
        faster("slow-x8", "slow flush, 8 senders", 1.74),
        faster("enhanced-x1", "Enhanced MR", 1.5),
        Goal("memory above idle, Enhanced MR", growth, 32, False, "MB"),
        faster("shipped-x1", "1 sender, all as shipped (Nagle on)", 6),
        faster("veth-x1", "two network namespaces, MTU 1500, offloads off", 1.2),
        Goal(f"memory above idle, {IDLE_ASSOCIATIONS} idle associations", associations, 50, False, "MB"),
        Goal("association set-up", setup, 20, False, "ms"),
    ]


def _routing(sent: Sent) -> float:
    return sent.routing_seconds or 0.0


def _lag(sent: Sent) -> float:
    return sent.lag_seconds
