"""The question to the source PACS: how many instances of a study it holds."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from dicom_node.complete.evidence import settled_at
from dicom_node.complete.rule import CompletionRule
from dicom_node.complete.sweep import CompletionSweep
from dicom_node.dimse.query import SourcePacs
from dicom_node.runtime.backoff import Backoff
from dicom_node.runtime.clock import steady_now, wall_now
from dicom_node.runtime.logs import fields, unexpected
from storage.errors import NodeError, Retriable
from storage.records.evidence import SourceAnswer, StudyEvidence
from storage.records.procedure_steps import ProcedureStepState
from storage.tables.studies import Studies

log = logging.getLogger(__name__)

FIRST_ASK_AGAIN = timedelta(seconds=5)
LONGEST_ASK_AGAIN = timedelta(seconds=60)
SOURCE_PAUSE = Backoff(first=5, longest=300, attempts=2**31)  # for all studies, while the source does not answer


def ask_at(study: StudyEvidence, rule: CompletionRule) -> datetime | None:
    """Return the next time to ask the source PACS for its count; None if its answer could not change anything.

    The source is first asked when the instances have settled. If its count differs from the number of instances here,
    it is asked again after pauses that grow over the whole revision. An instance that came since the last answer makes
    the next question earlier.
    """
    if rule.source is None or any(state is ProcedureStepState.IN_PROGRESS for _, state in study.steps):
        return None
    due = settled_at(study, rule)
    if not study.answers:
        return due
    answered_at = study.answers[-1].since
    if answered_at < due:
        return max(due, answered_at + FIRST_ASK_AGAIN)
    return answered_at + min(FIRST_ASK_AGAIN * 2 ** min(len(study.answers) - 1, 10), LONGEST_ASK_AGAIN)


class SourceQuestions:
    """The questions to the source PACS about all studies in RECEIVING.

    `noticed` is the sweep, which knows when it noticed the evidence of a study. All pauses are measured by `now`, which
    no step of the wall clock moves; `wall` is for records.
    """

    def __init__(
        self,
        studies: Studies,
        source: SourcePacs,
        rule: CompletionRule,
        noticed: CompletionSweep,
        now: Callable[[], datetime] = steady_now,
        wall: Callable[[], datetime] = wall_now,
    ) -> None:
        self._studies = studies
        self._source = source
        self._rule = rule
        self._noticed = noticed
        self._now = now
        self._wall = wall
        self._failures = 0
        self._rests_until: datetime | None = None

    def ask(self) -> None:
        """Ask about every study that is due. After a failure to reach the source, ask nothing for a while."""
        now = self._now()
        if self._rests_until is not None and now < self._rests_until:
            return
        for evidence in self._studies.evidence():
            due = ask_at(self._noticed.as_noticed(evidence, now), self._rule)
            if due is not None and now >= due and not self._ask_about(evidence):
                return

    def _ask_about(self, evidence: StudyEvidence) -> bool:
        """Return False if the source does not answer."""
        uid, name = evidence.study_instance_uid, self._source.name
        # An instance that comes while the source counts may not be in its count.
        asked_at, at = self._now(), self._wall()
        count, problem = None, ""
        try:
            count = self._source.count_instances(uid)
        except NodeError as error:
            problem = str(error)
            reached = not isinstance(error, Retriable)
        except Exception as error:  # A foreign library fails in many ways, all of which mean the same.
            extra = fields("source_query_failed", study=uid)
            log.error("The source %s could not be asked for its count: %s", name, unexpected(error), extra=extra)
            problem, reached = f"unexpected {type(error).__name__}", False
        else:
            reached = True
        own = self._studies.own_at(uid, name) if count is not None else 0
        if self._studies.answered(uid, evidence.revision, SourceAnswer(at, name, count, own, problem)):
            self._noticed.note_question(evidence, asked_at)
        if reached:
            self._failures, self._rests_until = 0, None
        else:
            self._failures += 1
            self._rests_until = SOURCE_PAUSE.retry_at(self._failures, self._now())
            extra = fields("source_query_postponed", study=uid)
            log.warning("The source %s gives no count and is not asked for a while: %s", name, problem, extra=extra)
        return reached
