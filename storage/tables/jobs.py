"""The queue of jobs, in the database: QUEUED → RUNNING → SUCCEEDED, RETRYING, FAILED or CANCELLED.

A worker holds a job by its name and its heartbeat. It can end a job only while it still holds it. An analysis that ends
marks its study, so that the report of no result is decided (`storage.tables.queueing.NoResults`).
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session

from storage.errors import Permanent, WhyNoResult
from storage.records.jobs import Job, JobKind, JobState, of_side
from storage.records.results import NewObject
from storage.records.studies import Event, Stage, StudyState
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed
from storage.tables.events import add_event
from storage.tables.queueing import cancel, job_record, mark_for_report
from storage.tables.results import end_superseded_deliveries, enqueue_deliveries, keep_object

_WITHOUT_SYNC = {"synchronize_session": False}


class Jobs:
    def __init__(self, database: Database) -> None:
        self._database = database

    # -- for workers ---------------------------------------------------------------------------------------------------

    def claim(self, worker: str, now: datetime) -> Job | None:
        """Claim the most urgent due job for `worker`, the oldest if there are several. Return None if none is due.

        A report of no result waits while new images of its study arrive, because they may bring the result.
        """
        job, study = schema.JobRow, schema.StudyRow
        settled = select(study.study_instance_uid).where(
            study.study_instance_uid == job.study_instance_uid,
            study.state.in_((StudyState.ROUTED, StudyState.IGNORED)),
        )
        due = (
            select(job.id)
            .where(
                or_(job.state == JobState.QUEUED, and_(job.state == JobState.RETRYING, job.run_after <= now)),
                or_(job.kind != JobKind.NO_RESULT, settled.exists()),
            )
            .order_by(job.priority.desc(), job.created_at, job.id)
            .limit(1)
        )
        with self._database.reading() as session:
            if session.scalar(due) is None:  # an idle worker must not take the write lock
                return None
        with self._database.session() as session:
            row = session.scalars(
                update(job)
                .where(job.id == due.with_for_update(skip_locked=True).scalar_subquery())
                .values(
                    state=JobState.RUNNING,
                    worker=worker,
                    attempts=job.attempts + 1,
                    started_at=now,
                    heartbeat_at=now,
                    finished_at=None,
                )
                .returning(job),
                execution_options=_WITHOUT_SYNC,
            ).one_or_none()
            if row is None:
                return None
            add_event(
                session,
                Event(
                    now,
                    row.study_instance_uid,
                    row.revision,
                    Stage.RUNNING,
                    f"{of_side(row.application, row.side)}: attempt {row.attempts} on {worker}",
                    row.id,
                ),
            )
            return job_record(row)

    def heartbeat(self, job_id: int, worker: str, now: datetime) -> bool:
        """Renew the heartbeat. Return False if the worker lost the job, or if the job is superseded."""
        job = schema.JobRow
        statement = update(job).where(_held(job_id, worker), job.superseded.is_(False)).values(heartbeat_at=now)
        with self._database.session(derivable=True) as session:  # a lost heartbeat is soon followed by the next one
            return changed(session, statement) == 1

    def succeed(
        self,
        job_id: int,
        worker: str,
        objects: Sequence[NewObject],
        data: Mapping[str, Any],
        now: datetime,
    ) -> bool:
        """Move the job from RUNNING to SUCCEEDED, with its result objects and their deliveries, in one transaction.

        `objects` are in the order of delivery. Stand-ins are kept without a delivery, for a destination that refuses
        the objects for which they stand. Return False and enqueue nothing if this worker no longer holds the job; a
        superseded job is then CANCELLED. Raises Permanent if another job has an object's UID.
        """
        job = schema.JobRow
        with self._database.session() as session:
            row = session.scalars(
                update(job)
                .where(_held(job_id, worker), job.superseded.is_(False))
                .values(state=JobState.SUCCEEDED, reason="", finished_at=now)
                .returning(job),
                execution_options=_WITHOUT_SYNC,
            ).one_or_none()
            if row is None:
                _cancel_superseded(session, _held(job_id, worker), now)
                return False
            row.finished_at = _after_earlier_results(session, row, now)
            for sequence, new in enumerate(objects):
                kept = keep_object(session, job_id, sequence, new, now)
                if not new.stands_for:
                    enqueue_deliveries(session, kept, new.destinations, now)
            kinds = ", ".join(dict.fromkeys(new.kind for new in objects if not new.stands_for)) or "no object"
            destinations = dict.fromkeys(name for new in objects for name in new.destinations)
            text = f"{of_side(row.application, row.side)}: {kinds}, for {', '.join(destinations) or 'no destination'}"
            add_event(session, Event(now, row.study_instance_uid, row.revision, Stage.ENCODED, text, job_id, data))
            if row.kind is JobKind.ANALYSIS:
                end_superseded_deliveries(session, row, list(destinations), now)
                mark_for_report(session, row.study_instance_uid, now)
            return True

    def fail(
        self,
        job_id: int,
        worker: str,
        reason: str,
        retry_at: datetime | None,
        now: datetime,
        why: WhyNoResult | None = WhyNoResult.FAILURE,
    ) -> JobState:
        """Move the job from RUNNING to RETRYING at `retry_at`, or to FAILED if that is None. Return its state.

        `why` and `reason` go into the report of a failed analysis; without `why` there is no report. A superseded job
        is CANCELLED instead. Nothing changes if this worker no longer holds the job. Raises Permanent if there is no
        such job.
        """
        job = schema.JobRow
        with self._database.session() as session:
            if not self._give_back(session, _held(job_id, worker), reason, retry_at, now, why=why):
                _cancel_superseded(session, _held(job_id, worker), now)
            state = session.scalar(select(job.state).where(job.id == job_id))
        if state is None:
            raise Permanent(f"There is no job {job_id}")
        return state

    # -- jobs whose worker is gone -------------------------------------------------------------------------------------

    def heartbeats(self) -> dict[int, datetime]:
        """Return the last heartbeat of each running job. It is the heartbeat of a living worker while it changes."""
        job = schema.JobRow
        running = select(job.id, job.heartbeat_at).where(job.state == JobState.RUNNING, job.heartbeat_at.is_not(None))
        with self._database.reading() as session:
            return {job_id: at for job_id, at in session.execute(running) if at is not None}

    def release_silent(self, heartbeats: Mapping[int, datetime], max_attempts: int, now: datetime) -> list[Job]:
        """Make running jobs that still have this last heartbeat due again, or FAILED after `max_attempts`."""
        job = schema.JobRow
        if not heartbeats:
            return []
        same = or_(*(and_(job.id == job_id, job.heartbeat_at == at) for job_id, at in heartbeats.items()))
        with self._database.session() as session:
            held = and_(job.state == JobState.RUNNING, same)
            return self._release(session, held, "its worker fell silent", max_attempts, True, now)

    def release_worker(self, worker: str, reason: str, max_attempts: int, counts: bool = True) -> list[Job]:
        """Make the jobs that a worker held due again, or FAILED after `max_attempts`.

        With `counts` False the interrupted attempt is not counted, because the worker was stopped on purpose. An
        attempt that killed its worker's process must count, because otherwise such a job would run for ever.
        """
        job = schema.JobRow
        held = and_(job.state == JobState.RUNNING, job.worker == worker)
        with self._database.session() as session:
            return self._release(session, held, reason, max_attempts, counts, datetime.now(UTC))

    def _release(
        self, session: Session, held: ColumnElement[bool], reason: str, max_attempts: int, counts: bool, now: datetime
    ) -> list[Job]:
        job = schema.JobRow
        released: list[schema.JobRow] = []
        if counts:
            last = and_(held, job.attempts >= max_attempts)
            released += self._give_back(session, last, f"{reason}, at the last of {max_attempts} attempts", None, now)
        released += self._give_back(session, held, reason, now, now, counts)
        released += _cancel_superseded(session, held, now)
        return [job_record(row) for row in released]

    def _give_back(
        self,
        session: Session,
        held: ColumnElement[bool],
        reason: str,
        retry_at: datetime | None,
        now: datetime,
        counts: bool = True,
        why: WhyNoResult | None = WhyNoResult.FAILURE,
    ) -> Sequence[schema.JobRow]:
        """Move jobs that are not superseded from RUNNING to RETRYING or FAILED, and mark the studies of those."""
        job = schema.JobRow
        values: dict[str, Any] = {"reason": reason, "worker": None}
        if not counts:
            values["attempts"] = job.attempts - 1
        if retry_at is None:
            values |= {"state": JobState.FAILED, "finished_at": now, "why": why}
        else:
            values |= {"state": JobState.RETRYING, "run_after": retry_at}
        rows = session.scalars(
            update(job).where(held, job.superseded.is_(False)).values(**values).returning(job),
            execution_options=_WITHOUT_SYNC,
        ).all()
        for row in rows:
            what = "failed for good" if retry_at is None else "will run again"
            text = f"{of_side(row.application, row.side)}: job {row.id} {what}: {reason}"
            add_event(session, Event(now, row.study_instance_uid, row.revision, Stage.WARNING, text, row.id))
            if retry_at is None and row.kind is JobKind.ANALYSIS and why is not None:
                mark_for_report(session, row.study_instance_uid, now)
        return rows

    # -- for operators -------------------------------------------------------------------------------------------------

    def retry(self, job_id: int) -> bool:
        """Move the job from FAILED to QUEUED, and reset its attempts.

        Return False in other states, or if routing or a newer job replaced it. Reports of no result that are not
        written yet are cancelled, and decided again when the job ends.
        """
        now = datetime.now(UTC)
        job = schema.JobRow
        with self._database.session() as session:
            row = session.scalars(
                update(job)
                .where(job.id == job_id, job.state == JobState.FAILED, job.superseded.is_(False))
                .values(
                    state=JobState.QUEUED, attempts=0, reason="", why=None, run_after=now, finished_at=None, worker=None
                )
                .returning(job),
                execution_options=_WITHOUT_SYNC,
            ).one_or_none()
            if row is None:
                return False
            text = f"{of_side(row.application, row.side)}: job {job_id} queued again, as asked by the operator"
            add_event(session, Event(now, row.study_instance_uid, row.revision, Stage.QUEUED, text, job_id))
            if row.kind is JobKind.ANALYSIS:
                reports = and_(job.study_instance_uid == row.study_instance_uid, job.kind == JobKind.NO_RESULT)
                cancel(session, reports, row.revision, f"superseded: job {job_id} runs again", now)
                mark_for_report(session, row.study_instance_uid, now)
            return True

    def list(self, states: Collection[JobState] | None = None, study: str | None = None) -> list[Job]:
        """Return the jobs in the order of their creation."""
        statement = select(schema.JobRow).order_by(schema.JobRow.id)
        if states is not None:
            statement = statement.where(schema.JobRow.state.in_(states))
        if study is not None:
            statement = statement.where(schema.JobRow.study_instance_uid == study)
        with self._database.reading() as session:
            return [job_record(row) for row in session.scalars(statement)]

    def get(self, job_id: int) -> Job | None:
        with self._database.reading() as session:
            row = session.get(schema.JobRow, job_id)
            return None if row is None else job_record(row)


def _held(job_id: int, worker: str) -> ColumnElement[bool]:
    return and_(schema.JobRow.id == job_id, schema.JobRow.state == JobState.RUNNING, schema.JobRow.worker == worker)


def _after_earlier_results(session: Session, row: schema.JobRow, now: datetime) -> datetime:
    """Return when a job ended: after the others of its study and application, even if the clock was set back since.

    What is superseded is told by this order.
    """
    other = schema.JobRow
    last = session.scalar(
        select(func.max(other.finished_at)).where(
            other.study_instance_uid == row.study_instance_uid,
            other.application == row.application,
            other.state == JobState.SUCCEEDED,
            other.id != row.id,
        )
    )
    return now if last is None or last < now else last + timedelta(microseconds=1)


def _cancel_superseded(session: Session, held: ColumnElement[bool], now: datetime) -> Sequence[schema.JobRow]:
    """Move running jobs that routing marked as superseded to CANCELLED.

    Call this after the statement that ends the jobs in another way. That statement waits for a routing that is about to
    mark them, so that the mark is visible here.
    """
    job = schema.JobRow
    rows = session.scalars(
        update(job)
        .where(held, job.superseded.is_(True))
        .values(state=JobState.CANCELLED, reason="superseded by newer images", finished_at=now)
        .returning(job),
        execution_options=_WITHOUT_SYNC,
    ).all()
    for row in rows:
        text = f"{of_side(row.application, row.side)}: job {row.id} cancelled, {row.reason}; its result is not sent"
        add_event(session, Event(now, row.study_instance_uid, row.revision, Stage.RUNNING, text, row.id))
    return rows
