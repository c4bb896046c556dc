"""How the benchmarks say what they measured: tables on the terminal and in Markdown, and goals met or missed."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

WORDS = ("case", "server", "with", "what", "goal", "")  # heads of columns that hold words

console = Console()
if not console.is_terminal:
    console = Console(width=140)


class Failed(Exception):
    """Something that makes the numbers worthless."""


@dataclass(frozen=True)
class Goal:
    """`limit` of `value` is the least that is allowed, or the most. `value` is None when it was not measured."""

    text: str
    value: float | None
    limit: float
    at_least: bool
    unit: str

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def verdicts(found: Sequence[Goal]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for goal in found:
        value = "–" if goal.value is None else f"{goal.value:.2f} {goal.unit}"
        verdict = {True: "met", False: "missed", None: "not measured"}[goal.met]
        rows.append([goal.text, f"{'≥' if goal.at_least else '≤'} {goal.limit:g} {goal.unit}", value, verdict])
    return ["what", "goal", "measured", ""], rows


def show(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, justify="left" if head in WORDS else "right")
    for row in rows:
        style = {"met": "green", "missed": "red"}.get(row[-1])
        table.add_row(*row, style=style)
    console.print(table)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def versions() -> str:
    return f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
