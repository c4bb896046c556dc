"""Procedure steps of a modality made of dcmjs-dimse, kept by a running node and shown to the operator."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.demo.pacs.ports import free_port
from dicom_node.dimse.scu import send_files
from storage.blobs import file_blobs
from tests.acceptance.receiving import ReceivingNode, uids, write_images
from tests.dcmjs import Dcmjs, install
from tests.dcmjs.requests import completed, created

STUDY, STEP = "1.2.30", "1.2.30.99"


@pytest.fixture(scope="module")
def dcmjs() -> Dcmjs:
    return install()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReceivingNode]:
    started = ReceivingNode(tmp_path_factory.mktemp("node"), free_port(), [{"ae_title": "MR1"}])
    started.start("index", "receive")
    yield started
    started.stop()


def test_a_step_and_its_images(node: ReceivingNode, dcmjs: Dcmjs, tmp_path: Path) -> None:
    """The step begins before the first image, and ends after the last; the receiver starts anew in between."""
    begun = dcmjs.scu(node.target.port, [created(STUDY, STEP)], called="DICOM_NODE", roles=(True, True))
    assert [a["status"] for a in begun["answers"]] == [0x0000]
    assert [(c["accepted"], c["scu"], c["scp"]) for c in begun["contexts"]] == [(True, True, False)]
    assert all(r.ok for r in send_files(file_blobs(write_images(tmp_path, STUDY, 12)), "MR1", node.target))
    node.stop("receive")
    node.start("receive")
    ended = dcmjs.scu(
        node.target.port,
        [
            completed(STEP, uids(STUDY, 12)[:6], "IN PROGRESS"),
            completed(STEP, uids(STUDY, 12)),
            completed(STEP, [], "DISCONTINUED"),
            created(STUDY, STEP),
        ],
        called="DICOM_NODE",
    )
    assert [a["status"] for a in ended["answers"]] == [0x0000, 0x0000, 0x0110, 0x0111]
    assert ended["answers"][2]["errorId"] == 0xA710

    detail = node.command("study", STUDY)
    (step,) = detail["procedure_steps"]
    assert (step["sop_instance_uid"], step["state"], step["source_ae_title"]) == (STEP, "COMPLETED", "MR1")
    assert sorted(step["referenced"]) == sorted(uids(STUDY, 12))
    told = [e["text"] for e in detail["timeline"] if "procedure step" in e["text"]]
    assert told == ["procedure step IN PROGRESS", "procedure step COMPLETED, 12 instances referenced"]
    assert len(list(Path(step["path"]).parent.glob("*.dcm"))) == 1


def test_what_is_refused(node: ReceivingNode, dcmjs: Dcmjs) -> None:
    result = dcmjs.scu(
        node.target.port,
        [
            completed("1.2.30.98", []),
            created(STUDY, "1.2.30.97", PerformedProcedureStepStatus="COMPLETED"),
            created(STUDY, "1.2.30.97", Modality=""),
            created("not a uid", "1.2.30.97"),
        ],
        called="DICOM_NODE",
    )
    assert [a["status"] for a in result["answers"]] == [0x0112, 0x0106, 0x0121, 0x0106]


def test_no_log_line_names_the_patient(node: ReceivingNode) -> None:
    assert "SECRET" not in node.log.read_text()
