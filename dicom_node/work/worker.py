"""A worker: it claims one job at a time, sends its heartbeat, and ends the attempt.

Its process may be killed at any moment. The heartbeat then stops, and the job is released and runs again. Results are
enqueued in the one transaction that ends the job, so that nothing is sent twice.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import NoReturn

from dicom_node.errors import PatientConflict
from dicom_node.runtime.backoff import Backoff
from dicom_node.runtime.clock import wall_now
from dicom_node.runtime.logs import fields
from dicom_node.runtime.serve import serve
from dicom_node.work.output import JobResult
from storage.errors import InputRefused, NodeError, Permanent, WhyNoResult
from storage.records.jobs import Job, JobState
from storage.tables.jobs import Jobs

log = logging.getLogger(__name__)

EXIT_AGAIN = 75  # EX_TEMPFAIL: the supervisor starts a fresh process


class Worker:
    """The loop that claims jobs and has `perform` do each of them.

    A heartbeat every `heartbeat_seconds` shows that the worker is alive. An attempt that takes longer than
    `job_timeout_seconds` ends the process.
    """

    def __init__(
        self,
        name: str,
        jobs: Jobs,
        perform: Callable[[Job], JobResult],
        backoff: Backoff,
        heartbeat_seconds: float,
        job_timeout_seconds: float,
        now: Callable[[], datetime] = wall_now,
    ) -> None:
        self._name = name
        self._jobs = jobs
        self._perform = perform
        self._backoff = backoff
        self._heartbeat_seconds = heartbeat_seconds
        self._job_timeout_seconds = job_timeout_seconds
        self._now = now

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set. An unexpected error outside of an attempt ends the worker."""
        serve("The worker", self.work_one, stop, trouble_seconds=None)

    def work_one(self) -> bool:
        """Claim and run the next job. Return False if there is none."""
        try:
            job = self._jobs.claim(self._name, self._now())
        except NodeError as error:
            log.warning(
                "No job can be claimed now; the worker will try again: %s", error, extra=fields("claim_postponed")
            )
            return False
        if job is None:
            return False
        with self._heartbeat(job):
            self._attempt(job)
        return True

    def _attempt(self, job: Job) -> None:
        identifiers = {"job": job.id, "study": job.study_instance_uid, "application": job.application}
        log.info("The job started; this is attempt %d", job.attempts, extra=fields("job_started", **identifiers))
        started = time.monotonic()
        try:
            result = self._perform(job)
            kept = self._jobs.succeed(job.id, self._name, result.objects, result.facts, wall_now())
        except Exception as error:
            self._end_failed(job, error, identifiers)
            return
        seconds = time.monotonic() - started
        if kept:
            log.info("The job succeeded in %.1f s", seconds, extra=fields("job_succeeded", **identifiers))
        else:
            log.info("The job's result is superseded and is not sent", extra=fields("job_superseded", **identifiers))

    def _end_failed(self, job: Job, error: Exception, identifiers: dict[str, object]) -> None:
        reason = _reason(error)
        now = self._now()
        retry_at = None if isinstance(error, Permanent) else self._backoff.retry_at(job.attempts, now)
        state = self._jobs.fail(job.id, self._name, reason, retry_at, now, _why(error))
        trace = None if isinstance(error, NodeError) else error
        match state:
            case JobState.FAILED:
                extra = fields("job_failed", **identifiers)
                log.error("The job failed: %s", reason, extra=extra, exc_info=trace)
            case JobState.RETRYING:
                extra = fields("job_retried", **identifiers)
                log.warning("The attempt failed, and the job will be retried: %s", reason, extra=extra, exc_info=trace)
            case _:  # the job is CANCELLED, or another worker has it
                extra = fields("job_abandoned", **identifiers)
                log.warning("The attempt failed, and the job is %s: %s", state, reason, extra=extra, exc_info=trace)

    @contextmanager
    def _heartbeat(self, job: Job) -> Iterator[None]:
        """Send the heartbeat of the job while the block runs; end this process if the job is lost or takes too long.

        Nothing else can stop a job that hangs, because code that runs in torch handles no signal.
        """
        done = threading.Event()

        def beat() -> None:
            deadline = time.monotonic() + self._job_timeout_seconds
            while not done.wait(self._heartbeat_seconds):
                if time.monotonic() > deadline:
                    log.error(
                        "The job exceeds its time limit, so the worker process ends and is started again",
                        extra=fields("job_timed_out", job=job.id),
                    )
                    self._end_process(job, f"took longer than {self._job_timeout_seconds:g} s")
                try:
                    wanted = self._jobs.heartbeat(job.id, self._name, wall_now())
                except NodeError as error:
                    log.warning(
                        "The heartbeat of the job could not be written and will be tried again: %s",
                        error,
                        extra=fields("heartbeat_delayed", job=job.id),
                    )
                    continue
                # A job that has just ended is not wanted either. Wait once more, so that one can end that is about to.
                if not wanted and not done.wait(self._heartbeat_seconds):
                    log.warning(
                        "The job is superseded or lost, so this worker process ends and is started again",
                        extra=fields("job_abandoned", job=job.id),
                    )
                    self._end_process(job, "its worker was late")

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _end_process(self, job: Job, reason: str) -> NoReturn:
        """Give the job back if this worker still holds it, and end the process. A superseded job is cancelled."""
        now = self._now()
        with suppress(Exception):  # if this fails, the next process of this worker gives the job back
            self._jobs.fail(job.id, self._name, reason, self._backoff.retry_at(job.attempts, now), now)
        os._exit(EXIT_AGAIN)


def _reason(error: Exception) -> str:
    """Return the reason for the operator and the timeline, without foreign texts, which may quote patient data."""
    if isinstance(error, NodeError):
        return str(error)
    return f"unexpected {type(error).__name__}; see the worker's log"


def _why(error: Exception) -> WhyNoResult | None:
    """Return the kind of reason that the report of this failure gives; None if no report may be sent."""
    if isinstance(error, PatientConflict):
        return None
    return error.why if isinstance(error, InputRefused) else WhyNoResult.FAILURE
