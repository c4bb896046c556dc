"""Storage commitment: what is committed, when it is known, and on which association the peer hears of it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.dimse_primitives import N_EVENT_REPORT

from dicom_node.dimse.commitment import (
    ALL_COMMITTED,
    FAILURES_EXIST,
    LONGEST_WAIT,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    Addressee,
    OutgoingReport,
    addressee_of,
    decide_report,
    report_request,
)
from dicom_node.dimse.status import DimseResponse, DimseStatus
from dicom_node.receive.association_reports import AssociationLink, AssociationReports
from dicom_node.receive.commitment import CommitmentService, RequestedInstances, read_request
from dicom_node.runtime.backoff import Backoff
from storage.records.commitments import Commitment, CommitmentRequest, CommitmentState
from storage.tables.commitments import Commitments
from storage.tables.database.connection import Database
from tests.receive.services.conftest import Services
from tests.receive.services.datasets import MR, commitment
from tests.storage.node import NOW, SR, received

ONE, TWO = (MR, "1.2.3.1.1"), (MR, "1.2.3.1.2")
ASKED = Commitment(1, "1.9.1", "MR1", "host", (ONE, TWO), CommitmentState.REQUESTED, 0, "", NOW, NOW)


# -- decisions ---------------------------------------------------------------------------------------------------------


def test_what_a_request_asks_for() -> None:
    ds = commitment("1.9.1", ONE, TWO, ONE)
    assert read_request(1, PUSH_MODEL_INSTANCE, ds) == RequestedInstances("1.9.1", (ONE, TWO))


def _changed(change: Callable[[Dataset], object]) -> Dataset:
    ds = commitment("1.9.1", ONE, TWO)
    change(ds)
    return ds


@pytest.mark.parametrize(
    ("action", "instance", "ds", "status"),
    [
        (2, PUSH_MODEL_INSTANCE, _changed(lambda ds: None), 0x0123),
        (None, PUSH_MODEL_INSTANCE, _changed(lambda ds: None), 0x0123),
        (1, "1.2.3", _changed(lambda ds: None), 0x0112),
        (1, PUSH_MODEL_INSTANCE, _changed(lambda ds: delattr(ds, "TransactionUID")), 0x0115),
        (1, PUSH_MODEL_INSTANCE, _changed(lambda ds: delattr(ds, "ReferencedSOPSequence")), 0x0115),
        (1, PUSH_MODEL_INSTANCE, _changed(lambda ds: ds.ReferencedSOPSequence.clear()), 0x0115),
        (1, PUSH_MODEL_INSTANCE, _changed(lambda ds: ds.ReferencedSOPSequence[1].clear()), 0x0115),
    ],
)
def test_what_is_no_request(action: int | None, instance: str, ds: Dataset, status: int) -> None:
    answer = read_request(action, instance, ds)
    assert isinstance(answer, DimseResponse)
    assert answer.status == status
    assert len(answer.comment) <= 64


def test_indexed_instances_are_committed_once_the_mark_has_passed() -> None:
    """Before, other content of the same instance may wait in a journal that was acknowledged later."""
    indexed = dict([ONE[::-1], TWO[::-1]])
    assert decide_report(ASKED, indexed, (), NOW - timedelta(microseconds=1), NOW) is None
    report = decide_report(ASKED, indexed, (), NOW, NOW)
    assert report is not None
    assert report == OutgoingReport("1.9.1", (ONE, TWO), ())
    assert report.event_type == ALL_COMMITTED
    ds = report.dataset()
    assert "FailedSOPSequence" not in ds
    assert [i.ReferencedSOPInstanceUID for i in ds.ReferencedSOPSequence] == [ONE[1], TWO[1]]
    assert str(report) == "2 committed"


def test_a_missing_row_is_a_missing_instance_only_once_the_index_has_passed() -> None:
    indexed = {ONE[1]: MR}
    before, passed = NOW - timedelta(microseconds=1), NOW
    assert decide_report(ASKED, indexed, (), None, NOW) is None
    assert decide_report(ASKED, indexed, (), before, NOW) is None
    assert decide_report(ASKED, indexed, (), before, NOW + LONGEST_WAIT) is None
    report = decide_report(ASKED, indexed, (), passed, NOW)
    assert report is not None
    assert report.event_type == FAILURES_EXIST
    assert [(f.sop_instance_uid, f.reason) for f in report.failed] == [(TWO[1], 0x0112)]
    ds = report.dataset()
    assert [i.FailureReason for i in ds.FailedSOPSequence] == [0x0112]
    assert [i.ReferencedSOPInstanceUID for i in ds.ReferencedSOPSequence] == [ONE[1]]
    assert str(report) == "1 committed, 1 failed (0x0112)"


def test_an_index_that_never_gets_there_is_a_processing_failure() -> None:
    report = decide_report(ASKED, {ONE[1]: MR}, (), None, NOW + LONGEST_WAIT + timedelta(seconds=1))
    assert report is not None
    assert {f.reason for f in report.failed} == {0x0110}
    assert "ReferencedSOPSequence" not in report.dataset()


def test_content_that_is_kept_aside_is_a_processing_failure() -> None:
    report = decide_report(ASKED, dict([ONE[::-1], TWO[::-1]]), {TWO[1]}, NOW, NOW)
    assert report is not None
    assert report.committed == (ONE,)
    assert [(f.sop_instance_uid, f.reason) for f in report.failed] == [(TWO[1], 0x0110)]


def test_another_class_and_another_request() -> None:
    asked = replace(ASKED, duplicates=((SR, "1.2.3.2.1"),))
    report = decide_report(asked, {ONE[1]: SR, TWO[1]: MR, "1.2.3.2.1": SR}, (), NOW, NOW)
    assert report is not None
    assert report.committed == (TWO,)
    assert [(f.sop_instance_uid, f.reason) for f in report.failed] == [(ONE[1], 0x0119), ("1.2.3.2.1", 0x0131)]


def test_how_a_peer_is_addressed() -> None:
    here, there, other = Addressee("MR1", "host", 1), Addressee("MR1", "there", 2), Addressee("MR2", None, 3)
    assert addressee_of("MR1", "there", [here, there, other]) is there
    assert addressee_of("MR1", "elsewhere", [here, there, other]) is here
    assert addressee_of("MR2", "anywhere", [here, there, other]) is other
    assert addressee_of("MR3", "host", [here, there, other]) == Addressee("MR3", None, None, True)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
def test_a_report_is_encoded_as_negotiated(syntax: str) -> None:
    request = report_request(OutgoingReport("1.9.1", (ONE,), ()), 7, syntax)
    assert request.is_valid_request
    assert (request.MessageID, request.EventTypeID) == (7, ALL_COMMITTED)
    assert b"1.2.3.1.1" in request.EventInformation.getvalue()


# -- on the network ----------------------------------------------------------------------------------------------------

Heard = list[tuple[int, Dataset]]


class Scu:
    """A storage commitment SCU."""

    def __init__(self, port: int, status: int = 0x0000) -> None:
        self.heard: Heard = []
        self.status = status
        self.roles: list[tuple[bool | None, bool | None]] = []  # (SCU, SCP): ours on associations of the node's
        self._port = port

    def listen(self) -> Any:
        """On a port of its own, where the node is to be SCP."""
        ae = AE("MR1")
        ae.add_supported_context(PUSH_MODEL, scu_role=False, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._hear)]
        return ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)

    @contextmanager
    def association(self, roles: tuple[bool, bool] | None = (True, False)) -> Iterator[Any]:
        ae = AE("MR1")
        ae.dimse_timeout = 10
        ae.add_requested_context(PUSH_MODEL)
        negotiation = [] if roles is None else [build_role(PUSH_MODEL, *roles)]
        assoc = ae.associate(
            "127.0.0.1",
            self._port,
            ae_title="NODE",
            ext_neg=negotiation,
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._hear)],
        )
        yield assoc
        if assoc.is_established:
            assoc.release()

    def ask(self, assoc: Any, ds: Dataset) -> int:
        status, _ = assoc.send_n_action(ds, 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)
        return int(status.Status)

    def wait(self, reports: int = 1) -> Heard:
        deadline = time.monotonic() + 10
        while len(self.heard) < reports:
            assert time.monotonic() < deadline, "no report came"
            time.sleep(0.02)
        return self.heard

    def _hear(self, event: Any) -> tuple[int, None]:
        if event.assoc.is_acceptor:
            self.roles += [(c.as_scu, c.as_scp) for c in event.assoc.accepted_contexts]
        ds = event.event_information
        list(ds.iterall())
        self.heard.append((event.event_type, ds))
        return self.status, None


@pytest.fixture
def scu(services: Services) -> Scu:
    return Scu(services.port)


@pytest.mark.parametrize("roles", [None, (True, False), (False, True), (True, True)])
def test_the_peer_has_the_roles_that_it_proposes(services: Services, scu: Scu, roles: tuple[bool, bool] | None) -> None:
    with scu.association(roles) as assoc:
        (context,) = assoc.accepted_contexts
        assert (context.as_scu, context.as_scp) == (roles or (True, False))
        answered = assoc.acceptor.role_selection
        if roles is None:
            assert not answered
        else:
            assert (answered[PUSH_MODEL].scu_role, answered[PUSH_MODEL].scp_role) == roles


def test_a_peer_that_is_not_scu_cannot_ask(services: Services, scu: Scu) -> None:
    with scu.association((False, True)) as assoc:
        context = assoc.accepted_contexts[0]
        context._as_scu = True  # or pynetdicom would not even send it
        assert scu.ask(assoc, commitment("1.9.1", ONE)) == DimseStatus.UNRECOGNIZED_OPERATION
    assert services.commitments.list() == []


def test_the_report_comes_on_the_association_that_asked(services: Services, scu: Scu) -> None:
    services.node.store(received(1))
    services.node.store(received(2))
    with scu.association() as assoc:
        assert scu.ask(assoc, commitment("1.9.1", ONE, TWO)) == 0x0000
        ((kind, ds),) = scu.wait()
        assert kind == ALL_COMMITTED
        assert ds.TransactionUID == "1.9.1"
        assert [i.ReferencedSOPInstanceUID for i in ds.ReferencedSOPSequence] == [ONE[1], TWO[1]]
        # The association goes on.
        assert scu.ask(assoc, commitment("1.9.2", ONE, (MR, "1.2.3.1.9"))) == 0x0000
        kind, ds = scu.wait(2)[1]
        assert kind == FAILURES_EXIST
        assert [(i.ReferencedSOPInstanceUID, i.FailureReason) for i in ds.FailedSOPSequence] == [("1.2.3.1.9", 0x0112)]
    told = {c.transaction_uid: (c.state, c.reason) for c in services.commitments.list()}
    assert told["1.9.1"] == (CommitmentState.REPORTED, "2 committed")
    assert told["1.9.2"] == (CommitmentState.REPORTED, "1 committed, 1 failed (0x0112)")


def test_the_report_waits_for_what_is_not_indexed_yet(services: Services, scu: Scu) -> None:
    services.filed = lambda: None
    services.node.store(received(1))
    with scu.association() as assoc:
        scu.ask(assoc, commitment("1.9.1", ONE, TWO))
        time.sleep(0.5)
        assert scu.heard == []
        services.node.store(received(2))
        services.filed = lambda: datetime.now(UTC)
        assert [kind for kind, _ in scu.wait()] == [ALL_COMMITTED]
    services.wait(lambda c: c.state is CommitmentState.REPORTED)


def test_a_peer_that_is_gone_hears_of_it_on_a_new_association(services: Services, scu: Scu) -> None:
    services.node.store(received(1))
    server = scu.listen()
    services.addressees.append(Addressee("MR1", "127.0.0.1", server.server_address[1]))
    services.dispatch()
    with scu.association() as assoc:
        scu.ask(assoc, commitment("1.9.1", ONE))
    assert [kind for kind, _ in scu.wait()] == [ALL_COMMITTED]
    done = services.wait(lambda c: c.state is CommitmentState.REPORTED)
    assert done.attempts == 1
    assert services.reports.waiting == 0
    assert set(scu.roles) == {(True, False)}
    server.shutdown()


def test_a_peer_may_want_all_reports_on_new_associations(services: Services, scu: Scu) -> None:
    services.node.store(received(1))
    server = scu.listen()
    services.addressees.append(Addressee("MR1", None, server.server_address[1], same_association=False))
    services.dispatch()
    threads = threading.active_count()
    with scu.association() as assoc:
        scu.ask(assoc, commitment("1.9.1", ONE))
        assert services.reports.waiting == 0
        scu.wait()
        assert services.wait(lambda c: c.state is CommitmentState.REPORTED).attempts == 1
    assert threading.active_count() <= threads + 2
    server.shutdown()


def test_a_report_that_is_not_taken_is_retried_and_fails_visibly(services: Services, scu: Scu) -> None:
    services.node.store(received(1))
    scu.status = 0x0110
    server = scu.listen()
    services.addressees.append(Addressee("MR1", "127.0.0.1", server.server_address[1]))
    services.dispatch()
    with scu.association() as assoc:
        scu.ask(assoc, commitment("1.9.1", ONE))
        scu.wait()
    failed = services.wait(lambda c: c.state is CommitmentState.FAILED)
    assert (failed.attempts, failed.reason) == (3, "answered 0x0110")
    assert len(scu.heard) == 3
    scu.status = 0x0000
    assert services.commitments.retry(failed.id, datetime.now(UTC))
    services.wait(lambda c: c.state is CommitmentState.REPORTED)
    server.shutdown()


def test_a_peer_without_a_port_that_is_gone_is_a_failure(services: Services, scu: Scu) -> None:
    services.dispatch()
    with scu.association() as assoc:
        scu.ask(assoc, commitment("1.9.1", ONE))
        assoc.abort()
    failed = services.wait(lambda c: c.state is CommitmentState.FAILED)
    assert failed.reason == "its association ended, and no port is configured for MR1"
    assert scu.heard == []


def test_a_peer_that_is_down_is_tried_again(services: Services, scu: Scu) -> None:
    services.node.store(received(1))
    with_port = Addressee("MR1", "127.0.0.1", 1)  # nobody listens there
    services.addressees.append(with_port)
    services.dispatch()
    with scu.association() as assoc:
        scu.ask(assoc, commitment("1.9.1", ONE))
    retrying = services.wait(lambda c: c.state is CommitmentState.RETRYING)
    assert "cannot be reached" in retrying.reason
    waited = services.wait(lambda c: c.waited_seconds > 0.2 * 3 + 0.5)  # longer than three attempts take
    assert waited.state is CommitmentState.RETRYING
    server = scu.listen()
    services.addressees[0] = Addressee("MR1", "127.0.0.1", server.server_address[1])
    services.wait(lambda c: c.state is CommitmentState.REPORTED)
    server.shutdown()


def test_what_is_refused_leaves_no_row(services: Services, scu: Scu) -> None:
    with scu.association() as assoc:
        assert scu.ask(assoc, commitment("1.9.1")) == DimseStatus.INVALID_ARGUMENT_VALUE
        status, _ = assoc.send_n_action(commitment("1.9.1", ONE), 3, PUSH_MODEL, PUSH_MODEL_INSTANCE)
        assert status.Status == DimseStatus.NO_SUCH_ACTION
        status, _ = assoc.send_n_action(None, 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)
        assert status.Status in (DimseStatus.INVALID_ARGUMENT_VALUE, DimseStatus.PROCESSING_FAILURE)
        status, _ = assoc.send_n_action(commitment("1.9.1", ONE), 1, PUSH_MODEL, "1.2.3")
        assert status.Status == DimseStatus.NO_SUCH_SOP_INSTANCE
    assert services.commitments.list() == []


def test_a_database_without_tables_asks_for_a_repetition(tmp_path: Path) -> None:
    empty = Database(f"sqlite:///{tmp_path / 'empty.sqlite'}")
    commitments = Commitments(empty)
    reports = AssociationReports(commitments, lambda: None, Backoff(1, 1, 1))
    answer = CommitmentService(commitments, [], reports).request(
        1,
        PUSH_MODEL_INSTANCE,
        commitment("1.9.1", ONE),
        calling="MR1",
        host="host",
        association="a-1",
        link=AssociationLink(Posting(answered)),
    )
    assert answer.status is DimseStatus.RESOURCE_LIMITATION
    assert reports.waiting == 0
    empty.close()


# -- on an association that does what others post ----------------------------------------------------------------------


class Posting:
    """An association as the node's own acceptor makes it: `answer` is the response its peer will give."""

    def __init__(self, answer: Callable[[N_EVENT_REPORT], N_EVENT_REPORT | None]) -> None:
        self.is_established = True
        self.accepted_contexts = [build_context(PUSH_MODEL, "1.2.840.10008.1.2")]
        self.accepted_contexts[0].context_id = 5
        self.sent: list[tuple[N_EVENT_REPORT, int]] = []
        self.dimse = self
        self._answer = answer

    def post(self, task: Callable[[Any], None]) -> None:
        task(self)

    def send_msg(self, request: N_EVENT_REPORT, context_id: int) -> None:
        self.sent.append((request, context_id))

    def get_msg(self, block: bool) -> tuple[int | None, N_EVENT_REPORT | None]:
        assert block
        return 5, self._answer(self.sent[-1][0])


