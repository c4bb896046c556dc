"""The queues of deliveries: in order, each destination on its own."""

import threading

import pytest

from storage.errors import Permanent
from storage.records.deliveries import Delivery, DeliveryState, Remark, Silence, StoredAs, Undelivered, Waited
from storage.records.problems import ProblemLimits
from storage.tables.deliveries import LONGEST_LEAD_SECONDS
from storage.tables.problems import Problems
from tests.storage.node import NOW, STUDY, Node, after, objects, received


def test_what_was_not_sent_does_not_come_after_the_result_that_supersedes_it(node: Node) -> None:
    """At the destinations of the later result; a rejection note of an earlier one stays wanted."""
    first = node.deliver("PACS", "ARCHIVE")
    seg = node.next()
    assert seg is not None
    assert node.deliveries.fail(seg.id, "dispatch", "down", after(900), NOW) is DeliveryState.RETRYING
    node.store(received(2))
    node.route("liver")
    second = node.claim()
    assert node.succeed(second, "PACS")
    states = {(d.object.job_id, d.destination, d.object.kind): d.state for d in node.deliveries.list()}
    assert states[first.id, "PACS", "SEG"] == states[first.id, "PACS", "SR"] == DeliveryState.REPLACED
    assert states[first.id, "ARCHIVE", "SEG"] == states[second.id, "PACS", "SEG"] == DeliveryState.QUEUED
    assert any("2 objects of earlier results were not sent" in text for text in node.texts())
    assert not node.deliveries.retry(seg.id)


def test_the_report_follows_the_segmentation(node: Node) -> None:
    node.deliver("PACS")
    seg = node.next()
    assert seg is not None
    assert (seg.object.kind, seg.state, seg.attempts) == ("SEG", DeliveryState.SENDING, 1)
    assert node.next() is None
    assert node.deliveries.sent(seg.id, "dispatch", after(1))
    sr = node.next()
    assert sr is not None
    assert sr.object.kind == "SR"
    assert node.deliveries.sent(sr.id, "dispatch", after(2))
    assert node.next() is None
    assert [(d.state, d.sent_at) for d in node.deliveries.list()] == [
        (DeliveryState.SENT, after(1)),
        (DeliveryState.SENT, after(2)),
    ]
    assert node.texts()[-2:] == ["delivered: SEG → PACS: arrived", "delivered: SR → PACS: arrived"]


def test_a_destination_waits_for_no_other(node: Node) -> None:
    node.deliver("DEAD", "PACS")
    dead = node.next("DEAD")
    assert dead is not None
    node.deliveries.fail(dead.id, "dispatch", "no answer", after(900), NOW)
    for kind in ("SEG", "SR"):
        delivery = node.next("PACS")
        assert delivery is not None
        assert delivery.object.kind == kind
        node.deliveries.sent(delivery.id, "dispatch", NOW)
    assert node.next("DEAD") is None


def test_a_job_waits_for_no_other(node: Node) -> None:
    node.queue("liver", "knee")
    for _ in range(2):
        assert node.succeed(node.claim(), "PACS")
    first = node.next()
    assert first is not None
    node.deliveries.fail(first.id, "dispatch", "refused", None, NOW)
    for expected in (("SR", 1), ("SEG", 2)):
        delivery = node.next()
        assert delivery is not None
        assert (delivery.object.kind, delivery.object.job_id) == expected


def test_a_failed_delivery_waits_for_its_time(node: Node) -> None:
    node.deliver("PACS")
    seg = node.next()
    assert seg is not None
    state = node.deliveries.fail(seg.id, "dispatch", "no answer", after(10), after(1))
    assert state is DeliveryState.RETRYING
    assert node.next(now=after(9)) is None
    again = node.next(now=after(10))
    assert again is not None
    assert (again.id, again.attempts, again.reason) == (seg.id, 2, "no answer")


def test_a_report_does_not_wait_for_a_failed_segmentation_until_it_is_queued_again(node: Node) -> None:
    node.deliver("PACS")
    seg = node.next()
    assert seg is not None
    assert not node.deliveries.retry(seg.id)
    assert node.deliveries.fail(seg.id, "dispatch", "refused", None, NOW) is DeliveryState.FAILED
    assert [d.state for d in node.deliveries.list()] == [DeliveryState.FAILED, DeliveryState.QUEUED]
    assert node.deliveries.retry(seg.id)
    assert not node.deliveries.retry(seg.id)
    again = node.next()
    assert again is not None
    assert (again.id, again.attempts) == (seg.id, 1)
    assert node.next() is None
    assert node.deliveries.fail(seg.id, "dispatch", "refused", None, NOW) is DeliveryState.FAILED
    sr = node.next()
    assert sr is not None
    assert sr.object.kind == "SR"
    node.deliveries.sent(sr.id, "dispatch", NOW)
    assert node.texts()[-1] == "delivered: SR → PACS: arrived, without SEG (FAILED)"


