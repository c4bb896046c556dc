"""Intervals by the monotonic clock, and what a process does when the wall clock is set."""

import logging
from datetime import UTC, datetime, timedelta

import pytest

from dicom_node.runtime.clock import MachineClock, StepWatch, Unchanged, steady_now, wall_now, words_of_step

START = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


class Clocks:
    """Both clocks of a machine."""

    def __init__(self) -> None:
        self.elapsed = 1000.0
        self.set_by = timedelta()

    def wall(self) -> datetime:
        return START + timedelta(seconds=self.elapsed) + self.set_by

    def monotonic(self) -> float:
        return self.elapsed


def test_both_clocks_agree_until_one_is_set() -> None:
    assert abs(wall_now() - steady_now()) < timedelta(seconds=1)


def test_a_row_is_unchanged_only_once_its_value_was_seen_for_the_whole_time() -> None:
    clocks = Clocks()
    leases = Unchanged[int, str](30, lambda: START + timedelta(seconds=clocks.elapsed))
    assert leases.among({1: "a", 2: "b"}) == {}
    clocks.elapsed += 20
    assert leases.among({1: "a", 2: "c"}) == {}
    clocks.elapsed += 10
    assert leases.among({1: "a", 2: "c"}) == {1: "a"}
    clocks.elapsed += 20
    assert leases.among({2: "c"}) == {2: "c"}
    assert leases.among({1: "a", 2: "c"}) == {2: "c"}  # it was gone in between


@pytest.mark.parametrize("seconds", [3600, -3600, 30 * 86400, 3])
def test_a_step_is_told_once_and_slewing_never(seconds: int, caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    watch = StepWatch(clocks.wall, clocks.monotonic)
    for _ in range(100):
        clocks.elapsed += 1
        clocks.set_by += timedelta(seconds=0.5)  # far more than NTP slews
        assert watch.look() == 0
    clocks.set_by += timedelta(seconds=seconds)
    with caplog.at_level(logging.ERROR):
        watch.tell()
        watch.tell()
    (record,) = caplog.records
    assert record.__dict__["action"] == "clock_stepped"
    assert record.__dict__["seconds"] == seconds


def test_steps_in_words() -> None:
    assert words_of_step(3600) == ("forward", "1 hour")
    assert words_of_step(-30 * 86400) == ("back", "30 days")
    assert words_of_step(2.5) == ("forward", "2.5 seconds")


def test_rows_are_settled_before_a_time_is_compared_with_them(caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    settled: list[tuple[float, datetime]] = []

    def settle(host: str, boot: str, offset: float, now: datetime) -> tuple[float, int]:
        settled.append((offset, now))
        return (3600.0, 2) if len(settled) == 2 else (0.0, 0)

    clock = MachineClock(settle, clocks.wall, clocks.monotonic)
    for _ in range(20):
        clocks.elapsed += 1
        assert clock.now() == clocks.wall()
    assert len(settled) == 1
    clocks.set_by += timedelta(hours=1)
    with caplog.at_level(logging.WARNING):
        assert clock.now() == clocks.wall()
    assert [round(offset - settled[0][0]) for offset, _ in settled] == [0, 3600]
    assert [r.__dict__["action"] for r in caplog.records] == ["waiting_times_moved", "waiting_times_clamped"]
    clocks.elapsed += 31
    clock.now()
    assert len(settled) == 3  # others may have written times that lie too far ahead
