"""`problems` and `acknowledge`: what a person should look at, and what was seen."""

import json
from pathlib import Path

from storage.records.problems import ProblemKind
from storage.tables.database.connection import Database, default_url
from storage.tables.problems import Problems
from tests.cli.small_node import RECEIVING
from tests.commands import invoke


def test_the_list_and_acknowledgements(small_node: Path) -> None:
    config = ["--config", str(small_node)]

    def listed(*more: str) -> dict[str, dict[str, object]]:
        result = invoke(["problems", "--json", *config, *more])
        assert result.exit_code in (0, 3), result.exception
        found = json.loads(result.output)
        unseen = [problem for problem in found if problem["acknowledged_at"] is None]
        assert result.exit_code == (3 if unseen else 0)
        return {problem["name"]: problem for problem in found}

    at_first = listed()
    assert set(at_first) == {"job_failed/3", "report_failed/2", "not_committed/pacs"}, "as the small node's rows say"
    assert at_first["not_committed/pacs"]["times"] == 2

    database = Database(default_url(small_node.parent / "data"))
    problems = Problems(database)
    assert problems.open(ProblemKind.UNFILED, "a-1", "a frame cannot be filed \x1b[31m", RECEIVING)
    assert not problems.open(ProblemKind.UNFILED, "a-1", "a frame cannot be filed \x1b[31m", RECEIVING)
    assert listed()["unfiled/a-1"]["times"] == 2
    screen = invoke(["problems", *config], columns=200).output
    assert "unfiled/a-1" in screen
    assert "\x1b" not in screen
    assert "send the instance again" in screen

    for name in listed():
        assert invoke(["acknowledge", name, "--note", "seen", *config]).exit_code == 0
    assert listed() == {}
    assert {problem["note"] for problem in listed("--all").values()} == {"seen"}
    assert "4 acknowledged" in invoke(["problems", *config]).output

    assert not problems.open(ProblemKind.UNFILED, "a-1", "a frame cannot be filed, for another reason", RECEIVING)
    assert set(listed()) == {"unfiled/a-1"}, "an acknowledgement does not cover another text"
    assert problems.close(ProblemKind.UNFILED, "a-1")
    assert listed() == {}
    database.close()

    unknown = invoke(["acknowledge", "job_failed/77", *config])
    assert unknown.exit_code == 1
    assert "There is no problem 'job_failed/77'" in str(unknown.exception)
