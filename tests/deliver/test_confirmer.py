"""Proof of landing over real associations: PACSs that commit, on which association they report, and PACSs that do not
keep what they answered Success for."""

import json
import logging
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, SegmentationStorage
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.deliver.confirmer import ASKING, Confirmer
from dicom_node.deliver.destinations.dicomweb import BasicAuth, DicomwebDestination
from dicom_node.deliver.destinations.dimse import DimseDestination
from dicom_node.deliver.destinations.folder import FolderDestination
from dicom_node.deliver.destinations.interface import ConfirmingDestination
from dicom_node.deliver.dispatcher import Dispatcher
from dicom_node.demo.pacs.base import Pacs, PacsKind
from dicom_node.demo.pacs.ports import free_port
from dicom_node.demo.pacs.provisioning import find_orthanc
from dicom_node.demo.pacs.start import start_pacs
from dicom_node.dimse.commitment import (
    ALL_COMMITTED,
    FAILURES_EXIST,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    FailedInstance,
    FailureReason,
    OutgoingReport,
)
from dicom_node.dimse.results import InstanceReference
from dicom_node.dimse.scu import Target
from dicom_node.dimse.status import DimseStatus
from dicom_node.errors import PeerRefused, PeerUnavailable
from dicom_node.read.stores import open_stores
from dicom_node.receive.confirmation import ConfirmationService
from dicom_node.receive.policy import ReceivePolicy, ServiceName
from dicom_node.receive.presentation_contexts import SopClass
from dicom_node.receive.receiver import DimseService, Receiver
from dicom_node.roles import build_confirmer
from dicom_node.runtime.backoff import Backoff
from dicom_node.settings.loading import load_settings
from storage.blobs import FileBlob
from storage.log.journal import Journal
from storage.log.patient_key import PATIENT_KEY, PatientKey
from storage.records.deliveries import Confirmation, ConfirmationReport, ConfirmationState, StoredAs
from storage.records.results import NewObject
from storage.tables.confirmations import WAITING, Confirmations
from storage.tables.database.connection import Database, default_url
from tests.deliver.web import orthanc_web
from tests.instances import MakeFile
from tests.receive.services.datasets import commitment
from tests.storage.node import NOW, STUDY, Node

STORESCP, DCMQRSCP = Path("/usr/bin/storescp"), Path("/usr/bin/dcmqrscp")  # not what pynetdicom installs beside us
CLASSES = {"SEG": SegmentationStorage, "SR": Comprehensive3DSRStorage}
PATIENCE = timedelta(seconds=1)

Destination = DimseDestination | DicomwebDestination | FolderDestination


class Landing:
    """A SEG and an SR on their way, and those who send and confirm them."""

    def __init__(self, database: Database, folder: Path, make_file: MakeFile) -> None:
        self.node = Node(database, folder / "instances")
        self.confirmations = Confirmations(database)
        self.stop = threading.Event()
        self.ahead = timedelta()  # of the clock
        self._make_file = make_file
        self._dispatcher = Dispatcher(self.node.deliveries, [], Backoff(0, 0, 2), "dispatch")

    def job(self, *destinations: str) -> list[str]:
        """The SOP Instance UIDs of its SEG and SR."""
        self.node.queue("liver")
        job = self.node.claim()
        objects, study = [], STUDY
        for kind, sop_class_uid in CLASSES.items():
            path = self._make_file(StudyInstanceUID=study, SOPClassUID=sop_class_uid)
            ds = dcmread(path)
            objects.append(
                NewObject(
                    ds.SOPInstanceUID, sop_class_uid, ds.SeriesInstanceUID, study, kind, FileBlob(path), destinations
                )
            )
        assert self.node.jobs.succeed(job.id, "worker", objects, {}, NOW)
        return [o.sop_instance_uid for o in objects]

    def send(self, destination: Destination) -> None:
        while self._dispatcher.deliver_one(destination):
            pass

    def confirmer(
        self, *destinations: ConfirmingDestination, patience: timedelta = PATIENCE, linger: float = 20.0
    ) -> Confirmer:
        return Confirmer(
            self.confirmations,
            destinations,
            patience,
            Backoff(0.1, 0.5, 1),
            lambda: datetime.now(UTC) + self.ahead,
            linger,
        )

    def confirm(self, destination: ConfirmingDestination, *, seconds: float = 30, **kwargs: Any) -> None:
        """Until every question is closed."""
        confirmer = self.confirmer(destination, **kwargs)
        deadline = time.monotonic() + seconds
        while confirmer.confirm_next(destination, self.stop) or self.open:
            assert time.monotonic() < deadline, self.confirmations.list()
            time.sleep(0.02)

    def land(self, destination: Any, **kwargs: Any) -> None:
        self.send(destination)
        self.confirm(destination, **kwargs)

    @property
    def open(self) -> list[Confirmation]:
        return [c for c in self.confirmations.list() if c.state is not ConfirmationState.CLOSED]

    def states(self, destination: str = "pacs") -> list[str]:
        return [str(d.state) for d in self.node.deliveries.list(destination=destination)]

    def told_why(self, destination: str) -> list[str]:
        """The reasons of its deliveries, each once."""
        found = self.node.deliveries.list(destination=destination)
        return list(dict.fromkeys(d.reason for d in found if d.reason))

    def told(self, *words: str) -> list[str]:
        return [text for text in self.node.texts() if any(word in text for word in words)]


