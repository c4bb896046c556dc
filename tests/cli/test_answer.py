"""`explain` and `study` as they are typed: the answer first, and everything with `--all`."""

import re
from pathlib import Path

import pytest

from tests.cli.small_node import IGNORED, RECEIVING, ROUTED
from tests.commands import invoke

UID = re.compile(r"\d+(\.\d+){3,}")


def shown(command: str, uid: str, config: Path, *options: str) -> list[str]:
    result = invoke([command, uid, "--config", str(config), *options], columns=400)
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.output.splitlines()]


@pytest.mark.parametrize("command", ["explain", "study"])
@pytest.mark.parametrize(
    ("uid", "lines"),
    [
        (ROUTED, ["ROUTED  Complete because of MPPS: 4 instances", "liver applies, compared with 1 earlier study",
                  "brain applies, job 3 FAILED (one slice is missing)", "knee was not run because"]),
        (RECEIVING, ["RECEIVING  Waits: 2 instances so far; 2 of 3 declared images"]),
        (IGNORED, ["IGNORED  Complete because: 1 instance", "liver does not apply because no series fits input 't1w'",
                   "knee was not run because"]),
    ],
)  # fmt: skip
def test_the_answer_comes_first(small_node: Path, command: str, uid: str, lines: list[str]) -> None:
    text = shown(command, uid, small_node)
    assert len(lines) <= 5
    assert [line for line, begin in zip(text, lines, strict=False) if not line.startswith(begin)] == []
    assert [line for line in text if UID.search(line)] == []
    assert len(text) <= 13 or command == "study"  # one line is of the configuration that --config tries


def test_everything_is_shown_on_demand(small_node: Path) -> None:
    text = "\n".join(shown("explain", ROUTED, small_node, "--all"))
    assert "ROUTED  Complete because of MPPS" in text
    assert "evidence: MPPS, after 2 s, revision 1" in text
    assert "1.2.3.4 taken: T1w, 2D, axial, 36 slices" in text
    assert "1.2.3.1 not taken: is T2w, not T1w" in text
    assert "earlier study 1.2.2, 59 days before: taken as time point 1" in text
    text = "\n".join(shown("study", ROUTED, small_node, "--all"))
    assert "MR  3 instances" in text
    assert "2.25.21" in text  # the SOP Instance UID of the report
