"""The stores of one node over one database, and short ways to bring a study where a test needs it."""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian

from storage.blobs import Blob, FileBlob, dataset_offset
from storage.log.files import FileMeta
from storage.log.filing.associations import AssociationEnded, AssociationOpened
from storage.log.filing.batch import Filing
from storage.log.filing.reached import Reached, read_reached
from storage.log.headers.instance_reader import InstanceReader
from storage.log.instances import InstanceStore
from storage.log.journal import Journal
from storage.log.segments.ranges import SegmentRange
from storage.log.segments.store import Segments, address_of
from storage.records.completion import Completion, Evidence
from storage.records.deliveries import Delivery
from storage.records.evidence import AssociationEnd
from storage.records.instances import Instance, ReceivedInstance, Stored
from storage.records.jobs import Job, NewJob, NoResultDetail, WithoutResult
from storage.records.patients import NOBODY, PatientIdentity
from storage.records.results import NewObject, ObjectKind
from storage.records.routing import ApplicationDecision, EarlyStart, RoutingDecision
from storage.records.studies import Study
from storage.tables.database.connection import Database
from storage.tables.deliveries import Deliveries
from storage.tables.jobs import Jobs
from storage.tables.queueing import NoResults
from storage.tables.results import Results
from storage.tables.studies import Studies

MR = "1.2.840.10008.5.1.4.1.1.4"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
STUDY = "1.2.3"
RECEIVER = "test-node"  # whose journal has what a test stores without a receiver
NOW = datetime(2026, 5, 4, 12, 0, 0, 123456, tzinfo=UTC)
SECRET = "SECRET^PERSON"

UNDECIDED = RoutingDecision()


def only_mr(sop_class_uid: str, modality: str) -> bool:
    return modality == "MR"


def received(  # noqa: PLR0913 - a test names the few that it changes
    number: int = 1,
    *,
    study: str = STUDY,
    series: int = 1,
    modality: str = "MR",
    comment: str = "",
    name: str = SECRET,
    association: str = "",
    sop: str | None = None,
    pixels: bytes = b"\1\2\3\4",
    size: int = 2,
    patient: PatientIdentity = NOBODY,
) -> "Sent":
    """An instance with a patient's name in its dataset; other `pixels` make another image, another `name` or
    `comment` another version of the same."""
    ds = Dataset()
    ds.SOPClassUID = MR if modality == "MR" else SR
    ds.SOPInstanceUID = sop or f"{study}.{series}.{number}"
    ds.Modality = modality
    ds.PatientName = name
    ds.PatientID = patient.patient_id or SECRET
    ds.StudyInstanceUID = study
    ds.SeriesInstanceUID = f"{study}.{series}"
    ds.ImageComments = comment
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = size, size, 8, 8, 7
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.add_new("PixelData", "OB", pixels)
    buffer = DicomBytesIO()
    buffer.is_little_endian = True
    buffer.is_implicit_VR = False
    write_dataset(buffer, ds)
    instance = ReceivedInstance(
        sop_instance_uid=ds.SOPInstanceUID,
        sop_class_uid=ds.SOPClassUID,
        series_instance_uid=ds.SeriesInstanceUID,
        study_instance_uid=study,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        modality=modality,
        source_ae_title="MR1",
        association=association,
        received_at=datetime.now(UTC),
        patient=patient,
    )
    return sent_as(instance, buffer.getvalue())


def sent_as(instance: ReceivedInstance, dataset: bytes) -> "Sent":
    """Read a dataset as the receiver does."""
    reader = InstanceReader(instance.transfer_syntax_uid, hashing=True)
    reader.update(dataset, final=True)
    return Sent(replace(instance, hashes=reader.hashes()), dataset, reader.kept_header())


def sent_file(path: Path, instance: ReceivedInstance) -> "Sent":
    """Read a Part 10 file as the receiver reads what is sent."""
    content = path.read_bytes()
    return sent_as(instance, content[dataset_offset(content[:144]) :])


