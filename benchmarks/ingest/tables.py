"""The tables that a run ends with."""

import statistics
from collections.abc import Iterator

from benchmarks.ingest.results import IDLE_ASSOCIATIONS, Results, written
from benchmarks.report import Goal, verdicts

Table = tuple[str, list[str], list[list[str]]]


def tables(results: Results, found: list[Goal]) -> list[Table]:
    """Titles, heads and rows, the ratios first; those that have no row are left out."""
    every = (
        ("Goals", *verdicts([goal for goal in found if goal.met is not None])),
        ("Received", *_rates(results)),
        ("Processor time of each role", *_roles(results)),
        ("Written to disk", *_written(results)),
        ("Routed", *_routed(results)),
        ("A growing index", *_growth(results)),
        ("Read to a volume", *_read(results)),
        ("At rest", *_resting(results)),
    )
    return [table for table in every if table[2]]


def _rates(results: Results) -> tuple[list[str], list[list[str]]]:
    heads = ["case", "server", "node ÷ it", "least–most", "images/s", "least–most", "CPU ms/image", "index behind, s"]
    rows = []
    for case, by_server in results.sent.items():
        own = results.sent[case].get("node")
        for server, sent in by_server.items():
            each = [s.images / s.seconds for s in sent]
            middle = statistics.median(each)
            ratios = [o.images / o.seconds / rate for o, rate in zip(own, each, strict=False)] if own else []
            shown = ["", ""]
            if ratios and server != "node":
                ours = results.rate(case, "node") or 0.0
                shown = [f"{ours / middle:.2f}", f"{min(ratios):.2f}–{max(ratios):.2f}"]
            cpu = statistics.median(s.cpu_seconds / s.images for s in sent) * 1000
            lag = statistics.median(s.lag_seconds for s in sent)
            rows.append([
                case if server == next(iter(by_server)) else "", server, *shown,
                f"{middle:.2f}" if middle < 10 else f"{middle:.0f}", f"{min(each):.4g}–{max(each):.4g}",
                f"{cpu:.2f}", f"{lag:.2f}",
            ])  # fmt: skip
    return heads, rows


def _roles(results: Results) -> tuple[list[str], list[list[str]]]:
    rows = []
    for case, by_server in results.sent.items():
        for server, sent in by_server.items():
            if len(sent[0].cpu) < 2:
                continue
            each = [f"{role} {(results.cpu(case, server, role) or 0) * 1000:.3f}" for role in sent[0].cpu]
            rows.append([case, server, ", ".join(each)])
    return ["case", "server", "CPU ms/image"], rows


def _written(results: Results) -> tuple[list[str], list[list[str]]]:
    rows = []
    for case in (c for c in results.sent if c.startswith("written")):
        sent = results.sent[case]["node"]
        roles = statistics.median(s.written_bytes / s.received_bytes for s in sent)
        disk = None if sent[0].device_bytes is None else statistics.median(map(written, sent))
        rows.append([case, "–" if disk is None else f"{disk:.3f}", f"{roles:.3f}", f"{results.rows:,}"])
    return ["case", "by the kernel ÷ received", "by the roles ÷ received", "rows before"], rows


def _routed(results: Results) -> tuple[list[str], list[list[str]]]:
    rows = []
    for case, by_server in results.sent.items():
        for sent in by_server.values():
            seconds = [s.routing_seconds for s in sent if s.routing_seconds is not None]
            if seconds:
                middle = statistics.median(seconds)
                rows.append([case, str(sent[0].images), f"{middle:.3f}", f"{min(seconds):.3f}–{max(seconds):.3f}"])
    return ["case", "instances", "complete → routed, s", "least–most"], rows


def _growth(results: Results) -> tuple[list[str], list[list[str]]]:
    points = results.points()
    first = points[0].rate if points else 1.0
    rows = [[f"{p.instances:,}", f"{p.rate / first:.2f}", f"{p.rate:.0f}"] for p in points]
    return ["instances", "÷ the first", "images/s"], rows


def _read(results: Results) -> tuple[list[str], list[list[str]]]:
    rows = []
    for who in results.read:
        seconds, cpu = results.reading(who, lambda r: r.seconds), results.reading(who, lambda r: r.cpu_seconds)
        rows.append([who, f"{seconds:.3f}", f"{cpu:.3f}"])
    return ["with", "s", "CPU s"], rows


def _resting(results: Results) -> tuple[list[str], list[list[str]]]:
    heads = ["server", "idle MB", f"{IDLE_ASSOCIATIONS} associations, MB above", "set-up ms", "Enhanced MR, MB above"]
    return heads, list(_at_rest(results))


def _at_rest(results: Results) -> Iterator[list[str]]:
    for server in results.at_rest:
        idle = results.rest(server, lambda r: r.idle_bytes / 2**20)
        associations = results.rest(server, lambda r: r.associations_bytes / 2**20)
        setup = results.rest(server, lambda r: r.setup_seconds * 1000)
        growth = results.median("enhanced-x1", server, lambda s: s.growth_bytes / 2**20)
        yield [server, *("–" if v is None else f"{v:.1f}" for v in (idle, associations, setup, growth))]
