"""The enqueueing of jobs, and what a new job supersedes: parts of the transactions of the other tables.

The jobs of a study and application must be locked (`hold_jobs`) before the decision which of them stand and which are
superseded.
"""

import hashlib
import json
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import ColumnElement, SQLColumnExpression, and_, literal, or_, select, update
from sqlalchemy.orm import Session, aliased

from storage.records.deliveries import DeliveryState
from storage.records.jobs import (
    AnalysisDetail,
    Job,
    JobKind,
    JobState,
    NewJob,
    NoResultDetail,
    WithdrawalDetail,
    detail_from_json,
    of_side,
)
from storage.records.results import ObjectKind
from storage.records.studies import Event, MarkedStudy, Stage, Study, StudyState
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed
from storage.tables.events import add_event
from storage.tables.problems import close_problems_of

_SETTLED = (StudyState.ROUTED, StudyState.IGNORED)
_WAITING = (JobState.QUEUED, JobState.RETRYING)


def hold_jobs(session: Session, study_instance_uid: str, application: str) -> None:
    """Lock the jobs of a study and application until the end of the transaction.

    Without the lock, a job that a worker claims or gives back in the meantime could be missed both as waiting and as
    running.
    """
    job = schema.JobRow
    session.scalars(
        select(job.id)
        .where(job.study_instance_uid == study_instance_uid, job.application == application)
        .order_by(job.id)  # a fixed order, so that two transactions cannot deadlock
        .with_for_update()
    ).all()


def enqueue_unless_standing(session: Session, new: NewJob, now: datetime) -> int:
    """Enqueue a job unless one with the very same result stands; supersede the others of its study and application.

    Return the id of the job that stands afterwards. The jobs must be locked.
    """
    standing = _standing_job(session, new)
    _supersede(session, new, standing, now)
    if standing is None:
        return enqueue(session, new, now)
    _raise_priority(session, standing, new.priority)
    text = f"{of_side(new.application, new.side)}: the same instances as before, job {standing} stands"
    add_event(session, Event(now, new.study_instance_uid, new.revision, Stage.QUEUED, text, standing))
    return standing


def start(session: Session, new: NewJob, now: datetime) -> int:
    """Enqueue a job even if its result was computed before; supersede the others of its study and application."""
    _supersede(session, new, None, now)
    return enqueue(session, new, now)


def not_beside(side: SQLColumnExpression[str], beside: SQLColumnExpression[str] | str) -> ColumnElement[bool]:
    """Return the SQL condition that a job of this `side` may be superseded by one that has the other side `beside` it.

    The jobs of an application for the two sides of a study do not concern each other.
    """
    return or_(side != beside, literal("") == beside)


def supersede_unfit(
    session: Session, study_instance_uid: str, revision: int, applies: Iterable[str], now: datetime
) -> None:
    """Supersede the analyses of applications that do not apply to the complete study, and reports not yet written.

    Such an analysis started early, or belongs to an earlier revision. Whether to report is decided again later.
    """
    job = schema.JobRow
    own = job.study_instance_uid == study_instance_uid
    unfit = and_(own, job.kind == JobKind.ANALYSIS, job.application.not_in(list(applies)))
    reports = and_(own, job.kind == JobKind.NO_RESULT)
    held = select(job.id).where(own, job.kind != JobKind.WITHDRAWAL).order_by(job.id)
    session.scalars(held.with_for_update()).all()
    reason = "superseded: the application does not apply to the complete study"
    cancel(session, unfit, revision, reason, now)
    cancel(session, reports, revision, "superseded: the study was routed again", now)


def cancel(session: Session, jobs: ColumnElement[bool], revision: int, reason: str, now: datetime) -> None:
    """Cancel waiting jobs, and mark running jobs, which are cancelled when they end.

    Failed analyses are marked as replaced, and keep their reason. Failed reports are cancelled.
    """
    job = schema.JobRow
    failed = update(job).where(jobs, job.state == JobState.FAILED, job.kind == JobKind.NO_RESULT)
    changed(session, failed.values(state=JobState.CANCELLED, superseded=True, reason=reason))
    ending = update(job).where(jobs, job.state.in_((JobState.RUNNING, JobState.FAILED)))
    changed(session, ending.values(superseded=True))
    cancelled = session.execute(
        update(job)
        .where(jobs, job.state.in_(_WAITING))
        .values(state=JobState.CANCELLED, superseded=True, reason=reason, finished_at=now)
        .returning(job.id, job.study_instance_uid, job.application),
        execution_options={"synchronize_session": False},
    ).all()
    for job_id, study_instance_uid, application in cancelled:
        text = f"{application}: job {job_id} cancelled, {reason}"
        add_event(session, Event(now, study_instance_uid, revision, Stage.QUEUED, text, job_id))


