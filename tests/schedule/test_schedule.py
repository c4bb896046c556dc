"""The clock: tasks whose steps run in order, at intervals."""

import logging
import threading
from datetime import datetime

import pytest

from dicom_node.schedule import DailyTask, ScheduledTask, Scheduler
from storage.errors import Retriable


def test_a_step_that_is_to_be_retried_ends_the_run_of_its_task(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def first() -> None:
        done.append("first")
        if len(done) == 1:
            raise Retriable("the database is busy")

    task = ScheduledTask("sweep", 1, (first, lambda: done.append("second")))
    with caplog.at_level(logging.WARNING):
        task.run()
    assert done == ["first"]
    assert "The task sweep is put off and will run again in 1 s: the database is busy" in caplog.text
    task.run()
    assert done == ["first", "first", "second"]


def test_tasks_run_until_they_are_stopped() -> None:
    stop, ran = threading.Event(), threading.Event()
    scheduler = Scheduler([ScheduledTask("first", 0.01, (ran.set,))])
    thread = threading.Thread(target=scheduler.run, args=(stop,))
    thread.start()
    assert ran.wait(10)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_daily_task_waits_for_its_hour() -> None:
    stop, ran = threading.Event(), threading.Event()
    scheduler = Scheduler([], [DailyTask("clean-up", (datetime.now().hour + 12) % 24, ran.set)])
    thread = threading.Thread(target=scheduler.run, args=(stop,))
    thread.start()
    assert not ran.wait(0.3)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
