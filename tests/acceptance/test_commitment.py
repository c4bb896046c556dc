"""Storage commitment of a running node, asked for by dcmjs-dimse, by Orthanc, and on the association that stores."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pynetdicom import AE, build_role, evt

from dicom_node.demo.pacs.base import Pacs, PacsKind
from dicom_node.demo.pacs.ports import free_port
from dicom_node.demo.pacs.provisioning import find_orthanc
from dicom_node.demo.pacs.start import start_pacs
from dicom_node.dimse.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE
from dicom_node.dimse.scu import Target, send_files
from storage.blobs import file_blobs
from tests.acceptance.receiving import ReceivingNode, uids, write_images
from tests.dcmjs import Dcmjs, install
from tests.dcmjs.requests import committed
from tests.receive.services.datasets import commitment
from tests.receive.services.orthanc import call, report, request_commitment
from tests.storage.node import MR, SR


@pytest.fixture(scope="module")
def dcmjs() -> Dcmjs:
    return install()


@pytest.fixture(scope="module")
def port() -> int:
    """The port on which the modality MR2 listens, when it does."""
    return free_port()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[ReceivingNode]:
    peers = [
        {"ae_title": "MR1"},
        {"ae_title": "MR2", "host": "127.0.0.1", "port": port, "commitment": "new"},
    ]
    started = ReceivingNode(tmp_path_factory.mktemp("node"), free_port(), peers)
    started.start()
    yield started
    started.stop()


def test_stored_and_committed_on_one_association(node: ReceivingNode, tmp_path: Path) -> None:
    """The request follows the last image at once, before the index can know it."""
    study, number = "1.2.10", 60
    heard: list[Any] = []

    def hear(event: Any) -> tuple[int, None]:
        ds = event.event_information
        heard.append((event.event_type, ds.TransactionUID, len(ds.get("ReferencedSOPSequence") or ())))
        return 0x0000, None

    ae = AE("MR1")
    ae.add_requested_context(MR)
    ae.add_requested_context(PUSH_MODEL)
    assoc = ae.associate(
        node.target.host,
        node.target.port,
        ae_title="DICOM_NODE",
        ext_neg=[build_role(PUSH_MODEL, True, False)],
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, hear)],
    )
    assert assoc.acceptor.role_selection[PUSH_MODEL].scu_role
    for path in write_images(tmp_path, study, number):
        assert assoc.send_c_store(dcmread(path)).Status == 0x0000
    ds = commitment("1.9.10", *((MR, uid) for uid in uids(study, number)))
    status, _ = assoc.send_n_action(ds, 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)
    assert status.Status == 0x0000
    deadline = time.monotonic() + 20
    while not heard:
        assert time.monotonic() < deadline, node.log.read_text()[-3000:]
        time.sleep(0.05)
    assoc.release()
    assert heard == [(1, "1.9.10", number)]
    done = node.commitment("1.9.10", lambda c: c["state"] == "REPORTED")
    assert (done["peer_ae_title"], done["reason"], done["attempts"]) == ("MR1", f"{number} committed", 0)


def test_dcmjs_hears_on_the_association_that_asked(node: ReceivingNode, dcmjs: Dcmjs, tmp_path: Path) -> None:
    study = "1.2.11"
    assert all(r.ok for r in send_files(file_blobs(write_images(tmp_path, study, 5)), "MR1", node.target))
    missing, other = (MR, f"{study}.1.9"), (SR, f"{study}.1.1")
    requests = [
        committed("1.9.11", *((MR, uid) for uid in uids(study, 5))),
        committed("1.9.12", (MR, f"{study}.1.2"), missing, other),
    ]
    result = dcmjs.scu(node.target.port, requests, called="DICOM_NODE", roles=(True, True), linger=4)
    assert [a["status"] for a in result["answers"]] == [0x0000, 0x0000]
    assert [(c["accepted"], c["scu"], c["scp"]) for c in result["contexts"]] == [(True, True, True)]
    told = {r["dataset"]["TransactionUID"]: r for r in result["reports"]}
    assert {uid: r["event"] for uid, r in told.items()} == {"1.9.11": 1, "1.9.12": 2}
    failed = told["1.9.12"]["dataset"]["FailedSOPSequence"]
    assert {f["ReferencedSOPInstanceUID"]: f["FailureReason"] for f in failed} == {
        missing[1]: 0x0112,
        other[1]: 0x0119,
    }


def test_dcmjs_hears_on_a_new_association(node: ReceivingNode, dcmjs: Dcmjs, port: int, tmp_path: Path) -> None:
    study = "1.2.12"
    assert all(r.ok for r in send_files(file_blobs(write_images(tmp_path, study, 3)), "MR2", node.target))
    request = committed("1.9.13", *((MR, uid) for uid in uids(study, 3)))
    asked = dcmjs.scu(node.target.port, [request], calling="MR2", called="DICOM_NODE", linger=0.5)
    assert ([a["status"] for a in asked["answers"]], asked["reports"]) == ([0x0000], [])
    # It does not listen yet: the report is tried again.
    node.commitment("1.9.13", lambda c: c["state"] == "RETRYING")
    heard = dcmjs.listen(port).result()
    assert heard["roles"] == [[False, True]]
    assert [(r["event"], r["dataset"]["TransactionUID"]) for r in heard["reports"]] == [(1, "1.9.13")]
    node.commitment("1.9.13", lambda c: c["state"] == "REPORTED")


def test_a_peer_that_cannot_be_reached_is_shown(node: ReceivingNode, dcmjs: Dcmjs) -> None:
    dcmjs.scu(node.target.port, [committed("1.9.14", (MR, "1.2.13.1.1"))], called="DICOM_NODE")
    failed = node.commitment("1.9.14", lambda c: c["state"] == "FAILED")
    assert failed["reason"] == "its association ended, and no port is configured for MR1"
    assert [c["transaction_uid"] for c in node.command("commitments", "--failed")] == ["1.9.14"]


def test_nothing_is_committed_or_denied_before_it_is_indexed(
    node: ReceivingNode, dcmjs: Dcmjs, port: int, tmp_path: Path
) -> None:
    study = "1.2.14"
    node.stop("index")
    listening = dcmjs.listen(port)
    assert all(r.ok for r in send_files(file_blobs(write_images(tmp_path, study, 3)), "MR2", node.target))
    request = committed("1.9.15", *((MR, uid) for uid in uids(study, 3)), (MR, f"{study}.1.9"))
    dcmjs.scu(node.target.port, [request], calling="MR2", called="DICOM_NODE")
    time.sleep(3)
    waiting = node.commitment("1.9.15", lambda c: True)
    assert (waiting["state"], waiting["attempts"]) == ("REQUESTED", 0)
    node.start("index")
    (told,) = listening.result()["reports"]
    assert told["event"] == 2
    assert len(told["dataset"]["ReferencedSOPSequence"]) == 3
    done = node.commitment("1.9.15", lambda c: c["state"] == "REPORTED")
    assert done["reason"] == "3 committed, 1 failed (0x0112)"


def test_the_logs_and_the_list_name_no_patient(node: ReceivingNode) -> None:
    assert "SECRET" not in node.log.read_text()
    assert "SECRET" not in str(node.command("commitments"))


def test_orthanc(tmp_path: Path) -> None:
    if find_orthanc() is None:
        pytest.skip("Orthanc is not installed: run tests/install-peers.sh")
    study, port = "1.2.20", free_port()
    target = Target("DICOM_NODE", "127.0.0.1", port)
    pacs: Pacs = start_pacs(tmp_path / "pacs", node=target, callers=["MR1"], kind=PacsKind.ORTHANC)
    peer = {"ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port}
    node = ReceivingNode(tmp_path / "node", port, [{"ae_title": "MR1"}, peer])
    node.start()
    try:
        assert all(
            r.ok for r in send_files(file_blobs(write_images(tmp_path / "images", study, 20)), "MR1", pacs.target)
        )
        stored = call(pacs, "/modalities/node/store", call(pacs, "/instances"))
        assert stored["FailedInstancesCount"] == 0
        transaction = request_commitment(pacs, *((MR, uid) for uid in uids(study, 20)))
        told = report(pacs, transaction)
        assert told["Status"] == "Success"
        assert {i["SOPInstanceUID"] for i in told["Success"]} == set(uids(study, 20))
        told = report(pacs, request_commitment(pacs, (MR, f"{study}.1.1"), (MR, f"{study}.1.99")))
        assert told["Status"] == "Failure"
        assert [(i["SOPInstanceUID"], i["FailureReason"]) for i in told["Failures"]] == [(f"{study}.1.99", 0x0112)]
        assert node.commitment(transaction, lambda c: True)["state"] == "REPORTED"
    finally:
        node.stop()
        pacs.stop()
