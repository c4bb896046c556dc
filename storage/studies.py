"""The states of a study's current revision: RECEIVING → COMPLETE → ROUTED or IGNORED.

Every transition names the state and revision it starts from, so that of two processes one wins.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import and_, case, delete, func, insert, select, update
from sqlalchemy.orm import Session

from storage import schema
from storage.database import Database, changed
from storage.events import add_event, events
from storage.records import AssociationEnd, Event, JobState, NewJob, Study, StudyEvidence, StudyState


class Studies:
    def __init__(self, database: Database) -> None:
        self._database = database

    # -- completion ----------------------------------------------------------------------------------------------------

    def evidence(self) -> list[StudyEvidence]:
        """What is known about every study in RECEIVING."""
        study, association = schema.Study, schema.Association
        is_open = case((and_(association.id.is_not(None), association.ended.is_(None)), 1), else_=0)
        is_aborted = case((association.ended == AssociationEnd.ABORTED, 1), else_=0)
        statement = (
            select(
                study.study_instance_uid,
                study.revision,
                study.instances,
                study.revision_started_at,
                study.last_received_at,
                func.sum(is_open),
                func.sum(is_aborted),
                func.max(association.ended_at),
            )
            .outerjoin(
                schema.Feed,
                and_(
                    schema.Feed.study_instance_uid == study.study_instance_uid, schema.Feed.revision == study.revision
                ),
            )
            .outerjoin(association, association.id == schema.Feed.association_id)
            .where(study.state == StudyState.RECEIVING)
            .group_by(study.study_instance_uid)
            .order_by(study.first_received_at)
        )
        with self._database.reading() as session:
            return [StudyEvidence(*row) for row in session.execute(statement)]

    def complete(self, study_instance_uid: str, revision: int, reason: str, now: datetime) -> bool:
        """RECEIVING → COMPLETE. False when the study is not at this revision in this state any more."""
        with self._database.session() as session:
            if not _move(session, study_instance_uid, revision, StudyState.RECEIVING, StudyState.COMPLETE, reason):
                return False
            add_event(session, now, study_instance_uid, revision, "complete", reason)
            return True

    # -- routing -------------------------------------------------------------------------------------------------------

    def completed(self) -> list[Study]:
        """Studies in COMPLETE, oldest first."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(schema.Study)
                .where(schema.Study.state == StudyState.COMPLETE)
                .order_by(schema.Study.last_received_at)
            )
            return [_record(row) for row in rows]

    def route(
        self,
        study_instance_uid: str,
        revision: int,
        reason: str,
        jobs: Sequence[NewJob],
        decisions: Mapping[str, Any],
        now: datetime,
        warnings: Sequence[str] = (),
    ) -> bool:
        """COMPLETE → ROUTED, with the jobs, in one transaction. False when the study is not COMPLETE any more.

        `warnings` go to the timeline: what could not be routed.
        A job whose application and fingerprint were computed already, or soon will be, is not enqueued again. Other
        jobs of the same study and application are superseded: waiting ones are CANCELLED, and a running one will be
        when it ends, without a delivery.
        """
        with self._database.session() as session:
            if not _move(session, study_instance_uid, revision, StudyState.COMPLETE, StudyState.ROUTED, reason):
                return False
            _keep_decisions(session, study_instance_uid, revision, decisions, now)
            add_event(session, now, study_instance_uid, revision, "routed", reason)
            _warn(session, study_instance_uid, revision, warnings, now)
            for job in jobs:
                _hold_jobs(session, job)
                standing = _standing_job(session, job)
                _supersede(session, job, standing, now)
                if standing is None:
                    _enqueue(session, job, now)
                else:
                    add_event(
                        session,
                        now,
                        study_instance_uid,
                        revision,
                        "queued",
                        f"{job.application}: the same instances as before, job {standing} stands",
                        standing,
                    )
            return True

    def ignore(
        self,
        study_instance_uid: str,
        revision: int,
        reason: str,
        decisions: Mapping[str, Any],
        now: datetime,
        warnings: Sequence[str] = (),
    ) -> bool:
        """COMPLETE → IGNORED: nothing applies. False when the study is not COMPLETE any more."""
        with self._database.session() as session:
            if not _move(session, study_instance_uid, revision, StudyState.COMPLETE, StudyState.IGNORED, reason):
                return False
            _keep_decisions(session, study_instance_uid, revision, decisions, now)
            add_event(session, now, study_instance_uid, revision, "routed", reason)
            _warn(session, study_instance_uid, revision, warnings, now)
            return True

    def reroute(self, study_instance_uid: str) -> bool:
        """ROUTED or IGNORED → COMPLETE, to be routed again: an application was added, or repaired.

        Jobs that stand are not made twice (`route`). False in other states.
        """
        reason = "to be routed again, as asked by the operator"
        with self._database.session() as session:
            revision = session.scalar(
                update(schema.Study)
                .where(
                    schema.Study.study_instance_uid == study_instance_uid,
                    schema.Study.state.in_((StudyState.ROUTED, StudyState.IGNORED)),
                )
                .values(state=StudyState.COMPLETE, reason=reason)
                .returning(schema.Study.revision),
                execution_options={"synchronize_session": False},
            )
            if revision is None:
                return False
            add_event(session, datetime.now(UTC), study_instance_uid, revision, "complete", reason)
            return True

    def routing(self, study_instance_uid: str, revision: int | None = None) -> dict[str, Any] | None:
        """The decisions of one revision, of the current one by default; None when it was not routed yet."""
        with self._database.reading() as session:
            if revision is None:
                study = session.get(schema.Study, study_instance_uid)
                if study is None:
                    return None
                revision = study.revision
            row = session.get(schema.Routing, (study_instance_uid, revision))
            return None if row is None else row.decisions

    # -- what is here --------------------------------------------------------------------------------------------------

    def list(self, state: StudyState | None = None, limit: int = 100) -> list[Study]:
        """Studies, the last received first."""
        statement = select(schema.Study).order_by(schema.Study.last_received_at.desc()).limit(limit)
        if state is not None:
            statement = statement.where(schema.Study.state == state)
        with self._database.reading() as session:
            return [_record(row) for row in session.scalars(statement)]

    def get(self, study_instance_uid: str) -> Study | None:
        with self._database.reading() as session:
            row = session.get(schema.Study, study_instance_uid)
            return None if row is None else _record(row)

    def events(self, study_instance_uid: str) -> Sequence[Event]:
        """The timeline, oldest first."""
        with self._database.reading() as session:
            return events(session, study_instance_uid)

    def add_event(self, event: Event) -> None:
        """For what happens outside the transitions of this package. No text names a patient."""
        with self._database.session() as session:
            add_event(
                session,
                event.at,
                event.study_instance_uid,
                event.revision,
                event.stage,
                event.text,
                event.job_id,
                event.data,
            )


