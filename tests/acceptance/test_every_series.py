"""Every real study of the test images through the node and its own applications: each ends in a result or in a stated
reason, which the PACS holds; none crashes, and none hangs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicom_node.demo.pacs.base import Pacs, PacsKind
from dicom_node.demo.pacs.ports import free_port
from dicom_node.demo.pacs.provisioning import find_orthanc
from dicom_node.demo.pacs.start import start_pacs
from dicom_node.dimse.scu import Target, send_files
from inference.contract.manifest import known_applications, takes_bundle
from storage.blobs import file_blobs
from tests.acceptance.node import SCANNER, Node

APPLICATIONS = [name for name in known_applications() if not takes_bundle(name)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Pacs]]:
    if find_orthanc() is None:
        pytest.skip("Orthanc is not installed: run tests/install-peers.sh")
    folder, port = tmp_path_factory.mktemp("node"), free_port()
    pacs = start_pacs(folder / "pacs", node=Target("DICOM_NODE", "127.0.0.1", port), kind=PacsKind.ORTHANC)
    node = Node(folder, port, pacs, applications=APPLICATIONS)
    node.start()
    yield node, pacs
    node.stop()
    pacs.stop()


def studies(folder: Path) -> dict[str, list[Path]]:
    """Group the files below `folder` by StudyInstanceUID; files without one, under "", cannot be sent as DICOM."""
    found: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        ds = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
        found.setdefault(str(ds.get("StudyInstanceUID", "")), []).append(path)
    return found


def ended(detail: dict[str, Any]) -> bool:
    """Every application has had its say, and the PACS has it."""
    said = {name for job in detail["jobs"] if job["state"] == "SUCCEEDED" for name in job["application"].split(", ")}
    sent = all(d["state"] in ("SENT", "COMMITTED", "REPLACED") for d in detail["deliveries"])
    waiting = [job for job in detail["jobs"] if job["state"] in ("QUEUED", "RUNNING", "RETRYING")]
    return detail["state"] in ("ROUTED", "IGNORED") and said == set(APPLICATIONS) and sent and not waiting


@pytest.mark.timeout(900)
def test_every_study_ends_in_a_result_or_a_reason(place: tuple[Node, Pacs], test_data: Path) -> None:
    node, pacs = place
    sent = studies(test_data / "mr")
    assert [path.parent.name for path in sent.pop("", [])] == ["ir_gre_no_sop_class"]
    assert len(sent) > 15
    for paths in sent.values():
        assert all(result.ok for result in send_files(file_blobs(paths), SCANNER, node.target))
    for uid in sent:
        detail = node.wait(uid, ended, 600)
        for job in (job for job in detail["jobs"] if job["state"] == "SUCCEEDED"):
            reports = [d for d in detail["deliveries"] if d["job_id"] == job["id"] and d["kind"].startswith("SR")]
            assert reports, (uid, job)
            told = [one["explanation"] for one in job["detail"].get("applications", ())]
            assert job["kind"] == "ANALYSIS" or all(told), (uid, job)
        reported = [i for i in pacs.instances(uid) if i.modality == "SR"]
        assert len(reported) >= 1, uid
        no_results = [job for job in detail["jobs"] if job["kind"] == "NO_RESULT"]
        without = [job["revision"] for job in no_results if job["state"] != "CANCELLED"]  # as when it is routed again
        assert len(without) == len(set(without)), uid
    log = node.log.read_text()
    assert "Traceback" not in log
    assert "unexpected" not in log
