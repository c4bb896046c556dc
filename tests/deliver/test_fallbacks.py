"""What PACSs that refuse SEG, Comprehensive 3D SR, or both are sent instead: at negotiation and by status."""

import json
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    ParametricMapStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, evt

from dicom_node.deliver.accepted_classes import ACCEPTED_SECONDS, REFUSED_SECONDS, Acceptance
from dicom_node.deliver.destinations.dimse import DimseDestination
from dicom_node.deliver.dispatcher import Dispatcher
from dicom_node.demo.pacs.base import PacsKind
from dicom_node.demo.pacs.ports import free_port
from dicom_node.demo.pacs.provisioning import find_orthanc
from dicom_node.demo.pacs.start import start_pacs
from dicom_node.dimse.results import EchoResult, SendResult
from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.build import build_objects
from dicom_node.objects.profiles import ObjectProfile
from dicom_node.objects.registry import WRITTEN_SOP_CLASSES, stands_for
from dicom_node.runtime.backoff import Backoff
from storage.blobs import Blob, FileBlob
from storage.records.results import NewObject, ObjectKind
from storage.tables.database.connection import Database, default_url
from tests.instances import MakeFile
from tests.objects.sources import findings, read, write_oblique
from tests.storage.node import NOW, STUDY, Node

STORESCP = Path("/usr/bin/storescp")  # pynetdicom puts a script of the same name into the environment
CLASSES = {
    ObjectKind.SEG: SegmentationStorage,
    ObjectKind.PM: ParametricMapStorage,
    ObjectKind.RTSTRUCT: RTStructureSetStorage,
    ObjectKind.SC: SecondaryCaptureImageStorage,
    ObjectKind.SR: Comprehensive3DSRStorage,
    ObjectKind.SR_COMPREHENSIVE: ComprehensiveSRStorage,
    ObjectKind.SR_ENHANCED: EnhancedSRStorage,
    ObjectKind.SR_REGIONS: Comprehensive3DSRStorage,
    ObjectKind.SR_REGIONS_COMPREHENSIVE: ComprehensiveSRStorage,
    ObjectKind.SR_REGIONS_ENHANCED: EnhancedSRStorage,
}
MORE_CLASSES = {MultiFrameTrueColorSecondaryCaptureImageStorage, KeyObjectSelectionDocumentStorage}
SR_CLASSES = (Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage)
REFUSALS = [
    ({SegmentationStorage}, ["PM", "RTSTRUCT", "SR-REGIONS"]),
    ({Comprehensive3DSRStorage}, ["SEG", "PM", "SR-COMPREHENSIVE"]),
    ({SegmentationStorage, Comprehensive3DSRStorage}, ["PM", "RTSTRUCT", "SR-REGIONS-COMP"]),
    ({SegmentationStorage, RTStructureSetStorage, *SR_CLASSES}, ["PM", "SC"]),
    ({ParametricMapStorage}, ["SEG", "SR"]),
]


class Delivering:
    """A job whose objects are to go to the PACS, and the dispatcher that sends them."""

    def __init__(self, node: Node, make_file: MakeFile) -> None:
        self.node = node
        self._make_file = make_file
        self._dispatcher = Dispatcher(node.deliveries, [], Backoff(0, 0, 2), "dispatch")

    def job(self, study: str = STUDY) -> None:
        """A job with a SEG, a PM and an SR, and all that stands for them: small files that say what they are."""
        primaries = ObjectProfile().objects
        self.finish(
            study,
            [
                (
                    kind,
                    self._make_file(StudyInstanceUID=study, SOPClassUID=sop_class_uid, ImageComments=str(kind)),
                    () if kind in primaries else stands_for(kind, primaries),
                )
                for kind, sop_class_uid in CLASSES.items()
            ],
        )

    def finish(self, study: str, files: Sequence[tuple[ObjectKind, Path, tuple[ObjectKind, ...]]]) -> None:
        """A job that made these files: kind, file, and for what it stands."""
        self.node.queue("liver", uid=study)
        objects = []
        for kind, path, instead_of in files:
            ds = dcmread(path)
            objects.append(
                NewObject(
                    ds.SOPInstanceUID, ds.SOPClassUID, ds.SeriesInstanceUID, study, kind, FileBlob(path), ("pacs",),
                    instead_of,
                )
            )  # fmt: skip
        assert self.node.jobs.succeed(self.node.claim().id, "worker", objects, {}, NOW)

    def run(self, destination: DimseDestination) -> None:
        """Sends until nothing is due."""
        while self._dispatcher.deliver_one(destination):
            pass

    def kinds(self, *states: str) -> list[str]:
        return [d.object.kind for d in self.node.deliveries.list() if d.state in states]

    def reason(self, kind: str) -> str:
        return next(d.reason for d in self.node.deliveries.list() if d.object.kind == kind)