def _move(
    session: Session, study_instance_uid: str, revision: int, start: StudyState, end: StudyState, reason: str
) -> bool:
    statement = (
        update(schema.Study)
        .where(
            schema.Study.study_instance_uid == study_instance_uid,
            schema.Study.revision == revision,
            schema.Study.state == start,
        )
        .values(state=end, reason=reason)
    )
    return changed(session, statement) == 1


def _warn(session: Session, study_instance_uid: str, revision: int, warnings: Sequence[str], now: datetime) -> None:
    for text in warnings:
        add_event(session, now, study_instance_uid, revision, "warning", text)


def _keep_decisions(
    session: Session, study_instance_uid: str, revision: int, decisions: Mapping[str, Any], now: datetime
) -> None:
    """Those of an earlier routing of the same revision are replaced."""
    routing = schema.Routing
    changed(
        session,
        delete(routing).where(routing.study_instance_uid == study_instance_uid, routing.revision == revision),
    )
    session.execute(
        insert(routing).values(
            study_instance_uid=study_instance_uid, revision=revision, decisions=dict(decisions), at=now
        )
    )


def _hold_jobs(session: Session, new: NewJob) -> None:
    """Keeps the jobs of the same study and application in their states until the end of the transaction: one that a
    worker claims or gives back meanwhile would be met neither as waiting nor as running."""
    job = schema.Job
    session.scalars(
        select(job.id)
        .where(job.study_instance_uid == new.study_instance_uid, job.application == new.application)
        .with_for_update()
    ).all()


def _standing_job(session: Session, new: NewJob) -> int | None:
    """The job that gives, or has given, the very same result."""
    job = schema.Job
    return session.scalar(
        select(job.id)
        .where(
            job.study_instance_uid == new.study_instance_uid,
            job.application == new.application,
            job.fingerprint == new.fingerprint,
            job.state.in_((JobState.QUEUED, JobState.RUNNING, JobState.RETRYING, JobState.SUCCEEDED)),
            job.superseded.is_(False),
        )
        .order_by(job.id.desc())
        .limit(1)
    )


def _supersede(session: Session, new: NewJob, standing: int | None, now: datetime) -> None:
    job = schema.Job
    older = and_(job.study_instance_uid == new.study_instance_uid, job.application == new.application)
    if standing is not None:
        older = and_(older, job.id != standing)
    changed(session, update(job).where(older, job.state == JobState.RUNNING).values(superseded=True))
    reason = f"superseded by revision {new.revision}"
    cancelled = session.scalars(
        update(job)
        .where(older, job.state.in_((JobState.QUEUED, JobState.RETRYING)))
        .values(state=JobState.CANCELLED, superseded=True, reason=reason, finished_at=now)
        .returning(job.id),
        execution_options={"synchronize_session": False},
    ).all()
    for job_id in cancelled:
        add_event(
            session,
            now,
            new.study_instance_uid,
            new.revision,
            "queued",
            f"{new.application}: job {job_id} cancelled, {reason}",
            job_id,
        )


def _enqueue(session: Session, new: NewJob, now: datetime) -> None:
    row = schema.Job(
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
    )
    session.add(row)
    session.flush()
    add_event(
        session, now, new.study_instance_uid, new.revision, "queued", f"{new.application}: job {row.id} queued", row.id
    )


def _record(row: schema.Study) -> Study:
    return Study(
        study_instance_uid=row.study_instance_uid,
        state=row.state,
        revision=row.revision,
        reason=row.reason,
        instances=row.instances,
        first_received_at=row.first_received_at,
        last_received_at=row.last_received_at,
    )
