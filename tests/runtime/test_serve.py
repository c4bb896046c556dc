"""One loop for every role: it works while there is work, and outlives what goes wrong."""

import logging
import threading
from collections.abc import Callable

import pytest

from dicom_node.runtime.serve import serve
from storage.errors import Permanent, Retriable


class Stop(threading.Event):
    """Remembers the pauses instead of making them."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout)
        return self.is_set()


def units(stop: Stop, *results: bool | Exception) -> Callable[[], bool]:
    """Give these results one after another, and set `stop` with the last one."""
    rest = list(results)

    def work() -> bool:
        result = rest.pop(0)
        if not rest:
            stop.set()
        if isinstance(result, Exception):
            raise result
        return result

    return work


def test_work_follows_work_without_a_pause_and_idleness_pauses() -> None:
    stop = Stop()
    serve("Delivery", units(stop, True, True, False, True), stop, idle_seconds=0.25)
    assert stop.pauses == [0.25]


def test_nothing_is_done_once_stop_is_set() -> None:
    stop = Stop()
    stop.set()
    serve("Delivery", lambda: pytest.fail("it worked"), stop)
    assert stop.pauses == []


def test_a_retriable_error_is_logged_and_costs_one_idle_pause(caplog: pytest.LogCaptureFixture) -> None:
    stop = Stop()
    work = units(stop, Retriable("the database is busy"), True)
    serve("Delivery", work, stop, {"destination": "pacs"}, idle_seconds=0.25)
    assert stop.pauses == [0.25]
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.WARNING,
        "Delivery is put off and will be tried again in 0.25 s: the database is busy",
    )
    assert (record.__dict__["action"], record.__dict__["destination"]) == ("work_postponed", "pacs")


@pytest.mark.parametrize("error", [Permanent("it is wrong"), TypeError("it quotes the patient")])
def test_any_other_error_is_logged_without_its_text_and_costs_a_long_pause(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    stop = Stop()
    serve("Delivery", units(stop, error, True), stop, trouble_seconds=3.0)
    assert stop.pauses == [3.0]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(
        f"Delivery failed unexpectedly and will be tried again in 3 s: {type(error).__name__}"
    )
    assert str(error) not in record.getMessage()
    assert record.__dict__["action"] == "work_interrupted"


def test_without_a_long_pause_an_unexpected_error_ends_the_loop() -> None:
    stop = Stop()
    with pytest.raises(TypeError):
        serve("Work", units(stop, TypeError(), True), stop, trouble_seconds=None)
