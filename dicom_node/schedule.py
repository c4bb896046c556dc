"""The clock: tasks that run at intervals, and the release of work that stalled."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler

from dicom_node.runtime.logs import fields
from storage.errors import Retriable
from storage.tables.deliveries import Deliveries
from storage.tables.jobs import Jobs

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
RELEASE_SECONDS = 10.0
DELIVERY_STALLED_AFTER = timedelta(minutes=15)  # a claimed delivery sends no heartbeat


@dataclass(frozen=True)
class ScheduledTask:
    """Steps that run in order, every `seconds`. A Retriable ends the run; the next run begins at the first step."""

    name: str
    seconds: float
    steps: tuple[Callable[[], None], ...]

    def run(self) -> None:
        try:
            for step in self.steps:
                step()
        except Retriable as error:
            message = "The task %s is put off and will run again in %g s: %s"
            log.warning(message, self.name, self.seconds, error, extra=fields("task_postponed", task=self.name))


class Scheduler:
    """The `schedule` role. Each task has a thread of its own, and never runs twice at the same time."""

    def __init__(self, tasks: Sequence[ScheduledTask]) -> None:
        self._tasks = tasks

    def run(self, stop: threading.Event) -> None:
        """Run the tasks until `stop` is set."""
        clock = BackgroundScheduler(timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1})
        for task in self._tasks:
            clock.add_job(task.run, "interval", seconds=task.seconds, id=task.name)
        clock.start()
        stop.wait()
        clock.shutdown(wait=True)


class StalledWork:
    """The release of jobs and deliveries whose worker or dispatcher shows no life any more.

    `stalled_after` is the time without a heartbeat after which a job is given back to the queue.
    """

    def __init__(
        self,
        jobs: Jobs,
        deliveries: Deliveries,
        stalled_after: timedelta,
        maximum_job_attempts: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._jobs = jobs
        self._deliveries = deliveries
        self._stalled_after = stalled_after
        self._maximum_job_attempts = maximum_job_attempts
        self._now = now

    def release(self) -> None:
        """Give stalled jobs and deliveries back to their queues."""
        now = self._now()
        for job in self._jobs.release_stalled(now - self._stalled_after, self._maximum_job_attempts, now):
            extra = fields("stalled_job_released", job=job.id)
            log.warning("The worker of a job fell silent, the job is now %s", job.state, extra=extra)
        self._deliveries.release_stalled(now - DELIVERY_STALLED_AFTER, now)
