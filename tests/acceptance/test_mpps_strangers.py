"""Procedure steps from hosts that sent no image of the study, where no peers are configured: kept, and no evidence."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pynetdicom import AE, build_role

from dicom_node.demo.pacs.ports import free_port
from dicom_node.receive.procedure_steps import MODALITY_PERFORMED_PROCEDURE_STEP as MPPS
from tests.acceptance.node import Node
from tests.acceptance.receiving import uids, write_images
from tests.receive.services.datasets import completion, creation
from tests.storage.node import MR

SCANNER, STRANGER = "127.0.0.1", "127.0.0.2"
IMAGES = 6
LONGER_THAN_QUIET = 4.0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    started = Node(tmp_path_factory.mktemp("node"), free_port())
    started.start()
    yield started
    started.stop()


@contextmanager
def from_host(host: str, node: Node) -> Iterator[Any]:
    ae = AE("MR1")
    ae.add_requested_context(MPPS)
    ae.add_requested_context(MR)
    roles = [build_role(MPPS, True, False)]
    assoc = ae.associate("127.0.0.1", node.target.port, ae_title="DICOM_NODE", ext_neg=roles, bind_address=(host, 0))
    assert assoc.is_established
    yield assoc
    assoc.release()


def create(host: str, node: Node, study: str) -> int:
    with from_host(host, node) as assoc:
        status, _ = assoc.send_n_create(creation(study), MPPS, f"{study}.99")
    return int(status.Status)


def end(host: str, node: Node, study: str) -> int:
    with from_host(host, node) as assoc:
        status, _ = assoc.send_n_set(completion(uids(study, IMAGES)), MPPS, f"{study}.99")
    return int(status.Status)


def send(host: str, node: Node, paths: list[Path]) -> None:
    with from_host(host, node) as assoc:
        for path in paths:
            assert assoc.send_c_store(dcmread(path)).Status == 0x0000


def is_ended(detail: dict[str, Any]) -> bool:
    return bool(detail["state"] == "IGNORED")


def told(node: Node, study: str) -> str:
    (event,) = node.command("explain", study)["completion"]
    return str(event["text"])


@pytest.mark.slow
def test_a_stranger_holds_no_study(node: Node, tmp_path: Path) -> None:
    study = "1.2.41"
    assert create(STRANGER, node, study) == 0x0000
    send(SCANNER, node, write_images(tmp_path, study, IMAGES))
    node.wait(study, is_ended, 60)
    assert f"procedure steps from {STRANGER} do not count, because no image of the study came from there" in told(
        node, study
    )
    assert [s["state"] for s in node.command("study", study)["procedure_steps"]] == ["IN PROGRESS"]  # it is kept


def test_a_stranger_ends_no_study(node: Node, tmp_path: Path) -> None:
    study = "1.2.42"
    paths = write_images(tmp_path, study, IMAGES)
    assert create(SCANNER, node, study) == 0x0000
    send(SCANNER, node, paths[:-1])
    assert end(STRANGER, node, study) == 0x0000
    send(SCANNER, node, paths[-1:])
    time.sleep(LONGER_THAN_QUIET)
    waiting = node.command("explain", study)
    assert waiting["state"] == "RECEIVING"
    assert "waits while a procedure step is IN PROGRESS" in waiting["waiting"]["reason"]
    assert f"procedure steps from {STRANGER} do not count" in waiting["waiting"]["reason"]
    assert end(SCANNER, node, study) == 0x0000
    node.wait(study, is_ended, 60)
    assert f"the procedure step is completed and all {IMAGES} instances listed are here" in told(node, study)


def test_a_host_counts_once_it_has_sent_images(node: Node, tmp_path: Path) -> None:
    study = "1.2.43"
    paths = write_images(tmp_path, study, IMAGES)
    assert create(STRANGER, node, study) == 0x0000
    send(STRANGER, node, paths)
    time.sleep(LONGER_THAN_QUIET)
    waiting = node.command("explain", study)
    assert waiting["state"] == "RECEIVING"
    assert "do not count" not in waiting["waiting"]["reason"]
    assert end(STRANGER, node, study) == 0x0000
    node.wait(study, is_ended, 60)
    assert f"all {IMAGES} instances listed are here" in told(node, study)