def enqueue(session: Session, new: NewJob, now: datetime) -> int:
    """Insert a job, add a line to the timeline of its study, and return the id of the job."""
    row = schema.JobRow(
        study_instance_uid=new.study_instance_uid,
        revision=new.revision,
        application=new.application,
        inputs=dict(new.inputs),
        fingerprint=new.fingerprint,
        state=JobState.QUEUED,
        superseded=False,
        attempts=0,
        reason="",
        created_at=now,
        run_after=now,
        priority=new.priority,
        kind=new.kind,
        detail=new.detail.to_json(),
        side=new.side,
        beside=new.beside,
    )
    session.add(row)
    session.flush()
    urgent = f" with priority {new.priority}" if new.priority else ""
    text = f"{of_side(new.application, new.side)}: job {row.id} queued{urgent}{_purpose(new)}"
    add_event(session, Event(now, new.study_instance_uid, new.revision, Stage.QUEUED, text, row.id))
    return row.id


def mark_for_report(session: Session, study_instance_uid: str, now: datetime) -> None:
    """Ask for a new decision on the study's report of no result (`NoResults`)."""
    study = schema.StudyRow
    marked = update(study).where(study.study_instance_uid == study_instance_uid)
    changed(session, marked.values(report_marked_at=now))


def names_application(row: schema.JobRow, application: str, beside: str = "") -> bool:
    """Return True if the job is a report that this application gives no result, for another side than `beside`."""
    detail = detail_from_json(row.kind, row.detail)
    return isinstance(detail, NoResultDetail) and detail.names(application, beside)


def withdrawn(study_instance_uid: SQLColumnExpression[str], job_id: SQLColumnExpression[int]) -> ColumnElement[bool]:
    """Return the SQL condition that the results of this job of this study were withdrawn."""
    withdrawal = aliased(schema.JobRow)
    return (
        select(withdrawal.id)
        .where(
            withdrawal.study_instance_uid == study_instance_uid,
            withdrawal.kind == JobKind.WITHDRAWAL,
            withdrawal.detail["job"].as_integer() == job_id,
        )
        .exists()
    )


def _purpose(new: NewJob) -> str:
    match new.detail:
        case NoResultDetail(applications=()):
            return " to withdraw the report of no AI result"
        case NoResultDetail(applications=applications):
            told = "; ".join(f"{one.title}: {one.why}" for one in applications)
            return f" to report that there is no AI result ({told})"
        case WithdrawalDetail(job=job):
            return f" to withdraw the results of job {job}"
        case AnalysisDetail():
            return ""


def _standing_job(session: Session, new: NewJob) -> int | None:
    """Return the id of the job that gives, or has given, the same result; None if there is no such job.

    A result no longer stands if a report of no result came after it.
    """
    job = schema.JobRow
    standing = session.scalars(
        select(job)
        .where(
            job.study_instance_uid == new.study_instance_uid,
            job.application == new.application,
            job.kind == new.kind,
            job.fingerprint == new.fingerprint,
            job.side == new.side,
            job.beside == new.beside,
            job.state.in_((JobState.QUEUED, JobState.RUNNING, JobState.RETRYING, JobState.SUCCEEDED)),
            job.superseded.is_(False),
        )
        .order_by(job.id.desc())
        .limit(1)
    ).one_or_none()
    if standing is None or standing.finished_at is None:
        return None if standing is None else standing.id
    contradictions = session.scalars(
        select(job).where(
            job.study_instance_uid == new.study_instance_uid,
            job.kind == JobKind.NO_RESULT,
            job.state == JobState.SUCCEEDED,
            job.finished_at > standing.finished_at,
            ~withdrawn(job.study_instance_uid, job.id),
        )
    )
    return None if any(names_application(row, new.application, new.beside) for row in contradictions) else standing.id


def _supersede(session: Session, new: NewJob, standing: int | None, now: datetime) -> None:
    """Supersede the other analyses of the study and application, except those of the side beside it."""
    job = schema.JobRow
    older = and_(
        job.study_instance_uid == new.study_instance_uid,
        job.application == new.application,
        job.kind == JobKind.ANALYSIS,
        not_beside(job.side, new.beside),
    )
    if standing is not None:
        older = and_(older, job.id != standing)
    cancel(session, older, new.revision, f"superseded by revision {new.revision}", now)


def _raise_priority(session: Session, job_id: int, priority: int) -> None:
    job = schema.JobRow
    changed(session, update(job).where(job.id == job_id, job.priority < priority).values(priority=priority))


def study_record(row: schema.StudyRow) -> Study:
    return Study(
        study_instance_uid=row.study_instance_uid,
        state=row.state,
        revision=row.revision,
        reason=row.reason,
        instances=row.instances,
        first_received_at=row.first_received_at,
        last_received_at=row.last_received_at,
        priority=row.priority,
    )


def job_record(row: schema.JobRow) -> Job:
    return Job(
        id=row.id,
        study_instance_uid=row.study_instance_uid,
        revision=row.revision,
        application=row.application,
        inputs=row.inputs,
        fingerprint=row.fingerprint,
        state=row.state,
        attempts=row.attempts,
        reason=row.reason,
        created_at=row.created_at,
        run_after=row.run_after,
        started_at=row.started_at,
        finished_at=row.finished_at,
        worker=row.worker,
        priority=row.priority,
        kind=row.kind,
        detail=detail_from_json(row.kind, row.detail),
        side=row.side,
        beside=row.beside,
        why=row.why,
    )