def answered(request: N_EVENT_REPORT, status: int = 0x0000, message_id: int | None = None) -> N_EVENT_REPORT:
    response = N_EVENT_REPORT()
    response.MessageIDBeingRespondedTo = request.MessageID if message_id is None else message_id
    response.Status = status
    return response


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (answered, 0x0000),
        (lambda request: answered(request, 0x0110), 0x0110),
        (lambda request: answered(request, 0x0000, request.MessageID + 1), None),
        (lambda request: None, None),
    ],
)
def test_the_answer_of_a_posted_report(answer: Callable[[N_EVENT_REPORT], Any], told: int | None) -> None:
    assoc = Posting(answer)
    statuses: list[int | None] = []
    AssociationLink(assoc).deliver(OutgoingReport("1.9.1", (ONE,), ()), 9, statuses.append)
    assert statuses == [told]
    ((request, context_id),) = assoc.sent
    assert (request.MessageID, request.EventTypeID, context_id) == (9, ALL_COMMITTED, 5)


def test_an_association_that_breaks_under_a_report(services: Services) -> None:
    def breaks(request: N_EVENT_REPORT) -> None:
        raise ConnectionError

    assoc = Posting(breaks)
    statuses: list[int | None] = []
    with pytest.raises(ConnectionError):  # the association's own thread must hear of it
        AssociationLink(assoc).deliver(OutgoingReport("1.9.1", (ONE,), ()), 9, statuses.append)
    assert statuses == [None]


