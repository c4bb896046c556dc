"""Output of commands: the terminal, JSON, and failures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from dicom_node.read.serialise import serialise
from storage.errors import Permanent

MOST_FAILURES = 20  # that are shown

console = Console()
error_console = Console(stderr=True)


def print_json(value: Any) -> None:
    """Print a record or a read model, or a list of them, as JSON."""
    print(json.dumps(serialise(value), indent=2, ensure_ascii=False))


def print_lines(lines: Sequence[str]) -> None:
    """Print sentences literally, because they hold names from outside that may look like markup."""
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file. Raises Permanent if it cannot be written."""
    try:
        path.write_text(json.dumps(value, indent=2) + "\n")
    except OSError as error:
        raise Permanent(f"{path} cannot be written ({error.strerror}); name another file") from None


def report_failures(failures: Sequence[tuple[str, str]]) -> None:
    """Print each failure with its reason, and end the command with status 1 if there is any."""
    for name, reason in failures[:MOST_FAILURES]:
        error_console.print(f"  {escape(name)}: {escape(reason)}", highlight=False)
    if len(failures) > MOST_FAILURES:
        error_console.print(f"  and {len(failures) - MOST_FAILURES} more")
    if failures:
        raise typer.Exit(1)
