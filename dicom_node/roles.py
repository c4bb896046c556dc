"""The pipeline on one page: every role of a node, and the parts that it is made of.

A role is a process. Receivers append what they take in to their journals; the indexer files it; the scheduler decides
which studies are complete and routes them; workers compute; the dispatcher delivers. They meet in the database and on
disk alone. All roles but the worker are wired here. The worker loads torch, so this module only starts its process.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from dicom_node.catalogue import ConfiguredApplication, configured_applications, load_applications
from dicom_node.complete.source_pacs import SourceQuestions
from dicom_node.complete.sweep import CompletionSweep
from dicom_node.deliver.commitment_reporter import CommitmentReporter, send_report
from dicom_node.deliver.confirmer import Confirmer
from dicom_node.deliver.destinations.dimse import DimseSettings
from dicom_node.deliver.destinations.interface import ConfirmingDestination
from dicom_node.deliver.destinations.settings import DestinationSettings
from dicom_node.deliver.dispatcher import Dispatcher
from dicom_node.dimse.commitment import PUSH_MODEL
from dicom_node.dimse.pynetdicom_setup import ensure_pinned_version
from dicom_node.dimse.query import DimseSource, SourcePacs
from dicom_node.dimse.scu import Target
from dicom_node.index.indexer import Indexer
from dicom_node.index.scrub import SCRUB_SECONDS, Scrub
from dicom_node.read.stores import Stores
from dicom_node.receive.association_reports import AssociationReports
from dicom_node.receive.commitment import CommitmentService
from dicom_node.receive.confirmation import ConfirmationService
from dicom_node.receive.policy import ServiceName
from dicom_node.receive.presentation_contexts import SopClass
from dicom_node.receive.procedure_steps import MODALITY_PERFORMED_PROCEDURE_STEP as MPPS
from dicom_node.receive.procedure_steps import ProcedureStepService
from dicom_node.receive.receiver import DimseService, Receiver
from dicom_node.route.earlier_studies import EarlierStudies
from dicom_node.route.early_start import EarlyStarter
from dicom_node.route.identification import ExistingPatients
from dicom_node.route.received_series import ReceivedSeries
from dicom_node.route.recognition import RecognitionAhead, SeriesRecogniser
from dicom_node.route.reporting import NoResultSweep
from dicom_node.route.routable import RoutableStudies, Urgency
from dicom_node.route.routing import route
from dicom_node.route.sweep import RoutingSweep
from dicom_node.runtime.clock import machine_clock, steady_now, wall_now
from dicom_node.runtime.process import role_name
from dicom_node.runtime.supervisor import Role
from dicom_node.schedule import (
    AHEAD_SECONDS,
    RELEASE_SECONDS,
    REPORT_SECONDS,
    SWEEP_SECONDS,
    DailyTask,
    ScheduledTask,
    Scheduler,
    StalledWork,
)
from dicom_node.settings.check import WORKER_PROCESS, list_devices
from dicom_node.settings.model import Settings
from dicom_node.settings.peers import addressees, receive_policy
from inference.headers.images import feeds_inputs
from storage.log.deletion.deletions import Deletions, StudyFolders
from storage.log.files import remove_stale
from storage.log.filing.blobs import StoredBlobs
from storage.log.filing.release01 import OldFiles
from storage.log.index_log import IndexLog, read_deleted_frames
from storage.log.instances import InstanceStore
from storage.log.journal import Journal, filed_until
from storage.log.kept_again import KeptHeaders
from storage.log.patient_key import PatientKey
from storage.records.routing import RoutingDecision
from storage.records.studies import Study
from storage.tables.commitments import Commitments
from storage.tables.confirmations import Confirmations
from storage.tables.database.connection import Database
from storage.tables.database.installation import claim_installation
from storage.tables.procedure_steps import ProcedureSteps

COMMANDS = "dicom_node.cli.main"  # a module path: the process of a role is a command of its own
MISSED_HEARTBEATS = 6
CLEAN_UP_HOUR = 3  # local time
SOURCE_TIMEOUT_SECONDS = 5.0
RECEIVER_NAME_LENGTH = 64  # as the database holds it


# -- the processes -----------------------------------------------------------------------------------------------------


def all_roles(settings: Settings, config: Path | None) -> Sequence[Role]:
    """Return all roles in the order of starting. The roles that take work in start last, and stop first."""
    dispatch, schedule, index = (
        Role(name, (COMMANDS, name, *_config_arguments(config))) for name in ("dispatch", "schedule", "index")
    )
    return [dispatch, *worker_roles(settings, config), schedule, index, *receive_roles(settings, config)]


def worker_roles(settings: Settings, config: Path | None) -> list[Role]:
    """Return one worker process for each device."""
    return [
        Role(f"work-{device}", (WORKER_PROCESS, "--device", device, *_config_arguments(config)))
        for device in list_devices(settings.work.devices)
    ]


def receive_roles(settings: Settings, config: Path | None) -> list[Role]:
    return [
        Role(f"receive-{i}", (COMMANDS, "receive", "--index", str(i), *_config_arguments(config)))
        for i in range(settings.receive.processes)
    ]


def _config_arguments(config: Path | None) -> tuple[str, ...]:
    return () if config is None else ("--config", str(config.resolve()))


# -- what they are made of --------------------------------------------------------------------------------------------


def build_receiver(settings: Settings, index: int) -> Receiver:
    ensure_pinned_version()
    name = receiver_name(socket.gethostname(), index)
    journal = Journal(settings.folders.journals / name, int(settings.receive.minimum_free_megabytes * 2**20))
    key = PatientKey(settings.folders.patients_key)
    return Receiver(receive_policy(settings), journal, key, name, further_services(settings))


def receiver_name(host: str, index: int) -> str:
    """Return the name of a receiver, unique among those of all machines: for its journal's folder and the database.

    A long name is cut at its beginning, because the index, and the number of a machine, are at the end.
    """
    return f"{host}-receive-{index}"[-RECEIVER_NAME_LENGTH:]


def further_services(settings: Settings) -> list[DimseService]:
    """Return the services of a receiver beyond C-ECHO and C-STORE.

    They need the database, which is opened only with the first request, so that a receiver starts and stores without
    it.
    """
    database = Database(settings.database_url)
    steps = ProcedureStepService(
        ProcedureSteps(database, settings.folders.procedure_steps), admits_peers_only=bool(settings.peers)
    )
    commitments = Commitments(database)
    reports = AssociationReports(
        commitments, filed=partial(filed_until, settings.folders.journals, steady_now), retry=settings.dispatch.backoff
    )
    commitment = CommitmentService(commitments, addressees(settings), reports)
    return [
        DimseService((SopClass(MPPS, ServiceName.MPPS, scu_role=True, scp_role=False),), tuple(steps.handlers())),
        DimseService(
            (SopClass(PUSH_MODEL, ServiceName.COMMITMENT, scu_role=True, scp_role=True),),
            (*commitment.handlers(), *ConfirmationService(Confirmations(database)).handlers()),
        ),
    ]


def build_indexer(settings: Settings) -> Indexer:
    """Build the indexer without a query, because the database may be busy or have no tables yet."""
    database = Database(settings.database_url)
    folders = settings.folders
    instances = InstanceStore(database, folders.journals, folders.instances, feeds_inputs)
    old_files = OldFiles(database, instances, folders.instances)
    claim = partial(claim_installation, database, folders.installation)
    by_study = (folders.instances, folders.quarantine, folders.objects)
    in_folders = StudyFolders(folders.data_dir, folders.journals, by_study, folders.procedure_steps)
    deletions = Deletions(database, in_folders, IndexLog(folders.index_log))
    kept_headers = KeptHeaders(database, StoredBlobs(folders.journals, folders.instances))
    return Indexer(folders.journals, instances, old_files, database, deletions, kept_headers, claim=claim)


def build_source(settings: Settings) -> SourcePacs | None:
    """Return the PACS that is asked how many instances of a study it holds; None if none is configured."""
    for destination in settings.destinations:
        if destination.name == settings.completion.source and isinstance(destination, DimseSettings):
            target = Target(destination.ae_title, destination.host, destination.port)
            return DimseSource(destination.name, settings.node.ae_title, target, SOURCE_TIMEOUT_SECONDS)
    return None


def build_scheduler(settings: Settings, stores: Stores) -> Scheduler:
    """Wire the sweeps, in the order in which a study goes through them, and the tasks beside them."""
    ensure_pinned_version()
    configured = load_applications(settings.application_entries)
    recogniser = SeriesRecogniser(stores.instances, settings.site_table)
    received = ReceivedSeries(stores.instances)
    earlier, routable = _routable(settings, stores, configured, received, recogniser)
    early = [a for a in configured if a.starts_on_inputs and a.manifest is not None]
    starter = EarlyStarter(stores.studies, routable, early)
    completion = CompletionSweep(
        studies=stores.studies,
        rule=settings.completion.rule,
        filed=partial(filed_until, settings.folders.journals, steady_now),
        start_early=starter.start if early else None,
    )
    routing = RoutingSweep(stores.studies, routable, earlier, stores.problems, configured)
    quiet = settings.completion.report_quiet_seconds
    no_result = NoResultSweep(stores.studies, stores.no_results, configured, quiet)
    no_result.announce()
    stalled = StalledWork(
        jobs=stores.jobs,
        deliveries=stores.deliveries,
        stalled_seconds=settings.work.heartbeat_seconds * MISSED_HEARTBEATS,
        maximum_job_attempts=settings.work.maximum_attempts,
    )
    ahead = RecognitionAhead(stores.instances, received, recogniser)
    tasks = [
        ScheduledTask("completion and routing", SWEEP_SECONDS, (completion.sweep, routing.sweep)),
        ScheduledTask("recognition of arriving series", AHEAD_SECONDS, (ahead.advance,)),
        ScheduledTask("reports of no result", REPORT_SECONDS, (no_result.sweep,)),
        ScheduledTask("release of stalled work", RELEASE_SECONDS, (stalled.release,)),
    ]
    if earlier is not None:
        existing = ExistingPatients(stores.patients, earlier, stores.studies)
        tasks.append(ScheduledTask("identification of patients", SWEEP_SECONDS, (existing.advance,)))
    if rate := settings.storage.scrub_megabytes_per_second:
        scrub = Scrub(settings.folders.journals, stores.instances, stores.problems, rate, _deleted(settings))
        tasks.append(ScheduledTask("scrub", SCRUB_SECONDS, (scrub.advance,)))
    if (source := build_source(settings)) is not None:
        questions = SourceQuestions(stores.studies, source, settings.completion.rule, completion)
        tasks.append(ScheduledTask("questions to the source", SWEEP_SECONDS, (questions.ask,)))
    stale = partial(remove_stale, settings.folders.objects)
    return Scheduler(tasks, [DailyTask("removal of stale files", CLEAN_UP_HOUR, stale)])


def _deleted(settings: Settings) -> Callable[[str, int], Mapping[int, int]]:
    """Return what tells the deleted frames of a segment, as the log of the index role says at that time."""
    places = settings.folders
    return lambda receiver, number: read_deleted_frames(places.index_log, places.journals).of(receiver, number)


def _routable(
    settings: Settings,
    stores: Stores,
    configured: Sequence[ConfiguredApplication],
    received: ReceivedSeries,
    recogniser: SeriesRecogniser,
) -> tuple[EarlierStudies | None, RoutableStudies]:
    earlier = None
    if any(a.manifest is not None and a.manifest.earlier for a in configured):
        earlier = EarlierStudies(stores.patients, stores.instances, received, recogniser)
    urgency = Urgency({peer.ae_title: peer.priority for peer in settings.peers})
    return earlier, RoutableStudies(stores.studies, received, recogniser, earlier, urgency)


def try_configuration(settings: Settings, stores: Stores, study: Study) -> RoutingDecision:
    """Return how `settings` would route a study as it is here. Nothing is enqueued.

    Raises OSError if the images cannot be read.
    """
    configured = configured_applications(settings.application_entries)
    recogniser = SeriesRecogniser(stores.instances, settings.site_table)
    received = ReceivedSeries(stores.instances)
    _, routable = _routable(settings, stores, configured, received, recogniser)
    return route(routable.read(study), configured).decision


def build_dispatcher(settings: Settings, stores: Stores) -> Dispatcher:
    ensure_pinned_version()
    clock = machine_clock(stores.database, settings.longest_wait_seconds)
    return Dispatcher(
        deliveries=stores.deliveries,
        destinations=[build_destination(d, settings) for d in settings.destinations],
        backoff=settings.dispatch.backoff,
        name=role_name("dispatch"),
        beside=[
            build_commitment_reporter(settings, stores, clock.now).run,
            build_confirmer(settings, stores, clock.now).run,
        ],
        give_up_after=timedelta(days=settings.dispatch.give_up_after_days),
        now=clock.now,
    )


def build_destination(destination: DestinationSettings, settings: Settings) -> ConfirmingDestination:
    return destination.build(settings.node.ae_title, settings.dispatch.timeout_seconds)


def build_confirmer(settings: Settings, stores: Stores, now: Callable[[], datetime] = wall_now) -> Confirmer:
    return Confirmer(
        confirmations=stores.confirmations,
        destinations=[build_destination(d, settings) for d in settings.destinations if d.confirm == "auto"],
        patience=timedelta(seconds=settings.dispatch.commitment_timeout_seconds),
        pauses=settings.dispatch.backoff,
        now=now,
    )


def build_commitment_reporter(settings: Settings, stores: Stores, now: Callable[[], datetime]) -> CommitmentReporter:
    return CommitmentReporter(
        commitments=stores.commitments,
        filed=partial(filed_until, settings.folders.journals),
        addressees=addressees(settings),
        send=partial(send_report, settings.node.ae_title, settings.dispatch.timeout_seconds),
        backoff=settings.dispatch.backoff,
        give_up_after=timedelta(days=settings.dispatch.give_up_after_days),
        now=now,
    )
