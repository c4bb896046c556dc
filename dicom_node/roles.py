"""The composition root: settings in, wired roles out. Everything that is built is built here (the worker's own part,
which needs torch, in `dicom_node.work.process`).
"""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from dicom_node.catalogue import ConfiguredApplication, configured_applications
from dicom_node.complete.decision import decide_completion
from dicom_node.complete.inventory import take_inventory
from dicom_node.complete.rule import CompletionRule
from dicom_node.complete.source import SourceQuestions
from dicom_node.complete.sweep import CompletionSweep
from dicom_node.deliver.confirmer import Confirmer
from dicom_node.deliver.destinations.base import ConfirmingDestination
from dicom_node.deliver.destinations.dimse import DimseSettings
from dicom_node.deliver.destinations.settings import DestinationSettings
from dicom_node.deliver.dispatcher import Dispatcher
from dicom_node.deliver.reporter import CommitmentReporter, send_report
from dicom_node.dimse.commitment import PUSH_MODEL, Addressee
from dicom_node.dimse.pynetdicom_setup import ensure_pinned_version
from dicom_node.dimse.query import DimseSource, SourcePacs
from dicom_node.dimse.scu import Target
from dicom_node.errors import ConfigurationError
from dicom_node.index.indexer import Indexer
from dicom_node.read.stores import Stores
from dicom_node.receive.association_reports import AssociationReports
from dicom_node.receive.commitment import CommitmentService
from dicom_node.receive.confirmation import ConfirmationService
from dicom_node.receive.policy import Peer, ReceivePolicy, ServiceName
from dicom_node.receive.presentation_contexts import SopClass
from dicom_node.receive.procedure_steps import MODALITY_PERFORMED_PROCEDURE_STEP as MPPS
from dicom_node.receive.procedure_steps import ProcedureStepService
from dicom_node.receive.receiver import DimseService, Receiver
from dicom_node.route.earlier import EarlierStudies
from dicom_node.route.early_start import EarlyStarter
from dicom_node.route.recognition import ReceivedSeries, SeriesRecogniser
from dicom_node.route.sweep import RoutingSweep
from dicom_node.route.urgency import Urgency
from dicom_node.runtime.backoff import Backoff
from dicom_node.runtime.logs import fields
from dicom_node.runtime.supervisor import Role
from dicom_node.schedule import RELEASE_SECONDS, SWEEP_SECONDS, ScheduledTask, Scheduler, StalledWork
from dicom_node.settings.model import Inspection, Settings
from inference.contract.binding import feeds_inputs
from storage.log.files import FileSystem
from storage.log.instances import InstanceStore
from storage.log.journal import Journal, filed_until
from storage.records.completion import Completion, Waiting
from storage.tables.commitments import Commitments
from storage.tables.confirmations import Confirmations
from storage.tables.database.connection import Database, sqlite_file
from storage.tables.procedure_steps import ProcedureSteps

log = logging.getLogger(__name__)

RELEASED_SHARE = 1 / 3  # of the quiet period, where `released_seconds` is not configured
MISSED_HEARTBEATS = 6
SOURCE_TIMEOUT_SECONDS = 5.0
RECEIVER_NAME_LENGTH = 64  # as the database holds it
ALWAYS_HERE = ("auto", "cpu")  # settings of work.devices that need no look


def role_name(role: str) -> str:
    """Names a role for what it holds in the database, which several machines may share."""
    return f"{socket.gethostname()}/{role}"


def receive_policy(settings: Settings) -> ReceivePolicy:
    """Where only peers are admitted, destinations may still report on what they are asked to confirm."""
    named = {p.ae_title for p in settings.peers}
    reporting = [
        Peer(d.ae_title, d.host, services=frozenset({ServiceName.ECHO, ServiceName.COMMITMENT}))
        for d in settings.destinations
        if isinstance(d, DimseSettings) and d.confirm == "auto" and d.ae_title not in named
    ]
    peers = [
        Peer(
            p.ae_title,
            p.host,
            maximum_associations=p.maximum_associations,
            maximum_pdu_bytes=p.maximum_pdu_bytes,
            services=None if p.services is None else frozenset(ServiceName(name) for name in p.services),
        )
        for p in settings.peers
    ]
    return ReceivePolicy(
        ae_title=settings.node.ae_title,
        host=settings.receive.host,
        port=settings.receive.port,
        peers=(*peers, *reporting) if peers else (),
        maximum_associations=settings.receive.maximum_associations,
        network_timeout=settings.receive.network_timeout_seconds,
    )


def build_receiver(settings: Settings, index: int) -> Receiver:
    ensure_pinned_version()
    name = receiver_name(socket.gethostname(), index)
    journal = Journal(settings.folders.journals / name, int(settings.receive.minimum_free_megabytes * 2**20))
    return Receiver(receive_policy(settings), journal, name, further_services(settings))


def receiver_name(host: str, index: int) -> str:
    """Names a receiver among those of all machines, in its journal's folder and in the database. Of a long host name
    the end is kept: it holds the index, and numbers of machines.
    """
    return f"{host}-receive-{index}"[-RECEIVER_NAME_LENGTH:]