@pytest.fixture
def landing(tmp_path: Path, make_file: MakeFile) -> Iterator[Landing]:
    database = Database(default_url(tmp_path))
    database.upgrade()
    yield Landing(database, tmp_path, make_file)
    database.close()


@pytest.fixture
def receiver(landing: Landing, tmp_path: Path) -> Iterator[Target]:
    """The node's receiver, which meets the confirmer in the database alone."""
    service = ConfirmationService(landing.confirmations)
    push_model = SopClass(PUSH_MODEL, ServiceName.COMMITMENT, scu_role=True, scp_role=True)
    policy = ReceivePolicy("NODE", "127.0.0.1", 0)
    services = [DimseService((push_model,), tuple(service.handlers()))]
    journal, key = Journal(tmp_path / "journal", 0), PatientKey(tmp_path / PATIENT_KEY)
    started = Receiver(policy, journal, key, "receive-0", services)
    started.start()
    yield Target("NODE", "127.0.0.1", started.port)
    started.stop(grace=0.5)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the confirmer has said at error level."""
    return [
        r.getMessage()
        for r in caplog.records
        if r.levelno == logging.ERROR and r.name == "dicom_node.deliver.confirmer"
    ]


# -- Orthanc: reports on an association of its own ---------------------------------------------------------------------


def orthanc(folder: Path, node: Target, **changes: bool) -> Pacs:
    """Orthanc, with these permissions of ours changed."""
    if find_orthanc() is None:
        pytest.skip("Orthanc is not installed: run tests/install-peers.sh")
    pacs = start_pacs(folder / "pacs", node=node, kind=PacsKind.ORTHANC)
    if changes:
        pacs.stop()
        configuration = folder / "pacs" / "orthanc.json"
        written = json.loads(configuration.read_text())
        written["DicomModalities"]["node"].update(changes)
        configuration.write_text(json.dumps(written))
        pacs.start()
    return pacs


def remove(pacs: Any, sop_instance_uid: str) -> None:
    (found,) = json.loads(pacs._request("/tools/lookup", sop_instance_uid.encode()))
    request = urllib.request.Request(f"{pacs.http_url}/instances/{found['ID']}", method="DELETE")
    pacs._opener.open(request).close()


def at(pacs: Pacs, timeout: float = 10.0) -> DimseDestination:
    return DimseDestination("pacs", "NODE", pacs.ae_title, pacs.host, pacs.port, timeout)


def test_orthanc_commits_and_what_it_lost_is_sent_once_more(
    landing: Landing, receiver: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with orthanc(tmp_path, receiver) as pacs:
        seg, sr = landing.job("pacs")
        landing.send(at(pacs))
        remove(pacs, seg)
        landing.confirm(at(pacs), patience=timedelta(seconds=20))
        assert landing.states() == ["QUEUED", "COMMITTED"]
        why = "SEG → pacs: accepted but not committed (it reports 0x0112, no such instance), and is sent once more"
        assert landing.told("not committed") == [f"warning: {why}"]
        alarms = errors(caplog)
        assert len(alarms) == 1
        assert "once more: accepted but not committed" in alarms[0]
        landing.land(at(pacs), patience=timedelta(seconds=20))
        assert landing.states() == ["COMMITTED", "COMMITTED"]
        assert {i.sop_instance_uid for i in pacs.instances(STUDY)} == {seg, sr}
    assert [c.report is not None for c in landing.confirmations.list()] == [True, True]
    assert landing.told("storage committed") == [
        "delivered: SR → pacs: storage committed", "delivered: SEG → pacs: storage committed"
    ]  # fmt: skip


def test_an_orthanc_that_may_not_commit_is_asked_what_it_holds(
    landing: Landing, receiver: Target, tmp_path: Path
) -> None:
    with orthanc(tmp_path, receiver, AllowStorageCommitment=False) as pacs:
        _, sr = landing.job("pacs")
        landing.send(at(pacs))
        remove(pacs, sr)
        landing.confirm(at(pacs))
        assert landing.states() == ["COMMITTED", "QUEUED"]
        assert landing.told("not committed") == [
            "warning: SR → pacs: accepted but not committed (a query does not find it), and is sent once more"
        ]
        landing.land(at(pacs))
    assert landing.states() == ["COMMITTED", "COMMITTED"]
    assert landing.told("found there") == [
        "delivered: SEG → pacs: found there by a query", "delivered: SR → pacs: found there by a query"
    ]  # fmt: skip


def test_a_report_that_cannot_reach_us_is_replaced_by_a_query(landing: Landing, tmp_path: Path) -> None:
    """Orthanc takes the request, and knows a wrong port of ours."""
    with orthanc(tmp_path, Target("NODE", "127.0.0.1", free_port())) as pacs:
        landing.job("pacs")
        landing.land(at(pacs), linger=0.2)
    assert landing.states() == ["COMMITTED", "COMMITTED"]
    assert len(landing.told("found there")) == 2


# -- a PACS by script: reports on the association that asked -----------------------------------------------------------

Tell = Callable[[Any, Dataset], None]  # is given the association and the request


class Scripted:
    """Takes everything. `tell` is called with each request for commitment, before it is answered or, where `later`,
    a while after."""

    def __init__(self, tell: Tell | None = None, *, later: float | None = None, status: int = 0x0000) -> None:
        self.stored: list[str] = []
        self.asked: list[list[str]] = []
        self.statuses: list[int | None] = []  # the node's answers to reports
        self._tell, self._later, self._status = tell, later, status
        ae = AE("PACS")
        for sop_class_uid in CLASSES.values():
            ae.add_supported_context(sop_class_uid, ExplicitVRLittleEndian)
        ae.add_supported_context(PUSH_MODEL, ImplicitVRLittleEndian)
        self.server = ae.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action)],
        )
        self.destination = DimseDestination("pacs", "NODE", "PACS", "127.0.0.1", self.server.server_address[1], 5.0)

    def report(self, assoc: Any, report: OutgoingReport) -> None:
        answer, _ = assoc.send_n_event_report(report.dataset(), report.event_type, PUSH_MODEL, PUSH_MODEL_INSTANCE)
        self.statuses.append(answer.get("Status"))

    def _store(self, event: Any) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    def _action(self, event: Any) -> tuple[int, None]:
        ds = event.action_information
        self.asked.append([str(item.ReferencedSOPInstanceUID) for item in ds.ReferencedSOPSequence])
        if self._tell is not None and self._status == 0x0000:
            if self._later is None:
                self._tell(event.assoc, ds)
            else:
                threading.Timer(self._later, self._tell, (event.assoc, ds)).start()
        return self._status, None


def items(ds: Dataset) -> tuple[tuple[str, str], ...]:
    return tuple((str(i.ReferencedSOPClassUID), str(i.ReferencedSOPInstanceUID)) for i in ds.ReferencedSOPSequence)


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    started: list[Scripted] = []

    def start(*args: Any, **kwargs: Any) -> Scripted:
        started.append(Scripted(*args, **kwargs))
        return started[-1]

    yield start
    for pacs in started:
        with suppress(ValueError):  # it was shut down before
            pacs.server.shutdown()


@pytest.mark.parametrize("later", [None, 0.3], ids=["before its answer", "afterwards"])
def test_a_report_comes_on_the_association_that_asked(
    landing: Landing, scripted: Callable[..., Scripted], later: float | None
) -> None:
    def commit(assoc: Any, ds: Dataset) -> None:
        pacs.report(assoc, OutgoingReport(ds.TransactionUID, items(ds), ()))

    pacs = scripted(commit, later=later)
    uids = landing.job("pacs")
    begun = time.monotonic()
    landing.land(pacs.destination)
    assert time.monotonic() - begun < 15  # nobody lingers after the report
    assert landing.states() == ["COMMITTED", "COMMITTED"]
    assert pacs.asked == [uids]
    assert pacs.statuses == [0x0000]


def test_only_what_a_report_names_as_failed_is_sent_again(landing: Landing, scripted: Callable[..., Scripted]) -> None:
    def commit(assoc: Any, ds: Dataset) -> None:
        wanted = items(ds)
        failed = tuple(
            FailedInstance(*i, FailureReason.PROCESSING_FAILURE) for i in wanted if i[0] == SegmentationStorage
        )
        failed = failed if len(pacs.asked) == 1 else ()
        lost = {f.sop_instance_uid for f in failed}
        pacs.report(assoc, OutgoingReport(ds.TransactionUID, tuple(i for i in wanted if i[1] not in lost), failed))

    pacs = scripted(commit, later=0.1)
    seg, sr = landing.job("pacs")
    landing.land(pacs.destination)
    assert landing.states() == ["QUEUED", "COMMITTED"]
    landing.land(pacs.destination)
    assert landing.states() == ["COMMITTED", "COMMITTED"]
    assert pacs.stored == [seg, sr, seg]
    assert pacs.asked == [[seg, sr], [seg]]


def test_a_pacs_that_never_commits_raises_the_alarm_and_fails_at_the_second_time(
    landing: Landing, scripted: Callable[..., Scripted], caplog: pytest.LogCaptureFixture
) -> None:
    pacs = scripted()
    seg, sr = landing.job("pacs")
    landing.land(pacs.destination, linger=0.2)
    assert landing.states() == ["QUEUED", "QUEUED"]
    why = f"no report came within 1 s, and PACS at 127.0.0.1:{pacs.destination.port} does not accept queries"
    assert landing.told("once more") == [
        f"warning: {kind} → pacs: accepted but not committed ({why}), and is sent once more" for kind in ("SEG", "SR")
    ]
    landing.land(pacs.destination, linger=0.2)
    assert landing.states() == ["FAILED", "FAILED"]
    assert pacs.stored == [seg, sr] * 2  # the SEG first, again
    failed = landing.node.deliveries.list()
    assert {d.reason for d in failed} == {f"accepted twice and not committed ({why})"}
    assert len(errors(caplog)) == 4
    assert all(landing.node.deliveries.retry(d.id) for d in failed)
    landing.send(pacs.destination)
    assert landing.states() == ["SENT", "SENT"]
    assert len(pacs.stored) == 6
    assert "SECRET" not in caplog.text


def test_a_request_that_is_refused_leaves_the_question_to_a_query(
    landing: Landing, scripted: Callable[..., Scripted]
) -> None:
    pacs = scripted(status=0x0110)
    landing.job("pacs")
    landing.land(pacs.destination)
    assert landing.states() == ["SENT", "SENT"]
    assert len(landing.told("cannot be confirmed")) == 1


def test_a_pacs_that_breaks_off_is_asked_again(landing: Landing, scripted: Callable[..., Scripted]) -> None:
    def breaks_off_once(assoc: Any, ds: Dataset) -> None:
        if len(pacs.asked) == 1:
            assoc.abort()
        else:
            pacs.report(assoc, OutgoingReport(ds.TransactionUID, items(ds), ()))

    pacs = scripted(breaks_off_once)
    landing.job("pacs")
    landing.land(pacs.destination)
    assert landing.states() == ["COMMITTED", "COMMITTED"]
    assert len(pacs.asked) == 2
    assert len({c.transaction_uid for c in landing.confirmations.list()}) == 2


def test_a_pacs_that_always_breaks_off_confirms_nothing(landing: Landing, scripted: Callable[..., Scripted]) -> None:
    bad = scripted(lambda assoc, ds: assoc.abort())
    landing.job("pacs")
    landing.land(bad.destination)
    assert landing.states() == ["SENT", "SENT"]
    (told,) = landing.told("cannot be confirmed")
    assert "broke off the association, and PACS" in told


def test_a_pacs_that_is_away_is_asked_again_and_holds_up_no_other(
    landing: Landing, scripted: Callable[..., Scripted], tmp_path: Path
) -> None:
    def commit(assoc: Any, ds: Dataset) -> None:
        pacs.report(assoc, OutgoingReport(ds.TransactionUID, items(ds), ()))

    pacs = scripted(commit, later=0.1)
    (tmp_path / "inbox").mkdir()
    inbox = FolderDestination("inbox", tmp_path / "inbox")
    landing.job("pacs", "inbox")
    landing.send(pacs.destination)
    landing.send(inbox)
    pacs.server.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        port = silent.getsockname()[1]
        away = DimseDestination("pacs", "NODE", "PACS", "127.0.0.1", port, 0.5)
        running = threading.Thread(target=landing.confirmer(away, inbox).run, args=(landing.stop,))
        running.start()
        deadline = time.monotonic() + 10
        while landing.states("inbox") != ["COMMITTED", "COMMITTED"] or not landing.told_why("pacs"):
            assert time.monotonic() < deadline, landing.states("inbox")
            time.sleep(0.05)
    landing.stop.set()
    running.join()
    assert landing.states() == ["SENT", "SENT"]
    assert landing.told_why("pacs") == [
        f"not confirmed yet: PACS at 127.0.0.1:{port} cannot be reached, or does not answer"
    ]
    # A dispatcher of another life comes back to it.
    mended = scripted(lambda assoc, ds: mended.report(assoc, OutgoingReport(ds.TransactionUID, items(ds), ())))
    landing.stop.clear()
    landing.ahead = ASKING
    landing.confirm(mended.destination)
    assert landing.states() == ["COMMITTED", "COMMITTED"]
    assert landing.told_why("pacs") == []


class InItsPlace(DimseDestination):
    """Finds each object in its own place, however it is asked."""

    def moved(self, references: Collection[InstanceReference]) -> dict[str, StoredAs]:
        return {
            r.sop_instance_uid: StoredAs(r.sop_instance_uid, r.series_instance_uid, r.study_instance_uid)
            for r in references
        }


def test_what_a_report_denies_is_not_committed_though_it_is_in_its_place(
    landing: Landing, scripted: Callable[..., Scripted], caplog: pytest.LogCaptureFixture
) -> None:
    def deny(assoc: Any, ds: Dataset) -> None:
        failed = tuple(FailedInstance(*item, FailureReason.PROCESSING_FAILURE) for item in items(ds))
        pacs.report(assoc, OutgoingReport(ds.TransactionUID, (), failed))

    pacs = scripted(deny, later=0.1)
    landing.job("pacs")
    landing.land(InItsPlace(**vars(pacs.destination)))
    assert landing.states() == ["QUEUED", "QUEUED"]
    assert not any("other UIDs" in text for text in errors(caplog))


class Half(DimseDestination):
    """Offers no commitment, finds nothing in its series, and breaks off at other questions."""

    def commit(self, *args: Any) -> None:
        raise PeerRefused("no commitment")

    def stored(self, references: Collection[InstanceReference]) -> set[str]:
        return set()

    def moved(self, references: Collection[InstanceReference]) -> dict[str, StoredAs]:
        raise PeerUnavailable("broke off")


def test_a_question_beyond_the_baseline_that_is_never_answered_postpones_nothing(
    landing: Landing, scripted: Callable[..., Scripted]
) -> None:
    pacs = scripted()
    landing.job("pacs")
    landing.land(Half(**vars(pacs.destination)), patience=timedelta())
    assert landing.states() == ["QUEUED", "QUEUED"]


# -- PACSs without storage commitment ----------------------------------------------------------------------------------

Program = Callable[[Sequence[str | Path], int], DimseDestination]


@pytest.fixture
def program() -> Iterator[Program]:
    """Starts one of dcmtk's servers."""
    started: list[subprocess.Popen[bytes]] = []

    def start(command: Sequence[str | Path], port: int) -> DimseDestination:
        if not Path(command[0]).is_file():
            pytest.skip("dcmtk is not installed: run tests/install-peers.sh")
        started.append(subprocess.Popen(command))
        destination = DimseDestination("pacs", "NODE", "PACS", "127.0.0.1", port, 5.0)
        deadline = time.monotonic() + 10
        while not destination.echo().ok:
            assert time.monotonic() < deadline, f"{command[0]} does not start"
            time.sleep(0.05)
        return destination

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_pacs_that_answers_queries_alone(landing: Landing, program: Program, tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "archive"
    folder.mkdir()
    configuration = tmp_path / "dcmqrscp.cfg"
    configuration.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nPACS {folder} RW (9, 1024mb) ANY\nAETable END\n"
    )
    pacs = program([DCMQRSCP, "-c", configuration, str(port)], port)
    landing.job("pacs")
    landing.land(pacs)
    assert landing.states() == ["COMMITTED", "COMMITTED"]
    assert len(landing.told("found there by a query")) == 2


