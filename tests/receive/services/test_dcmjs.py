"""Procedure steps and storage commitment, driven by dcmjs-dimse."""

from typing import Any

import pytest

from dicom_node.demo.pacs.ports import free_port
from dicom_node.dimse.commitment import PUSH_MODEL, Addressee
from dicom_node.receive.procedure_steps import MODALITY_PERFORMED_PROCEDURE_STEP as MPPS
from storage.records.commitments import CommitmentState
from storage.records.procedure_steps import ProcedureStepState
from tests.dcmjs import Dcmjs, install
from tests.dcmjs.requests import committed, completed, created
from tests.receive.services.conftest import Services
from tests.storage.node import MR, received


@pytest.fixture(scope="module")
def dcmjs() -> Dcmjs:
    return install()


STEP = "1.2.3.99"
ONE, TWO, MISSING = "1.2.3.1.1", "1.2.3.1.2", "1.2.3.1.9"


def statuses(result: dict[str, Any]) -> list[int]:
    return [answer["status"] for answer in result["answers"]]


@pytest.mark.parametrize("roles", [None, (True, False), (True, True)])
def test_a_step_from_its_beginning_to_its_end(
    services: Services, dcmjs: Dcmjs, roles: tuple[bool, bool] | None
) -> None:
    result = dcmjs.scu(
        services.port,
        [
            created("1.2.3", STEP),
            created("1.2.3", STEP),
            completed(STEP, [ONE], "IN PROGRESS"),
            completed(STEP, [ONE, TWO]),
            completed(STEP, [], "DISCONTINUED"),
            completed("1.2.3.98", [ONE]),
            created("1.2.3", "1.2.3.97", PerformedProcedureStepStatus="COMPLETED"),
        ],
        roles=roles,
    )
    assert statuses(result) == [0x0000, 0x0111, 0x0000, 0x0000, 0x0110, 0x0112, 0x0106]
    assert result["answers"][4]["errorId"] == 0xA710
    assert [(c["sopClass"], c["accepted"]) for c in result["contexts"]] == [(MPPS, True)]
    if roles is not None:
        assert [(c["scu"], c["scp"]) for c in result["contexts"]] == [(True, False)]
    step = services.steps.get(STEP)
    assert step is not None
    assert (step.state, step.referenced) == (ProcedureStepState.COMPLETED, (ONE, TWO))


@pytest.mark.parametrize("roles", [(True, False), (True, True)])
def test_the_report_comes_on_the_association_that_asked(
    services: Services, dcmjs: Dcmjs, roles: tuple[bool, bool]
) -> None:
    services.node.store(received(1))
    services.node.store(received(2))
    result = dcmjs.scu(
        services.port,
        [committed("1.9.1", (MR, ONE), (MR, TWO)), committed("1.9.2", (MR, ONE), (MR, MISSING))],
        roles=roles,
        linger=3,
    )
    assert statuses(result) == [0x0000, 0x0000]
    assert [(c["sopClass"], c["accepted"], c["scu"], c["scp"]) for c in result["contexts"]] == [
        (PUSH_MODEL, True, True, roles[1])
    ]
    told = {r["dataset"]["TransactionUID"]: r for r in result["reports"]}
    assert set(told) == {"1.9.1", "1.9.2"}
    assert told["1.9.1"]["event"] == 1
    assert "FailedSOPSequence" not in told["1.9.1"]["dataset"]
    assert told["1.9.2"]["event"] == 2
    (failed,) = told["1.9.2"]["dataset"]["FailedSOPSequence"]
    assert (failed["ReferencedSOPInstanceUID"], failed["FailureReason"]) == (MISSING, 0x0112)
    assert {c.state for c in services.commitments.list()} == {CommitmentState.REPORTED}
    assert {c.attempts for c in services.commitments.list()} == {0}


def test_the_report_comes_on_a_new_association(services: Services, dcmjs: Dcmjs) -> None:
    services.node.store(received(1))
    port = free_port()
    services.addressees.append(Addressee("MR1", "127.0.0.1", port))
    services.dispatch()
    listening = dcmjs.listen(port)
    result = dcmjs.scu(services.port, [committed("1.9.1", (MR, ONE))])
    assert (statuses(result), result["reports"]) == ([0x0000], [])
    heard = listening.result()
    assert heard["roles"] == [[False, True]]
    (report,) = heard["reports"]
    assert (report["event"], report["dataset"]["TransactionUID"]) == (1, "1.9.1")
    services.wait(lambda c: c.state is CommitmentState.REPORTED)


def test_what_is_no_request(services: Services, dcmjs: Dcmjs) -> None:
    wrong = {**committed("1.9.1", (MR, ONE)), "action": 7}
    other = {**committed("1.9.1", (MR, ONE)), "sopInstance": "1.2.3"}
    empty = committed("1.9.1")
    assert statuses(dcmjs.scu(services.port, [wrong, other, empty])) == [0x0123, 0x0112, 0x0115]
    assert services.commitments.list() == []
