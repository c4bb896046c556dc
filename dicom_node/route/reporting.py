"""The decision on reports of no result, once a study is over and nothing is tried any more.

A study is over if procedure steps (MPPS) proved it complete, or if no image has come for a quiet time of its own. The
quiet time is measured by the monotonic clock from when this process notices the last image, so that no step of the
wall clock ends it early; it begins anew when the process starts.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.runtime.logs import fields
from storage.records.completion import Completion, Evidence
from storage.records.jobs import AnalysisDetail, Job, JobKind, JobState, NoResultDetail, WithoutResult
from storage.records.routing import RoutingDecision
from storage.records.studies import MarkedStudy, Stage
from storage.tables.queueing import NoResults
from storage.tables.studies import Studies

log = logging.getLogger(__name__)

POLICIES = {
    "expected": "of studies that it is meant for",
    "always": "of all studies with images that applications take",
    "failures": "where it failed or cannot be used",
    "never": "never",
}
REMEMBERED_SECONDS = 86400.0  # beyond the quiet time, for studies whose analysis takes long
_TRYING = (JobState.QUEUED, JobState.RUNNING, JobState.RETRYING)


@dataclass(frozen=True)
class _Quiet:
    """A study that is waited for: its last image, the seconds that count already, and the time of noticing."""

    last_received_at: datetime
    seconds: float
    noticed: float


class NoResultSweep:
    """The sweep over all studies that are marked, `quiet_seconds` after their last image."""

    def __init__(
        self,
        studies: Studies,
        no_results: NoResults,
        applications: Sequence[ConfiguredApplication],
        quiet_seconds: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._studies = studies
        self._no_results = no_results
        self._applications = applications
        self._silent = frozenset(a.name for a in applications if a.no_result == "never")
        self._quiet_seconds = quiet_seconds
        self._now = now
        self._monotonic = monotonic
        self._quiet: dict[tuple[str, int], _Quiet] = {}

    def announce(self) -> None:
        """Log for each application which studies without a result are reported."""
        for application in self._applications:
            said = POLICIES[application.no_result]
            if application.meant_only_where_bound:
                said = "where it was started and failed; nothing else says which studies it is for"
            log.info(
                "A missing result of application %s is reported (no_result = %r): %s",
                application.name,
                application.no_result,
                said,
                extra=fields("no_result_policy", application=application.name),
            )

    def sweep(self) -> None:
        """Decide on the report of every marked study that is over and whose analyses have ended."""
        for marked in self._no_results.pending():
            if self._is_over(marked):
                self._decide(marked)
        oldest = self._monotonic() - self._quiet_seconds - REMEMBERED_SECONDS
        self._quiet = {key: quiet for key, quiet in self._quiet.items() if quiet.noticed >= oldest}

    def _is_over(self, marked: MarkedStudy) -> bool:
        study = marked.study
        key = (study.study_instance_uid, study.revision)
        quiet = self._quiet.get(key)
        if quiet is None or quiet.last_received_at != study.last_received_at:
            seconds = self._quiet_seconds if self._is_proven(marked) else 0.0
            quiet = self._quiet[key] = _Quiet(study.last_received_at, seconds, self._monotonic())
        return quiet.seconds + self._monotonic() - quiet.noticed >= self._quiet_seconds

    def _is_proven(self, marked: MarkedStudy) -> bool:
        """Return True if procedure steps were the evidence that completed this revision."""
        evidence = [
            Completion.from_json(event.text, event.data).evidence
            for event in self._studies.events(marked.study.study_instance_uid)
            if event.stage is Stage.COMPLETE and event.data and event.revision == marked.study.revision
        ]
        return evidence[-1:] == [Evidence.PROCEDURE_STEP]

    def _decide(self, marked: MarkedStudy) -> None:
        uid = marked.study.study_instance_uid
        routing = self._studies.routing(uid, marked.study.revision)
        detail = None
        if routing is not None and routing.applications:
            detail = without_results(routing, self._no_results.jobs(uid), self._silent)
        job = self._no_results.decide(marked, detail, self._now())
        if job is None or detail is None:
            return
        if detail.applications:
            extra = fields("no_result_enqueued", study=uid, job=job)
            log.info("A report of no result is enqueued for %d application(s)", len(detail.applications), extra=extra)
        else:
            extra = fields("no_result_withdrawn", study=uid, job=job)
            log.info("The report of no result is withdrawn, because it does not hold any more", extra=extra)


def without_results(routing: RoutingDecision, jobs: Sequence[Job], silent: frozenset[str]) -> NoResultDetail | None:
    """Return the applications without a result, with the reasons; None while one of them may still give a result.

    `jobs` are those of the study that no newer job replaces. Failures of `silent` applications are left out.
    """
    analyses = [job for job in jobs if job.kind is JobKind.ANALYSIS]
    found = []
    for decision in routing.applications:
        name = decision.application
        if not decision.applies:
            if decision.reported is not None:
                found.append(WithoutResult(name, decision.reported, decision.reason))
            continue
        own = [job for job in analyses if job.application == name and job.side == decision.side]
        if any(job.state in _TRYING for job in own):
            return None
        if name not in silent:
            failed = [(job, job.why) for job in own if job.state is JobState.FAILED and job.why is not None]
            found += [WithoutResult(name, why, _explanation(job), job.id, _told_side(job)) for job, why in failed]
    return NoResultDetail(tuple(found), routing.contents)


def _explanation(job: Job) -> str:
    """Return the reason of a failed analysis, with its input series and what fitted as well and was not used."""
    detail = job.detail if isinstance(job.detail, AnalysisDetail) else AnalysisDetail()
    return ". ".join([job.reason, *(f"Input series: {name}" for name in detail.used), *detail.left_out])


def _told_side(job: Job) -> str:
    """Return the side only where the other one is analysed beside it."""
    return job.side if job.beside else ""
