"""The completion sweep: studies go from RECEIVING to COMPLETE."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from dicom_node.complete.decision import decide_completion, may_complete
from dicom_node.complete.inventory import Inventory, take_inventory
from dicom_node.complete.rule import CompletionRule
from dicom_node.complete.whole_series import whole_series
from dicom_node.runtime.clock import StepWatch, steady_now, wall_now
from dicom_node.runtime.logs import fields
from storage.records.completion import Completion
from storage.records.evidence import StudyEvidence
from storage.tables.studies import Studies

log = logging.getLogger(__name__)

EARLY_SECONDS = 2.0  # between two looks for whole series in a study that still arrives
EARLY_SHARE = 0.05  # of the time that looks at one study may take: each reads all that is here of it

StartEarly = Callable[[StudyEvidence, Mapping[str, str], datetime], None]
"""Gets a study that still arrives, its series that are whole already, each with the reason, and the time."""


NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass
class _SeenStudy:
    """A study in RECEIVING as the sweeps have seen it, with the times of this process at which it changed."""

    revision: int
    evidence_key: tuple[object, ...]
    instances_key: tuple[object, ...]
    since: datetime  # the first sweep that saw this revision
    arrived_at: datetime  # the last change of its instances
    noticed_at: datetime  # the last change of anything
    contents_key: tuple[object, ...] | None = None
    inventory: Inventory | None = None
    early_at: datetime | None = None
    stepped: bool = False  # whether the wall clock was set meanwhile
    asked_at: list[datetime] = field(default_factory=list)  # of the answers that this process got


class CompletionSweep:
    """The sweep over all studies in RECEIVING.

    `filed` returns the time until which everything acknowledged is indexed (`filed_until`): instances that came later
    may be in a journal and have no row yet. `start_early` is None if no application starts on its inputs.

    All waiting is measured by `now`, which no step of the wall clock moves, from when the sweep saw a change. The times
    in rows are by a wall clock, and are believed only from the start of this process on, until that clock is set: what
    came before the start, or is first seen after a step, is waited for from that moment. `wall` is for records.
    """

    def __init__(
        self,
        studies: Studies,
        rule: CompletionRule,
        filed: Callable[[], datetime | None],
        start_early: StartEarly | None = None,
        now: Callable[[], datetime] = steady_now,
        wall: Callable[[], datetime] = wall_now,
    ) -> None:
        self._studies = studies
        self._rule = rule
        self._filed = filed
        self._start_early = start_early
        self._now = now
        self._wall = wall
        self._seen: dict[str, _SeenStudy] = {}
        self._steps = StepWatch(wall, lambda: now().timestamp())
        self._started_at: datetime | None = now()  # None once the wall clock was set

    def sweep(self) -> None:
        """Complete every study with enough evidence, and start applications early on the other studies."""
        filed = self._filed()  # Before the rows are read, because it tells what is among them.
        receiving = self._studies.evidence()
        now = self._now()
        if stepped := bool(self._steps.look()):
            self._started_at = None
        self._seen = {e.study_instance_uid: self._look(e, now) for e in receiving}
        for evidence in receiving:
            seen = self._seen[evidence.study_instance_uid]
            seen.stepped = seen.stepped or stepped
            noticed = self.as_noticed(evidence, now)
            if may_complete(noticed, self._rule, now, filed):
                decision = decide_completion(noticed, self._inventory(evidence, seen), self._rule, now, filed)
                if isinstance(decision, Completion):
                    self._complete(evidence, decision, now)
                    continue
            if self._start_early is not None and filed is not None and (seen.early_at is None or now >= seen.early_at):
                began = self._now()
                whole = self._whole(evidence, seen, min(now, filed))
                if whole:
                    self._start_early(evidence, whole, self._wall())
                took = self._now() - began
                seen.early_at = now + max(timedelta(seconds=EARLY_SECONDS), took / EARLY_SHARE)

    def _whole(self, evidence: StudyEvidence, seen: _SeenStudy, now: datetime) -> Mapping[str, str]:
        """Return the series that are whole, each with the reason.

        Which association brought a series is told by the times of rows, so all is reckoned in these, from the last
        instance on. If the clock was set while the study came, they cannot be compared, and nothing starts early.
        """
        if seen.stepped:
            return {}
        by_rows = evidence.last_received_at + (now - seen.arrived_at)
        return whole_series(evidence, self._inventory(evidence, seen), self._rule, by_rows)

    def as_noticed(self, evidence: StudyEvidence, now: datetime) -> StudyEvidence:
        """Return the evidence with the times at which this process noticed it, in place of those of the rows."""
        seen = self._seen.get(evidence.study_instance_uid)
        if seen is None or seen.revision != evidence.revision:
            seen = self._first_look(evidence, now)
        # Answers that an earlier process got say nothing, because nothing tells what has come since.
        known = [*[NEVER] * (len(evidence.answers) - len(seen.asked_at)), *seen.asked_at]
        return replace(
            evidence,
            noticed_at=seen.noticed_at,
            revision_started_at=seen.since,
            last_received_at=seen.arrived_at,
            answers=tuple(replace(answer, asked_at=at) for answer, at in zip(evidence.answers, known, strict=False)),
        )

    def note_question(self, evidence: StudyEvidence, asked_at: datetime) -> None:
        """Note, by the clock of this process, when the source was asked for the last answer that storage keeps."""
        seen = self._seen.get(evidence.study_instance_uid)
        if seen is not None and seen.revision == evidence.revision:
            seen.asked_at.append(asked_at)

    def _look(self, evidence: StudyEvidence, now: datetime) -> _SeenStudy:
        """Return the state of a study between sweeps, with the times at which its evidence was last seen to change.

        Instances are indexed some time after they came. A study is not quiet while new instances still appear in the
        index.
        """
        new = self._first_look(evidence, now)
        seen = self._seen.get(evidence.study_instance_uid)
        if seen is None or seen.revision != evidence.revision:
            return new
        if seen.evidence_key != new.evidence_key:
            seen.evidence_key, seen.noticed_at = new.evidence_key, now
        if seen.instances_key != new.instances_key:
            seen.instances_key, seen.arrived_at = new.instances_key, now
        return seen

    def _first_look(self, evidence: StudyEvidence, now: datetime) -> _SeenStudy:
        key = (evidence.contents_key, evidence.associations)
        instances = (evidence.instances, evidence.last_received_at)
        since, arrived_at = (
            now if self._started_at is None else min(now, max(self._started_at, at))
            for at in (evidence.revision_started_at, evidence.last_received_at)
        )
        return _SeenStudy(evidence.revision, key, instances, since, arrived_at, now)

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
        wall = self._wall()
        since = None if decision.since is None else wall - (now - decision.since)
        if self._studies.complete(evidence, replace(decision, since=since), wall):
            extra = fields("study_completed", study=evidence.study_instance_uid, revision=evidence.revision)
            log.info("The study is complete: %s", decision.reason, extra=extra)
