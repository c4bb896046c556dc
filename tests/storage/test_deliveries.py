"""The queues of deliveries: in order, each destination on its own."""

import threading

import pytest

from storage.errors import Permanent
from storage.records import DeliveryState
from tests.storage.node import NOW, STUDY, Node, after


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
    second = node.next()
    assert second is not None
    assert (second.object.kind, second.object.job_id) == ("SEG", 2)


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


def test_a_report_waits_until_the_failed_segmentation_is_queued_again(node: Node) -> None:
    node.deliver("PACS")
    seg = node.next()
    assert seg is not None
    assert not node.deliveries.retry(seg.id)
    assert node.deliveries.fail(seg.id, "dispatch", "refused", None, NOW) is DeliveryState.FAILED
    assert node.next(now=after(99)) is None
    assert [d.state for d in node.deliveries.list()] == [DeliveryState.FAILED, DeliveryState.QUEUED]
    assert node.deliveries.retry(seg.id)
    assert not node.deliveries.retry(seg.id)
    again = node.next()
    assert again is not None
    assert (again.id, again.attempts) == (seg.id, 1)
    node.deliveries.sent(again.id, "dispatch", NOW)
    sr = node.next()
    assert sr is not None
    assert sr.object.kind == "SR"


def test_committed_comes_after_sent(node: Node) -> None:
    node.deliver("PACS")
    seg = node.next()
    assert seg is not None
    assert not node.deliveries.committed(seg.id, NOW)
    node.deliveries.sent(seg.id, "dispatch", NOW)
    assert node.deliveries.committed(seg.id, after(1))
    assert not node.deliveries.committed(seg.id, after(2))
    (committed,) = node.deliveries.list(states=[DeliveryState.COMMITTED])
    assert committed.id == seg.id
    assert node.next() is not None  # the report, whose predecessor arrived


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
    assert (again.id, again.attempts) == (mine.id, 2)


def test_a_delivery_that_stalls_is_given_back(node: Node) -> None:
    node.deliver("PACS")
    seg = node.next()
    assert seg is not None
    assert node.deliveries.release_stalled(NOW, after(1)) == []
    (released,) = node.deliveries.release_stalled(after(900), after(901))
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
