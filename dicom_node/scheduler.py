"""The clock: completes and routes studies, releases what stalled. Decisions live in `completion` and `routing`."""

import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.completion import Complete, CompletionRule, decide
from dicom_node.logs import fields
from dicom_node.routing import Route, route
from inference.series import Kind, SeriesDescription, read_headers, recognise
from storage.deliveries import Deliveries
from storage.errors import Retriable
from storage.instances import InstanceStore
from storage.jobs import Jobs
from storage.records import Series, Study
from storage.studies import Studies

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
DELIVERY_STALLED_AFTER = timedelta(minutes=15)  # a claimed delivery sends no heartbeat


class Scheduler:
    """The `schedule` role. `stalled_after` is how long a heartbeat may be missing before its work is given back."""

    def __init__(
        self,
        studies: Studies,
        instances: InstanceStore,
        jobs: Jobs,
        deliveries: Deliveries,
        rule: CompletionRule,
        applications: Sequence[ConfiguredApplication],
        stalled_after: timedelta,
        maximum_job_attempts: int,
    ) -> None:
        self._studies = studies
        self._instances = instances
        self._jobs = jobs
        self._deliveries = deliveries
        self._rule = rule
        self._applications = applications
        self._stalled_after = stalled_after
        self._maximum_job_attempts = maximum_job_attempts
        self._clock = BackgroundScheduler(timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1})

    def run(self, stop: threading.Event) -> None:
        """Sweeps until `stop` is set."""
        self._clock.add_job(self.sweep, "interval", seconds=SWEEP_SECONDS, id="studies")
        self._clock.add_job(self.release_stalled, "interval", seconds=10, id="stalled")
        self._clock.start()
        stop.wait()
        self._clock.shutdown(wait=True)

    def sweep(self) -> None:
        """One pass: RECEIVING → COMPLETE → ROUTED or IGNORED."""
        try:
            self._complete()
            self._route()
        except Retriable as error:
            log.warning("The sweep is put off: %s", error, extra=fields("sweep"))

    def _complete(self) -> None:
        now = datetime.now(UTC)
        for evidence in self._studies.evidence():
            decision = decide(evidence, self._rule, now)
            if isinstance(decision, Complete) and self._studies.complete(
                evidence.study_instance_uid, evidence.revision, decision.reason, now
            ):
                log.info(
                    "Study complete: %s",
                    decision.reason,
                    extra=fields("complete", study=evidence.study_instance_uid, revision=evidence.revision),
                )

    def _route(self) -> None:
        for study in self._studies.completed():
            self._apply(study, self._decide(study))

    def _decide(self, study: Study) -> Route:
        """A failure nobody foresaw is this study's stated end, and keeps no other study waiting."""
        series = self._instances.series(study.study_instance_uid)
        try:
            recognised = [recognise_series(s) for s in series]
            return route(study.study_instance_uid, study.revision, series, recognised, self._applications)
        except Exception as error:
            log.exception("A study cannot be routed", extra=fields("route", study=study.study_instance_uid))
            return Route((), f"routing failed ({type(error).__name__}), see the log; then `dicom-node retry --study`")

    def _apply(self, study: Study, decision: Route) -> None:
        now = datetime.now(UTC)
        uid, revision = study.study_instance_uid, study.revision
        if decision.jobs:
            moved = self._studies.route(
                uid, revision, decision.reason, decision.jobs, decision.decisions, now, decision.warnings
            )
        else:
            moved = self._studies.ignore(uid, revision, decision.reason, decision.decisions, now, decision.warnings)
        if moved:
            log.info("Study routed: %s", decision.reason, extra=fields("route", study=uid, revision=revision))

    def release_stalled(self) -> None:
        now = datetime.now(UTC)
        try:
            for job in self._jobs.release_stalled(now - self._stalled_after, self._maximum_job_attempts, now):
                log.warning("A job's worker fell silent: %s", job.state, extra=fields("stalled", job=job.id))
            self._deliveries.release_stalled(now - DELIVERY_STALLED_AFTER, now)
        except Retriable as error:
            log.warning("Stalled work is released later: %s", error, extra=fields("stalled"))


def recognise_series(series: Series) -> SeriesDescription:
    """What a stored series is. One unreadable file must not keep the rest of the study from being routed."""
    try:
        return recognise(read_headers([instance.path for instance in series.instances]))
    except Exception as error:
        log.exception("A series cannot be recognised", extra=fields("recognise", series=series.series_instance_uid))
        return SeriesDescription(
            series_instance_uid=series.series_instance_uid,
            modality=series.modality,
            kind=Kind.UNKNOWN,
            plane=None,
            dimension=None,
            slices=0,
            contrast=None,
            fat_suppressed=None,
            b_values=(),
            confidence=0.0,
            reasons=(),
            problem=f"its headers cannot be read ({type(error).__name__})",
        )