def test_an_association_that_ends_before_its_report_hands_over(services: Services) -> None:
    """What is posted is not done when the association ends before: nobody calls back."""
    services.node.store(received(1))
    assoc = Posting(answered)
    assoc.post = lambda task: None  # type: ignore[method-assign]
    request = CommitmentRequest("1.9.1", "MR1", "host", (ONE,), "a-1")
    now = datetime.now(UTC)
    kept = services.commitments.request(request, now, now + timedelta(seconds=60))
    services.reports.watch(kept, AssociationLink(assoc))
    time.sleep(0.5)
    assert services.reports.waiting == 1
    assert services.commitments.due(datetime.now(UTC)) == []
    assoc.is_established = False
    services.wait(lambda c: c.run_after <= datetime.now(UTC))
    assert services.reports.waiting == 0
    assert len(services.commitments.due(datetime.now(UTC))) == 1


def test_what_goes_wrong_again_and_again_is_tried_and_said_ever_more_seldom(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> datetime:
        raise RuntimeError("SECRET^PERSON")

    services.filed = broken
    now = datetime.now(UTC)
    request = CommitmentRequest("1.9.1", "MR1", "host", (ONE,), "a-1")
    kept = services.commitments.request(request, now, now + timedelta(seconds=60))
    assoc = Posting(answered)
    services.reports.watch(kept, AssociationLink(assoc))
    time.sleep(2)
    said = [r.getMessage() for r in caplog.records if "broke off" in r.getMessage()]
    assert 2 <= len(said) <= 5
    assert "RuntimeError at dicom_node/receive/association_reports.py:" in said[0]
    assert "SECRET" not in caplog.text
    services.filed = lambda: datetime.now(UTC)
    services.wait(lambda c: c.state is CommitmentState.REPORTED)


def test_what_an_open_association_waits_for_stays_held(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is renewed while the index is behind, however long that takes."""
    monkeypatch.setattr("dicom_node.receive.association_reports.LEASE", timedelta(seconds=1))
    monkeypatch.setattr("dicom_node.receive.association_reports.RENEWAL", timedelta(seconds=0.3))
    services.filed = lambda: None
    now = datetime.now(UTC)
    kept = services.commitments.request(
        CommitmentRequest("1.9.1", "MR1", "host", (ONE,), "a-1"), now, now + timedelta(seconds=1)
    )
    assoc = Posting(answered)
    services.reports.watch(kept, AssociationLink(assoc))
    for _ in range(20):
        time.sleep(0.1)
        assert services.commitments.due(datetime.now(UTC)) == []
    services.filed = lambda: datetime.now(UTC)
    told = services.wait(lambda c: c.state is CommitmentState.REPORTED)
    assert told.reason == "0 committed, 1 failed (0x0112)"