def test_a_query_names_all_keys_of_its_hierarchy(landing: Landing) -> None:
    """Baseline behaviour (PS3.4 C.4.1.2.1): one value for each unique key above the level that is asked for."""
    model = StudyRootQueryRetrieveInformationModelFind
    seg, sr = (InstanceReference("1.2.3", f"1.2.3.{n}", SegmentationStorage, f"1.2.3.{n}.1") for n in (1, 2))

    def find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        asked = (query.QueryRetrieveLevel, query.StudyInstanceUID, query.SeriesInstanceUID, query.SOPInstanceUID)
        if asked == ("IMAGE", "1.2.3", "1.2.3.1", ""):
            for uid in ("1.2.3.1.1", "1.2.3.1.9"):
                query.SOPInstanceUID = uid
                yield 0xFF00, query

    ae = AE("PACS")
    ae.add_supported_context(model)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, find)])
    pacs = DimseDestination("pacs", "NODE", "PACS", "127.0.0.1", server.server_address[1], 5.0)
    assert pacs.stored([seg, sr]) == {"1.2.3.1.1"}
    server.shutdown()


def test_a_pacs_that_can_confirm_nothing_is_said_to_once(landing: Landing, program: Program, tmp_path: Path) -> None:
    port = free_port()
    pacs = program([STORESCP, "-od", tmp_path, "-pm", str(port)], port)
    landing.job("pacs")
    landing.land(pacs)
    assert landing.states() == ["SENT", "SENT"]
    why = f"it offers no storage commitment, and PACS at 127.0.0.1:{port} does not accept queries"
    assert landing.told("confirm") == [f"delivered: SEG, SR → pacs: arrived, but cannot be confirmed: {why}"]
    assert not landing.confirmer(pacs).confirm_next(pacs, landing.stop)  # and is not asked again