def further_services(settings: Settings) -> list[DimseService]:
    """What a receiver offers beyond C-ECHO and C-STORE. They need the database, which is opened with the first request:
    a receiver starts, and stores, without it.
    """
    database = Database(settings.database_url)
    steps = ProcedureStepService(ProcedureSteps(database, settings.folders.procedure_steps))
    commitments = Commitments(database)
    reports = AssociationReports(
        commitments, filed=partial(filed_until, settings.folders.journals), retry=retry(settings)
    )
    commitment = CommitmentService(commitments, addressees(settings), reports)
    return [
        DimseService((SopClass(MPPS, ServiceName.MPPS, scu_role=True, scp_role=False),), tuple(steps.handlers())),
        DimseService(
            (SopClass(PUSH_MODEL, ServiceName.COMMITMENT, scu_role=True, scp_role=True),),
            (*commitment.handlers(), *ConfirmationService(Confirmations(database)).handlers()),
        ),
    ]


def addressees(settings: Settings) -> list[Addressee]:
    """The peers as those that ask for storage commitment."""
    return [Addressee(p.ae_title, p.host, p.port, p.commitment == "same") for p in settings.peers]


def build_indexer(settings: Settings) -> Indexer:
    """It asks nothing of the database yet: one that is busy, or has no tables, is the indexer's to deal with."""
    database = Database(settings.database_url)
    instances = InstanceStore(database, settings.folders.instances, feeds_inputs)
    data_dir, database_file = settings.node.data_dir, sqlite_file(settings.database_url)
    folders = [data_dir, *(data_dir / name for name in ("instances", "quarantine", "unfiled"))]
    folders += [] if database_file is None else [database_file.resolve().parent]
    # One flush for each file system, whichever of these folders are mounts of their own.
    by_device = {file_system.device: file_system for file_system in map(FileSystem, folders)}
    return Indexer(settings.folders.journals, instances, database, list(by_device.values()))


def completion_rule(settings: Settings) -> CompletionRule:
    quiet = settings.completion.quiet_seconds
    released = min(settings.completion.released_seconds or quiet * RELEASED_SHARE, quiet)
    return CompletionRule(
        quiet=quiet,
        released=released,
        settled=min(settings.completion.settled_seconds, released),
        maximum_age=settings.completion.maximum_age_seconds,
        source=settings.completion.source,
    )


def completion_of(settings: Settings, stores: Stores, study_instance_uid: str) -> Completion | Waiting | None:
    """What the scheduler would decide now; None for a study that is not RECEIVING."""
    filed = filed_until(settings.folders.journals)  # before the rows are read: it says what is among them
    found = stores.studies.evidence(study_instance_uid)
    if not found:
        return None
    inventory = take_inventory(stores.studies.contents(study_instance_uid))
    return decide_completion(found[0], inventory, completion_rule(settings), datetime.now(UTC), filed)


def build_source(settings: Settings) -> SourcePacs | None:
    """The PACS that is asked how many instances of a study it holds."""
    for destination in settings.destinations:
        if destination.name == settings.completion.source and isinstance(destination, DimseSettings):
            target = Target(destination.ae_title, destination.host, destination.port)
            return DimseSource(destination.name, settings.node.ae_title, target, SOURCE_TIMEOUT_SECONDS)
    return None


def build_scheduler(settings: Settings, stores: Stores) -> Scheduler:
    """Wire the sweeps, in the order in which a study goes through them, and the tasks beside them."""
    ensure_pinned_version()
    configured = applications(settings)
    received = ReceivedSeries(stores.instances, stores.results)
    recogniser = SeriesRecogniser([entry.rule for entry in settings.series])
    earlier = None
    if any(a.manifest is not None and a.manifest.earlier for a in configured):
        earlier = EarlierStudies(stores.patients, stores.instances, received, recogniser)
    urgency = Urgency({peer.ae_title: peer.priority for peer in settings.peers})
    early = [a for a in configured if a.starts_on_inputs and a.manifest is not None]
    starter = EarlyStarter(stores.studies, stores.instances, recogniser, earlier, urgency, early)
    completion = CompletionSweep(
        studies=stores.studies,
        rule=completion_rule(settings),
        filed=partial(filed_until, settings.folders.journals),
        start_early=starter.start if early else None,
    )
    routing = RoutingSweep(stores.studies, received, recogniser, earlier, urgency, configured)
    stalled = StalledWork(
        jobs=stores.jobs,
        deliveries=stores.deliveries,
        stalled_after=timedelta(seconds=settings.work.heartbeat_seconds * MISSED_HEARTBEATS),
        maximum_job_attempts=settings.work.maximum_attempts,
    )
    tasks = [
        ScheduledTask("completion and routing", SWEEP_SECONDS, (completion.sweep, routing.sweep)),
        ScheduledTask("release of stalled work", RELEASE_SECONDS, (stalled.release,)),
    ]
    if (source := build_source(settings)) is not None:
        questions = SourceQuestions(stores.studies, source, completion_rule(settings), completion.as_noticed)
        tasks.append(ScheduledTask("questions to the source", SWEEP_SECONDS, (questions.ask,)))
    return Scheduler(tasks)


