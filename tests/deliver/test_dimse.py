"""DimseDestination against a pynetdicom SCP that answers by script, and against the node's own receiver."""

import hashlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    generate_uid,
)
from pynetdicom import AE, evt
from pynetdicom.dsutils import split_dataset
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    MRImageStorage,
    SegmentationStorage,
    Verification,
)

from dicom_node.deliver.destinations.dimse import DimseDestination
from dicom_node.dimse.results import SendResult
from dicom_node.dimse.scu import MAXIMUM_CONTEXTS
from storage.blobs import file_blobs
from tests.instances import MakeFile

Answer = int | Callable[[Any], int]
Pacs = Callable[..., tuple[DimseDestination, list[tuple[str, bytes]]]]


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    """Starts an SCP that answers with `answers` in turn, then with success; it keeps what it answered 0x0000 to."""
    servers = []

    def start(
        *answers: Answer,
        classes: tuple[str, ...] = (MRImageStorage, SegmentationStorage),
        syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        timeout: float = 5.0,
        called: str = "PACS",
    ) -> tuple[DimseDestination, list[tuple[str, bytes]]]:
        script = iter(answers)
        kept: list[tuple[str, bytes]] = []

        def store(event: Any) -> int:
            answer = next(script, 0x0000)
            status = answer(event) if callable(answer) else answer
            if status == 0x0000:
                kept.append((str(event.context.transfer_syntax), event.encoded_dataset(include_meta=False)))
            return status

        ae = AE(ae_title="PACS")
        ae.require_called_aet = True
        ae.add_supported_context(Verification)
        for sop_class in classes:
            ae.add_supported_context(sop_class, list(syntaxes))
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
        servers.append(server)
        return DimseDestination("pacs", "NODE", called, "127.0.0.1", server.server_address[1], timeout), kept

    yield start
    for server in servers:
        server.shutdown()


def dataset_of(path: Path) -> bytes:
    return path.read_bytes()[split_dataset(path)[1] :]


def test_every_instance_arrives_as_it_is(pacs: Pacs, make_file: MakeFile) -> None:
    destination, kept = pacs()
    paths = [make_file(), make_file(SOPClassUID=SegmentationStorage), make_file()]
    results = destination.send(file_blobs(paths))
    assert [(r.ok, r.retriable, r.reason) for r in results] == [(True, False, "")] * 3
    assert [r.sop_instance_uid for r in results] == [dcmread(p).SOPInstanceUID for p in paths]
    assert [dataset for _, dataset in kept] == [dataset_of(p) for p in paths]


@pytest.mark.parametrize(
    ("status", "ok", "retriable"),
    [
        (0x0000, True, False),
        (0xB000, True, False),
        (0xB006, True, False),
        (0xB007, True, False),
        (0x0111, True, False),
        (0xA700, False, True),
        (0xA7FF, False, True),
        (0x0213, False, True),
        (0x0110, False, True),
        (0xA900, False, False),
        (0xC000, False, False),
        (0xCFFF, False, False),
        (0x0122, False, False),
        (0x0124, False, False),
    ],
)
def test_statuses(status: int, ok: bool, retriable: bool) -> None:
    result = SendResult.from_status("1.2.3", status)
    assert (result.ok, result.retriable, result.refused) == (ok, retriable, not ok)
    assert (f"{status:04X}" in result.reason) is (status != 0x0000)


def test_each_instance_has_its_own_status(pacs: Pacs, make_file: MakeFile) -> None:
    destination, kept = pacs(0x0000, 0xA700, 0xC123, 0xB000, 0x0000)
    results = destination.send(file_blobs([make_file() for _ in range(5)]))
    assert [(r.ok, r.retriable) for r in results] == [
        (True, False), (False, True), (False, False), (True, False), (True, False)
    ]  # fmt: skip
    assert "0xC123" in results[2].reason
    assert "0xB000" in results[3].reason
    assert len(kept) == 2


def test_a_class_that_is_not_accepted_is_named_and_the_others_go_through(pacs: Pacs, make_file: MakeFile) -> None:
    destination, kept = pacs(classes=(MRImageStorage,))
    results = destination.send(file_blobs([make_file(SOPClassUID=Comprehensive3DSRStorage), make_file()]))
    assert [(r.ok, r.retriable) for r in results] == [(False, False), (True, False)]
    assert "Comprehensive 3D SR" in results[0].reason
    assert len(kept) == 1


def test_nothing_accepted_at_all_is_permanent_too(pacs: Pacs, make_file: MakeFile) -> None:
    destination, _ = pacs(classes=(MRImageStorage,))
    (result,) = destination.send(file_blobs([make_file(SOPClassUID=SegmentationStorage)]))
    assert (result.ok, result.retriable) == (False, False)
    assert "Segmentation Storage" in result.reason


