"""Requests for storage commitment on both databases: who holds one, and what a second one under the same UID means."""

from datetime import timedelta

import pytest

from storage.records.commitments import Commitment, CommitmentRequest, CommitmentState
from storage.tables.commitments import Commitments
from storage.tables.database.connection import Database
from tests.storage.node import MR, NOW, SR, Node, after, received

ITEMS = ((MR, "1.2.3.1.1"), (SR, "1.2.3.2.1"))


@pytest.fixture
def commitments(database: Database) -> Commitments:
    return Commitments(database)


def ask(
    commitments: Commitments,
    transaction: str = "1.9.1",
    peer: str = "MR1",
    items: tuple[tuple[str, str], ...] = ITEMS,
    held: float = 0,
) -> Commitment:
    request = CommitmentRequest(transaction, peer, "192.0.2.10", items, "a" if held else "")
    return commitments.request(request, NOW, after(held))


def only(commitments: Commitments) -> Commitment:
    (found,) = commitments.list()
    return found


def test_a_request_is_kept_until_it_is_reported(commitments: Commitments) -> None:
    asked = ask(commitments)
    assert (asked.items, asked.duplicates) == (ITEMS, ())
    assert (asked.peer_ae_title, asked.peer_host, asked.transaction_uid) == ("MR1", "192.0.2.10", "1.9.1")
    assert commitments.due(NOW) == [asked]
    claimed = commitments.claim(asked.id, NOW, after(300))
    assert claimed is not None
    assert claimed.attempts == 1
    assert commitments.claim(asked.id, NOW, after(300)) is None
    assert commitments.due(NOW) == []
    assert commitments.reported(asked.id, "2 committed")
    assert not commitments.reported(asked.id, "2 committed")
    assert not commitments.fail(asked.id, "too late", None)
    assert (only(commitments).state, only(commitments).reason) == (CommitmentState.REPORTED, "2 committed")


def test_what_a_receiver_holds_is_nobody_elses_until_it_lets_go(commitments: Commitments) -> None:
    asked = ask(commitments, held=60)
    assert commitments.due(after(59)) == []
    assert commitments.claim(asked.id, after(59), after(300)) is None
    assert commitments.hold(asked.id, after(120))
    assert commitments.due(after(60)) == []
    assert commitments.due(after(9999)) == []  # what the clock says does not matter, while the receiver lives
    commitments.release_silent({asked.id: after(60)}, after(70))  # it has been renewed
    assert commitments.due(after(9999)) == []
    commitments.release_silent(commitments.leases(), after(70))  # it died
    assert [c.id for c in commitments.due(after(70), ["MR1"])] == [asked.id]
    assert commitments.due(after(70), ["MR2"]) == []


def test_attempts_end_in_a_failure_that_an_operator_can_take_back(commitments: Commitments) -> None:
    asked = ask(commitments)
    commitments.claim(asked.id, NOW, after(300))
    assert commitments.fail(asked.id, "does not answer", after(5))
    assert (only(commitments).state, only(commitments).run_after) == (CommitmentState.RETRYING, after(5))
    assert not commitments.hold(asked.id, after(900))
    assert commitments.due(after(4)) == []
    commitments.claim(asked.id, after(5), after(300))
    assert commitments.fail(asked.id, "does not answer", None)
    assert (only(commitments).state, only(commitments).attempts) == (CommitmentState.FAILED, 2)
    assert commitments.due(NOW + timedelta(days=1)) == []
    assert commitments.list([CommitmentState.FAILED])
    assert commitments.retry(asked.id, after(600))
    assert not commitments.retry(asked.id, after(600))
    assert (only(commitments).attempts, only(commitments).reason) == (0, "")
    assert commitments.due(after(600)) != []


def test_the_same_request_again_is_a_repetition(commitments: Commitments) -> None:
    first = ask(commitments)
    again = ask(commitments, held=60)
    assert (again.id, again.items, again.duplicates) == (first.id, ITEMS, ())
    assert commitments.due(NOW) == []
    assert ask(commitments, peer="MR2").id != first.id


def test_another_request_under_a_uid_in_use_can_only_fail(commitments: Commitments) -> None:
    ask(commitments)
    other = ((MR, "1.2.3.1.7"),)
    assert (ask(commitments, items=other).items, only(commitments).duplicates) == (ITEMS, other)
    assert (ask(commitments).items, only(commitments).duplicates) == (ITEMS, other)


def test_a_uid_whose_report_arrived_is_free_again(commitments: Commitments) -> None:
    first = ask(commitments)
    commitments.reported(first.id, "2 committed")
    other = ((MR, "1.2.3.1.7"),)
    again = ask(commitments, items=other)
    assert (again.items, again.duplicates, again.state) == (other, (), CommitmentState.REQUESTED)
    assert again.reason == ""


def test_what_is_indexed(commitments: Commitments, node: Node) -> None:
    for number in range(1, 4):
        node.store(received(number))
    uids = ["1.2.3.1.1", "1.2.3.1.3", "1.2.3.1.99", *(f"1.7.{n}" for n in range(1200))]
    assert commitments.indexed(uids) == {"1.2.3.1.1": MR, "1.2.3.1.3": MR}
