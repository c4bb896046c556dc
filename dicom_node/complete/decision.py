"""The decision whether a study is complete or waits: pure, over the evidence that storage has gathered.

An acknowledged instance that still waits in a journal has no row yet. So a study counts as quiet only for the time up
to which everything is indexed; only the maximum age counts by the clock.

A late instance opens the study's next revision, so a wrong decision costs a computation, never an image.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from dicom_node.complete.evidence import event_time, strongest_evidence
from dicom_node.complete.inventory import Inventory, plural
from dicom_node.complete.rule import CompletionRule
from storage.records.completion import (
    AssociationNumbers,
    Completion,
    CompletionNumbers,
    Evidence,
    SeriesNumbers,
    SourceNumbers,
    Waiting,
)
from storage.records.evidence import SourceAnswer, StudyEvidence

INDEX_BEHIND = timedelta(seconds=5)
"""The delay of the index that is worth telling. An index that nothing delays moves on ten times a second."""


def decide_completion(
    study: StudyEvidence, inventory: Inventory, rule: CompletionRule, now: datetime, filed: datetime | None
) -> Completion | Waiting:
    """Decide if a study in RECEIVING is complete. `inventory` counts its images as of the same moment as `study`.

    `filed` must have been read before both: everything acknowledged earlier than `filed` is part of them. It is None if
    that time is not known (see `filed_until`).
    """
    basis = strongest_evidence(study, inventory, rule)
    behind = _behind(now, filed)
    further = [text for text in (_of_strangers(study), behind) if text]
    basis = replace(basis, says=(*basis.says, *further))
    images = plural(study.instances, "instance")
    numbers = _numbers(study, inventory)
    since = quiet_since(study, inventory)
    oldest_at = _oldest_at(study, rule)
    until = oldest_at
    if basis.seconds is not None:
        quiet_at = since + timedelta(seconds=basis.seconds)
        if filed is not None and min(now, filed) >= quiet_at:
            reason = "; ".join((images, *basis.says, basis.condition))
            return Completion(basis.evidence, reason, numbers, basis.seconds, since)
        until = min(max(now, quiet_at), oldest_at)
    if now >= oldest_at:
        moving = "while the index is behind" if behind else "while instances still arrive"
        still = basis.condition if basis.seconds is None else moving
        reason = "; ".join((images, *basis.says, f"maximum age of {rule.maximum_age:g} s reached {still}"))
        return Completion(Evidence.MAXIMUM_AGE, reason, numbers, rule.maximum_age, study.revision_started_at)
    if basis.seconds is None:
        reason = "; ".join((f"{images} so far", *basis.says, f"waits {basis.condition}, up to {rule.maximum_age:g} s"))
        return Waiting(until, Evidence.MAXIMUM_AGE, reason, numbers)
    reason = "; ".join((f"{images} so far", *basis.says, f"complete once {basis.condition}"))
    return Waiting(until, basis.evidence, reason, numbers)


def may_complete(study: StudyEvidence, rule: CompletionRule, now: datetime, filed: datetime | None) -> bool:
    """Return False if no evidence could complete the study now, so that its images need not be counted."""
    settled = quiet_since(study) + timedelta(seconds=rule.settled)
    return now >= _oldest_at(study, rule) or (filed is not None and min(now, filed) >= settled)


def quiet_since(study: StudyEvidence, inventory: Inventory | None = None) -> datetime:
    """Return the last time that something happened to the study, or that it was noticed."""
    times = [study.last_received_at, study.last_association_ended_at, study.noticed_at]
    if inventory is not None:
        times.append(inventory.steps_ended_at)
    return max(event_time(study, t) for t in times if t is not None)


def _oldest_at(study: StudyEvidence, rule: CompletionRule) -> datetime:
    return event_time(study, study.revision_started_at) + timedelta(seconds=rule.maximum_age)


def _of_strangers(study: StudyEvidence) -> str:
    if not study.strangers:
        return ""
    hosts = ", ".join(study.strangers)
    return f"procedure steps from {hosts} do not count, because no image of the study came from there"


def _behind(now: datetime, filed: datetime | None) -> str:
    """Return the sentence that the index is behind; an empty text if it is up to date."""
    if filed is None:
        return "the index has not been through the journals yet"
    return f"the index is behind since {filed:%H:%M:%S} UTC" if now - filed > INDEX_BEHIND else ""


def _numbers(study: StudyEvidence, inventory: Inventory) -> CompletionNumbers:
    open_, aborted = study.open_associations, study.aborted_associations
    return CompletionNumbers(
        instances=study.instances,
        own_results=inventory.own,
        associations=AssociationNumbers(open_, aborted, released=len(study.associations) - open_ - aborted),
        series=tuple(
            SeriesNumbers(s.series_instance_uid, s.here, s.declared, s.grade, s.text) for s in inventory.series
        ),
        procedure_steps=inventory.steps if study.steps else None,
        source=_source_numbers(study.answers[-1]) if study.answers else None,
    )


def _source_numbers(answer: SourceAnswer) -> SourceNumbers:
    return SourceNumbers(answer.source, answer.count, answer.own, answer.problem, answer.at)