class NoResults:
    """The reports of no result: at most one stands for each study, and names every application without a result.

    A study is marked when it is routed, and when an analysis of it ends. Each mark is decided upon once, later.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def pending(self) -> list[MarkedStudy]:
        """Return the marked studies that are routed, the first marked first."""
        study = schema.StudyRow
        statement = select(study).where(study.report_marked_at.is_not(None)).order_by(study.report_marked_at)
        with self._database.reading() as session:
            # Nearly all studies are settled, so a condition on the state would lead SQLite to the wrong index.
            rows = [row for row in session.scalars(statement) if row.state in _SETTLED]
            return [MarkedStudy(study_record(row), row.report_marked_at) for row in rows if row.report_marked_at]

    def jobs(self, study_instance_uid: str) -> list[Job]:
        """Return the jobs of a study that no newer job replaces."""
        job = schema.JobRow
        statement = select(job).where(job.study_instance_uid == study_instance_uid, *_current()).order_by(job.id)
        with self._database.reading() as session:
            return [job_record(row) for row in session.scalars(statement)]

    def decide(self, marked: MarkedStudy, detail: NoResultDetail | None, now: datetime) -> int | None:
        """Take the mark from the study, and enqueue the report unless it says what the last one says.

        Return the id of the job; None if there is nothing to tell, or if the study was marked again or has changed.
        `detail` is None while an analysis may still give a result; its end will mark the study again. A detail without
        applications withdraws the last report, if a destination may have got it. Deliveries of earlier reports that did
        not begin are ended.
        """
        study, job = schema.StudyRow, schema.JobRow
        uid, revision = marked.study.study_instance_uid, marked.study.revision
        with self._database.session() as session:
            unmarked = update(study).where(
                study.study_instance_uid == uid,
                study.revision == revision,
                study.state.in_(_SETTLED),
                study.report_marked_at == marked.marked_at,
            )
            if changed(session, unmarked.values(report_marked_at=None)) != 1 or detail is None:
                return None
            reports = and_(job.study_instance_uid == uid, job.kind == JobKind.NO_RESULT)
            held = select(job).where(reports, *_current()).order_by(job.id)
            rows = [job_record(row) for row in session.scalars(held.with_for_update())]
            said = [row.detail for row in rows if isinstance(row.detail, NoResultDetail)]
            last = said[-1] if said else NoResultDetail()
            if last.same_report(detail):
                return None
            cancel(session, reports, revision, f"superseded by revision {revision}", now)
            _end_deliveries(session, uid)
            if not detail.applications and not _may_be_held(session, uid):
                return None
            new = NewJob(
                study_instance_uid=uid,
                revision=revision,
                application=", ".join(one.title for one in detail.applications or last.applications),
                inputs={},
                fingerprint=_report_fingerprint(detail),
                priority=marked.study.priority,
                detail=detail,
            )
            return enqueue(session, new, now)


def _current() -> tuple[ColumnElement[bool], ...]:
    """Return the SQL conditions for jobs that no newer job replaces."""
    return schema.JobRow.superseded.is_(False), schema.JobRow.state != JobState.CANCELLED


def _report_fingerprint(detail: NoResultDetail) -> str:
    """Return the fingerprint of a report, without numbers of rows."""
    said = [detail.contents, [(one.title, one.why, one.explanation) for one in detail.applications]]
    return hashlib.sha256(f"no result\n{json.dumps(said)}".encode()).hexdigest()


def _of_reports(study_instance_uid: str) -> ColumnElement[bool]:
    """Return the SQL condition for deliveries of the reports of no result of a study, without rejection notes."""
    job, target = schema.JobRow, schema.ResultObjectRow
    objects = (
        select(target.id)
        .join(job, job.id == target.job_id)
        .where(
            job.study_instance_uid == study_instance_uid,
            job.kind == JobKind.NO_RESULT,
            target.kind != ObjectKind.REJECTION,
        )
    )
    return schema.DeliveryRow.object_id.in_(objects)


def _end_deliveries(session: Session, study_instance_uid: str) -> None:
    """End the deliveries of reports that are not sent yet, so that none arrives after the next one."""
    delivery = schema.DeliveryRow
    waiting = delivery.state.in_((DeliveryState.QUEUED, DeliveryState.RETRYING, DeliveryState.FAILED))
    ended = update(delivery).where(_of_reports(study_instance_uid), waiting)
    reason = "superseded by a newer decision on the study"
    replaced = ended.values(state=DeliveryState.REPLACED, reason=reason).returning(delivery.id, delivery.destination)
    for delivery_id, destination in session.execute(replaced, execution_options={"synchronize_session": False}).all():
        close_problems_of(session, delivery_id, destination)


def _may_be_held(session: Session, study_instance_uid: str) -> bool:
    """Return True if a destination got a report of no result, or may have got it."""
    delivery = schema.DeliveryRow
    sent = and_(_of_reports(study_instance_uid), delivery.claimed_at.is_not(None))
    held = and_(sent, or_(delivery.state != DeliveryState.REPLACED, delivery.may_have_arrived))
    return session.scalar(select(delivery.id).where(held).limit(1)) is not None
