"""Services beyond C-ECHO and C-STORE run through pynetdicom's own handlers, on the receiver's one thread."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import ModalityPerformedProcedureStep, MRImageStorage, StorageCommitmentPushModel

from dicom_node.dimse import scu
from dicom_node.dimse.scu import Target
from dicom_node.receive.policy import Peer, ServiceName
from dicom_node.receive.presentation_contexts import SopClass
from dicom_node.receive.receiver import DimseService
from storage.blobs import FileBlob
from tests.instances import MakeFile
from tests.receive.conftest import Receive
from tests.receive.kept import KeptJournal
from tests.receive.raw import IMPLICIT, RELEASE, RawPeer, Role, association_request
from tests.receive.test_hostile import whole
from tests.receive.test_receiver import wait_until

COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
COMMITMENT = SopClass(StorageCommitmentPushModel, ServiceName.COMMITMENT, scu_role=True, scp_role=False)
MPPS = SopClass(ModalityPerformedProcedureStep, ServiceName.MPPS)


def request_of(items: int) -> Dataset:
    ds = Dataset()
    ds.TransactionUID = "1.2.3"
    ds.ReferencedSOPSequence = [Dataset() for _ in range(items)]
    for number, item in enumerate(ds.ReferencedSOPSequence):
        item.ReferencedSOPClassUID = MRImageStorage
        item.ReferencedSOPInstanceUID = f"1.2.3.{number + 1}"
    return ds


def associate(
    target: Target, handlers: list[tuple[Any, Callable[[Any], Any]]] | None = None, sop_class: str = COMMITMENT.uid
) -> Any:
    ae = AE(ae_title="MR1")
    ae.add_requested_context(sop_class)
    return ae.associate(target.host, target.port, evt_handlers=handlers or [])


@pytest.mark.parametrize("items", [1, 20_000])
def test_n_action_reaches_its_handler_and_is_answered(receive: Receive, items: int) -> None:
    seen = []

    def action(event: Any) -> tuple[int, None]:
        ds = event.action_information
        seen.append((event.action_type, len(ds.ReferencedSOPSequence), event.assoc.session.calling))
        return 0x0000, None

    _, target = receive(services=[DimseService((COMMITMENT,), ((evt.EVT_N_ACTION, action),))])
    assoc = associate(target)
    status, _ = assoc.send_n_action(request_of(items), 1, COMMITMENT.uid, COMMITMENT_INSTANCE)
    assert status.Status == 0x0000
    assoc.release()
    assert assoc.is_released
    assert seen == [(1, items, "MR1")]


def test_n_create_and_n_set_reach_their_handlers(receive: Receive) -> None:
    seen = []

    def create(event: Any) -> tuple[int, Dataset]:
        seen.append(("create", event.attribute_list.PerformedProcedureStepStatus))
        return 0x0000, event.attribute_list

    def change(event: Any) -> tuple[int, Dataset]:
        seen.append(("set", event.modification_list.PerformedProcedureStepStatus))
        return 0x0110, Dataset()

    service = DimseService((MPPS,), ((evt.EVT_N_CREATE, create), (evt.EVT_N_SET, change)))
    _, target = receive(services=[service])
    assoc = associate(target, sop_class=MPPS.uid)
    ds = Dataset()
    ds.PerformedProcedureStepStatus = "IN PROGRESS"
    assert assoc.send_n_create(ds, MPPS.uid, "1.2.3")[0].Status == 0x0000
    ds.PerformedProcedureStepStatus = "COMPLETED"
    assert assoc.send_n_set(ds, MPPS.uid, "1.2.3")[0].Status == 0x0110
    assoc.release()
    assert seen == [("create", "IN PROGRESS"), ("set", "COMPLETED")]


def test_a_report_goes_out_on_the_same_association_later(
    receive: Receive, journal: KeptJournal, make_file: MakeFile
) -> None:
    """`post` runs it in the association's own thread, which reads the answer itself."""
    answered: list[int] = []
    threads = []

    def action(event: Any) -> tuple[int, None]:
        assoc = event.assoc
        threads.append(threading.current_thread())

        def report(assoc: Any) -> None:
            threads.append(threading.current_thread())
            status, _ = assoc.send_n_event_report(request_of(1), 1, COMMITMENT.uid, COMMITMENT_INSTANCE)
            answered.append(status.Status)

        threading.Timer(0.2, assoc.post, [report]).start()
        return 0x0000, None

    reported = threading.Event()

    def take_report(event: Any) -> tuple[int, None]:
        reported.set()
        return 0x0000, None

    _, target = receive(services=[DimseService((COMMITMENT,), ((evt.EVT_N_ACTION, action),))])
    assoc = associate(target, [(evt.EVT_N_EVENT_REPORT, take_report)])
    assert assoc.send_n_action(request_of(1), 1, COMMITMENT.uid, COMMITMENT_INSTANCE)[0].Status == 0x0000
    assert reported.wait(5)
    wait_until(lambda: answered == [0x0000])
    assert threads[0] is threads[1]
    assoc.release()
    assert assoc.is_released


