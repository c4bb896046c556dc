"""The tasks of the `schedule` role, at intervals or by the calendar, and the release of work that stalled.

Intervals are measured by the monotonic clock: setting the wall clock neither delays a task nor makes it run at once.
Only a task that belongs to a time of day follows the wall clock, and is left to APScheduler.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from apscheduler.schedulers.background import BackgroundScheduler

from dicom_node.runtime.clock import Unchanged, steady_now, wall_now
from dicom_node.runtime.logs import fields
from dicom_node.runtime.serve import serve
from storage.errors import Retriable
from storage.tables.deliveries import Deliveries
from storage.tables.jobs import Jobs

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
AHEAD_SECONDS = 1.0
REPORT_SECONDS = 2.0
RELEASE_SECONDS = 10.0
DELIVERY_STALLED_SECONDS = 15 * 60.0  # a claimed delivery sends no heartbeat


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


@dataclass(frozen=True)
class DailyTask:
    """A task that runs once a day, at an hour of local time."""

    name: str
    hour: int
    run: Callable[[], object]


class Scheduler:
    """The `schedule` role. Each task has a thread of its own, and never runs twice at the same time."""

    def __init__(self, tasks: Sequence[ScheduledTask], daily: Sequence[DailyTask] = ()) -> None:
        self._tasks = tasks
        self._daily = daily

    def run(self, stop: threading.Event) -> None:
        """Run the tasks until `stop` is set."""
        calendar = BackgroundScheduler(job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None})
        for daily in self._daily:
            calendar.add_job(daily.run, "cron", hour=daily.hour, id=daily.name)
        calendar.start()
        threads = [threading.Thread(target=_repeat, args=(task, stop), name=task.name) for task in self._tasks]
        for thread in threads:
            thread.start()
        stop.wait()
        for thread in threads:
            thread.join()
        calendar.shutdown(wait=True)


def _repeat(task: ScheduledTask, stop: threading.Event) -> None:
    def run() -> bool:
        task.run()
        return False

    name = f"The task {task.name}"
    serve(name, run, stop, {"task": task.name}, idle_seconds=task.seconds, trouble_seconds=task.seconds)


class StalledWork:
    """The release of jobs and deliveries whose worker or dispatcher shows no life any more.

    `stalled_seconds` is the time without a heartbeat after which a job is given back to the queue. It is the time for
    which this process sees the same heartbeat, so that no set clock takes a job from a worker that lives.
    """

    def __init__(
        self,
        jobs: Jobs,
        deliveries: Deliveries,
        stalled_seconds: float,
        maximum_job_attempts: int,
        now: Callable[[], datetime] = steady_now,
    ) -> None:
        self._jobs = jobs
        self._deliveries = deliveries
        self._maximum_job_attempts = maximum_job_attempts
        self._silent_jobs = Unchanged[int, datetime](stalled_seconds, now)
        self._silent_deliveries = Unchanged[int, datetime](DELIVERY_STALLED_SECONDS, now)

    def release(self) -> None:
        """Give stalled jobs and deliveries back to their queues."""
        silent = self._silent_jobs.among(self._jobs.heartbeats())
        for job in self._jobs.release_silent(silent, self._maximum_job_attempts, wall_now()):
            extra = fields("stalled_job_released", job=job.id)
            log.warning("The worker of a job fell silent, the job is now %s", job.state, extra=extra)
        self._deliveries.release_silent(self._silent_deliveries.among(self._deliveries.claims()), wall_now())
