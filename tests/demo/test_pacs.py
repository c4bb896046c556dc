"""The PACS of the demo and the tests: Orthanc and the plain storage SCP keep the same promises."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid
from pynetdicom.sop_class import MRImageStorage

from dicom_node.demo.pacs.base import Pacs, PacsKind, StoredInstance
from dicom_node.demo.pacs.provisioning import find_orthanc
from dicom_node.demo.pacs.start import start_pacs
from dicom_node.dimse.results import SendResult
from dicom_node.dimse.scu import Target, send_echo, send_files
from storage.blobs import file_blobs
from tests.instances import MakeFile

CALLER = "TEST_SCU"
StartPacs = Callable[..., Pacs]


@pytest.fixture(params=[PacsKind.ORTHANC, PacsKind.PLAIN])
def kind(request: pytest.FixtureRequest) -> PacsKind:
    wanted: PacsKind = request.param
    if wanted is PacsKind.ORTHANC and find_orthanc() is None:
        pytest.skip("Orthanc is not installed: apt install orthanc")
    return wanted


@pytest.fixture
def start(kind: PacsKind, tmp_path: Path) -> Iterator[StartPacs]:
    started: list[Pacs] = []

    def start_one(name: str = "pacs", **options: object) -> Pacs:
        pacs = start_pacs(tmp_path / name, kind=kind, callers=[CALLER], **options)  # type: ignore[arg-type]
        started.append(pacs)
        return pacs

    yield start_one
    for pacs in started:
        pacs.stop()


def send(pacs: Pacs, *paths: Path) -> list[SendResult]:
    return send_files(file_blobs(paths), CALLER, pacs.target)


def test_it_answers_an_echo_as_soon_as_it_is_started(start: StartPacs) -> None:
    assert send_echo(CALLER, start().target).ok


def test_it_tells_what_it_is(start: StartPacs, kind: PacsKind) -> None:
    pacs = start()
    assert pacs.kind is kind
    assert str(pacs.port) in pacs.description
    assert (pacs.http_url is not None) == (kind is PacsKind.ORTHANC)


def test_what_is_sent_is_read_back(start: StartPacs, make_file: MakeFile) -> None:
    pacs = start()
    path = make_file()
    sent = dcmread(path)
    assert [r.ok for r in send(pacs, path)] == [True]
    assert pacs.instances(sent.StudyInstanceUID) == [
        StoredInstance(sent.SOPInstanceUID, MRImageStorage, "MR", sent.SeriesInstanceUID)
    ]
    assert pacs.dataset(sent.SOPInstanceUID) == sent


def test_instances_are_those_of_one_study(start: StartPacs, make_file: MakeFile) -> None:
    pacs = start()
    study = generate_uid()
    wanted = [make_file(StudyInstanceUID=study, Modality=m, PatientID="A") for m in ("MR", "SEG", "SR")]
    assert all(r.ok for r in send(pacs, *wanted, make_file()))
    assert sorted(i.modality for i in pacs.instances(study)) == ["MR", "SEG", "SR"]
    assert pacs.instances(generate_uid()) == []


def test_sending_twice_stores_once(start: StartPacs, make_file: MakeFile) -> None:
    pacs = start()
    path = make_file()
    assert all(r.ok for r in send(pacs, path, path))
    assert len(pacs.instances(dcmread(path).StudyInstanceUID)) == 1


def test_an_instance_it_does_not_hold(start: StartPacs) -> None:
    with pytest.raises(LookupError):
        start().dataset(generate_uid())


def test_stopping_and_starting_keeps_ports_and_storage(start: StartPacs, make_file: MakeFile) -> None:
    pacs = start()
    path = make_file()
    send(pacs, path)
    before = (pacs.port, pacs.http_url)
    pacs.stop()
    assert not send_echo(CALLER, pacs.target).ok
    pacs.start()
    assert (pacs.port, pacs.http_url) == before
    assert send_echo(CALLER, pacs.target).ok
    assert len(pacs.instances(dcmread(path).StudyInstanceUID)) == 1


def test_strangers_are_turned_away(start: StartPacs, make_file: MakeFile) -> None:
    pacs = start()
    assert not send_echo("STRANGER", pacs.target).ok
    assert [r.ok for r in send_files(file_blobs([make_file()]), "STRANGER", pacs.target)] == [False]


def test_everything_is_routed_back_to_the_node(start: StartPacs, tmp_path: Path, make_file: MakeFile) -> None:
    with start_pacs(tmp_path / "node", ae_title="NODE", callers=["ORTHANC"], kind=PacsKind.PLAIN) as node:
        pacs = start(node=node.target, route_back=True)
        path = make_file()
        uid = dcmread(path).StudyInstanceUID
        send(pacs, path)
        deadline = time.monotonic() + 20
        while not node.instances(uid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert node.instances(uid) == pacs.instances(uid)


def test_routing_back_needs_a_node(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="node"):
        start_pacs(tmp_path, route_back=True, kind=PacsKind.PLAIN)


def test_the_plain_one_listens_on_loopback_only(tmp_path: Path) -> None:
    with start_pacs(tmp_path, kind=PacsKind.PLAIN) as pacs, socket.socket() as other:
        other.settimeout(2)
        assert other.connect_ex(("127.0.0.2", pacs.port)) != 0


def test_orthanc_turns_known_titles_from_other_addresses_away(tmp_path: Path) -> None:
    if find_orthanc() is None:
        pytest.skip("Orthanc is not installed: apt install orthanc")
    elsewhere = Target("ELSEWHERE", "192.0.2.1", 104)  # an address nobody has (RFC 5737)
    with start_pacs(tmp_path, node=elsewhere, kind=PacsKind.ORTHANC) as pacs:
        assert not send_echo("ELSEWHERE", pacs.target).ok


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    if find_orthanc() is None:
        pytest.skip("Orthanc is not installed: apt install orthanc")
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux ends children with their parents")
    code = (
        "import sys, time; from pathlib import Path; from dicom_node.demo.pacs.start import PacsKind, start_pacs\n"
        "print(start_pacs(Path(sys.argv[1]), kind=PacsKind.ORTHANC).port, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    port = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.1)
    pytest.fail("Orthanc outlives its owner")


def test_its_folder_is_private(start: StartPacs) -> None:
    assert os.stat(start().folder).st_mode & 0o077 == 0