def test_a_store_may_come_before_the_answer_to_a_report(
    receive: Receive, journal: KeptJournal, make_file: MakeFile
) -> None:
    instance = scu.OutgoingInstance.from_blob(FileBlob(make_file()))
    receiver, target = receive(services=[DimseService((COMMITMENT,), ())])
    statuses: list[Any] = []

    def report(assoc: Any) -> None:
        statuses.append(assoc.send_n_event_report(request_of(1), 1, COMMITMENT.uid, COMMITMENT_INSTANCE)[0])

    proposed = [(MRImageStorage, ["1.2.840.10008.1.2.1"]), (COMMITMENT.uid, [IMPLICIT])]
    with RawPeer(target, association_request(proposed)) as peer:
        (assoc,) = receiver._listener.connections  # type: ignore[union-attr]
        assoc.post(report)
        kind, content = peer.receive()
        assert (kind, content[4]) == (0x04, 3)
        peer.send(whole(instance.sop_instance_uid, instance.encoded(instance.transfer_syntax_uid)))
        received = [peer.receive() for _ in range(2)]  # the report's dataset, and the response
        assert all(kind == 0x04 for kind, _ in received)
        peer.send(RELEASE)  # instead of an answer
        assert peer.receive()[0] == 0x06
    assert journal.uids == [instance.sop_instance_uid]
    wait_until(lambda: statuses == [Dataset()])


def test_a_handler_that_fails_is_a_status(receive: Receive) -> None:
    def action(event: Any) -> tuple[int, None]:
        raise RuntimeError("a defect")

    _, target = receive(services=[DimseService((COMMITMENT,), ((evt.EVT_N_ACTION, action),))])
    assoc = associate(target)
    assert assoc.send_n_action(request_of(1), 1, COMMITMENT.uid, COMMITMENT_INSTANCE)[0].Status == 0x0110
    assoc.release()


def test_a_message_that_is_too_long_is_aborted(receive: Receive) -> None:
    _, target = receive(services=[DimseService((COMMITMENT,), ())])
    assoc = associate(target)
    ds = request_of(1)
    ds.add_new(0x00091010, "OB", bytes(17 * 2**20))
    status, _ = assoc.send_n_action(ds, 1, COMMITMENT.uid, COMMITMENT_INSTANCE)
    assert "Status" not in status
    wait_until(lambda: assoc.is_aborted)


@pytest.mark.parametrize(
    ("proposed", "answer"),
    [
        ([], []),
        ([(COMMITMENT.uid, True, False)], [(COMMITMENT.uid, True, False)]),
        ([(COMMITMENT.uid, True, True)], [(COMMITMENT.uid, True, False)]),
        ([(MRImageStorage, True, True)], []),  # unanswered: the default roles hold
    ],
)
def test_role_selection_is_answered_where_roles_are_offered(
    receive: Receive, proposed: list[Role], answer: list[Role]
) -> None:
    _, target = receive(services=[DimseService((COMMITMENT,), ())])
    contexts = [(MRImageStorage, [IMPLICIT]), (COMMITMENT.uid, [IMPLICIT])]
    with RawPeer(target, association_request(contexts, roles=proposed)) as peer:
        primitive = peer.accepted.to_primitive()
        assert [c.result for c in primitive.presentation_context_definition_results_list] == [0x00, 0x00]
        assert peer.roles == answer


def test_a_peer_that_wants_to_be_scp_only_is_not_accepted(receive: Receive) -> None:
    _, target = receive(services=[DimseService((COMMITMENT,), ())])
    ae = AE(ae_title="MR1")
    ae.add_requested_context(COMMITMENT.uid)
    assoc = ae.associate(target.host, target.port, ext_neg=[build_role(COMMITMENT.uid, scp_role=True)])
    assert not assoc.accepted_contexts


def test_a_service_is_offered_to_those_who_may_use_it(receive: Receive) -> None:
    peers = (Peer("MR1", services=frozenset({ServiceName.STORE})), Peer("MR2"))
    _, target = receive(services=[DimseService((COMMITMENT,), ())], peers=peers)
    contexts = [(MRImageStorage, [IMPLICIT]), (COMMITMENT.uid, [IMPLICIT])]
    for calling, results in (("MR1", [0x00, 0x03]), ("MR2", [0x00, 0x00])):
        with RawPeer(target, association_request(contexts, calling=calling)) as peer:
            primitive = peer.accepted.to_primitive()
            assert [c.result for c in primitive.presentation_context_definition_results_list] == results
