"""How many instances a PACS says a study has: Orthanc, and peers that refuse, are silent or are away."""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from dicom_node.demo.pacs.base import PacsKind
from dicom_node.demo.pacs.ports import free_port
from dicom_node.demo.pacs.provisioning import find_orthanc
from dicom_node.demo.pacs.start import start_pacs
from dicom_node.dimse.query import DimseSource, find_moved
from dicom_node.dimse.results import InstanceReference
from dicom_node.dimse.scu import Target, send_files
from dicom_node.errors import PeerRefused, PeerUnavailable
from storage.blobs import file_blobs
from storage.records.deliveries import StoredAs
from tests.acceptance.studies import write_ball_study


def source(port: int, timeout: float = 5.0, calling: str = "NODE", called: str = "ORTHANC") -> DimseSource:
    return DimseSource("archive", calling, Target(called, "127.0.0.1", port), timeout)


def test_orthanc_counts(tmp_path: Path) -> None:
    if find_orthanc() is None:
        pytest.skip("Orthanc is not installed: run tests/install-peers.sh")
    study = write_ball_study(tmp_path / "study")
    with start_pacs(tmp_path / "pacs", node=Target("NODE", "127.0.0.1", 104), kind=PacsKind.ORTHANC) as pacs:
        asked = source(pacs.port)
        assert asked.count_instances(study.study_instance_uid) == 0
        assert all(r.ok for r in send_files(file_blobs(study.paths[:-1]), "NODE", pacs.target))
        assert asked.count_instances(study.study_instance_uid) == len(study.paths) - 1
        assert all(r.ok for r in send_files(file_blobs(study.paths), "NODE", pacs.target))
        assert asked.count_instances(study.study_instance_uid) == len(study.paths)
        assert asked.count_instances(str(generate_uid())) == 0
        with pytest.raises(PeerRefused, match="rejects the association"):
            source(pacs.port, called="OTHER").count_instances(study.study_instance_uid)


Find = Callable[[evt.Event], Iterator[tuple[Any, Dataset | None]]]


@pytest.fixture
def scp() -> Iterator[Callable[[Find | None], int]]:
    servers = []

    def serve(find: Find | None) -> int:
        ae = AE(ae_title="ORTHANC")
        ae.add_supported_context(Verification)
        if find is not None:
            ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        port = free_port()
        handlers = [] if find is None else [(evt.EVT_C_FIND, find)]
        servers.append(ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers))
        return port

    yield serve
    for server in servers:
        server.shutdown()


def answering(*counts: object) -> Find:
    """One match for each count; None leaves the key out."""

    def find(event: evt.Event) -> Iterator[tuple[Any, Dataset | None]]:
        for count in counts:
            ds = Dataset()
            ds.QueryRetrieveLevel = "STUDY"
            ds.StudyInstanceUID = event.identifier.StudyInstanceUID
            if count is not None:
                ds.NumberOfStudyRelatedInstances = count
            yield 0xFF00, ds

    return find


def test_the_study_is_asked_for_and_counted(scp: Callable[[Find | None], int]) -> None:
    assert source(scp(answering(170))).count_instances("1.2.3") == 170
    assert source(scp(answering())).count_instances("1.2.3") == 0


@pytest.mark.parametrize("count", [None, ""])
def test_a_pacs_that_does_not_count(scp: Callable[[Find | None], int], count: object) -> None:
    with pytest.raises(PeerRefused, match="does not say how many"):
        source(scp(answering(count))).count_instances("1.2.3")


def test_a_pacs_that_answers_no_queries(scp: Callable[[Find | None], int]) -> None:
    with pytest.raises(PeerRefused, match="does not accept queries"):
        source(scp(None)).count_instances("1.2.3")


@pytest.mark.parametrize(("status", "error"), [(0xA700, PeerUnavailable), (0xC001, PeerRefused)])
def test_a_query_that_fails(scp: Callable[[Find | None], int], status: int, error: type[Exception]) -> None:
    def failing(event: evt.Event) -> Iterator[tuple[Any, Dataset | None]]:
        yield status, None

    with pytest.raises(error):
        source(scp(failing)).count_instances("1.2.3")


def test_a_pacs_that_is_away_or_silent_is_given_up_in_time(scp: Callable[[Find | None], int]) -> None:
    def silent(event: evt.Event) -> Iterator[tuple[Any, Dataset | None]]:
        time.sleep(3)
        yield 0x0000, None

    with pytest.raises(PeerUnavailable):
        source(free_port()).count_instances("1.2.3")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for port in (listening.getsockname()[1], scp(silent)):
            begin = time.monotonic()
            with pytest.raises(PeerUnavailable):
                source(port, timeout=0.5).count_instances("1.2.3")
            assert time.monotonic() - begin < 2.5


@pytest.mark.parametrize("left_out", ["SOPInstanceUID", "SeriesInstanceUID", None])
def test_an_answer_without_the_key_that_was_asked_for_is_no_answer(
    scp: Callable[[Find | None], int], left_out: str | None
) -> None:
    def find(event: evt.Event) -> Iterator[tuple[Any, Dataset | None]]:
        asked = event.identifier
        ds = Dataset()
        ds.QueryRetrieveLevel = "IMAGE"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = "1.2", "1.2.3", "1.2.3.9"
        if asked.SOPInstanceUID and left_out:  # found by the UID alone
            del ds.SOPInstanceUID
            yield 0xFF00, ds
        elif asked.SeriesInstanceUID:
            if left_out:
                del ds[left_out]
            yield 0xFF00, ds

    target = Target("ORTHANC", "127.0.0.1", scp(find))
    reference = InstanceReference("1.2", "1.2.3", "1.2.840.10008.5.1.4.1.1.4", "1.2.3.4")
    found = find_moved("NODE", target, [reference], 5.0)
    assert found == ({} if left_out else {"1.2.3.4": StoredAs("1.2.3.9", "1.2.3", "1.2")})
