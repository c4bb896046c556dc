"""When a study is complete: every kind of evidence, at the edge of its waiting time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dicom_node.completion import Complete, CompletionRule, Wait, decide
from storage.records import StudyEvidence

START = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
RULE = CompletionRule(quiet=30, released=10, maximum_age=600)
EVIDENCE = StudyEvidence(
    study_instance_uid="1.2", revision=1, instances=20, revision_started_at=START,
    last_received_at=START + timedelta(seconds=60), open_associations=0, aborted_associations=0,
    last_association_ended_at=START + timedelta(seconds=61),
)  # fmt: skip


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("change", "complete_at", "reason"),
    [
        ({}, 71, "20 instances; all associations released and quiet for 10 s"),
        ({"open_associations": 1}, 90, "quiet for 30 s with an association still open"),
        ({"aborted_associations": 1}, 121, "quiet for 60 s after an aborted association"),
        ({"open_associations": 1, "last_received_at": at(595)}, 600, "maximum age of 600 s"),
        ({"instances": 1}, 71, "1 instance;"),
    ],
)
def test_complete_at_the_second_and_not_before(change: dict[str, object], complete_at: float, reason: str) -> None:
    evidence = replace(EVIDENCE, **change)  # type: ignore[arg-type]
    waiting = decide(evidence, RULE, at(complete_at - 0.1))
    assert waiting == Wait(at(complete_at), waiting.reason)
    decision = decide(evidence, RULE, at(complete_at))
    assert isinstance(decision, Complete)
    assert reason in decision.reason
