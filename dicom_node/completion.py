"""When a study is complete: pure decisions over the evidence storage has gathered."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from storage.records import StudyEvidence

ABORTED_FACTOR = 2
"""An aborted association makes the node wait longer, not less: the scanner will most likely try again."""


@dataclass(frozen=True)
class CompletionRule:
    """Waiting times in seconds.

    `quiet` follows the last instance while an association is still open, or after one was aborted (doubled);
    `released` is enough once every association that fed the study was released; `maximum_age` ends the waiting for
    a study whose instances never stop coming, counted from the first instance of the revision.
    """

    quiet: float
    released: float
    maximum_age: float


@dataclass(frozen=True)
class Complete:
    reason: str


@dataclass(frozen=True)
class Wait:
    until: datetime  # the earliest time at which the answer can change without new evidence
    reason: str


def decide(evidence: StudyEvidence, rule: CompletionRule, now: datetime) -> Complete | Wait:
    images = f"{evidence.instances} instance{'s' if evidence.instances != 1 else ''}"
    if evidence.open_associations:
        needed, since = rule.quiet, evidence.last_received_at
        why = f"quiet for {rule.quiet:g} s with an association still open"
    elif evidence.aborted_associations:
        needed = rule.quiet * ABORTED_FACTOR
        since = max(evidence.last_received_at, evidence.last_association_ended_at or evidence.last_received_at)
        why = f"quiet for {needed:g} s after an aborted association"
    else:
        needed = min(rule.released, rule.quiet)
        since = max(evidence.last_received_at, evidence.last_association_ended_at or evidence.last_received_at)
        why = f"all associations released and quiet for {needed:g} s"
    quiet_at = since + timedelta(seconds=needed)
    oldest_at = evidence.revision_started_at + timedelta(seconds=rule.maximum_age)
    if now >= quiet_at:
        return Complete(f"{images}; {why}")
    if now >= oldest_at:
        return Complete(f"{images}; maximum age of {rule.maximum_age:g} s reached while instances still arrive")
    return Wait(min(quiet_at, oldest_at), f"{images} so far; complete once {why}")
