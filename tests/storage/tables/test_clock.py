"""The times of waiting rows, when the clock of a machine is set."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from storage.records.commitments import CommitmentRequest
from storage.records.problems import ProblemKind, ProblemLimits
from storage.tables.commitments import Commitments
from storage.tables.confirmations import Confirmations
from storage.tables.database import schema
from storage.tables.database.clock import Clocks
from storage.tables.problems import Problems
from tests.storage.node import NOW, Node, after

LONGEST = timedelta(minutes=15)
STEPS = [3600, -3600, 30 * 86400, -30 * 86400]


@pytest.fixture
def clocks(node: Node) -> Clocks:
    made = Clocks(node.database, LONGEST)
    assert made.settle("host", "boot", 5.0, NOW) == (0.0, 0)
    return made


@pytest.mark.parametrize("seconds", STEPS)
def test_pauses_and_deadlines_are_moved_along_once(node: Node, clocks: Clocks, seconds: int) -> None:
    node.deliver("PACS", "ARCHIVE")
    confirmations, commitments = Confirmations(node.database), Commitments(node.database)
    delivery = node.next()
    assert delivery is not None
    node.deliveries.fail(delivery.id, "dispatch", "busy", after(300), NOW)
    node.arrive("ARCHIVE")
    asked = confirmations.begin("ARCHIVE", "1.9", after(-60), after(540), after(-60))
    assert asked is not None
    request = CommitmentRequest("1.8", "MR1", "192.0.2.1", (("1.2", "1.3"),))
    commitments.request(request, after(-5), after(20))
    node.queue("knee", uid="1.5")
    job = node.claim()
    node.jobs.fail(job.id, "worker", "busy", after(10), NOW)

    later = after(seconds)
    for host_step in (seconds, 0):  # whoever comes second finds it done
        assert clocks.settle("host", "boot", 5.0 + seconds, later) == (host_step, 0)
    moved = timedelta(seconds=seconds)
    assert [d.run_after for d in node.deliveries.list(destination="PACS") if d.id == delivery.id] == [
        after(300) + moved
    ]
    (question,) = confirmations.list()
    assert (question.requested_at, question.deadline) == (after(-60) + moved, after(540) + moved)
    (wanted,) = commitments.list()
    assert (wanted.requested_at, wanted.run_after) == (after(-5) + moved, after(20) + moved)
    found = node.jobs.get(job.id)
    assert found is not None
    assert found.run_after == after(10) + moved
    assert node.jobs.claim("worker", later + timedelta(seconds=9)) is None
    assert node.jobs.claim("worker", later + timedelta(seconds=10)) is not None


def test_what_has_ended_keeps_its_times(node: Node, clocks: Clocks) -> None:
    job = node.deliver("PACS")
    node.arrive()
    assert Confirmations(node.database).begin("PACS", "1.9", NOW, after(60), after(-60)) is not None
    before = node.deliveries.list(), node.jobs.get(job.id)
    assert clocks.settle("host", "boot", 3605.0, after(3600))[0] == 3600
    assert (node.deliveries.list(), node.jobs.get(job.id)) == before


def test_a_time_that_lies_too_far_ahead_is_due(node: Node, clocks: Clocks) -> None:
    """The machine was off, and its clock was set back meanwhile."""
    node.queue("knee")
    node.jobs.fail(node.claim(now=after(7200)).id, "worker", "busy", after(7210), after(7200))
    assert clocks.settle("host", "another boot", 77.0, NOW) == (0.0, 1)
    assert node.claim().attempts == 2


def test_small_differences_add_up_to_no_step(node: Node, clocks: Clocks) -> None:
    for n in range(20):
        assert clocks.settle("host", "boot", 5.0 + 0.9 * n, NOW) == (0.0, 0)
    assert clocks.settle("other host", "boot", 9e6, NOW) == (0.0, 0)


def test_a_step_is_a_problem(node: Node, clocks: Clocks) -> None:
    clocks.settle("host", "boot", 5.0 - 3600, NOW)
    with node.database.reading() as session:
        problem = session.scalars(select(schema.ProblemRow)).one()
        assert (problem.kind, problem.key) == ("clock_stepped", "host")
        assert "The clock of host was set back by 1:00:00" in problem.text


def test_of_several_containers_on_one_kernel_one_moves_the_rows(node: Node, clocks: Clocks) -> None:
    """Their host names differ, and they have the clock in common."""
    assert clocks.settle("other", "boot", 5.0, NOW) == (0.0, 0)
    assert clocks.settle("host", "boot", 3605.0, after(3600)) == (3600, 0)
    assert clocks.settle("other", "boot", 3605.0, after(3600)) == (0.0, 0)
    assert clocks.settle("other", "boot", 5.0, NOW) == (-3600, 0)
    assert clocks.settle("host", "boot", 5.0, NOW) == (0.0, 0)


def test_what_is_to_be_confirmed_is_still_asked_for_after_a_step_and_a_restart(node: Node, clocks: Clocks) -> None:
    node.deliver("PACS")
    node.arrive()
    month = 30 * 86400
    clocks.settle("host", "boot", 5.0 + month, after(month))
    asked = Confirmations(node.database).begin("PACS", "1.9", after(month), after(month + 60), after(month - 7 * 86400))
    assert asked is not None
    assert {d.sent_at for d in node.deliveries.list()} == {after(month)}


def test_a_problem_that_was_opened_while_the_clock_was_ahead_can_be_acknowledged(node: Node) -> None:
    problems, limits = Problems(node.database), ProblemLimits(NOW, NOW, frozenset())
    assert problems.open(ProblemKind.COERCED, "PACS", "it changes results")
    with node.database.session() as session:
        session.execute(update(schema.ProblemRow).values(since=datetime.now(UTC) + timedelta(hours=1)))
    (problem,) = problems.list(limits)
    problems.acknowledge(problem, "seen")
    (seen,) = problems.with_acknowledgements([problem])
    assert seen.acknowledged_at is not None
