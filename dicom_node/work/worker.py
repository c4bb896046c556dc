"""One worker process: owns a device, keeps models warm, runs one job at a time.

It may be killed at any moment: its heartbeat stops, the job is released and runs again, and because results are
enqueued in the one transaction that ends the job, nothing is sent twice.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from pydicom.uid import ComprehensiveSRStorage

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.objects.build import Built, ObjectContext, Predecessor, build_objects
from dicom_node.objects.ko import build_rejection
from dicom_node.objects.no_result import build_no_result
from dicom_node.objects.profiles import ObjectProfile
from dicom_node.objects.sr import as_sop_class
from dicom_node.read.visits import SAMPLES, read_acquisition_date
from dicom_node.runtime.backoff import Backoff
from dicom_node.runtime.logs import fields, unexpected
from dicom_node.work.notices import first_images, holders
from inference.contract.application import Application, Progress, load_application
from inference.contract.findings import NoResult
from inference.contract.inputs import split_key
from inference.contract.series_input import SeriesInput
from inference.engine.models import TorchEngine
from storage.errors import InputRefused, ModelRefused, NodeError, Permanent, WhyNoResult
from storage.log.files import write_durable
from storage.log.instances import InstanceStore
from storage.records.jobs import AnalysisDetail, Job, JobState, NoResultDetail, WithdrawalDetail
from storage.records.results import NewObject, ObjectKind, ResultObject
from storage.tables.jobs import Jobs
from storage.tables.results import Results

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.5
EXIT_AGAIN = 75  # EX_TEMPFAIL: the supervisor starts a fresh process


class Worker:
    def __init__(
        self,
        name: str,
        engine: TorchEngine,
        jobs: Jobs,
        results: Results,
        instances: InstanceStore,
        applications: Mapping[str, ConfiguredApplication],
        objects_dir: Path,
        ae_title: str,
        profiles: Mapping[str, ObjectProfile],
        backoff: Backoff,
        heartbeat_seconds: float,
        job_timeout_seconds: float,
    ) -> None:
        self._name = name
        self._engine = engine
        self._jobs = jobs
        self._results = results
        self._instances = instances
        self._applications = applications
        self._objects_dir = objects_dir
        self._ae_title = ae_title
        self._profiles = profiles
        self._backoff = backoff
        self._heartbeat_seconds = heartbeat_seconds
        self._job_timeout_seconds = job_timeout_seconds
        self._warm: dict[str, Application] = {}

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            if not self.work_one():
                stop.wait(IDLE_SECONDS)

    def work_one(self) -> bool:
        """Claims and runs the next job. False when there is none."""
        try:
            job = self._jobs.claim(self._name, datetime.now(UTC))
        except NodeError as error:
            log.warning("No job can be claimed: %s", error, extra=fields("claim"))
            return False
        if job is None:
            return False
        with self._heartbeat(job):
            self._attempt(job)
        return True

    def _attempt(self, job: Job) -> None:
        identifiers = {"job": job.id, "study": job.study_instance_uid, "application": job.application}
        log.info("Job started, attempt %d", job.attempts, extra=fields("work", **identifiers))
        started = time.monotonic()
        try:
            objects, data = self._make(job)
            kept = self._jobs.succeed(job.id, self._name, objects, data, datetime.now(UTC))
        except Exception as error:
            reason = _reason(error)
            now = datetime.now(UTC)
            retry_at = None if isinstance(error, Permanent) else self._backoff.retry_at(job.attempts, now)
            state = self._jobs.fail(job.id, self._name, reason, retry_at, now, _why(error))
            level = logging.ERROR if state is JobState.FAILED else logging.WARNING
            log.log(
                level,
                "Job failed (%s): %s",
                state,
                reason,
                extra=fields("work", **identifiers),
                exc_info=not isinstance(error, NodeError),
            )
            return
        seconds = time.monotonic() - started
        if kept:
            log.info("Job succeeded in %.1f s", seconds, extra=fields("work", **identifiers))
        else:
            log.info("Job's result is superseded and not sent", extra=fields("work", **identifiers))

    def _make(self, job: Job) -> tuple[Sequence[NewObject], dict[str, object]]:
        match job.detail:
            case AnalysisDetail() as detail:
                return self._compute(job, detail)
            case NoResultDetail() as detail:
                return self._report_no_result(job, detail)
            case WithdrawalDetail() as detail:
                return self._withdraw(job, detail)

    def _compute(self, job: Job, detail: AnalysisDetail) -> tuple[list[NewObject], dict[str, object]]:
        """Images in, durable result files out."""
        application = self._application(job.application)
        inputs = self._inputs(job, detail)
        started = time.monotonic()
        findings = application.run(inputs, self._engine, _log_progress(job))
        findings = replace(findings, notes=(*findings.notes, *self._not_compared(detail)))
        computed = time.monotonic()
        folder = self._empty_folder(job)
        objects = [
            _written(built, folder, destinations)
            for profile, destinations in self._destinations(job)
            for built in build_objects(findings, self._context(job, destinations), profile)
        ]
        objects += self._superseded(job, folder)
        data: dict[str, object] = {
            "structures": [segment.label for segment in findings.segments],
            "device": str(self._engine.device),
            "inference_seconds": round(computed - started, 2),
            "encoding_seconds": round(time.monotonic() - computed, 2),
        }
        return objects, data

    def _inputs(self, job: Job, detail: AnalysisDetail) -> dict[str, SeriesInput]:
        """The series of the study and of the earlier ones that the job names. The time point is the place of a study
        among these, from 1.
        """
        studies = [job.study_instance_uid, *detail.earlier]
        series = [{s.series_instance_uid: s for s in self._instances.series(uid)} for uid in studies]
        inputs = {}
        for key, uid in job.inputs.items():
            name, time_point = split_key(key)
            paths = tuple(instance.path for instance in series[time_point][uid].instances)
            inputs[key] = SeriesInput(name, uid, paths, time_point, read_acquisition_date(paths))
        return inputs

    def _not_compared(self, detail: AnalysisDetail) -> Iterator[str]:
        """A sentence for each earlier study of the patient that routing did not take: the application knows of none of
        them, and its report must not be read as if there were none.
        """
        for study in detail.not_taken:
            sample = self._instances.sample(study.study_instance_uid, SAMPLES)
            day = read_acquisition_date([instance.path for instance in sample])
            which = "other" if study.days is None else "earlier"  # without an order it may be a later one
            when = "" if day is None else f" of {day.isoformat()}"
            yield f"The {which} study{when} was not compared: {study.reason}."

    def _report_no_result(self, job: Job, detail: NoResultDetail) -> tuple[Sequence[NewObject], dict[str, object]]:
        """The report goes to every destination of the application, whatever kinds of objects it is to get. Whatever is
        wrong with the model, it is not needed here.
        """
        configured = self._configured(job.application)
        application: Application | None = None
        try:
            application = self._application(job.application)
        except Exception as error:
            log.info("The report names no algorithm: %s", unexpected(error), extra=fields("work", job=job.id))
        result = NoResult(
            title=configured.manifest.title if configured.manifest is not None else configured.name,
            why=detail.why,
            explanation=detail.explanation,
            started_at=job.started_at or job.created_at,
            algorithm=None if application is None else application.algorithm,
            research=application is None or application.research,
        )
        images, folder = self._looked_at(job), self._empty_folder(job)
        objects = []
        for profile, destinations in self._destinations(job):  # what they got before may differ, as their profiles do
            context = self._context(job, destinations, profile.key)
            report = build_no_result(result, images, context)
            other = as_sop_class(
                report,
                ComprehensiveSRStorage,
                context.uid("no-result Comprehensive SR series"),
                context.uid("no-result Comprehensive SR"),
            )
            forms = (
                Built(ObjectKind.SR, report),
                Built(ObjectKind.SR_COMPREHENSIVE, other, stands_for=(ObjectKind.SR,)),
            )
            objects += [_written(form, folder, destinations) for form in forms]
        return objects, {"why": detail.why}

    def _withdraw(self, job: Job, detail: WithdrawalDetail) -> tuple[Sequence[NewObject], dict[str, object]]:
        """`detail` names the objects that each destination got, or may have got."""
        known = {result.id: result for result in self._results.objects(job.study_instance_uid)}
        held = {name: [known[number] for number in numbers] for name, numbers in detail.objects.items()}
        return self._rejections(job, held, self._empty_folder(job)), {"withdrawn_job": detail.job}

    def _superseded(self, job: Job, folder: Path) -> Sequence[NewObject]:
        """Rejection notes for the destinations that want them, about what each got of the results that this job's
        supersedes.
        """
        asking = [name for profile, names in self._destinations(job) if profile.withdraws_superseded for name in names]
        of = (job.study_instance_uid, job.application, job.id)
        return self._rejections(job, {name: self._results.superseded(*of, name) for name in asking}, folder)

    def _rejections(self, job: Job, held: Mapping[str, Sequence[ResultObject]], folder: Path) -> Sequence[NewObject]:
        """Destinations that hold the same objects get the same note; one that holds none gets none."""
        groups = holders(held)
        if not groups:
            return []
        source, *_ = self._looked_at(job)
        notes = []
        for number, (rejected, destinations) in enumerate(groups.items(), 1):
            context = self._context(job, destinations, f"/rejection {number}")
            note = Built(ObjectKind.REJECTION, build_rejection(source, rejected, context))
            notes.append(_written(note, folder, destinations))
        return notes

    def _looked_at(self, job: Job) -> Sequence[Path]:
        """The first readable image of each series that feeds the job; of every series where none is named or readable.

        Raises InputRefused without one.
        """
        series = self._instances.series(job.study_instance_uid)
        own = {result.sop_instance_uid for result in self._results.objects(job.study_instance_uid)}
        inputs = [s for s in series if s.series_instance_uid in job.inputs.values()]
        found = first_images(inputs, own) or first_images(series, own)
        if not found:
            raise InputRefused("no image of the study can be read")
        return found

    def _empty_folder(self, job: Job) -> Path:
        """Where the job's objects are filed, without what a killed attempt left behind."""
        folder = self._objects_dir / job.study_instance_uid / str(job.id)
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def _destinations(self, job: Job) -> list[tuple[ObjectProfile, tuple[str, ...]]]:
        """The destinations of the job's application, those with the same profile together: they get the same objects.
        An application without any has results nevertheless.
        """
        groups: dict[ObjectProfile, list[str]] = {}
        for name in self._configured(job.application).destinations:
            groups.setdefault(self._profiles[name], []).append(name)
        return [(profile, tuple(names)) for profile, names in groups.items()] or [(ObjectProfile(), ())]

    def _context(self, job: Job, destinations: Sequence[str], seed: str = "") -> ObjectContext:
        """The reports that are superseded are those that these destinations got. Another `seed` makes other UIDs."""
        predecessors = self._results.previous_sr(job.study_instance_uid, job.application, job.id, destinations)
        return ObjectContext(
            device_name=self._ae_title,
            uid_seed=f"{job.id}/{job.fingerprint}{seed}",
            revision=job.revision,
            predecessors=tuple(
                Predecessor(p.sop_class_uid, p.sop_instance_uid, p.series_instance_uid) for p in predecessors
            ),
        )

    def _configured(self, name: str) -> ConfiguredApplication:
        configured = self._applications.get(name)
        if configured is None:
            raise ModelRefused(f"application {name!r} is not configured any more; add it again or cancel the job")
        return configured

    def _application(self, name: str) -> Application:
        configured = self._configured(name)
        if configured.manifest is None:
            raise ModelRefused(configured.problem)
        if name not in self._warm:
            self._warm[name] = load_application(configured.manifest)
        return self._warm[name]

    @contextmanager
    def _heartbeat(self, job: Job) -> Iterator[None]:
        """Says every few seconds that the job is alive; ends this process when the job is lost or takes too long.

        Nothing else can stop a job that hangs: what runs in torch hears no signal.
        """
        done = threading.Event()

        def beat() -> None:
            deadline = time.monotonic() + self._job_timeout_seconds
            while not done.wait(self._heartbeat_seconds):
                if time.monotonic() > deadline:
                    log.error("Job exceeds its time limit; this worker ends", extra=fields("work", job=job.id))
                    self._end(job, f"took longer than {self._job_timeout_seconds:g} s")
                try:
                    wanted = self._jobs.heartbeat(job.id, self._name, datetime.now(UTC))
                except NodeError as error:
                    log.warning("Heartbeat is late: %s", error, extra=fields("work", job=job.id))
                    continue
                # A job that has just ended is not wanted either, and one that is about to end may do so.
                if not wanted and not done.wait(self._heartbeat_seconds):
                    log.warning(
                        "The job's result is not wanted any more; this worker ends", extra=fields("work", job=job.id)
                    )
                    self._end(job, "its worker was late")

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _end(self, job: Job, reason: str) -> NoReturn:
        """Gives the job back, where it is still this worker's, and ends the process. A superseded job is cancelled."""
        now = datetime.now(UTC)
        with suppress(Exception):  # the next life gives the job back if this cannot
            self._jobs.fail(job.id, self._name, reason, self._backoff.retry_at(job.attempts, now), now)
        os._exit(EXIT_AGAIN)


def _written(built: Built, folder: Path, destinations: tuple[str, ...]) -> NewObject:
    ds = built.dataset
    return NewObject(
        sop_instance_uid=str(ds.SOPInstanceUID),
        sop_class_uid=str(ds.SOPClassUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        study_instance_uid=str(ds.StudyInstanceUID),
        kind=built.kind,
        path=write_durable(folder / f"{built.kind.lower()}_{ds.SOPInstanceUID}.dcm", ds),
        destinations=destinations,
        stands_for=built.stands_for,
    )


def _reason(error: Exception) -> str:
    """What the operator and the timeline are told. Foreign exceptions may quote attributes of the patient."""
    if isinstance(error, NodeError):
        return str(error)
    return f"unexpected {type(error).__name__}; see the worker's log"


def _why(error: Exception) -> WhyNoResult:
    """What a report of this failure says."""
    return error.why if isinstance(error, InputRefused) else WhyNoResult.FAILURE


def _log_progress(job: Job) -> Progress:
    def progress(what: str, fraction: float) -> None:
        log.info("%s (%.0f %%)", what, 100 * fraction, extra=fields("work", job=job.id))

    return progress