def build_dispatcher(settings: Settings, stores: Stores) -> Dispatcher:
    ensure_pinned_version()
    return Dispatcher(
        deliveries=stores.deliveries,
        destinations=[build_destination(d, settings) for d in settings.destinations],
        backoff=retry(settings),
        name=role_name("dispatch"),
        beside=[build_commitment_reporter(settings, stores).run, build_confirmer(settings, stores).run],
    )


def build_confirmer(settings: Settings, stores: Stores) -> Confirmer:
    return Confirmer(
        confirmations=stores.confirmations,
        destinations=[build_destination(d, settings) for d in settings.destinations if d.confirm == "auto"],
        patience=timedelta(seconds=settings.dispatch.commitment_timeout_seconds),
        pauses=retry(settings),
    )


def build_commitment_reporter(settings: Settings, stores: Stores) -> CommitmentReporter:
    return CommitmentReporter(
        commitments=stores.commitments,
        filed=partial(filed_until, settings.folders.journals),
        addressees=addressees(settings),
        send=partial(send_report, settings.node.ae_title, settings.dispatch.timeout_seconds),
        backoff=retry(settings),
    )


def retry(settings: Settings) -> Backoff:
    """Of what is sent to others."""
    return Backoff(
        first=settings.dispatch.first_retry_seconds,
        longest=settings.dispatch.longest_retry_seconds,
        attempts=settings.dispatch.maximum_attempts,
    )


def build_destination(destination: DestinationSettings, settings: Settings) -> ConfirmingDestination:
    return destination.build(settings.node.ae_title, settings.dispatch.timeout_seconds)


def applications(settings: Settings) -> tuple[ConfiguredApplication, ...]:
    """For the roles that route and work: tells in the log which ones cannot be used."""
    found = configured_applications([a.entry for a in settings.applications])
    for application in found:
        if application.manifest is None:
            log.error(
                "Application %s cannot be used and gets no study: %s. Once it is repaired, start the node again and "
                "route the studies again with `dicom-node retry --study UID`",
                application.name,
                application.problem,
                extra=fields("applications", application=application.name),
            )
    return found


def mistakes(inspection: Inspection) -> list[str]:
    """Every mistake in a configuration: what is written wrongly, and what it names and cannot be used."""
    found = list(inspection.mistakes)
    if inspection.data_dir is not None:
        found += _unusable_folder(inspection.data_dir)
    for destination in inspection.destinations:
        found += [f"destinations: {destination.name}: {trouble}" for trouble in destination.local_problems()]
    found += [
        f"applications: {a.name}: {a.problem}"
        for a in configured_applications([entry.entry for entry in inspection.applications])
        if a.manifest is None
    ]
    if inspection.devices not in (None, *ALWAYS_HERE):  # the answer takes seconds
        try:
            devices(str(inspection.devices))
        except ConfigurationError as error:
            found += error.mistakes
    return found


def _unusable_folder(data_dir: Path) -> list[str]:
    """Whether the folder can be made and written, without making it."""
    nearest = next(folder for folder in (data_dir, *data_dir.parents) if folder.exists())
    key = f"node.data_dir = '{data_dir}'"
    if not nearest.is_dir():
        return [f"{key}: {nearest} is not a folder; name another one"]
    if not os.access(nearest, os.W_OK | os.X_OK):
        return [f"{key}: {nearest} cannot be written by this user; name another folder, or change its owner"]
    return []


def devices(setting: str) -> list[str]:
    """The devices that `work.devices` means. Asks a process of its own, since that loads torch.

    Raises ConfigurationError where one of them is not there.
    """
    listing = subprocess.run(
        [sys.executable, "-m", "dicom_node.work.process", "--list-devices", setting],
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode != 0:
        raise ConfigurationError([f"work.devices = {setting!r}: {listing.stderr.strip()}"])
    return listing.stdout.split()


def worker_roles(settings: Settings, config: Path | None) -> list[Role]:
    """One worker process for each device."""
    return [
        Role(f"work-{device}", ("dicom_node.work.process", "--device", device, *_config_arguments(config)))
        for device in devices(settings.work.devices)
    ]


def receive_roles(settings: Settings, config: Path | None) -> list[Role]:
    return [
        Role(f"receive-{i}", ("dicom_node.cli.main", "receive", "--index", str(i), *_config_arguments(config)))
        for i in range(settings.receive.processes)
    ]


def all_roles(settings: Settings, config: Path | None) -> Sequence[Role]:
    """In the order of starting: what takes work in comes last, and stops first."""
    dispatch, schedule, index = (
        Role(name, ("dicom_node.cli.main", name, *_config_arguments(config)))
        for name in ("dispatch", "schedule", "index")
    )
    return [dispatch, *worker_roles(settings, config), schedule, index, *receive_roles(settings, config)]


def _config_arguments(config: Path | None) -> tuple[str, ...]:
    return () if config is None else ("--config", str(config.resolve()))