def test_only_the_holder_ends_a_delivery(node: Node) -> None:
    node.deliver("PACS")
    seg = node.next()
    assert seg is not None
    assert not node.deliveries.sent(seg.id, "other", NOW)
    assert node.deliveries.fail(seg.id, "other", "?", None, NOW) is DeliveryState.SENDING
    assert node.deliveries.sent(seg.id, "dispatch", NOW)
    assert not node.deliveries.sent(seg.id, "dispatch", NOW)
    assert node.deliveries.fail(seg.id, "dispatch", "late", None, NOW) is DeliveryState.SENT
    with pytest.raises(Permanent, match="no delivery 99"):
        node.deliveries.fail(99, "dispatch", "?", None, NOW)


def test_a_restarted_dispatcher_takes_up_what_it_held(node: Node) -> None:
    node.deliver("PACS", "ARCHIVE")
    mine = node.next("PACS")
    other = node.deliveries.claim("ARCHIVE", "elsewhere", NOW)
    assert mine is not None
    assert other is not None
    (released,) = node.deliveries.release_dispatcher("dispatch")
    assert (released.id, released.state) == (mine.id, DeliveryState.RETRYING)
    assert node.deliveries.release_dispatcher("dispatch") == []
    assert not node.deliveries.sent(mine.id, "dispatch", NOW)
    again = node.next("PACS", now=released.run_after)
    assert again is not None
    assert (again.id, again.attempts, again.may_have_arrived) == (mine.id, 1, True)  # it answered with no failure


def test_a_delivery_that_stalls_is_given_back(node: Node) -> None:
    node.deliver("PACS")
    seg = node.next()
    assert seg is not None
    assert node.deliveries.release_silent({seg.id: after(-1)}, after(1)) == []  # another dispatcher had it then
    (released,) = node.deliveries.release_silent(node.deliveries.claims(), after(901))
    assert released.reason == "its dispatcher fell silent"
    again = node.next(now=after(901))
    assert again is not None
    assert again.id == seg.id


