"""The result objects of jobs, what a new result supersedes, and the withdrawal of results."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from storage.blobs import FileBlob
from storage.errors import Permanent
from storage.records.deliveries import Delivery, DeliveryState, StoredAs
from storage.records.jobs import Job, JobKind, JobState, NewJob, WithdrawalDetail, of_side
from storage.records.results import NewObject, ObjectKind, ResultObject
from storage.records.studies import Event, Stage
from storage.tables.database import schema
from storage.tables.database.connection import Database, insert_if_absent
from storage.tables.events import add_event
from storage.tables.problems import close_problems_of
from storage.tables.queueing import enqueue, job_record, names_application, not_beside, withdrawn

_REPORTS = tuple(kind for kind in ObjectKind if kind.is_report)
_ENDED = (DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.REPLACED)
_GIVEN_UP = (DeliveryState.REPLACED, DeliveryState.FAILED)


class Results:
    def __init__(self, database: Database) -> None:
        self._database = database

    def objects(self, study_instance_uid: str) -> Sequence[ResultObject]:
        """Return the result objects of a study, by job, in the order of delivery."""
        target = schema.ResultObjectRow
        return self._objects(select(target).where(target.study_instance_uid == study_instance_uid))

    def repetition(self, job: Job) -> int:
        """Return how many earlier jobs were to give the same result as this one."""
        row = schema.JobRow
        same = (row.kind == job.kind, row.revision == job.revision, row.fingerprint == job.fingerprint)
        return self._count_earlier(job, row.application == job.application, *same)

    def edition(self, job: Job) -> int:
        """Return 1 for the first result of an application and side, or the first report of no result, of a study."""
        row = schema.JobRow
        same = row.kind == JobKind.NO_RESULT  # of any applications; withdrawn ones count too
        if job.kind is not JobKind.NO_RESULT:
            same = and_(row.kind == JobKind.ANALYSIS, row.application == job.application)
        return 1 + self._count_earlier(job, same, row.state == JobState.SUCCEEDED, not_beside(row.side, job.beside))

    def _count_earlier(self, job: Job, *conditions: ColumnElement[bool]) -> int:
        earlier = (schema.JobRow.study_instance_uid == job.study_instance_uid, schema.JobRow.id < job.id)
        with self._database.reading() as session:
            return session.scalar(select(func.count()).where(*earlier, *conditions)) or 0

    def previous_sr(
        self, study_instance_uid: str, application: str, job: int, destinations: Collection[str], beside: str = ""
    ) -> Sequence[ResultObject]:
        """Return the earlier reports that the reports of `job` supersede at these destinations.

        They are the reports of the latest other job about the application that reported to one of the destinations, in
        the form of report that each destination takes: an analysis, or a report that it gives no result. That job is of
        an earlier revision, or of the same one if other weights computed it again or a failure was reported. Without
        destinations, they are the reports that were sent nowhere. Those of the side `beside` this job are passed over.

        Withdrawn results are passed over, and so are results that were not sent yet, because they never will be.
        """
        sides = {"L", "R"} - {beside}
        return self._latest_reports(
            study_instance_uid,
            job,
            destinations,
            lambda row: (
                names_application(row, application, beside)
                or (row.kind is JobKind.ANALYSIS and row.application == application and row.side in ("", *sides))
            ),
        )

    def previous_no_result(
        self, study_instance_uid: str, job: int, destinations: Collection[str]
    ) -> Sequence[ResultObject]:
        """Return the latest reports of no result of the study that these destinations got, as `previous_sr` does."""
        return self._latest_reports(study_instance_uid, job, destinations, lambda row: row.kind is JobKind.NO_RESULT)

    def held_no_result(self, study_instance_uid: str, job: int, destination: str) -> Sequence[ResultObject]:
        """Return the reports of no result that a destination got, or may have got, and that were not rejected yet."""
        delivery, target = schema.DeliveryRow, schema.ResultObjectRow
        held = (
            select(target)
            .join(delivery, delivery.object_id == target.id)
            .join(schema.JobRow, schema.JobRow.id == delivery.job_id)
            .where(
                _others(study_instance_uid, job, JobKind.NO_RESULT),
                delivery.destination == destination,
                delivery.claimed_at.is_not(None),
                rejectable(),
                _not_rejected(study_instance_uid, [destination]),
            )
        )
        return self._objects(held)

    def _latest_reports(
        self, study_instance_uid: str, job: int, destinations: Collection[str], takes: Callable[[schema.JobRow], bool]
    ) -> Sequence[ResultObject]:
        """Return the reports of the latest job that `takes` accepts and that reported to the destinations."""
        job_row, target = schema.JobRow, schema.ResultObjectRow
        is_report = and_(target.kind.in_(_REPORTS), _reached(destinations))
        reporting = (
            select(job_row)
            .where(
                _others(study_instance_uid, job, JobKind.ANALYSIS, JobKind.NO_RESULT),
                select(target.id).where(target.job_id == job_row.id, is_report).exists(),
                or_(job_row.kind != JobKind.NO_RESULT, _not_rejected(study_instance_uid, destinations)),
            )
            .order_by(job_row.finished_at.desc(), job_row.id.desc())  # one that was queued again ends after newer ones
        )
        with self._database.reading() as session:
            latest = next((row.id for row in session.scalars(reporting) if takes(row)), None)
        return [] if latest is None else self._objects(select(target).where(target.job_id == latest, is_report))

    def superseded(
        self, study_instance_uid: str, application: str, job: int, destination: str, beside: str = ""
    ) -> Sequence[ResultObject]:
        """Return the objects that a rejection note for `job`, an analysis, names at a destination.

        These are the objects of superseded results that the destination got, or was to get. Objects are omitted if they
        were withdrawn, or rejected when another result superseded them, or if they are of the side `beside` the job's.
        """
        job_row, delivery, target = schema.JobRow, schema.DeliveryRow, schema.ResultObjectRow
        others = and_(
            _others(study_instance_uid, job, JobKind.ANALYSIS),
            job_row.application == application,
            not_beside(job_row.side, beside),
        )
        here = delivery.destination == destination
        rejected_until = (
            select(func.max(job_row.finished_at))
            .join(delivery, delivery.job_id == job_row.id)
            .join(target, target.id == delivery.object_id)
            .where(others, here, target.kind == ObjectKind.REJECTION, delivery.state.not_in(_GIVEN_UP))
            .scalar_subquery()
        )
        return self._objects(
            select(target)
            .join(delivery, delivery.object_id == target.id)
            .join(job_row, job_row.id == delivery.job_id)
            .where(others, here, rejectable(), or_(rejected_until.is_(None), job_row.finished_at >= rejected_until))
        )

    def withdraw(self, job_id: int, reason: str, now: datetime) -> Job | None:
        """Withdraw the results of a SUCCEEDED job, and return the WITHDRAWAL job that is enqueued for it.

        Deliveries that were not sent yet are ended. The WITHDRAWAL job notifies the destinations that got an object, or
        may have got it. Return None and change nothing if the job is in another state, or if its results were withdrawn
        before. The caller must not name the patient in `reason`.
        """
        job, delivery = schema.JobRow, schema.DeliveryRow
        with self._database.session() as session:
            row = session.scalars(
                select(job)
                .where(job.id == job_id, job.state == JobState.SUCCEEDED, job.kind != JobKind.WITHDRAWAL)
                .with_for_update()
            ).one_or_none()
            if row is None or _is_withdrawn(session, row):
                return None
            deliveries = session.execute(
                select(delivery, rejectable())
                .join(schema.ResultObjectRow, schema.ResultObjectRow.id == delivery.object_id)
                .where(delivery.job_id == job_id)
                .order_by(delivery.destination, delivery.sequence)
                .with_for_update(of=delivery)
            ).all()
            objects: dict[str, list[int]] = {}
            ended = 0
            for sent, may_be_rejected in deliveries:
                if may_be_rejected and sent.claimed_at is not None:  # the answer that was lost may have been Success
                    objects.setdefault(sent.destination, []).append(sent.object_id)
                if sent.state not in _ENDED:
                    sent.state, sent.reason, sent.dispatcher = DeliveryState.REPLACED, "withdrawn", None
                    close_problems_of(session, sent.id, sent.destination)
                    ended += 1
            text = f"{of_side(row.application, row.side)}: the results of job {job_id} are withdrawn"
            text += f": {reason}" if reason else ""
            text += f"; {ended} not sent yet will not be" if ended else ""
            add_event(session, Event(now, row.study_instance_uid, row.revision, Stage.WITHDRAWN, text, job_id))
            withdrawal = NewJob(
                study_instance_uid=row.study_instance_uid,
                revision=row.revision,
                application=row.application,
                inputs=row.inputs,
                fingerprint=_withdrawal_fingerprint(session, job_id),
                priority=row.priority,
                detail=WithdrawalDetail(job_id, {name: tuple(ids) for name, ids in objects.items()}, reason),
                side=row.side,
                beside=row.beside,
            )
            return job_record(session.get_one(job, enqueue(session, withdrawal, now)))

    def _objects(self, statement: Select[schema.ResultObjectRow]) -> Sequence[ResultObject]:
        ordered = statement.order_by(schema.ResultObjectRow.job_id, schema.ResultObjectRow.sequence)
        with self._database.reading() as session:
            return [object_record(row) for row in session.scalars(ordered)]


def _withdrawal_fingerprint(session: Session, job_id: int) -> str:
    target = schema.ResultObjectRow
    uids = session.scalars(select(target.sop_instance_uid).where(target.job_id == job_id)).all()
    return hashlib.sha256("\n".join(["withdrawal", *sorted(uids)]).encode()).hexdigest()


def rejectable() -> ColumnElement[bool]:
    """Return the SQL condition, on deliveries joined with their objects, that a rejection note may name the object.

    It excludes rejection notes themselves, and objects that were replaced before they could arrive.
    """
    held = or_(schema.DeliveryRow.state != DeliveryState.REPLACED, schema.DeliveryRow.may_have_arrived)
    return and_(held, schema.ResultObjectRow.kind != ObjectKind.REJECTION)


def _is_withdrawn(session: Session, row: schema.JobRow) -> bool:
    job = schema.JobRow
    return session.scalar(select(job.id).where(job.id == row.id, withdrawn(job.study_instance_uid, job.id))) is not None


def _others(study_instance_uid: str, other_than: int, *kinds: JobKind) -> ColumnElement[bool]:
    """Return the SQL condition for jobs of these kinds whose results stand, or were superseded."""
    job = schema.JobRow
    return and_(
        job.study_instance_uid == study_instance_uid,
        job.id != other_than,
        job.kind.in_(kinds),
        job.state == JobState.SUCCEEDED,
        ~withdrawn(job.study_instance_uid, job.id),
    )


def _not_rejected(study_instance_uid: str, destinations: Collection[str]) -> ColumnElement[bool]:
    """Return the SQL condition for reports of no result that were not rejected at one of these destinations."""
    job, delivery, target = aliased(schema.JobRow), schema.DeliveryRow, aliased(schema.ResultObjectRow)
    rejected_until = (
        select(func.max(job.finished_at))
        .join(target, target.job_id == job.id)
        .where(
            job.study_instance_uid == study_instance_uid,
            job.kind == JobKind.NO_RESULT,
            target.kind == ObjectKind.REJECTION,
            select(delivery.id).where(delivery.object_id == target.id, delivery.destination.in_(destinations)).exists(),
        )
        .scalar_subquery()
    )
    return or_(rejected_until.is_(None), schema.JobRow.finished_at >= rejected_until)


def _reached(destinations: Collection[str]) -> ColumnElement[bool]:
    """Return the SQL condition for objects that one of the destinations got, or may have got.

    A delivery without an answer counts, because the answer that was lost may have been Success.
    """
    delivery, target = schema.DeliveryRow, schema.ResultObjectRow
    if not destinations:
        return target.stands_for == ""
    delivered = select(delivery.id).where(
        delivery.object_id == target.id,
        delivery.destination.in_(destinations),
        delivery.claimed_at.is_not(None),
        or_(delivery.state.not_in(_GIVEN_UP), delivery.may_have_arrived),
    )
    return delivered.exists()


def keep_object(session: Session, job_id: int, sequence: int, new: NewObject, now: datetime) -> schema.ResultObjectRow:
    """Return the row of a result object, inserted if absent. Raises Permanent if another job has its UID."""
    known = session.scalars(
        select(schema.ResultObjectRow).where(schema.ResultObjectRow.sop_instance_uid == new.sop_instance_uid)
    ).one_or_none()
    if known is not None:
        if known.job_id != job_id:
            raise Permanent(f"The result object {new.sop_instance_uid} belongs to job {known.job_id}")
        known.path = str(new.blob.path)
        return known
    row = schema.ResultObjectRow(
        job_id=job_id,
        sop_instance_uid=new.sop_instance_uid,
        sop_class_uid=new.sop_class_uid,
        series_instance_uid=new.series_instance_uid,
        study_instance_uid=new.study_instance_uid,
        kind=new.kind,
        path=str(new.blob.path),
        sequence=sequence,
        created_at=now,
        destinations=list(new.destinations),
        stands_for=" ".join(new.stands_for),
    )
    session.add(row)
    insert_if_absent(session, schema.OwnInstanceRow, {"sop_instance_uid": new.sop_instance_uid})
    session.flush()
    return row


def enqueue_deliveries(
    session: Session, target: schema.ResultObjectRow, destinations: Sequence[str], now: datetime
) -> None:
    session.add_all(
        schema.DeliveryRow(
            object_id=target.id,
            job_id=target.job_id,
            sequence=target.sequence,
            destination=destination,
            state=DeliveryState.QUEUED,
            attempts=0,
            reason="",
            created_at=now,
            run_after=now,
        )
        for destination in destinations
    )


def object_record(row: schema.ResultObjectRow) -> ResultObject:
    return ResultObject(
        id=row.id,
        job_id=row.job_id,
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        series_instance_uid=row.series_instance_uid,
        study_instance_uid=row.study_instance_uid,
        kind=row.kind,
        blob=FileBlob(Path(row.path)),
        sequence=row.sequence,
        created_at=row.created_at,
        destinations=tuple(row.destinations),
        stands_for=tuple(map(ObjectKind, row.stands_for.split())),
    )


def delivery_record(row: schema.DeliveryRow, target: schema.ResultObjectRow) -> Delivery:
    return Delivery(
        id=row.id,
        object=object_record(target),
        destination=row.destination,
        state=row.state,
        attempts=row.attempts,
        reason=row.reason,
        created_at=row.created_at,
        run_after=row.run_after,
        sent_at=row.sent_at,
        resends=row.resends,
        may_have_arrived=row.may_have_arrived,
        waited_seconds=row.waited_seconds,
        warning=row.warning,
        stored_as=None if row.stored_as is None else StoredAs(*row.stored_as),
    )


def move(session: Session, where: ColumnElement[bool], **values: Any) -> list[Delivery]:
    """Make one guarded transition, and return the changed deliveries."""
    rows = session.scalars(
        update(schema.DeliveryRow).where(where).values(**values).returning(schema.DeliveryRow),
        execution_options={"synchronize_session": False},
    ).all()
    return [delivery_record(row, session.get_one(schema.ResultObjectRow, row.object_id)) for row in rows]


def tell(session: Session, deliveries: Collection[Delivery], now: datetime, stage: Stage, what: str) -> None:
    """Add one line for each delivery to the timeline of its study."""
    for delivery in deliveries:
        target = delivery.object
        revision = session.get_one(schema.JobRow, target.job_id).revision
        text = f"{target.kind} → {delivery.destination}: {what}"
        add_event(session, Event(now, target.study_instance_uid, revision, stage, text, target.job_id))


def end_superseded_deliveries(session: Session, by: schema.JobRow, destinations: Sequence[str], now: datetime) -> None:
    """End the deliveries of earlier results that were not sent to these destinations yet.

    They must not arrive after the result that supersedes them. Rejection notes are still sent.
    """
    job, delivery, target = schema.JobRow, schema.DeliveryRow, schema.ResultObjectRow
    earlier = select(job.id).where(
        job.study_instance_uid == by.study_instance_uid,
        job.application == by.application,
        job.kind == JobKind.ANALYSIS,
        job.id != by.id,
        not_beside(job.side, by.beside),
    )
    unsent = and_(
        delivery.job_id.in_(earlier),
        delivery.destination.in_(destinations),
        delivery.state.in_((DeliveryState.QUEUED, DeliveryState.RETRYING, DeliveryState.FAILED)),
        delivery.object_id.in_(select(target.id).where(target.kind != ObjectKind.REJECTION)),
    )
    ended = move(session, unsent, state=DeliveryState.REPLACED, reason=f"superseded by the result of job {by.id}")
    for one in ended:
        close_problems_of(session, one.id, one.destination)
    if ended:
        told = f"{len(ended)} objects of earlier results were not sent, and will not be"
        text = f"{of_side(by.application, by.side)}: {told}"
        add_event(session, Event(now, by.study_instance_uid, by.revision, Stage.ENCODED, text, by.id))
