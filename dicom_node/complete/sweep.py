"""The completion sweep: studies go from RECEIVING to COMPLETE."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from dicom_node.complete.decision import decide_completion, may_complete
from dicom_node.complete.inventory import Inventory, take_inventory
from dicom_node.complete.rule import CompletionRule
from dicom_node.complete.whole_series import whole_series
from dicom_node.runtime.logs import fields
from storage.records.completion import Completion
from storage.records.evidence import StudyEvidence
from storage.tables.studies import Studies

log = logging.getLogger(__name__)

EARLY_SECONDS = 2.0  # between two looks for whole series in a study that still arrives

StartEarly = Callable[[StudyEvidence, Mapping[str, str], datetime], None]
"""Gets a study that still arrives, its series that are whole already, each with the reason, and the time."""


@dataclass
class _SeenStudy:
    """A study in RECEIVING, as it was at the last sweep."""

    evidence_key: tuple[object, ...]
    noticed_at: datetime
    contents_key: tuple[object, ...] | None = None
    inventory: Inventory | None = None
    early_at: datetime | None = None


class CompletionSweep:
    """The sweep over all studies in RECEIVING.

    `filed` returns the time until which everything acknowledged is indexed (`filed_until`): instances that came later
    may be in a journal and have no row yet. `start_early` is None if no application starts on its inputs.
    """

    def __init__(
        self,
        studies: Studies,
        rule: CompletionRule,
        filed: Callable[[], datetime | None],
        start_early: StartEarly | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._studies = studies
        self._rule = rule
        self._filed = filed
        self._start_early = start_early
        self._now = now
        self._seen: dict[str, _SeenStudy] = {}

    def sweep(self) -> None:
        """Complete every study with enough evidence, and start applications early on the other studies."""
        filed = self._filed()  # Before the rows are read, because it tells what is among them.
        receiving = self._studies.evidence()
        now = self._now()
        self._seen = {e.study_instance_uid: self._look(e, now) for e in receiving}
        for evidence in receiving:
            seen = self._seen[evidence.study_instance_uid]
            noticed = self.as_noticed(evidence, now)
            if may_complete(noticed, self._rule, now, filed):
                decision = decide_completion(noticed, self._inventory(evidence, seen), self._rule, now, filed)
                if isinstance(decision, Completion):
                    self._complete(evidence, decision, now)
                    continue
            if self._start_early is not None and filed is not None and (seen.early_at is None or now >= seen.early_at):
                seen.early_at = now + timedelta(seconds=EARLY_SECONDS)
                whole = whole_series(evidence, self._inventory(evidence, seen), self._rule, min(now, filed))
                if whole:
                    self._start_early(evidence, whole, now)

    def as_noticed(self, evidence: StudyEvidence, now: datetime) -> StudyEvidence:
        """Return the evidence with the time when it was noticed, and without answers of the source from the future.

        Such answers exist after the clock was set back, and say nothing about instances that come later.
        """
        seen = self._seen.get(evidence.study_instance_uid)
        return replace(
            evidence,
            noticed_at=now if seen is None else min(now, seen.noticed_at),
            answers=tuple(answer for answer in evidence.answers if answer.at <= now),
        )

    def _look(self, evidence: StudyEvidence, now: datetime) -> _SeenStudy:
        """Return the state of a study between sweeps, with the time at which its evidence was last seen to change.

        Instances are indexed some time after they came. A study is not quiet while new instances still appear in the
        index.
        """
        key = (evidence.contents_key, evidence.associations)
        seen = self._seen.get(evidence.study_instance_uid)
        if seen is None:
            return _SeenStudy(key, now)
        if now < seen.noticed_at:  # the clock was set back
            seen.noticed_at, seen.early_at = now, None
        if seen.evidence_key != key:
            seen.evidence_key, seen.noticed_at = key, now
        return seen

    def _inventory(self, evidence: StudyEvidence, seen: _SeenStudy) -> Inventory:
        """Count the images, unless nothing changed since they were counted.

        They are also counted again while a procedure step misses instances, because these may come as part of another
        study.
        """
        if seen.inventory is None or seen.contents_key != evidence.contents_key or seen.inventory.steps.missing:
            seen.inventory = take_inventory(self._studies.contents(evidence.study_instance_uid))
            seen.contents_key = evidence.contents_key
        return seen.inventory

    def _complete(self, evidence: StudyEvidence, decision: Completion, now: datetime) -> None:
        if self._studies.complete(evidence, decision, now):
            extra = fields("study_completed", study=evidence.study_instance_uid, revision=evidence.revision)
            log.info("The study is complete: %s", decision.reason, extra=extra)
