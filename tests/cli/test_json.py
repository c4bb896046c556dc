"""`--json` of every command: programs read it, so that its keys and values stay as they are."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.studies import write_ball_study
from tests.cli.small_node import DATA, IGNORED, RECEIVING, ROUTED
from tests.commands import invoke

COMMANDS = {
    "studies": ("studies",),
    "studies-ignored": ("studies", "--state", "IGNORED"),
    "study-routed": ("study", ROUTED),
    "study-receiving": ("study", RECEIVING),
    "study-ignored": ("study", IGNORED),
    "explain-routed": ("explain", ROUTED),
    "explain-receiving": ("explain", RECEIVING),
    "explain-ignored": ("explain", IGNORED),
    "jobs": ("jobs",),
    "jobs-failed": ("jobs", "--failed"),
    "commitments": ("commitments",),
    "confirmations": ("confirmations",),
    "fsck": ("fsck",),
    "check-config": ("check-config",),
}


def same_everywhere(text: str, folder: Path) -> Any:
    """Return what a command printed, without the places, times and UIDs of this run."""
    text = text.replace(str(folder), "<folder>")
    text = re.sub(r"1\.2\.826\.0\.1\.3680043\.8\.498\.\d+", "<uid>", text)
    return json.loads(re.sub(r'"(?!2026-05-04)\d{4}-\d\d-\d\dT[\d:.]+\+00:00"', '"<time>"', text))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_keys_and_values_are_those_of_before(small_node: Path, name: str) -> None:
    shown = invoke([*COMMANDS[name], "--json", "--config", str(small_node)])
    assert shown.exit_code == (1 if name == "fsck" else 0), shown.output
    assert same_everywhere(shown.output, small_node.parent) == json.loads((DATA / f"{name}.json").read_text())


def test_what_series_are_taken_for(tmp_path: Path) -> None:
    write_ball_study(tmp_path / "study")
    config = tmp_path / "node.toml"
    config.write_text("")
    shown = invoke(["recognise", str(tmp_path / "study"), "--json", "--config", str(config)])
    assert same_everywhere(shown.output, tmp_path) == json.loads((DATA / "recognise.json").read_text())
