"""What destinations have committed of what they accepted, on both databases."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from storage.records.deliveries import Confirmation, ConfirmationReport, ConfirmationState
from storage.records.jobs import AnalysisDetail, JobDetail, NewJob, WithdrawalDetail
from storage.tables.confirmations import Confirmations
from storage.tables.database import schema
from storage.tables.database.connection import Database
from tests.storage.node import MR, NOW, STUDY, UNDECIDED, Node, after, objects

SEG, SR = "2.25.10", "2.25.11"  # of job 1


@pytest.fixture
def confirmations(database: Database) -> Confirmations:
    return Confirmations(database)


def send(node: Node, count: int = 2, destination: str = "PACS") -> None:
    for _ in range(count):
        delivery = node.next(destination, now=after(60))
        assert delivery is not None
        assert node.deliveries.sent(delivery.id, "dispatch", NOW)


def begin(confirmations: Confirmations, transaction: str = "1.9.1", destination: str = "PACS") -> Confirmation | None:
    return confirmations.begin(destination, transaction, NOW, after(300), NOW - timedelta(days=1))


def asked(confirmations: Confirmations, node: Node, transaction: str = "1.9.1") -> Confirmation:
    """Both objects are SENT, and asked for."""
    send(node)
    confirmation = begin(confirmations, transaction)
    assert confirmation is not None
    assert confirmations.taken(confirmation.id, after(600))
    return confirmation


def states(node: Node) -> list[tuple[str, str, int]]:
    return [(d.object.kind, str(d.state), d.resends) for d in node.deliveries.list(destination="PACS")]


def test_a_job_is_asked_for_once_all_of_it_has_arrived(confirmations: Confirmations, node: Node) -> None:
    node.deliver("PACS", "ARCHIVE")
    assert begin(confirmations) is None
    send(node, 1)
    assert begin(confirmations) is None  # the report waits
    report = node.next()
    assert report is not None
    assert begin(confirmations) is None  # it is being sent
    node.deliveries.fail(report.id, "dispatch", "no answer", after(9), NOW)
    assert begin(confirmations) is None  # it is tried again
    send(node, 1)
    assert begin(confirmations, destination="ARCHIVE") is None
    assert confirmations.begin("PACS", "1.9.0", NOW, after(300), after(1)) is None  # sent too long ago
    found = begin(confirmations)
    assert found is not None
    assert (found.state, found.items, found.report) == (ConfirmationState.ASKING, ((MR, SEG), (MR, SR)), None)
    assert [o.sop_instance_uid for o in confirmations.objects(found.id)] == [SEG, SR]
    assert begin(confirmations, "1.9.2") is None  # somebody asks already


def test_a_failure_keeps_nothing_from_being_asked_for(confirmations: Confirmations, node: Node) -> None:
    node.queue("liver")
    job = node.claim()
    made = objects(job, "PACS", stand_ins={"KO": ""})
    assert node.jobs.succeed(job.id, "worker", made, {}, NOW)
    send(node, 1)
    report = node.next()
    assert report is not None
    node.deliveries.fail(report.id, "dispatch", "no answer", after(9), NOW)
    assert begin(confirmations) is None
    assert node.next(now=after(9)) is not None
    node.deliveries.fail(report.id, "dispatch", "refused", None, NOW)
    assert begin(confirmations) is None  # the key object selection is on its way
    send(node, 1)
    found = begin(confirmations)
    assert found is not None
    assert [uid for _, uid in found.items] == [SEG, "2.25.12"]
    assert node.deliveries.retry(report.id)
    send(node, 1)
    again = begin(confirmations, "1.9.2")
    assert again is not None
    assert [uid for _, uid in again.items] == [SR]


def test_a_report_is_kept_and_acted_upon_once(confirmations: Confirmations, node: Node) -> None:
    node.deliver("PACS")
    confirmation = asked(confirmations, node)
    assert confirmations.is_awaited(confirmation.id)
    assert confirmations.due("PACS", after(599)) is None
    assert not confirmations.report("9.9", ConfirmationReport((), {}))
    told = ConfirmationReport((SEG, SR), {})
    assert confirmations.report("1.9.1", told)
    assert confirmations.report("1.9.1", ConfirmationReport((), {SEG: "0x0110"}))  # the first one holds
    assert not confirmations.is_awaited(confirmation.id)
    due = confirmations.due("PACS", NOW)
    assert due is not None
    assert (due.state, due.report) == (ConfirmationState.REPORTED, told)
    assert confirmations.due("ARCHIVE", after(9999)) is None
    assert confirmations.settle(due.id, {SEG, SR}, {}, "storage committed", after(5)) == []
    assert states(node) == [("SEG", "COMMITTED", 0), ("SR", "COMMITTED", 0)]
    assert node.texts()[-2:] == ["delivered: SEG → PACS: storage committed", "delivered: SR → PACS: storage committed"]
    assert confirmations.settle(due.id, set(), {SEG: "lost"}, "", after(6)) == []
    assert confirmations.due("PACS", after(9999)) is None
    assert begin(confirmations, "1.9.2") is None


def test_a_report_may_overtake_the_answer_to_its_request(confirmations: Confirmations, node: Node) -> None:
    node.deliver("PACS")
    send(node)
    confirmation = begin(confirmations)
    assert confirmation is not None
    assert confirmations.report("1.9.1", ConfirmationReport((SEG, SR), {}))
    assert not confirmations.taken(confirmation.id, after(600))
    due = confirmations.due("PACS", NOW)
    assert due is not None
    assert due.state is ConfirmationState.REPORTED


def test_what_is_not_committed_is_sent_once_more_and_then_fails(confirmations: Confirmations, node: Node) -> None:
    node.deliver("PACS")
    first = asked(confirmations, node)
    with node.database.session() as session:  # as after an outage before it arrived
        session.execute(update(schema.DeliveryRow).values(waited_seconds=3600.0))
    (alarm,) = confirmations.settle(first.id, {SEG}, {SR: "it reports 0x0110"}, "storage committed", after(5))
    assert (alarm.object.kind, alarm.state, alarm.resends, alarm.attempts) == ("SR", "QUEUED", 1, 0)
    assert alarm.waited_seconds == 0
    assert "warning: SR → PACS: accepted but not committed (it reports 0x0110), and is sent once more" in node.texts()
    assert begin(confirmations, "1.9.2") is None  # it is on its way
    send(node, 1)
    second = begin(confirmations, "1.9.2")
    assert second is not None
    assert second.items == ((MR, SR),)
    (alarm,) = confirmations.settle(second.id, set(), {SR: "lost"}, "", after(9))
    assert (alarm.state, alarm.reason) == ("FAILED", "accepted twice and not committed (lost)")
    assert node.texts()[-1] == "warning: SR → PACS: not delivered, for good: accepted twice and not committed (lost)"
    assert begin(confirmations, "1.9.3") is None
    # The operator has all of it tried again.
    assert node.deliveries.retry(alarm.id)
    assert states(node) == [("SEG", "COMMITTED", 0), ("SR", "QUEUED", 0)]
    send(node, 1)
    assert begin(confirmations, "1.9.3") is not None


def test_a_late_report_still_counts(confirmations: Confirmations, node: Node) -> None:
    node.deliver("PACS")
    first = asked(confirmations, node)
    confirmations.settle(first.id, set(), dict.fromkeys((SEG, SR), "no report"), "", after(5))
    send(node)
    second = begin(confirmations, "1.9.2")
    assert second is not None
    confirmations.settle(second.id, set(), {SEG: "no report"}, "", after(9))
    assert states(node) == [("SEG", "FAILED", 1), ("SR", "SENT", 1)]
    assert confirmations.report("1.9.1", ConfirmationReport((SEG, SR), {}))
    due = confirmations.due("PACS", NOW)
    assert due is not None
    assert due.id == first.id
    confirmations.settle(due.id, {SEG, SR}, {}, "storage committed", after(10))
    assert states(node) == [("SEG", "COMMITTED", 1), ("SR", "COMMITTED", 1)]


def test_a_request_whose_dispatcher_died_is_made_anew(confirmations: Confirmations, node: Node) -> None:
    node.deliver("PACS")
    send(node)
    old = begin(confirmations)
    assert old is not None
    assert confirmations.due("PACS", after(299)) is None
    due = confirmations.due("PACS", after(300))
    assert due == old
    new = confirmations.renew(old.id, "1.9.2", after(300), after(600))
    assert new is not None
    assert (new.transaction_uid, new.items, new.requested_at) == ("1.9.2", old.items, NOW)
    assert confirmations.renew(old.id, "1.9.3", after(300), after(600)) is None
    assert [o.sop_instance_uid for o in confirmations.objects(new.id)] == [SEG, SR]
    # The first one had been taken after all.
    assert confirmations.report("1.9.1", ConfirmationReport((SEG, SR), {}))
    confirmations.settle(old.id, {SEG, SR}, {}, "storage committed", after(301))
    assert states(node) == [("SEG", "COMMITTED", 0), ("SR", "COMMITTED", 0)]
    assert confirmations.objects(new.id) == []


def test_what_waits_says_why_and_what_cannot_be_confirmed_says_so_once(
    confirmations: Confirmations, node: Node
) -> None:
    node.deliver("PACS")
    send(node)
    found = begin(confirmations)
    assert found is not None
    told = node.texts()
    assert confirmations.read_back(found.id, after(1))
    assert not confirmations.read_back(found.id, after(1))
    assert confirmations.postpone(found.id, after(9), "not confirmed yet")
    assert [d.reason for d in node.deliveries.list()] == ["not confirmed yet"] * 2
    due = confirmations.due("PACS", after(9))
    assert due is not None
    assert due.state is ConfirmationState.READING
    assert node.texts() == told
    assert confirmations.give_up(found.id, "it answers no queries", after(9))
    assert not confirmations.give_up(found.id, "it answers no queries", after(9))
    assert not confirmations.postpone(found.id, after(99), "?")
    assert states(node) == [("SEG", "SENT", 0), ("SR", "SENT", 0)]
    assert node.texts() == [
        *told, "delivered: SEG, SR → PACS: arrived, but cannot be confirmed: it answers no queries"
    ]  # fmt: skip
    assert begin(confirmations, "1.9.2") is None
    assert [d.reason for d in node.deliveries.list()] == ["cannot be confirmed: it answers no queries"] * 2


@pytest.mark.parametrize("detail", [AnalysisDetail(), WithdrawalDetail(1, {}, "")])
def test_what_a_later_result_has_replaced_is_not_sent_again(
    confirmations: Confirmations, node: Node, detail: JobDetail
) -> None:
    """The later one may have had the PACS reject it (IOCM): it must not come back."""
    node.deliver("PACS")
    confirmation = asked(confirmations, node)
    revision = node.study().revision
    assert node.studies.reroute(STUDY)
    later = NewJob(STUDY, revision, "liver", {}, "later", detail=detail)
    assert node.studies.route(STUDY, revision, "applies", [later], UNDECIDED, NOW)
    assert node.succeed(node.claim())
    (kept,) = confirmations.settle(confirmation.id, {SR}, {SEG: "lost"}, "found there", after(5))
    assert (kept.state, kept.resends) == ("SENT", 0)
    assert "a later result has replaced it" in kept.reason
    assert states(node) == [("SEG", "SENT", 0), ("SR", "COMMITTED", 0)]
    assert begin(confirmations, "1.9.2") is None
