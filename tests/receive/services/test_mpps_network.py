"""The MPPS SCP as a pynetdicom client meets it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, build_role

from dicom_node.receive.procedure_steps import MODALITY_PERFORMED_PROCEDURE_STEP as MPPS
from storage.records.procedure_steps import ProcedureStepState
from tests.receive.services.conftest import Services
from tests.receive.services.datasets import completion, creation

STEP = "1.2.3.99"


@contextmanager
def modality(services: Services) -> Iterator[Any]:
    ae = AE("MR1")
    ae.add_requested_context(MPPS)
    assoc = ae.associate("127.0.0.1", services.port, ae_title="NODE", ext_neg=[build_role(MPPS, True, False)])
    assert assoc.acceptor.role_selection[MPPS].scu_role
    assert not assoc.acceptor.role_selection[MPPS].scp_role
    yield assoc
    assoc.release()


def test_a_step_from_its_beginning_to_its_end(services: Services) -> None:
    with modality(services) as assoc:
        status, _ = assoc.send_n_create(creation(), MPPS, STEP)
        assert status.Status == 0x0000
        status, _ = assoc.send_n_set(completion(["1.2.3.1.1"], "IN PROGRESS"), MPPS, STEP)
        assert status.Status == 0x0000
        status, _ = assoc.send_n_set(completion(["1.2.3.1.1", "1.2.3.1.2"]), MPPS, STEP)
        assert status.Status == 0x0000
        status, _ = assoc.send_n_set(completion([], "DISCONTINUED"), MPPS, STEP)
        assert (status.Status, status.ErrorID) == (0x0110, 0xA710)
        assert status.ErrorComment == "Performed Procedure Step Object may no longer be updated"
    step = services.steps.get(STEP)
    assert step is not None
    assert (step.state, step.source_ae_title, step.version) == (ProcedureStepState.COMPLETED, "MR1", 3)
    assert step.referenced == ("1.2.3.1.1", "1.2.3.1.2")


def test_the_node_names_a_step_that_has_no_name(services: Services) -> None:
    with modality(services) as assoc:
        assoc.dimse_timeout = 5
        status, made = create_without_uid(assoc)
        assert status == 0x0000
        assert UID(made).is_valid
        assert services.steps.get(made) is not None


def create_without_uid(assoc: Any) -> tuple[int, str]:
    """pynetdicom's client insists on a UID, which the standard does not (PS3.7 10.1.5.1.4)."""
    from io import BytesIO
    from time import sleep

    from pynetdicom.dimse_primitives import N_CREATE
    from pynetdicom.dsutils import encode

    context = assoc.accepted_contexts[0]
    request = N_CREATE()
    request.MessageID = 7
    request.AffectedSOPClassUID = MPPS
    encoded = encode(creation(), context.transfer_syntax[0].is_implicit_VR, True)
    assert encoded is not None
    request.AttributeList = BytesIO(encoded)
    assoc._reactor_checkpoint.clear()
    while not assoc._is_paused:
        sleep(0.001)
    assoc.dimse.send_msg(request, context.context_id)
    _, response = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    return response.Status, str(response.AffectedSOPInstanceUID)


def test_what_is_refused(services: Services) -> None:
    with modality(services) as assoc:
        status, _ = assoc.send_n_set(completion([]), MPPS, STEP)
        assert status.Status == 0x0112
        status, _ = assoc.send_n_create(creation(Modality=None), MPPS, STEP)
        assert (status.Status, status.ErrorComment) == (0x0120, "Modality is missing")
        status, _ = assoc.send_n_create(creation(Modality=""), MPPS, STEP)
        assert status.Status == 0x0121
        status, _ = assoc.send_n_create(creation(PerformedProcedureStepStatus="COMPLETED"), MPPS, STEP)
        assert status.Status == 0x0106
        status, _ = assoc.send_n_create(None, MPPS, STEP)
        assert status.Status == 0x0120
        assert services.steps.get(STEP) is None
        assert assoc.send_n_create(creation(), MPPS, STEP)[0].Status == 0x0000
        status, _ = assoc.send_n_create(creation(), MPPS, STEP)
        assert status.Status == 0x0111
