"""The enqueueing of jobs, and what a new job supersedes: parts of the transactions of `Studies` and `Jobs`.

The jobs of a study and application must be locked (`hold_jobs`) before the decision which of them stand and which are
superseded.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import ColumnElement, SQLColumnExpression, and_, literal, or_, select, update
from sqlalchemy.orm import Session, aliased

from storage.errors import WhyNoResult
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
from storage.records.studies import Event, Stage
from storage.tables.database import schema
from storage.tables.database.connection import changed
from storage.tables.events import add_event

_WAITING = (JobState.QUEUED, JobState.RETRYING)


def no_result_fingerprint(of: str, why: WhyNoResult, explanation: str) -> str:
    """Return the fingerprint of a report of no result; `of` names the instances, or the analysis that failed."""
    return hashlib.sha256(f"no result\n{of}\n{why}\n{explanation}".encode()).hexdigest()


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


def supersede_early(
    session: Session, study_instance_uid: str, revision: int, applies: Iterable[str], now: datetime
) -> None:
    """Supersede analyses of this revision that started early, if their application turns out not to apply.

    Before routing, a revision has only analyses that started early.
    """
    job = schema.JobRow
    early = and_(
        job.study_instance_uid == study_instance_uid,
        job.revision == revision,
        job.kind == JobKind.ANALYSIS,
        job.application.not_in(list(applies)),
    )
    session.scalars(select(job.id).where(early).with_for_update()).all()
    reason = "superseded: the application does not apply to the complete study"
    cancel(session, early, revision, reason, now)


def cancel(session: Session, jobs: ColumnElement[bool], revision: int, reason: str, now: datetime) -> None:
    """Cancel waiting jobs, and mark running jobs, which are cancelled when they end."""
    job = schema.JobRow
    changed(session, update(job).where(jobs, job.state == JobState.RUNNING).values(superseded=True))
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
        case NoResultDetail(why=why, explanation=explanation):
            return f" to report that there is no AI result ({why}): {explanation}"
        case WithdrawalDetail(job=job):
            return f" to withdraw the results of job {job}"
        case AnalysisDetail():
            return ""


def _standing_job(session: Session, new: NewJob) -> int | None:
    """Return the id of the job that gives, or has given, the same result; None if there is no such job.

    A job no longer stands if the opposite was reported after it: a result after a report of no result, or the reverse.
    """
    job, other = schema.JobRow, aliased(schema.JobRow)
    contradicted = (
        select(other.id)
        .where(
            other.study_instance_uid == job.study_instance_uid,
            other.application == job.application,
            not_beside(job.side, other.beside),
            other.kind.not_in((new.kind, JobKind.WITHDRAWAL)),
            other.state == JobState.SUCCEEDED,
            other.finished_at > job.finished_at,
            ~withdrawn(other.study_instance_uid, other.id),
        )
        .exists()
    )
    return session.scalar(
        select(job.id)
        .where(
            job.study_instance_uid == new.study_instance_uid,
            job.application == new.application,
            job.kind == new.kind,
            job.fingerprint == new.fingerprint,
            job.side == new.side,
            job.beside == new.beside,
            job.state.in_((JobState.QUEUED, JobState.RUNNING, JobState.RETRYING, JobState.SUCCEEDED)),
            job.superseded.is_(False),
            ~contradicted,
        )
        .order_by(job.id.desc())
        .limit(1)
    )


def _supersede(session: Session, new: NewJob, standing: int | None, now: datetime) -> None:
    """Supersede the other jobs of the study and application, except withdrawals and jobs of the side beside it."""
    job = schema.JobRow
    older = and_(
        job.study_instance_uid == new.study_instance_uid,
        job.application == new.application,
        job.kind != JobKind.WITHDRAWAL,
        not_beside(job.side, new.beside),
    )
    if standing is not None:
        older = and_(older, job.id != standing)
    cancel(session, older, new.revision, f"superseded by revision {new.revision}", now)


def _raise_priority(session: Session, job_id: int, priority: int) -> None:
    job = schema.JobRow
    changed(session, update(job).where(job.id == job_id, job.priority < priority).values(priority=priority))


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
    )