def test_an_archive_is_asked_over_dicomweb(landing: Landing, tmp_path: Path) -> None:
    with orthanc_web(tmp_path / "web") as web:
        (tmp_path / "secret").write_text(web.password, encoding="utf-8")
        archive = DicomwebDestination("pacs", web.url, 10, BasicAuth(web.username, tmp_path / "secret"))
        landing.job("pacs")
        landing.land(archive)
    assert landing.states() == ["COMMITTED", "COMMITTED"]


def test_what_was_taken_from_an_inbox_cannot_be_confirmed(landing: Landing, tmp_path: Path) -> None:
    inbox = FolderDestination("pacs", tmp_path / "inbox")
    inbox.path.mkdir()
    landing.job("pacs")
    landing.send(inbox)
    next(inbox.path.rglob("*.dcm")).unlink()
    landing.confirm(inbox)
    assert landing.states() == ["SENT", "SENT"]
    assert len(landing.told("cannot be confirmed")) == 1


def test_a_destination_may_be_left_unasked(tmp_path: Path) -> None:
    entries = "".join(
        f'[[destinations]]\nname = "{name}"\nkind = "folder"\npath = "{name}"\n{more}\n'
        for name, more in (("asked", ""), ("unasked", 'confirm = "none"'))
    )
    (tmp_path / "node.toml").write_text(f"[dispatch]\ncommitment_timeout_seconds = 90\n{entries}")
    settings = load_settings(tmp_path / "node.toml")
    stores = open_stores(settings.stores, upgrade=True)
    confirmer = build_confirmer(settings, stores)
    stores.database.close()
    assert [d.name for d in confirmer._destinations] == ["asked"]
    assert confirmer._patience == timedelta(seconds=90)