def test_a_syntax_that_is_not_accepted_is_named(pacs: Pacs, make_file: MakeFile) -> None:
    destination, _ = pacs()
    path = make_file()
    ds = dcmread(path)
    ds.file_meta.TransferSyntaxUID = JPEGLSLossless
    meta = BytesIO()
    write_file_meta_info(meta, ds.file_meta)
    path.write_bytes(b"\0" * 128 + b"DICM" + meta.getvalue() + dataset_of(path))
    (result,) = destination.send(file_blobs([path]))
    assert (result.ok, result.retriable) == (False, False)
    assert "JPEG-LS" in result.reason


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_a_pacs_that_takes_only_the_default_syntax_gets_it(pacs: Pacs, make_file: MakeFile, syntax: str) -> None:
    destination, kept = pacs(syntaxes=(ImplicitVRLittleEndian,))
    path = make_file(transfer_syntax=syntax)
    assert destination.send(file_blobs([path]))[0].ok
    ((accepted, dataset),) = kept
    expected = dcmread(path)
    expected.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    expected.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=True)
    assert accepted == ImplicitVRLittleEndian
    assert hashlib.sha256(dataset).digest() == hashlib.sha256(dataset_of(path)).digest()


def lose_response(event: Any) -> int:
    time.sleep(1.2)
    return 0x0000


def abort(event: Any) -> int:
    event.assoc.abort()
    return 0x0000


@pytest.mark.parametrize("failure", [lose_response, abort])
def test_a_lost_response_is_retriable_and_sending_again_keeps_the_uid(
    pacs: Pacs, make_file: MakeFile, failure: Callable[[Any], int]
) -> None:
    destination, kept = pacs(0x0000, failure, timeout=0.5)
    paths = [make_file() for _ in range(3)]
    results = destination.send(file_blobs(paths))
    assert [(r.ok, r.retriable) for r in results] == [(True, False), (False, True), (False, True)]
    assert all(r.reason for r in results[1:])
    again = destination.send(file_blobs(paths[1:]))
    assert all(r.ok for r in again)
    assert [r.sop_instance_uid for r in again] == [r.sop_instance_uid for r in results[1:]]
    assert {dataset for _, dataset in kept} == {dataset_of(p) for p in paths}


def test_many_instances_lose_no_response(pacs: Pacs, make_file: MakeFile) -> None:
    destination, kept = pacs(timeout=3.0)
    paths = [make_file() for _ in range(40)] * 5
    assert all(r.ok for r in destination.send(file_blobs(paths)))
    assert len(kept) == 200


def test_a_port_without_a_listener_is_retriable(make_file: MakeFile) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    destination = DimseDestination("pacs", "NODE", "PACS", "127.0.0.1", port, 1.0)
    (result,) = destination.send(file_blobs([make_file()]))
    assert (result.ok, result.retriable) == (False, True)
    assert f"127.0.0.1:{port}" in result.reason
    assert not destination.echo().ok


@pytest.mark.parametrize("answer", [b"", b"\x02\x00\x00\x00\x10\x00half of an answer", b"HTTP/1.1 400 Bad\r\n\r\n"])
def test_a_peer_that_hangs_or_talks_nonsense_is_retriable_and_does_not_hang_us(
    make_file: MakeFile, answer: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted = []

        def serve() -> None:
            connection, _ = listener.accept()
            accepted.append(connection)
            connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        destination = DimseDestination("pacs", "NODE", "PACS", "127.0.0.1", listener.getsockname()[1], 1.0)
        start = time.monotonic()
        (result,) = destination.send(file_blobs([make_file()]))
        assert time.monotonic() - start < 6
        thread.join()
        accepted[0].close()
    assert (result.ok, result.retriable) == (False, True)


def test_a_rejected_association_is_permanent(pacs: Pacs, make_file: MakeFile) -> None:
    destination, _ = pacs(called="OTHER")
    (result,) = destination.send(file_blobs([make_file()]))
    assert (result.ok, result.retriable) == (False, False)
    assert "called ae title not recognised" in result.reason


def test_only_a_file_that_is_no_dicom_is_permanent_and_the_rest_is_sent(
    pacs: Pacs, make_file: MakeFile, tmp_path: Path
) -> None:
    destination, kept = pacs()
    text = tmp_path / "notes.txt"
    text.write_text("not an image")
    results = destination.send(file_blobs([text, tmp_path / "missing.dcm", make_file()]))
    assert [(r.ok, r.retriable) for r in results] == [(False, False), (False, True), (True, False)]
    assert "notes.txt" in results[0].reason
    assert len(kept) == 1


def test_more_classes_than_contexts_take_more_than_one_association(pacs: Pacs, make_file: MakeFile) -> None:
    classes = tuple(generate_uid() for _ in range(MAXIMUM_CONTEXTS // 2 + 6))
    destination, _ = pacs(classes=(MRImageStorage,))
    paths = [make_file(SOPClassUID=c) for c in classes] + [make_file()]
    results = destination.send(file_blobs(paths))
    assert [r.ok for r in results] == [False] * len(classes) + [True]
    assert not any(r.retriable for r in results)


def test_echo(pacs: Pacs) -> None:
    destination, _ = pacs()
    answer = destination.echo()
    assert (answer.ok, answer.reason) == (True, "")
    assert answer.seconds > 0


def test_reasons_and_logs_hold_nothing_of_the_patient(
    pacs: Pacs, make_file: MakeFile, caplog: pytest.LogCaptureFixture
) -> None:
    def quoting(event: Any) -> Any:
        status = Dataset()
        status.Status = 0xC000
        status.ErrorComment = "SECRET^PERSON is unknown"
        return status

    caplog.set_level(logging.DEBUG, logger="dicom_node")
    destination, _ = pacs(quoting)
    (result,) = destination.send(file_blobs([make_file()]))
    assert not result.ok
    assert "SECRET" not in result.reason + "".join(r.getMessage() for r in caplog.records if "dicom_node" in r.name)
