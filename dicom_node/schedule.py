"""The clock: completes and routes studies, asks their source, releases what stalled.

Decisions live in `completion`, `wholeness` and `routing`.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.complete.decide import CompletionRule, ask_at, decide, may_end, whole_series
from dicom_node.complete.inventory import Inventory, take_inventory
from dicom_node.dimse.query import SourcePacs
from dicom_node.route.earlier import EarlierStudies, EarlierStudy
from dicom_node.route.route import Route, broken_off, route
from dicom_node.runtime.backoff import Backoff
from dicom_node.runtime.logs import fields, unexpected
from inference.series.kinds import Kind
from inference.series.recogniser import SeriesDescription, read_headers, recognise_headers
from inference.series.site_table import SiteTable
from storage.errors import NodeError, Retriable
from storage.log.instances import InstanceStore
from storage.records.completion import Completion
from storage.records.evidence import SourceAnswer, StudyEvidence
from storage.records.instances import Series
from storage.records.jobs import NewJob
from storage.records.routing import EarlyStart
from storage.records.studies import Study
from storage.tables.deliveries import Deliveries
from storage.tables.jobs import Jobs
from storage.tables.patients import Patients
from storage.tables.results import Results
from storage.tables.studies import Studies

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
EARLY_SECONDS = 2.0  # between looks at a study that arrives, for applications that start on their inputs
DESCRIPTIONS = 256  # of series, that are remembered
DELIVERY_STALLED_AFTER = timedelta(minutes=15)  # a claimed delivery sends no heartbeat
SOURCE_PAUSE = Backoff(first=5, longest=300, attempts=2**31)  # for all studies, while the source does not answer


@dataclass(frozen=True)
class Urgency:
    """Priorities of peers, by their AE titles. A job has the highest of its study's and of those who fed it."""

    peers: Mapping[str, int]

    def of(self, study_priority: int, callers: Iterable[str]) -> int:
        return max(study_priority, *(self.peers.get(caller.strip(), 0) for caller in callers), 0)


@dataclass
class _Seen:
    """A study in RECEIVING, as it was at the last look."""

    evidence_key: tuple[object, ...]
    noticed_at: datetime
    contents_key: tuple[object, ...] | None = None
    inventory: Inventory | None = None
    early_at: datetime | None = None