@pytest.fixture
def delivering(tmp_path: Path, make_file: MakeFile) -> Iterator[Delivering]:
    database = Database(default_url(tmp_path))
    database.upgrade()
    yield Delivering(Node(database, tmp_path / "instances"), make_file)
    database.close()


def held(files: Sequence[Path]) -> set[str]:
    """The kinds that a PACS keeps in these files."""
    return {str(dcmread(path).ImageComments) for path in files}


Storescp = Callable[[Collection[str]], tuple[DimseDestination, Path]]


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[Storescp]:
    """Starts dcmtk's storescp with an association profile that lacks these SOP classes; its folder."""
    if not STORESCP.is_file():
        pytest.skip("dcmtk is not installed: run tests/install-peers.sh")
    started: list[subprocess.Popen[bytes]] = []

    def start(refused: Collection[str]) -> tuple[DimseDestination, Path]:
        folder, port = tmp_path / f"storescp-{len(started)}", free_port()
        folder.mkdir()
        accepted = sorted({*CLASSES.values(), *MORE_CLASSES} - set(refused))
        contexts = "\n".join(f"PresentationContext{n} = {uid}\\Plain" for n, uid in enumerate(accepted, 1))
        profile = tmp_path / "storescp.cfg"
        profile.write_text(
            "[[TransferSyntaxes]]\n[Plain]\n"
            "TransferSyntax1 = LittleEndianExplicit\nTransferSyntax2 = LittleEndianImplicit\n"
            f"[[PresentationContexts]]\n[Some]\n{contexts}\n"
            "[[Profiles]]\n[Default]\nPresentationContexts = Some\n"
        )
        started.append(subprocess.Popen([STORESCP, "-xf", profile, "Default", "-od", folder, str(port)]))
        destination = DimseDestination("pacs", "NODE", "STORESCP", "127.0.0.1", port, 5.0)
        deadline = time.monotonic() + 10
        while destination.accepted(accepted) is None:
            assert time.monotonic() < deadline, "storescp does not start"
            time.sleep(0.05)
        return destination, folder

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("refused", "sent"), REFUSALS)
def test_a_pacs_that_refuses_at_negotiation_gets_something_else(
    delivering: Delivering, storescp: Storescp, refused: set[str], sent: list[str]
) -> None:
    pacs, folder = storescp(refused)
    delivering.job()
    delivering.run(pacs)
    assert delivering.kinds("SENT") == sent
    assert held(list(folder.iterdir())) == set(sent)
    assert delivering.kinds("FAILED") == (["PM"] if refused == {ParametricMapStorage} else [])
    for kind in delivering.kinds("FAILED", "REPLACED"):
        if CLASSES[ObjectKind(kind)] in refused:
            assert delivering.reason(kind).startswith(f"pacs does not accept {UID(CLASSES[ObjectKind(kind)]).name}; ")
    events = [text for text in delivering.node.texts() if "not delivered" in text]
    assert len(events) == len(delivering.kinds("FAILED", "REPLACED"))


