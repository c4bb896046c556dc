"""Storage commitment, asked for by Orthanc. It ends its association at once, and hears of the result on ours."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.demo.pacs.base import Pacs, PacsKind
from dicom_node.demo.pacs.provisioning import find_orthanc
from dicom_node.demo.pacs.start import start_pacs
from dicom_node.dimse.commitment import Addressee
from dicom_node.dimse.scu import Target
from storage.records.commitments import CommitmentState
from tests.receive.services.conftest import Services
from tests.receive.services.orthanc import report, request_commitment
from tests.storage.node import MR, SR, received

ONE, TWO = (MR, "1.2.3.1.1"), (MR, "1.2.3.1.2")


@pytest.fixture
def orthanc(services: Services, tmp_path: Path) -> Iterator[Pacs]:
    if find_orthanc() is None:
        pytest.skip("Orthanc is not installed: run tests/install-peers.sh")
    pacs = start_pacs(tmp_path / "pacs", node=Target("NODE", "127.0.0.1", services.port), kind=PacsKind.ORTHANC)
    services.addressees.append(Addressee(pacs.ae_title, "127.0.0.1", pacs.port))
    services.dispatch()
    yield pacs
    pacs.stop()


def test_orthanc_hears_what_is_committed_and_what_is_not(services: Services, orthanc: Pacs) -> None:
    services.node.store(received(1))
    services.node.store(received(2))
    transaction = request_commitment(orthanc, ONE, TWO)
    told = report(orthanc, transaction)
    assert told["Status"] == "Success"
    assert {i["SOPInstanceUID"] for i in told["Success"]} == {ONE[1], TWO[1]}
    done = services.wait(lambda c: c.state is CommitmentState.REPORTED)
    assert (done.transaction_uid, done.peer_ae_title, done.reason) == (transaction, orthanc.ae_title, "2 committed")

    told = report(orthanc, request_commitment(orthanc, ONE, (MR, "1.2.3.1.9"), (SR, "1.2.3.1.2")))
    assert told["Status"] == "Failure"
    assert [i["SOPInstanceUID"] for i in told["Success"]] == [ONE[1]]
    assert {i["SOPInstanceUID"]: i["FailureReason"] for i in told["Failures"]} == {
        "1.2.3.1.9": 0x0112,
        "1.2.3.1.2": 0x0119,
    }