def test_dispatchers_at_once_take_each_delivery_once(node: Node) -> None:
    node.queue(*(f"application {n}" for n in range(12)))
    for _ in range(12):
        assert node.succeed(node.claim(), "PACS")
    order: list[tuple[int, str]] = []
    lock = threading.Lock()

    def dispatch(name: str) -> None:
        while any(d.state is not DeliveryState.SENT for d in node.deliveries.list()):
            delivery = node.deliveries.claim("PACS", name, NOW)
            if delivery is not None:
                with lock:
                    order.append((delivery.object.job_id, delivery.object.kind))
                assert node.deliveries.sent(delivery.id, name, NOW)

    threads = [threading.Thread(target=dispatch, args=(f"dispatch-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(order) == len(set(order)) == 24
    assert all(order.index((job, "SEG")) < order.index((job, "SR")) for job, _ in order)


def test_deliveries_are_listed(node: Node) -> None:
    node.deliver("PACS", "ARCHIVE")
    assert len(node.deliveries.list()) == 4
    assert [d.object.kind for d in node.deliveries.list(destination="PACS")] == ["SEG", "SR"]
    assert node.deliveries.list(study="9.9") == []
    assert len(node.deliveries.list(study=STUDY)) == 4
    assert node.deliveries.list(states=[DeliveryState.FAILED]) == []


# -- what a destination does not take ----------------------------------------------------------------------------------

STAND_INS = {"RTSTRUCT": "SEG", "SR-REGIONS": "SR"}


def offer(node: Node, *destinations: str) -> Delivery:
    """A job with stand-ins for its SEG and SR; the delivery of the SEG to the first destination, which is claimed."""
    node.queue("liver")
    job = node.claim()
    assert node.jobs.succeed(job.id, "worker", objects(job, *destinations, stand_ins=STAND_INS), {}, NOW)
    seg = node.next(destinations[0])
    assert seg is not None
    return seg


def ids(node: Node, destination: str = "PACS") -> dict[str, int]:
    return {target.kind: target.id for target, _ in node.deliveries.offered(1, destination)}


def states(node: Node, destination: str = "PACS") -> dict[str, str]:
    return {d.object.kind: str(d.state) for d in node.deliveries.list(destination=destination)}


def replace(node: Node, refused: Delivery, dispatcher: str = "dispatch") -> list[str]:
    """The destination does not take the SEG; the kinds that ended."""
    known = ids(node)
    ended = node.deliveries.choose_again(
        refused.id,
        dispatcher,
        [known["RTSTRUCT"], known["SR-REGIONS"]],
        {known["SEG"]: Undelivered("refused; sent instead: RTSTRUCT", True), known["SR"]: Undelivered("refers", True)},
        after(1),
    )
    return [delivery.object.kind for delivery in ended]


def test_stand_ins_are_sent_only_in_place_of_what_is_refused(node: Node) -> None:
    seg = offer(node, "PACS", "ARCHIVE")
    assert states(node) == {"SEG": "SENDING", "SR": "QUEUED"}
    offered = node.deliveries.offered(1, "PACS")
    assert [(target.stands_for, d is not None) for target, d in offered] == [
        ((), True), ((), True), (("SEG",), False), (("SR",), False)
    ]  # fmt: skip
    assert replace(node, seg) == ["SEG", "SR"]
    assert states(node) == {"SEG": "REPLACED", "SR": "REPLACED", "RTSTRUCT": "QUEUED", "SR-REGIONS": "QUEUED"}
    assert states(node, "ARCHIVE") == {"SEG": "QUEUED", "SR": "QUEUED"}
    assert node.texts()[-2:] == [
        "warning: SEG → PACS: not delivered: refused; sent instead: RTSTRUCT",
        "warning: SR → PACS: not delivered: refers",
    ]
    for kind in ("RTSTRUCT", "SR-REGIONS"):
        delivery = node.next()
        assert delivery is not None
        assert delivery.object.kind == kind
        assert node.deliveries.sent(delivery.id, "dispatch", NOW)
    assert node.next() is None
    assert not node.deliveries.retry(seg.id)


def test_only_the_holder_replaces_and_only_once(node: Node) -> None:
    seg = offer(node, "PACS")
    assert replace(node, seg, "other") == []
    assert states(node) == {"SEG": "SENDING", "SR": "QUEUED"}
    assert replace(node, seg) == ["SEG", "SR"]
    told = node.texts()
    assert replace(node, seg) == []
    assert len(node.deliveries.list()) == 4
    assert node.texts() == told


def test_what_nothing_can_replace_fails_and_holds_up_nothing(node: Node) -> None:
    seg = offer(node, "PACS")
    known = ids(node)
    ended = node.deliveries.choose_again(
        seg.id,
        "dispatch",
        [known["SR-REGIONS"]],
        {known["SEG"]: Undelivered("nothing instead", False), known["SR"]: Undelivered("refers", True)},
        NOW,
    )
    assert [(d.object.kind, d.state) for d in ended] == [("SEG", DeliveryState.FAILED), ("SR", DeliveryState.REPLACED)]
    report = node.next()
    assert report is not None
    assert report.object.kind == "SR-REGIONS"
    assert node.deliveries.sent(report.id, "dispatch", NOW)
    assert node.deliveries.retry(seg.id)
    again = node.next()
    assert again is not None
    assert again.id == seg.id


def test_a_sent_report_is_not_replaced(node: Node) -> None:
    """The SEG before it is sent once more, because it was never committed, and is refused now."""
    seg = offer(node, "PACS")
    node.deliveries.sent(seg.id, "dispatch", NOW)
    report = node.next()
    assert report is not None
    node.deliveries.sent(report.id, "dispatch", NOW)
    known = ids(node)
    why = {known["SR"]: Undelivered("refers", True)}
    assert node.deliveries.choose_again(seg.id, "dispatch", [known["RTSTRUCT"]], why, NOW) == ()
    assert states(node) == {"SEG": "SENT", "SR": "SENT"}


def test_a_report_names_the_one_that_its_destination_got(node: Node) -> None:
    replace(node, offer(node, "PACS", "ARCHIVE"))
    node.arrive("PACS")
    node.arrive("ARCHIVE")

    def previous(*destinations: str) -> list[str]:
        return [target.kind for target in node.results.previous_sr(STUDY, "liver", 2, destinations)]

    assert previous("PACS") == ["SR-REGIONS"]
    assert previous("ARCHIVE") == ["SR"]
    assert previous("PACS", "ARCHIVE") == ["SR", "SR-REGIONS"]
    assert previous("ELSEWHERE") == []
    assert previous() == ["SR"]


# -- a destination that gives no answer --------------------------------------------------------------------------------


def test_waiting_uses_up_no_attempt_and_keeps_the_order(node: Node) -> None:
    node.deliver("PACS", "ARCHIVE")
    away = Silence("it cannot be reached", sent=False, pause=1500.0, limit=86400.0)
    for waited in (1500.0, 3000.0, 4500.0):
        seg = node.next()
        assert seg is not None
        assert (seg.object.kind, seg.attempts) == ("SEG", 1)
        told = node.deliveries.wait(seg.id, "dispatch", away, NOW)
        assert (bool(told.alarm), told.given_up) == (waited == 4500.0, ())  # after an hour
        assert [(d.attempts, d.waited_seconds) for d in node.deliveries.list(destination="PACS")] == [(0, waited)] * 2
    assert [d.waited_seconds for d in node.deliveries.list(destination="ARCHIVE")] == [0.0, 0.0]
    assert node.deliveries.is_missed("PACS")
    assert not node.deliveries.is_missed("ARCHIVE")
    assert node.deliveries.reached("PACS")
    assert not node.deliveries.reached("PACS")
    assert node.texts().count(f"warning: SEG → PACS: not delivered, will be tried again: {away.reason}") == 1
    seg = node.next()
    assert seg is not None
    told = node.deliveries.wait(seg.id, "dispatch", Silence("no answer", sent=False, pause=4501.0, limit=4501.0), NOW)
    assert [d.object.kind for d in told.given_up] == ["SEG", "SR"]
    assert states(node) == {"SEG": "FAILED", "SR": "FAILED"}
    assert node.deliveries.wait(seg.id, "dispatch", away, NOW) == Waited()


def test_an_object_without_an_answer_waits_alone(node: Node) -> None:
    node.deliver("PACS")
    seg = node.next()
    assert seg is not None
    lost = Silence("no answer", sent=True, pause=LONGEST_LEAD_SECONDS - 1, limit=86400.0)
    assert node.deliveries.wait(seg.id, "dispatch", lost, NOW) == Waited()
    assert node.next(now=after(60)) is None  # the report waits for it
    again = node.next(now=after(3600))
    assert again is not None
    assert again.object.kind == "SEG"
    assert node.deliveries.wait(again.id, "dispatch", lost, after(3600)).alarm
    sr = node.next(now=after(3600))  # and no longer than this
    assert sr is not None
    assert (sr.object.kind, sr.waited_seconds) == ("SR", 0.0)


def test_what_a_destination_remarked_stays(node: Node) -> None:
    node.deliver("PACS")
    seg = node.next()
    assert seg is not None
    remark = Remark(0xB000, ("PatientID",), StoredAs("1.9.1", study_instance_uid="1.9.2"))
    assert node.deliveries.sent(seg.id, "dispatch", NOW, remark)
    (kept, _) = node.deliveries.list()
    words = "warning 0xB000, coercion of data elements; it names PatientID; kept there as instance 1.9.1, study 1.9.2"
    assert (kept.warning, kept.stored_as) == (words, remark.stored_as)
    assert node.texts()[-2:] == [
        "delivered: SEG → PACS: arrived",
        f"warning: SEG → PACS: stored with a remark: {words}",
    ]


def silent(pause: float = 3600.0, *, sent: bool) -> Silence:
    return Silence("no answer", sent, pause, 14 * 86400.0)


def test_after_an_outage_the_report_waits_for_its_segmentation_again(node: Node) -> None:
    node.deliver("PACS")
    seg = node.next()
    assert seg is not None
    assert node.deliveries.wait(seg.id, "dispatch", silent(sent=False), NOW).alarm
    assert node.deliveries.reached("PACS")
    assert not node.deliveries.reached("PACS")
    again = node.next()
    assert again is not None
    node.deliveries.fail(again.id, "dispatch", "busy", after(900), NOW)
    assert node.next() is None
    assert {d.waited_seconds for d in node.deliveries.list()} == {0}


@pytest.mark.parametrize("how", ["superseded", "withdrawn"])
def test_the_problems_of_what_will_not_be_sent_end(node: Node, how: str) -> None:
    job = node.deliver("PACS")
    seg = node.next()
    assert seg is not None
    assert node.deliveries.wait(seg.id, "dispatch", silent(sent=True), NOW).alarm
    node.deliveries.conflict(seg)
    limits = ProblemLimits(NOW, NOW, frozenset())
    assert len(Problems(node.database).list(limits)) == 2
    if how == "superseded":
        node.store(received(2))
        node.route("liver")
        assert node.succeed(node.claim(), "PACS")
    else:
        assert node.results.withdraw(job.id, "wrong", NOW)
    assert Problems(node.database).list(limits) == []