@pytest.mark.parametrize("refused", [{SegmentationStorage}, {Comprehensive3DSRStorage}, set(SR_CLASSES)])
def test_what_a_pacs_gets_of_a_real_result_names_nothing_that_it_did_not_get(
    delivering: Delivering, storescp: Storescp, tmp_path: Path, refused: set[str]
) -> None:
    found = findings(read(write_oblique(tmp_path / "series", "Müller^Änne", "ISO_IR 100")))
    everything = ObjectProfile(objects=frozenset({ObjectKind.SEG, ObjectKind.SR, ObjectKind.KO}))
    files = []
    for built in build_objects(found, ObjectContext("NODE", "seed"), everything):
        path = tmp_path / f"{built.kind}.dcm"
        built.dataset.save_as(path, enforce_file_format=True)
        files.append((built.kind, path, built.stands_for))
    pacs, folder = storescp(refused)
    delivering.finish(STUDY, files)
    delivering.run(pacs)
    assert delivering.kinds("FAILED") == []
    there = [dcmread(path) for path in folder.iterdir()]
    assert {"KO", "SR" if refused == {SegmentationStorage} else "SEG"} <= {ds.Modality for ds in there}
    elsewhere = {dcmread(path).SOPInstanceUID for _, path, _ in files} - {ds.SOPInstanceUID for ds in there}
    assert not [uid for ds in there for uid in elsewhere if uid in str(ds)]


def test_a_pacs_that_learned_to_take_a_class_gets_it(delivering: Delivering, storescp: Storescp) -> None:
    """What was refused for good is sent once the operator queues it again."""
    pacs, folder = storescp({ParametricMapStorage})
    delivering.job()
    delivering.run(pacs)
    (failed,) = (d for d in delivering.node.deliveries.list() if d.state == "FAILED")
    mended, folder = storescp(set())
    again = Dispatcher(delivering.node.deliveries, [], Backoff(0, 0, 2), "again")
    assert delivering.node.deliveries.retry(failed.id)
    assert again.deliver_one(mended)
    assert held(list(folder.iterdir())) == {"PM"}


def test_a_pacs_that_unlearned_a_class_gets_something_else(delivering: Delivering, storescp: Storescp) -> None:
    """What it accepted an hour ago is believed only until it refuses."""
    before, _ = storescp(set())
    delivering.job()
    delivering.run(before)
    after, folder = storescp({SegmentationStorage})
    delivering.job("1.2.4")
    delivering.run(after)
    assert held(list(folder.iterdir())) == {"PM", "RTSTRUCT", "SR-REGIONS"}


def test_a_pacs_that_cannot_be_reached_has_refused_nothing(delivering: Delivering) -> None:
    pacs = DimseDestination("pacs", "NODE", "PACS", "127.0.0.1", free_port(), 1.0)
    assert pacs.accepted(WRITTEN_SOP_CLASSES) is None
    delivering.job()
    delivering.run(pacs)
    delivering.run(pacs)
    delivering.run(pacs)
    assert delivering.kinds("RETRYING") == ["SEG"]
    assert delivering.kinds("QUEUED") == ["PM", "SR"]


@pytest.mark.parametrize(
    ("status", "refused", "sent"),
    [
        (status, refused, sent)
        for status, (refused, sent) in zip((0x0122, 0xA900, 0xC000, 0x0124, 0xC123), REFUSALS, strict=True)
    ],
)
def test_a_pacs_that_refuses_by_status_gets_something_else(
    delivering: Delivering, status: int, refused: set[str], sent: list[str]
) -> None:
    kept = []

    def store(event: Any) -> int:
        if event.request.AffectedSOPClassUID in refused:
            return status
        kept.append(str(event.dataset.ImageComments))
        return 0x0000

    ae = AE("PACS")
    for sop_class_uid in set(CLASSES.values()):
        ae.add_supported_context(sop_class_uid, ExplicitVRLittleEndian)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    delivering.job()
    delivering.run(DimseDestination("pacs", "NODE", "PACS", "127.0.0.1", server.server_address[1], 5.0))
    server.shutdown()
    assert delivering.kinds("SENT") == kept == sent
    first = next(d for d in delivering.node.deliveries.list() if CLASSES[d.object.kind] in refused)
    assert f"(0x{status:04X}); " in first.reason