def overwrite(blob: Blob, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of a logged instance where they lie, without changing their number."""
    assert isinstance(blob, SegmentRange)
    blob.path.chmod(0o600)
    with blob.path.open("r+b") as segment:
        segment.seek(blob.offset)
        changed = change(segment.read(blob.size))
        assert len(changed) == blob.size
        segment.seek(blob.offset)
        segment.write(changed)


@dataclass(frozen=True)
class Sent:
    """An instance that a peer sent: what the receiver knows of it, its dataset, and its kept header."""

    instance: ReceivedInstance
    dataset: bytes
    kept: bytes = b""

    @property
    def file(self) -> bytes:
        i = self.instance
        meta = FileMeta(i.sop_class_uid, i.transfer_syntax_uid, i.source_ae_title).header(i.sop_instance_uid)
        return meta + self.dataset


class Node:
    def __init__(self, database: Database, root: Path) -> None:
        self.database = database
        self.root = root
        self.journals = root.parent / "journal"
        self.instances = InstanceStore(database, self.journals, root, only_mr)
        self._journal: Journal | None = None
        self._stored_in = self._stored_until = 0  # segment and offset behind what was stored last
        self.studies = Studies(database)
        self.jobs = Jobs(database)
        self.no_results = NoResults(database)
        self.results = Results(database)
        self.deliveries = Deliveries(database)

    def store(self, sent: Sent) -> Stored:
        """Stores and files one instance, as the receiver and the indexer do with many."""
        filing = self.instances.filing()
        self.add(filing, sent)
        (stored,) = filing.commit()
        return stored

    def add(self, filing: Filing, sent: Sent) -> None:
        """Adds an instance to a batch, once it is in a journal of its own."""
        if self._journal is None:
            self._journal = Journal(self.journals / RECEIVER)
            self._journal.open()
            weakref.finalize(self, self._journal.close)
        self._journal.store(sent.instance, sent.file, kept=sent.kept)
        segments = Segments(self.journals)
        number = segments.last(RECEIVER)
        start = self._stored_until if number == self._stored_in else 0
        with segments.open(RECEIVER, number) as reader:
            *_, frame = reader.frames(start)
        self._stored_in, self._stored_until = number, frame.end
        filing.instance(sent.instance, address_of(frame, RECEIVER, number), frame.kept)
        noted = next((one for one in read_reached(self.database) if one.receiver == RECEIVER), None)
        filing.reached(Reached(RECEIVER, number, frame.end, number), noted)

    def open_association(self, key: str = "a", calling: str = "MR1", receiver: str = "receive-0") -> str:
        filing = self.instances.filing()
        filing.opened(AssociationOpened(key, calling, "NODE", "host", receiver, datetime.now(UTC)))
        filing.commit()
        return key

    def end_association(self, key: str, end: AssociationEnd) -> None:
        filing = self.instances.filing()
        filing.ended(AssociationEnded(key, end, datetime.now(UTC)))
        filing.commit()

    def instance(self, sop_instance_uid: str) -> Instance | None:
        """The current version of an instance."""
        return next((i for i in self.instances.all() if i.sop_instance_uid == sop_instance_uid), None)

    def study(self, uid: str = STUDY) -> Study:
        found = self.studies.get(uid)
        assert found is not None
        return found

    def complete(self, uid: str = STUDY) -> Study:
        (evidence,) = self.studies.evidence(uid)
        assert self.studies.complete(evidence, completion("quiet"), NOW)
        return self.study(uid)

    def route(self, *applications: str, fingerprint: str | None = None, uid: str = STUDY) -> Study:
        """Completes and routes the current revision to jobs of these applications."""
        study = self.complete(uid)
        jobs = [
            NewJob(uid, study.revision, a, {"t1": f"{uid}.1"}, fingerprint or f"{a}/{study.revision}")
            for a in applications
        ]
        assert self.studies.route(uid, study.revision, "applies", jobs, decision_on(*applications), NOW)
        return self.study(uid)

    def queue(self, *applications: str, uid: str = STUDY) -> None:
        """A received study with a queued job for each application."""
        self.store(received(study=uid))
        self.route(*applications, uid=uid)

    def report(self, *applications: WithoutResult, contents: str = "a", uid: str = STUDY) -> int | None:
        """Decide on the report of no result of a marked study; return the id of its job, if there is one."""
        (marked,) = (m for m in self.no_results.pending() if m.study.study_instance_uid == uid)
        return self.no_results.decide(marked, NoResultDetail(applications, contents), NOW)

    def claim(self, worker: str = "worker", now: datetime = NOW) -> Job:
        job = self.jobs.claim(worker, now)
        assert job is not None
        return job

    def heartbeats_before(self, moment: datetime) -> dict[int, datetime]:
        """The running jobs whose last heartbeat is older."""
        return {job: at for job, at in self.jobs.heartbeats().items() if at < moment}

    def succeed(self, job: Job, *destinations: str, worker: str = "worker") -> bool:
        return self.jobs.succeed(job.id, worker, objects(job, *destinations), {"device": "cpu"}, NOW)

    def deliver(self, *destinations: str) -> Job:
        """A job that succeeded with a SEG and an SR for these destinations."""
        self.queue("liver")
        job = self.claim()
        assert self.succeed(job, *destinations)
        return job

    def arrive(self, destination: str = "PACS") -> None:
        """Everything that is due there gets there."""
        while (delivery := self.next(destination)) is not None:
            assert self.deliveries.sent(delivery.id, "dispatch", NOW)

    def next(self, destination: str = "PACS", now: datetime = NOW) -> Delivery | None:
        return self.deliveries.claim(destination, "dispatch", now)

    def texts(self, uid: str = STUDY) -> list[str]:
        return [f"{e.stage}: {e.text}" for e in self.studies.events(uid)]


def completion(reason: str) -> Completion:
    return Completion(Evidence.QUIET, reason)


def decision_on(*applications: str) -> RoutingDecision:
    """A decision that these applications apply."""
    return RoutingDecision(applications=tuple(ApplicationDecision(a, True, "fits") for a in applications))


def early_start(job: NewJob, evidence: str) -> EarlyStart:
    return EarlyStart(evidence, dict(job.inputs), ApplicationDecision(job.application, True, evidence))


def objects(job: Job, *destinations: str, stand_ins: Mapping[str, str] = MappingProxyType({})) -> list[NewObject]:
    """A SEG and an SR, and after them `stand_ins`: kinds, and for what they stand."""
    return [
        NewObject(
            sop_instance_uid=f"2.25.{job.id}{number}",
            sop_class_uid=MR,
            series_instance_uid=f"2.25.{job.id}",
            study_instance_uid=job.study_instance_uid,
            kind=ObjectKind(kind),
            blob=FileBlob(Path(f"/objects/{job.id}/{kind}.dcm")),
            destinations=destinations,
            stands_for=tuple(map(ObjectKind, stand_ins.get(kind, "").split())),
        )
        for number, kind in enumerate(("SEG", "SR", *stand_ins))
    ]


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)