# -- reports on associations of peers ----------------------------------------------------------------------------------


def scp(target: Target, roles: tuple[bool, bool] | None) -> Any:
    """An association of a PACS, with these roles of its own as (SCU, SCP)."""
    ae = AE("PACS")
    ae.dimse_timeout = 10
    ae.add_requested_context(PUSH_MODEL)
    negotiation = [] if roles is None else [build_role(PUSH_MODEL, *roles)]
    assoc = ae.associate(target.host, target.port, ae_title="NODE", ext_neg=negotiation)
    assert assoc.is_established
    assoc.accepted_contexts[0]._as_scp = True  # or pynetdicom would not even send what is out of its role
    return assoc


def told(assoc: Any, ds: Dataset, event_type: int = ALL_COMMITTED, instance: str = PUSH_MODEL_INSTANCE) -> int:
    answer, _ = assoc.send_n_event_report(ds, event_type, PUSH_MODEL, instance)
    return int(answer.Status)


@pytest.mark.parametrize("roles", [(False, True), (True, True)])
def test_what_is_answered_to_a_report(landing: Landing, receiver: Target, roles: tuple[bool, bool]) -> None:
    landing.job("pacs")
    for kind in CLASSES:
        delivery = landing.node.next("pacs")
        assert delivery is not None, kind
        assert landing.node.deliveries.sent(delivery.id, "dispatch", NOW)
    now = datetime.now(UTC)
    asked = landing.confirmations.begin("pacs", "1.9.1", now, now, NOW)
    assert asked is not None
    ds = commitment("1.9.1", *asked.items)
    assoc = scp(receiver, roles)
    assert told(assoc, commitment("1.9.9", *asked.items)) == DimseStatus.INVALID_ARGUMENT_VALUE  # of nobody's request
    assert told(assoc, ds, event_type=3) == DimseStatus.NO_SUCH_EVENT_TYPE
    assert told(assoc, ds, instance="1.2.3") == DimseStatus.NO_SUCH_SOP_INSTANCE
    nameless = commitment("1.9.1", *asked.items)
    del nameless.TransactionUID
    assert told(assoc, nameless) == DimseStatus.INVALID_ARGUMENT_VALUE
    assert [c.state for c in landing.confirmations.list()] == [ConfirmationState.ASKING]
    assert told(assoc, ds) == 0x0000
    assert told(assoc, ds, FAILURES_EXIST) == 0x0000  # again: nothing changes
    assoc.release()
    (kept,) = landing.confirmations.list()
    assert kept.report == ConfirmationReport(tuple(sorted(uid for _, uid in asked.items)), {})


@pytest.mark.parametrize("roles", [None, (True, False)])
def test_a_peer_that_is_not_scp_cannot_report(
    landing: Landing, receiver: Target, roles: tuple[bool, bool] | None
) -> None:
    assoc = scp(receiver, roles)
    assert told(assoc, commitment("1.9.1", (SegmentationStorage, "1.2.3"))) == DimseStatus.UNRECOGNIZED_OPERATION
    assoc.release()


def test_what_was_asked_of_a_destination_that_left_is_given_up(landing: Landing) -> None:
    landing.job("pacs")
    landing.node.arrive("pacs")
    assert landing.confirmations.begin("pacs", "1.9.1", NOW, NOW, NOW) is not None
    assert len(landing.confirmations.list(WAITING)) == 1
    landing.stop.set()
    landing.confirmer().run(landing.stop)
    assert landing.confirmations.list(WAITING) == []
    assert landing.told_why("pacs") == ["cannot be confirmed: the destination is not to be asked any more"]
