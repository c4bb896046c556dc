"""The problems that are told as they happen, and what a person has acknowledged."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import and_, delete, func, select, update
from sqlalchemy.orm import Session

from storage.records.commitments import CommitmentState
from storage.records.deliveries import DeliveryState
from storage.records.jobs import JobState
from storage.records.problems import Problem, ProblemKind, ProblemLimits, SendingDay
from storage.records.studies import StudyState
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed, insert_if_absent


def open_problem(session: Session, kind: ProblemKind, key: str, text: str, study_instance_uid: str = "") -> bool:
    """Open a problem in the transaction of what it is about. Return True if it was not open already.

    The same kind and key is the same problem: it is counted once more. An acknowledgement covers it until its text
    changes, so a text should say the same words each time, without counters and times. It holds no attribute of a
    patient.
    """
    now = datetime.now(UTC)
    values = {
        "kind": kind,
        "key": key,
        "study_instance_uid": study_instance_uid,
        "text": text,
        "since": now,
        "last_at": now,
        "times": 1,
    }
    if insert_if_absent(session, schema.ProblemRow, values):
        return True
    row = schema.ProblemRow
    again = update(row).where(row.kind == kind, row.key == key)
    changed(session, again.values(text=text, last_at=now, times=row.times + 1))
    return False


def close_problem(session: Session, kind: ProblemKind, key: str) -> bool:
    """End a problem, because its condition is over. Return True if it was open."""
    row = schema.ProblemRow
    return bool(changed(session, delete(row).where(row.kind == kind, row.key == key)))


def close_problems_of(session: Session, delivery_id: int, destination: str) -> None:
    """End the problems of a delivery that will not be sent any more."""
    close_problem(session, ProblemKind.UNEXPECTED_DUPLICATE, str(delivery_id))
    close_problem(session, ProblemKind.DESTINATION_UNREACHABLE, unanswered_key(delivery_id, destination))


def unanswered_key(delivery_id: int, destination: str) -> str:
    """Return the key of the problem that a destination gives no answer to one delivery."""
    return f"{destination}, delivery {delivery_id}"


def is_problem(session: Session, kind: ProblemKind, key: str) -> bool:
    """Return True if the problem is open."""
    row = schema.ProblemRow
    return session.scalar(select(row.kind).where(row.kind == kind, row.key == key)) is not None


class Problems:
    """The problems of the node, in transactions of their own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, kind: ProblemKind, key: str, text: str, study_instance_uid: str = "") -> bool:
        """Open a problem, as `open_problem` does."""
        with self._database.session() as session:
            return open_problem(session, kind, key, text, study_instance_uid)

    def close(self, kind: ProblemKind, key: str) -> bool:
        """End a problem, as `close_problem` does."""
        with self._database.session() as session:
            return close_problem(session, kind, key)

    def keys(self, kind: ProblemKind, prefix: str) -> Sequence[str]:
        """Return the keys of the open problems of a kind that begin so."""
        row = schema.ProblemRow
        mine = and_(row.kind == kind, row.key.startswith(prefix, autoescape=True))
        with self._database.reading() as session:
            return session.scalars(select(row.key).where(mine)).all()

    def list(self, limits: ProblemLimits) -> Sequence[Problem]:
        """Return the problems that have a row, and the rows that are problems by their state; the oldest first."""
        with self._database.reading() as session:
            found = [
                *_told(session),
                *_failed_jobs(session),
                *_failed_deliveries(session),
                *_failed_reports(session),
                *_not_committed(session, limits),
                *_never_completed(session, limits),
            ]
        return sorted(found, key=lambda problem: (problem.since, problem.kind, problem.key))

    def with_acknowledgements(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        """Return the problems with the acknowledgements that cover them."""
        row = schema.AcknowledgementRow
        with self._database.reading() as session:
            known = {(found.kind, found.key): found for found in session.scalars(select(row))}
            marked = []
            for problem in problems:
                found = known.get((problem.kind, problem.key))
                if found is not None and found.text == problem.text and found.at >= problem.since:
                    problem = replace(problem, acknowledged_at=found.at, note=found.note)
                marked.append(problem)
        return marked

    def acknowledge(self, problem: Problem, note: str) -> None:
        """Note that a person has seen the problem, until it is over or changes."""
        row = schema.AcknowledgementRow
        with self._database.session() as session:
            at = max(datetime.now(UTC), problem.since)  # a clock that was set back acknowledges too
            session.merge(row(kind=problem.kind, key=problem.key, at=at, text=problem.text, note=note))

    def sending_days(self, since: datetime) -> Sequence[SendingDay]:
        """Return the days since then on which each peer sent instances, in order."""
        row = schema.AssociationRow
        day = func.date(row.opened_at)
        statement = (
            select(row.calling_ae_title, func.min(row.opened_at), func.max(row.opened_at))
            .where(row.opened_at >= since)
            .group_by(row.calling_ae_title, day)
            .order_by(row.calling_ae_title, day)
        )
        with self._database.reading() as session:
            return [SendingDay(*found) for found in session.execute(statement)]


def _told(session: Session) -> Iterator[Problem]:
    for row in session.scalars(select(schema.ProblemRow)):
        yield Problem(row.kind, row.key, row.text, row.since, row.last_at, row.study_instance_uid, row.times)


def _failed_jobs(session: Session) -> Iterator[Problem]:
    row = schema.JobRow
    for job in session.scalars(select(row).where(row.state == JobState.FAILED, row.superseded.is_(False))):
        at = job.finished_at or job.created_at
        text = f"job {job.id} ({job.application}) failed for good: {job.reason}"
        yield Problem(ProblemKind.JOB_FAILED, str(job.id), text, at, at, job.study_instance_uid, job.attempts)


def _failed_deliveries(session: Session) -> Iterator[Problem]:
    delivery, target = schema.DeliveryRow, schema.ResultObjectRow
    statement = select(delivery, target).join(target, target.id == delivery.object_id)
    for row, sent in session.execute(statement.where(delivery.state == DeliveryState.FAILED)):
        at = row.claimed_at or row.created_at
        text = f"delivery {row.id} ({sent.kind} → {row.destination}) failed for good: {row.reason}"
        yield Problem(ProblemKind.DELIVERY_FAILED, str(row.id), text, at, at, sent.study_instance_uid, row.attempts)


def _failed_reports(session: Session) -> Iterator[Problem]:
    row = schema.CommitmentRow
    for report in session.scalars(select(row).where(row.state == CommitmentState.FAILED)):
        text = f"{report.peer_ae_title} could not be told whether its images are committed: {report.reason}"
        at = report.requested_at
        yield Problem(ProblemKind.REPORT_FAILED, str(report.id), text, at, at, times=report.attempts)


def _not_committed(session: Session, limits: ProblemLimits) -> Iterator[Problem]:
    """Yield a problem for each destination, because what one does not confirm it usually never does."""
    row = schema.DeliveryRow
    late = and_(
        row.state == DeliveryState.SENT,
        row.sent_at < limits.unconfirmed_before,
        row.destination.in_(limits.confirming),
    )
    statement = select(row.destination, func.count(), func.min(row.sent_at), func.max(row.sent_at))
    for name, count, first, last in session.execute(statement.where(late).group_by(row.destination)):
        assert first is not None
        assert last is not None
        text = f"{count} objects that {name} accepted are not confirmed to be kept there"
        yield Problem(ProblemKind.NOT_COMMITTED, name, text, first, last, times=count)


def _never_completed(session: Session, limits: ProblemLimits) -> Iterator[Problem]:
    row = schema.StudyRow
    unfinished = row.state.in_((StudyState.RECEIVING, StudyState.COMPLETE))
    for study in session.scalars(select(row).where(unfinished, row.revision_started_at < limits.unfinished_before)):
        uid, since = study.study_instance_uid, study.revision_started_at
        text = f"the study is still {study.state} in revision {study.revision}"
        yield Problem(ProblemKind.NEVER_COMPLETED, uid, text, since, study.last_received_at, uid)
