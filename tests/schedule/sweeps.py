"""The sweeps over a real database with a clock of ours, and studies that come to it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.complete.rule import CompletionRule
from dicom_node.complete.source_pacs import SourceQuestions
from dicom_node.complete.sweep import CompletionSweep
from dicom_node.route.earlier_studies import EarlierStudies
from dicom_node.route.early_start import EarlyStarter
from dicom_node.route.received_series import ReceivedSeries
from dicom_node.route.recognition import RecognitionAhead, SeriesRecogniser
from dicom_node.route.reporting import NoResultSweep
from dicom_node.route.routable import RoutableStudies, Urgency
from dicom_node.route.sweep import RoutingSweep
from dicom_node.schedule import ScheduledTask
from inference.contract.manifest import InputRule, Manifest
from inference.series.site_table import SiteTable
from storage.blobs import FileBlob
from storage.log.filing.associations import AssociationEnded, AssociationOpened
from storage.log.headers.patient_header import read_identity
from storage.records.evidence import AssociationEnd
from storage.records.instances import Facts, ReceivedInstance
from storage.tables.database.connection import Database, default_url
from storage.tables.patients import Patients
from storage.tables.problems import Problems
from storage.tables.queueing import NoResults
from tests.storage.node import STUDY, Node, received, sent_file

RULE = CompletionRule(quiet=30, released=10, settled=2, maximum_age=600)
REPORT_QUIET = 900
START = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START
        self.ahead = timedelta()  # of the wall clock
        self.index_stalled_at: datetime | None = None

    def filed(self) -> datetime | None:
        return self.now if self.index_stalled_at is None else self.index_stalled_at

    def __call__(self) -> datetime:
        return self.now

    def wall(self) -> datetime:
        return self.now + self.ahead

    def step(self, seconds: float) -> None:
        """Set the wall clock."""
        self.ahead += timedelta(seconds=seconds)

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Source:
    """A PACS that counts, refuses or is away."""

    name = "archive"

    def __init__(self) -> None:
        self.count: int | Exception = 0
        self.asked: list[str] = []

    def count_instances(self, study_instance_uid: str) -> int:
        self.asked.append(study_instance_uid)
        if isinstance(self.count, Exception):
            raise self.count
        return self.count


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    database = Database(default_url(tmp_path))
    database.upgrade()
    yield Node(database, tmp_path / "instances")
    database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> Source:
    return Source()


class Sweeps:
    """The sweeps and the questions to the source, wired over one node as the `schedule` role wires them."""

    def __init__(
        self,
        node: Node,
        clock: Clock,
        source: Source | None = None,
        applications: Sequence[ConfiguredApplication] = (),
        peers: dict[str, int] | None = None,
        site: SiteTable = (),
        patients: Patients | None = None,
    ) -> None:
        rule = RULE if source is None else replace(RULE, source=source.name)
        received_series = ReceivedSeries(node.instances)
        recogniser = SeriesRecogniser(node.instances, site)
        earlier = None
        if patients is not None and any(a.manifest is not None and a.manifest.earlier for a in applications):
            earlier = EarlierStudies(patients, node.instances, received_series, recogniser)
        urgency = Urgency(peers or {})
        routable = RoutableStudies(node.studies, received_series, recogniser, earlier, urgency)
        early = [a for a in applications if a.starts_on_inputs and a.manifest is not None]
        starter = EarlyStarter(node.studies, routable, early)
        start_early = starter.start if early else None
        completion = CompletionSweep(node.studies, rule, clock.filed, start_early, clock, clock.wall)
        self.problems = Problems(node.database)
        routing = RoutingSweep(
            node.studies, routable, earlier, self.problems, applications, clock, lambda: clock.now.timestamp()
        )
        ahead = RecognitionAhead(node.instances, received_series, recogniser, lambda: clock.now.timestamp())
        no_results = NoResults(node.database)
        report = NoResultSweep(
            node.studies, no_results, applications, REPORT_QUIET, clock, lambda: clock.now.timestamp()
        )
        self.sweep = ScheduledTask("sweep", 1, (completion.sweep, routing.sweep, ahead.advance, report.sweep)).run
        if source is not None:
            self.ask_source = SourceQuestions(node.studies, source, rule, completion, clock, clock.wall).ask


def bring(node: Node, clock: Clock, number: int, association: str = "", study: str = STUDY, **facts: object) -> None:
    sent = received(number, study=study if len(study) < 60 else "1.5", association=association)
    instance = replace(
        sent.instance,
        study_instance_uid=study,
        facts=Facts(**facts),  # type: ignore[arg-type]
        received_at=clock.wall(),
    )
    node.store(replace(sent, instance=instance))


def application(start: bool = True, kind: str = "T1w") -> ConfiguredApplication:
    manifest = Manifest("x", "mass", "1", "X", (InputRule("t1w", kind=kind),), Path("."), {}, "a")
    return ConfiguredApplication("mass", ("pacs",), manifest, starts_on_inputs=start)


def push(node: Node, clock: Clock, paths: Sequence[Path], association: str, declared: int | None) -> None:
    """Real images, with the facts their headers hold."""
    filing = node.instances.filing()
    filing.opened(AssociationOpened(association, "MR1", "NODE", "host", "receive-0", clock.wall()))
    for path in paths:
        ds = dcmread(path, stop_before_pixels=True)
        facts = Facts(
            instance_number=int(ds.InstanceNumber), acquisition_number=1, images_in_acquisition=declared,
            position=tuple(map(float, ds.ImagePositionPatient)),  # type: ignore[arg-type]
            orientation=tuple(map(float, ds.ImageOrientationPatient)),  # type: ignore[arg-type]
        )  # fmt: skip
        instance = ReceivedInstance(
            str(ds.SOPInstanceUID), str(ds.SOPClassUID), str(ds.SeriesInstanceUID), str(ds.StudyInstanceUID),
            str(ds.file_meta.TransferSyntaxUID), "MR", "MR1", association, clock.wall(), facts,
            patient=read_identity(FileBlob(path)),
        )  # fmt: skip
        node.add(filing, sent_file(path, instance))
    filing.commit()


def release(node: Node, clock: Clock, association: str) -> None:
    filing = node.instances.filing()
    filing.ended(AssociationEnded(association, AssociationEnd.RELEASED, clock.wall()))
    filing.commit()


def end(sweeper: Sweeps, node: Node, clock: Clock) -> None:
    release(node, clock, "a")
    for _ in range(12):
        clock.pass_(1)
        sweeper.sweep()
