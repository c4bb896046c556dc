"""How fast the node receives, and at what cost, beside Orthanc and dcmtk's storescp: `make bench-ingest`.

One run, interleaved: in each round every server starts with an empty folder on the same disk, and each case is sent to
one server after the other, in an order that turns with the rounds. Printed are medians over the rounds, ratios first.
What arrived is counted at every server; a wrong count ends the run.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path

from benchmarks.ingest import device, network, slow_flush
from benchmarks.ingest.cases import FLUSH_MILLISECONDS, FULL, NAMES, SLOW, Case, Sizes, Workloads, definitions
from benchmarks.ingest.results import Results, goals
from benchmarks.ingest.rounds import Plan, Rounds
from benchmarks.ingest.servers import KINDS
from benchmarks.ingest.tables import tables
from benchmarks.report import Failed, console, markdown, show, versions

# Of the images of 256²; all of them for a run whose numbers count.
ROWS_PER_IMAGE, FIRST_POINT_PER_IMAGE, GROWTH_PER_IMAGE = 300, 10, 40


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in NAMES]:
        raise argparse.ArgumentTypeError(f"there is no {unknown[0]}; there are {', '.join(NAMES)}")
    return names


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ingest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=_names, default=list(NAMES), metavar="NAME,NAME", help=", ".join(NAMES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000, help="of 256²; all else but the Enhanced MR follows")
    parser.add_argument("--enhanced-megabytes", type=int, default=105)
    parser.add_argument("--rows", type=int, help="of the index that `written` begins with; 300,000 with 1000 images")
    parser.add_argument("--grow-to", type=int, help="instances in the end of `growth`; 40,000 with 1000 images")
    parser.add_argument("--servers", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="NAME")
    parser.add_argument("--minutes", type=float, default=60, help="no further round begins after this")
    parser.add_argument("--folder", default="/var/tmp", help="where the servers keep what they receive")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single measurement")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables, for benchmarks/README.md")
    options = parser.parse_args(given)
    options.rows = options.rows or ROWS_PER_IMAGE * options.images
    options.grow_to = options.grow_to or GROWTH_PER_IMAGE * options.images
    return options


def possible(cases: Sequence[Case], slow_flush_library: Path | None) -> tuple[list[Case], list[str]]:
    """The cases that can run here, and why the others cannot."""
    why_not = {}
    if between := [case for case in cases if case.setting.namespaces]:
        try:
            with network.two_namespaces():
                pass
        except network.NotPossible as error:
            why_not.update({case.name: str(error) for case in between})
    if slow_flush_library is None:
        why_not.update({case.name: "there is no working C compiler" for case in cases if case.setting == SLOW})
    left_out = [f"{name} is left out: {why}" for name, why in why_not.items()]
    return [case for case in cases if case.name not in why_not], left_out


def why_no_own_disk(folder: Path) -> str:
    """Empty if there can be one."""
    try:
        with device.own_disk(folder / "try"):
            return ""
    except device.NotPossible as error:
        return str(error)


def run(options: argparse.Namespace, folder: Path, source: Path) -> tuple[Results, list[Case], list[str]]:
    workloads = Workloads(source, Sizes(options.images, options.enhanced_megabytes))
    wanted = [make(workloads) for name, make in definitions().items() if name in options.cases]
    library = None
    if any(case.setting == SLOW for case in wanted):
        with suppress(slow_flush.NotPossible):
            library = slow_flush.slow_flush_library(folder, FLUSH_MILLISECONDS)
    cases, left_out = possible(wanted, library)
    no_disk = why_no_own_disk(folder) if any(case.setting == FULL for case in cases) else ""
    if no_disk:
        left_out.append(f"what the kernel writes to the disk is left out: {no_disk}")
    for line in left_out:
        console.print(f"[yellow]{line}[/]")
    growth = min(FIRST_POINT_PER_IMAGE * options.images, options.grow_to), options.grow_to
    plan = Plan(options.cases, cases, options.servers, folder, library, not no_disk, options.rows, growth)
    rounds = Rounds(plan, source)
    deadline = time.monotonic() + options.minutes * 60
    for number in range(options.rounds):
        rounds.run(number)
        if time.monotonic() > deadline and number + 1 < options.rounds:
            console.print(f"[yellow]Ended after {number + 1} rounds: the time is over[/]")
            break
    return rounds.results, cases, left_out


def tell(options: argparse.Namespace, results: Results, cases: Sequence[Case], left_out: Sequence[str]) -> None:
    found = goals(results)
    shown = tables(results, found)
    legend = [f"{case.name}: {case.description}" for case in cases]
    if missing := [f"{goal.text} ({goal.unit})" for goal in found if goal.met is None]:
        left_out = [*left_out, f"Not measured: {'; '.join(missing)}"]
    ending = f"Medians of {results.rounds} rounds; {versions()}"
    for title, heads, rows in shown:
        show(title, heads, rows)
    console.print("\n".join([*legend, *left_out, ending]), highlight=False)
    if options.json:
        of_goals = [{**asdict(goal), "met": goal.met} for goal in found]
        everything = {
            "machine": versions(), "images": options.images, "left_out": left_out, "goals": of_goals, **asdict(results)
        }  # fmt: skip
        options.json.write_text(json.dumps(everything, indent=1))
    if options.markdown:
        text = "\n".join(f"**{title}**\n\n{markdown(heads, rows)}" for title, heads, rows in shown)
        notes = "\n".join(f"- {line}" for line in [*legend, *left_out])
        options.markdown.write_text(f"{text}\n{notes}\n\n{ending}.\n")


def main() -> int:
    options = arguments()
    memory = Path("/dev/shm")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # servers and mounts end with this process
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dicom-node-bench-", dir=options.folder))
        # Senders read from memory, so that the disk is the servers' alone.
        source = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="dicom-node-bench-", dir=memory if memory.is_dir() else None)
        )
        try:
            results, cases, left_out = run(options, Path(folder), Path(source))
        except Failed as error:
            console.print(f"[red]The run is worthless:[/] {error}", highlight=False)
            return 1
    tell(options, results, cases, left_out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