class Scheduler:
    """The `schedule` role. `stalled_after` is how long a heartbeat may be missing before its work is given back.

    `source` is asked how many instances of a study it holds, in a thread of its own. `filed` says until when everything
    acknowledged is indexed (`filed_until`): what came since may be in a journal and have no row yet.
    `site` is what the site says of its own series.
    `patients` says which studies are of one patient, for applications that ask for earlier ones.
    """

    def __init__(
        self,
        studies: Studies,
        instances: InstanceStore,
        jobs: Jobs,
        results: Results,
        deliveries: Deliveries,
        rule: CompletionRule,
        applications: Sequence[ConfiguredApplication],
        stalled_after: timedelta,
        maximum_job_attempts: int,
        urgency: Urgency,
        filed: Callable[[], datetime | None],
        source: SourcePacs | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        site: SiteTable = (),
        patients: Patients | None = None,
    ) -> None:
        self._studies = studies
        self._instances = instances
        self._jobs = jobs
        self._results = results
        self._deliveries = deliveries
        self._rule = rule
        self._applications = applications
        self._early = [a for a in applications if a.starts_on_inputs and a.manifest is not None]
        self._stalled_after = stalled_after
        self._maximum_job_attempts = maximum_job_attempts
        self._urgency = urgency
        self._filed = filed
        self._source = source
        self._site = site
        self._earlier = None
        if patients is not None and any(a.manifest is not None and a.manifest.earlier for a in applications):
            self._earlier = EarlierStudies(patients, instances, self._series, self._recognise_once)
        self._now = now
        self._source_failures = 0
        self._source_rests_until: datetime | None = None
        self._seen: dict[str, _Seen] = {}
        self._descriptions: dict[str, tuple[int, SeriesDescription]] = {}
        self._clock = BackgroundScheduler(timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1})

    def run(self, stop: threading.Event) -> None:
        """Sweeps until `stop` is set."""
        self._clock.add_job(self.sweep, "interval", seconds=SWEEP_SECONDS, id="studies")
        self._clock.add_job(self.release_stalled, "interval", seconds=10, id="stalled")
        if self._source is not None:
            self._clock.add_job(self.ask_source, "interval", seconds=SWEEP_SECONDS, id="source")
        self._clock.start()
        stop.wait()
        self._clock.shutdown(wait=True)

    def sweep(self) -> None:
        """One pass: RECEIVING → COMPLETE → ROUTED or IGNORED."""
        try:
            self._complete()
            self._route()
        except Retriable as error:
            log.warning("The sweep is put off: %s", error, extra=fields("sweep"))

    # -- completion ----------------------------------------------------------------------------------------------------

    def _complete(self) -> None:
        filed = self._filed()  # before the rows are read: it says what is among them
        receiving = self._studies.evidence()
        now = self._now()
        self._seen = {e.study_instance_uid: self._look(e, now) for e in receiving}
        for evidence in receiving:
            seen = self._seen[evidence.study_instance_uid]
            noticed = self._noticed(evidence, now)
            if may_end(noticed, self._rule, now, filed):
                decision = decide(noticed, self._inventory(evidence, seen), self._rule, now, filed)
                if isinstance(decision, Completion):
                    self._end(evidence, decision, now)
                    continue
            if self._early and filed is not None and (seen.early_at is None or now >= seen.early_at):
                seen.early_at = now + timedelta(seconds=EARLY_SECONDS)
                self._start_early(evidence, self._inventory(evidence, seen), min(now, filed), now)

    def _look(self, evidence: StudyEvidence, now: datetime) -> _Seen:
        """Instances are indexed some time after they came: it is not quiet as long as new ones turn up here."""
        key = (evidence.contents_key, evidence.associations)
        seen = self._seen.get(evidence.study_instance_uid)
        if seen is None:
            return _Seen(key, now)
        if now < seen.noticed_at:  # the clock was set back
            seen.noticed_at, seen.early_at = now, None
        if seen.evidence_key != key:
            seen.evidence_key, seen.noticed_at = key, now
        return seen

    def _noticed(self, evidence: StudyEvidence, now: datetime) -> StudyEvidence:
        """With when it was noticed, and without answers of a time that is still to come: a clock that was set back
        leaves some, which say nothing of what came after them.
        """
        seen = self._seen.get(evidence.study_instance_uid)
        return replace(
            evidence,
            noticed_at=now if seen is None else min(now, seen.noticed_at),
            answers=tuple(answer for answer in evidence.answers if answer.at <= now),
        )

    def _inventory(self, evidence: StudyEvidence, seen: _Seen) -> Inventory:
        """Read again only when something changed, or what a procedure step lists may have come as another study."""
        if seen.inventory is None or seen.contents_key != evidence.contents_key or seen.inventory.steps.missing:
            seen.inventory = take_inventory(self._studies.contents(evidence.study_instance_uid))
            seen.contents_key = evidence.contents_key
        return seen.inventory

    def _end(self, evidence: StudyEvidence, decision: Completion, now: datetime) -> None:
        uid, revision = evidence.study_instance_uid, evidence.revision
        if self._studies.complete(evidence, decision, now):
            log.info("Study complete: %s", decision.reason, extra=fields("complete", study=uid, revision=revision))

    # -- the source PACS -----------------------------------------------------------------------------------------------

    def ask_source(self) -> None:
        """Asks the source about every study that waits for its count; one that does not answer rests for a while."""
        try:
            now = self._now()
            rests_until = self._source_rests_until
            if rests_until is not None and now < rests_until <= now + timedelta(seconds=SOURCE_PAUSE.longest):
                return
            for evidence in self._studies.evidence():
                due = ask_at(self._noticed(evidence, now), self._rule)
                if due is not None and now >= due and not self._ask(evidence):
                    return
        except Retriable as error:
            log.warning("The source is asked later: %s", error, extra=fields("ask"))

    def _ask(self, evidence: StudyEvidence) -> bool:
        """False when the source does not answer."""
        assert self._source is not None
        uid, name = evidence.study_instance_uid, self._source.name
        asked_at = self._now()  # what comes while it counts may not be in its count
        count, problem = None, ""
        try:
            count = self._source.count_instances(uid)
        except NodeError as error:
            problem = str(error)
            reached = not isinstance(error, Retriable)
        except Exception as error:  # a foreign library fails in many ways, all of which mean the same
            log.error("The source cannot be asked: %s", unexpected(error), extra=fields("ask", study=uid))
            problem, reached = f"unexpected {type(error).__name__}", False
        else:
            reached = True
        own = self._studies.own_at(uid, name) if count is not None else 0
        self._studies.answered(uid, evidence.revision, SourceAnswer(asked_at, name, count, own, problem))
        if reached:
            self._source_failures, self._source_rests_until = 0, None
        else:
            self._source_failures += 1
            self._source_rests_until = SOURCE_PAUSE.retry_at(self._source_failures, self._now())
            log.warning("%s gives no count of a study: %s", name, problem, extra=fields("ask", study=uid))
        return reached

    # -- applications that start on their inputs -----------------------------------------------------------------------

    def _start_early(self, evidence: StudyEvidence, inventory: Inventory, filed: datetime, now: datetime) -> None:
        """Everything before `filed` is known. A failure nobody foresaw leaves the study to its completion."""
        whole = whole_series(evidence, inventory, self._rule, filed)
        if not whole:
            return
        uid = evidence.study_instance_uid
        try:
            series = [s for s in self._instances.series(uid) if s.series_instance_uid in whole]
            recognised = [self._recognise_once(s) for s in series]
            study = self._studies.get(uid)
            if study is None:
                return
            priority = self._urgency.of(study.priority, self._studies.callers(uid))
            earlier = self._before(uid)
            early = route(uid, evidence.revision, series, recognised, self._early, priority, earlier=earlier)
        except Retriable:
            raise
        except Exception as error:
            log.error("Inputs cannot be recognised yet: %s", unexpected(error), extra=fields("early", study=uid))
            return
        for job in early.jobs:
            why = "; ".join(
                f"{key} is series {s}, {whole.get(s, 'of an earlier study')}" for key, s in job.inputs.items()
            )
            self._start(job, why, early, now)

    def _start(self, job: NewJob, why: str, early: Route, now: datetime) -> None:
        (told,) = [a for a in early.decision.applications if a.application == job.application]
        if self._studies.start_early(job, EarlyStart(why, dict(job.inputs), told), now):
            extra = fields("early", study=job.study_instance_uid, application=job.application)
            log.info("Started before the study is complete: %s", why, extra=extra)

    def _recognise_once(self, series: Series) -> SeriesDescription:
        """Its headers are read again only when its instances changed."""
        version = series_version(series)
        known = self._descriptions.get(series.series_instance_uid)
        if known is not None and known[0] == version:
            return known[1]
        description = recognise_series(series, self._site)
        if not description.problem:  # one that cannot be read may be readable next time
            self._descriptions[series.series_instance_uid] = (version, description)
            while len(self._descriptions) > DESCRIPTIONS:
                self._descriptions.pop(next(iter(self._descriptions)))
        return description

    # -- routing -------------------------------------------------------------------------------------------------------

    def _route(self) -> None:
        for study in self._studies.completed():
            self._reopen_later(study)
            self._apply(study, self._decide(study))

    def _reopen_later(self, study: Study) -> None:
        """Later studies of the patient are routed again, once for each revision of this one: it may be an earlier time
        point of theirs. A study that is itself routed again has no new images.
        """
        uid = study.study_instance_uid
        if self._earlier is None or self._studies.routing(uid, study.revision) is not None:
            return
        try:
            for later in self._earlier.arrived(uid):
                if self._studies.reroute(later, f"to be routed again: the earlier study {uid} of the patient came"):
                    log.info("Routed again: an earlier study came", extra=fields("route", study=later))
        except Retriable:
            raise
        except Exception as error:
            log.error("Later studies are not looked for: %s", unexpected(error), extra=fields("route", study=uid))

    def _before(self, study_instance_uid: str) -> Sequence[EarlierStudy]:
        return () if self._earlier is None else self._earlier.before(study_instance_uid)

    def _series(self, study_instance_uid: str) -> list[Series]:
        """Those of a study that others sent: results of this node that came back say nothing new."""
        own = {result.sop_instance_uid for result in self._results.objects(study_instance_uid)}
        series = self._instances.series(study_instance_uid)
        return [s for s in series if any(i.sop_instance_uid not in own for i in s.instances)]

    def _decide(self, study: Study) -> Route:
        """A failure nobody foresaw is this study's stated end, and keeps no other study waiting."""
        uid, revision = study.study_instance_uid, study.revision
        own = {result.sop_instance_uid for result in self._results.objects(uid)}
        series = self._series(uid)
        try:
            recognised = [self._recognise_once(s) for s in series]
            priority = self._urgency.of(study.priority, self._studies.callers(uid))
            earlier = self._before(uid)
            return route(uid, revision, series, recognised, self._applications, priority, own, earlier)
        except Retriable:
            raise
        except Exception as error:
            log.error("A study cannot be routed: %s", unexpected(error), extra=fields("route", study=uid))
            reason = f"routing failed ({type(error).__name__}), see the log; then `dicom-node retry --study`"
            return broken_off(uid, revision, series, self._applications, reason, own)

    def _apply(self, study: Study, decision: Route) -> None:
        now = self._now()
        uid, revision = study.study_instance_uid, study.revision
        reason, reports, decided, warnings = decision.reason, decision.reports, decision.decision, decision.warnings
        if decision.jobs:
            jobs = (*decision.jobs, *reports)
            moved = self._studies.route(uid, revision, reason, jobs, decided, now, warnings)
        else:
            moved = self._studies.ignore(uid, revision, reason, decided, now, warnings, reports)
        if moved:
            log.info("Study routed: %s", decision.reason, extra=fields("route", study=uid, revision=revision))

    def release_stalled(self) -> None:
        now = self._now()
        try:
            for job in self._jobs.release_stalled(now - self._stalled_after, self._maximum_job_attempts, now):
                log.warning("A job's worker fell silent: %s", job.state, extra=fields("stalled", job=job.id))
            self._deliveries.release_stalled(now - DELIVERY_STALLED_AFTER, now)
        except Retriable as error:
            log.warning("Stalled work is released later: %s", error, extra=fields("stalled"))


def series_version(series: Series) -> int:
    """Changes with its instances and with their content."""
    return hash(tuple((i.sop_instance_uid, i.sha256) for i in series.instances))


def recognise_series(series: Series, site: SiteTable = ()) -> SeriesDescription:
    """What a stored series is. One unreadable file must not keep the rest of the study from being routed."""
    try:
        return recognise_headers(read_headers([instance.path for instance in series.instances]), site)
    except Exception as error:
        extra = fields("recognise", series=series.series_instance_uid)
        log.error("A series cannot be recognised: %s", unexpected(error), extra=extra)
        return SeriesDescription(
            series_instance_uid=series.series_instance_uid,
            modality=series.modality,
            kind=Kind.UNKNOWN,
            plane=None,
            dimension=None,
            slices=0,
            contrast=None,
            fat_suppressed=None,
            b_values=(),
            confidence=0.0,
            reasons=(),
            problem=f"its headers cannot be read ({type(error).__name__})",
        )