# A script that fails answers 0xA700, each time. What the filter returns only decides whether Orthanc says Success and
# stores the instance, or says Success and does not; so does the one for C-STORE in 1.10.1, whatever status it names.
FAILING = """\
function ReceivedInstanceFilter(dicom, origin, info)
   if ({%s})[dicom["SOPClassUID"]] then
      error("not here")
   end
   return true
end
"""


def test_an_orthanc_that_refuses_at_every_attempt_gets_something_else_and_the_operator_is_told(
    delivering: Delivering, tmp_path: Path
) -> None:
    refused = {SegmentationStorage, Comprehensive3DSRStorage}
    if find_orthanc() is None:
        pytest.skip("Orthanc is not installed: run tests/install-peers.sh")
    script = tmp_path / "refuse.lua"
    script.write_text(FAILING % ", ".join(f'["{uid}"] = true' for uid in refused))
    with start_pacs(tmp_path / "pacs", callers=["NODE"], kind=PacsKind.ORTHANC) as pacs:
        pacs.stop()
        configuration = pacs.folder / "orthanc.json"
        configuration.write_text(json.dumps({**json.loads(configuration.read_text()), "LuaScripts": [str(script)]}))
        pacs.start()
        delivering.job()
        delivering.run(DimseDestination("pacs", "NODE", pacs.ae_title, pacs.host, pacs.port, 10.0))
        there = {str(pacs.dataset(i.sop_instance_uid).ImageComments) for i in pacs.instances(STUDY)}
    assert delivering.kinds("SENT") == ["PM", "RTSTRUCT", "SR-REGIONS-COMP"]
    assert there == {"PM", "RTSTRUCT", "SR-REGIONS-COMP"}
    assert delivering.kinds("FAILED") == ["SEG", "SR-REGIONS"]
    for kind in ("SEG", "SR-REGIONS"):
        assert delivering.reason(kind).startswith("out of resources (0xA700); sent instead: ")


class Asked:
    """A destination that answers `accepts`, and counts how often it was asked."""

    name = "pacs"

    def __init__(self) -> None:
        self.accepts: frozenset[str] | None = WRITTEN_SOP_CLASSES
        self.times = 0

    def send(self, blobs: Sequence[Blob]) -> list[SendResult]:
        raise NotImplementedError

    def accepted(self, sop_class_uids: Collection[str]) -> frozenset[str] | None:
        self.times += 1
        return self.accepts

    def echo(self) -> EchoResult:
        raise NotImplementedError


def test_what_is_accepted_is_remembered_longer_than_what_is_not() -> None:
    now = 0.0
    pacs, acceptance = Asked(), Acceptance(WRITTEN_SOP_CLASSES, lambda: now)
    pacs.accepts = WRITTEN_SOP_CLASSES - {SegmentationStorage}
    assert acceptance.refused(pacs, {SegmentationStorage, ParametricMapStorage, "1.2.3"}) == {SegmentationStorage}
    now = ACCEPTED_SECONDS
    assert acceptance.refused(pacs, {ParametricMapStorage, "1.2.3"}) == frozenset()
    assert pacs.times == 1
    pacs.accepts = WRITTEN_SOP_CLASSES
    assert acceptance.refused(pacs, {SegmentationStorage}) == frozenset()
    assert pacs.times == 2
    now += ACCEPTED_SECONDS + 1
    pacs.accepts = None
    assert acceptance.refused(pacs, {SegmentationStorage}) == frozenset()
    pacs.accepts = frozenset()
    assert acceptance.refused(pacs, {SegmentationStorage}) == {SegmentationStorage}
    now += REFUSED_SECONDS
    assert acceptance.refused(pacs, {SegmentationStorage}) == {SegmentationStorage}
    assert pacs.times == 4
