"""The rows of a study that is deleted: whether they may go, where its instances lie, and their removal."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from storage.errors import DeletionRefused, StudyInUse
from storage.log.deletion.records import Deletion
from storage.records.deliveries import ConfirmationState, DeliveryState
from storage.records.instances import Address
from storage.records.jobs import JobKind, JobState
from storage.records.problems import ProblemKind
from storage.records.studies import Event, Stage
from storage.tables.database import schema
from storage.tables.database.connection import changed, chunks
from storage.tables.events import add_event
from storage.tables.problems import close_problems_of
from storage.tables.queueing import cancel

_UNSENT = (DeliveryState.QUEUED, DeliveryState.RETRYING, DeliveryState.FAILED)
_UNENDED = (JobState.QUEUED, JobState.RETRYING, JobState.RUNNING)
_PLACED = (schema.InstanceRow, schema.InstanceVersionRow, schema.AsideRow, schema.RepeatedRow)
_Table = type[schema.InstanceRow] | type[schema.InstanceVersionRow] | type[schema.AsideRow] | type[schema.RepeatedRow]


# -- whether it may be deleted -----------------------------------------------------------------------------------------


def refuse_undelivered(session: Session, study_instance_uid: str) -> None:
    """Raise DeletionRefused if destinations wait for something of a study that would never reach them."""
    delivery, target, confirmation = schema.DeliveryRow, schema.ResultObjectRow, schema.ConfirmationRow
    of_study = select(delivery).join(target, target.id == delivery.object_id)
    of_study = of_study.where(target.study_instance_uid == study_instance_uid)
    unsent = session.scalars(of_study.where(delivery.state.in_(_UNSENT))).all()
    unconfirmed = session.scalars(
        of_study.join(confirmation, confirmation.id == delivery.confirmation_id).where(
            delivery.state == DeliveryState.SENT, confirmation.state != ConfirmationState.CLOSED
        )
    ).all()
    reasons = [
        f"{len(rows)} of its result objects {what} {', '.join(sorted({row.destination for row in rows}))}"
        for what, rows in (("have not reached", unsent), ("are not confirmed yet by", unconfirmed))
        if rows
    ]
    job = schema.JobRow
    withdrawals = select(job.id).where(
        _of(job, study_instance_uid), job.kind == JobKind.WITHDRAWAL, job.state.in_((*_UNENDED, JobState.FAILED))
    )
    reasons += [f"the withdrawal of its results, job {number}, is not done" for number in session.scalars(withdrawals)]
    if reasons:
        raise DeletionRefused(
            f"The study {study_instance_uid} is not deleted: {'; '.join(reasons)}. Wait, or give this up with "
            "--even-if-undelivered"
        )


def refuse_while_in_use(session: Session, study_instance_uid: str) -> None:
    """Raise StudyInUse while a worker or the dispatcher has files of a study in its hands."""
    job, delivery, target = schema.JobRow, schema.DeliveryRow, schema.ResultObjectRow
    # All rows are locked, so that nobody takes one up before it is removed.
    jobs = select(job.id, job.state).where(_of(job, study_instance_uid)).order_by(job.id).with_for_update()
    deliveries = (
        select(delivery.id, delivery.state)
        .join(target, target.id == delivery.object_id)
        .where(target.study_instance_uid == study_instance_uid)
        .order_by(delivery.id)
        .with_for_update(of=delivery)
    )
    running = [number for number, state in session.execute(jobs) if state is JobState.RUNNING]
    sending = [number for number, state in session.execute(deliveries) if state is DeliveryState.SENDING]
    if running:
        raise StudyInUse(f"Job {running[0]} still runs on the study {study_instance_uid}; it was told to stop")
    if sending:
        raise StudyInUse(f"Delivery {sending[0]} of a result of the study {study_instance_uid} is being sent")


def stop_jobs(session: Session, study_instance_uid: str, now: datetime) -> None:
    """Cancel the jobs of a study that wait, and mark those that run, which then end soon."""
    study = session.get(schema.StudyRow, study_instance_uid)
    revision = 1 if study is None else study.revision
    held = select(schema.JobRow.id).where(_of(schema.JobRow, study_instance_uid)).order_by(schema.JobRow.id)
    session.scalars(held.with_for_update()).all()
    cancel(session, _of(schema.JobRow, study_instance_uid), revision, "the study is to be deleted", now)


# -- where it lies -----------------------------------------------------------------------------------------------------


def stored_frames(session: Session, study_instance_uid: str) -> dict[Address, str]:
    """Return where everything lies in the log that came as a part of a study, each with the checksum of its content.

    These are the instances in all their versions, what is kept aside, and what came more than once.
    """
    segment = schema.SegmentRow
    found: dict[Address, str] = {}
    for row in _PLACED:
        place = (segment.receiver, segment.number, row.frame_offset, row.body_offset, row.size, row.file)
        statement = select(row.sha256, *place).join_from(row, segment, segment.id == row.segment_id)
        for checksum, receiver, number, offset, body, size, file in session.execute(
            statement.where(row.study_instance_uid == study_instance_uid)
        ):
            found[Address(receiver, number, offset or 0, body or 0, size or 0, file)] = checksum
    return found


def aside_files(session: Session, study_instance_uid: str) -> Sequence[str]:
    """Return the places of what release 0.1 kept aside of a study, as names of files below the data directory."""
    row = schema.AsideRow
    here = (row.study_instance_uid == study_instance_uid, row.segment_id.is_(None))
    return session.scalars(select(row.place).where(*here)).all()


def procedure_step_files(session: Session, study_instance_uid: str) -> Sequence[str]:
    """Return the names of the files of the procedure steps that produced this study and no other one."""
    steps = _steps_of_no_other(session, study_instance_uid)
    row = schema.ProcedureStepRow
    return session.scalars(select(row.path).where(row.sop_instance_uid.in_(steps))).all()


def is_known(session: Session, study_instance_uid: str) -> bool:
    """Return True if anything is here that came as a part of this study, be it kept aside."""
    tables = (schema.StudyRow, schema.AsideRow)
    found = (
        session.scalar(select(t.study_instance_uid).where(t.study_instance_uid == study_instance_uid).limit(1))
        for t in tables
    )
    return any(uid is not None for uid in found)


def is_segment_unused(session: Session, receiver: str, number: int) -> bool:
    """Return True if a segment is indexed to its end, and no row says that something lies in it."""
    segment, journal = schema.SegmentRow, schema.JournalRow
    reached = session.scalar(select(journal.segment).where(journal.receiver == receiver))
    if reached is None or number >= reached:
        return False
    here = select(segment.id).where(segment.receiver == receiver, segment.number == number).scalar_subquery()
    used = (session.scalar(select(row.segment_id).where(row.segment_id == here).limit(1)) for row in _PLACED)
    return all(found is None for found in used)


def forget_segment(session: Session, receiver: str, number: int) -> None:
    row = schema.SegmentRow
    changed(session, delete(row).where(row.receiver == receiver, row.number == number))


def count_instances(session: Session, study_instance_uid: str) -> int:
    row = schema.InstanceRow
    return session.scalar(select(func.count()).where(row.study_instance_uid == study_instance_uid)) or 0


# -- the removal -------------------------------------------------------------------------------------------------------


def remove_rows(session: Session, deletion: Deletion) -> None:
    """Remove the rows of a deleted study, and tell in its timeline when and why it was deleted.

    If something of the study came since, only the rows of what was deleted are removed. The UIDs of results stay known,
    so that a result that comes back is recognised.
    """
    uid = deletion.study_instance_uid
    rows = _rows_of(session, uid)
    if all(_is_in(deletion, row) for row in rows):
        _remove_study(session, uid)
    else:
        _remove_some(session, uid, [row for row in rows if _is_in(deletion, row)])
    _tell(session, deletion)


def studies_here(session: Session, study_instance_uids: Collection[str]) -> set[str]:
    """Return those of these studies of which anything is here."""
    found: set[str] = set()
    for row in (schema.StudyRow, schema.AsideRow):
        for chunk in chunks(sorted(study_instance_uids)):
            found |= set(session.scalars(select(row.study_instance_uid).where(row.study_instance_uid.in_(chunk))))
    return found


def came_back(session: Session, deletion: Deletion) -> bool:
    """Return True if rows of what was deleted are here, because an older database was restored."""
    return any(_is_in(deletion, row) for row in _rows_of(session, deletion.study_instance_uid))


def tell_deletions(session: Session, deletions: Collection[Deletion]) -> None:
    """Tell in the timelines of deleted studies what is not told there, because the database was lost."""
    told = set(session.scalars(select(schema.EventRow.study_instance_uid).where(_is_deletion())))
    for deletion in deletions:
        if deletion.study_instance_uid not in told:
            _tell(session, deletion)


def _tell(session: Session, deletion: Deletion) -> None:
    uid, row = deletion.study_instance_uid, schema.EventRow
    events = session.scalars(select(row.data).where(row.study_instance_uid == uid, _is_deletion()))
    if any(data.get("deletion") == deletion.key for data in events):
        return
    text = f"deleted with {deletion.instances} instances: {deletion.reason}"
    data = {"deletion": deletion.key, "instances": deletion.instances, "reason": deletion.reason}
    add_event(session, Event(deletion.at, uid, 0, Stage.DELETED, text, data=data))


def _is_deletion() -> ColumnElement[bool]:
    return schema.EventRow.stage == Stage.DELETED


@dataclass(frozen=True)
class _Row:
    """The row of something that came as a part of a study. `frame` is None if release 0.1 filed it."""

    table: _Table
    frame: tuple[str, int, int] | None
    segment_id: int | None
    received_at: datetime | None
    sop_instance_uid: str
    series_instance_uid: str


def _rows_of(session: Session, uid: str) -> list[_Row]:
    segment = schema.SegmentRow
    found = []
    for table in _PLACED:
        columns = (table.segment_id, table.frame_offset, table.sop_instance_uid, table.series_instance_uid)
        statement = select(segment.receiver, segment.number, table.received_at, *columns)
        statement = statement.outerjoin_from(table, segment, segment.id == table.segment_id)
        for receiver, number, at, segment_id, offset, sop, series in session.execute(
            statement.where(table.study_instance_uid == uid)
        ):
            frame = None if receiver is None else (receiver, number, offset or 0)
            found.append(_Row(table, frame, segment_id, at, sop, series))
    return found


def _is_in(deletion: Deletion, row: _Row) -> bool:
    if row.frame is None:  # a file of release 0.1
        return row.received_at is None or row.received_at <= deletion.at
    return row.frame in deletion.places


def _remove_some(session: Session, uid: str, rows: Sequence[_Row]) -> None:
    for row in sorted(rows, key=lambda one: one.table is schema.InstanceRow):  # those that name instances come first
        table = row.table
        here = and_(table.study_instance_uid == uid, table.segment_id == row.segment_id)
        if row.frame is not None:
            here = and_(here, table.frame_offset == row.frame[2])
        else:
            names = table.sop_instance_uid == row.sop_instance_uid
            here = and_(table.study_instance_uid == uid, table.segment_id.is_(None), names)
            here = and_(here, table.series_instance_uid == row.series_instance_uid)
        changed(session, delete(table).where(here))
    study = schema.StudyRow
    changed(session, update(study).where(_of(study, uid)).values(instances=count_instances(session, uid)))


def _remove_study(session: Session, uid: str) -> None:
    subjects = _subjects(session, uid)
    _remove_results(session, uid)
    for row in (
        schema.RoutingRow,
        schema.FeedRow,
        schema.InstanceVersionRow,
        schema.InstanceRow,
        schema.SharedHeaderRow,
        schema.AsideRow,
        schema.RepeatedRow,
    ):
        changed(session, delete(row).where(row.study_instance_uid == uid))
    _remove_procedure_steps(session, uid)
    _remove_problems(session, uid)
    changed(session, delete(schema.EventRow).where(schema.EventRow.study_instance_uid == uid, ~_is_deletion()))
    changed(session, delete(schema.StudyRow).where(_of(schema.StudyRow, uid)))
    _remove_unnamed(session, subjects)


def _remove_results(session: Session, uid: str) -> None:
    job, target, delivery = schema.JobRow, schema.ResultObjectRow, schema.DeliveryRow
    confirmation, seen = schema.ConfirmationRow, schema.AcknowledgementRow
    jobs = select(job.id).where(_of(job, uid))
    deliveries = session.scalars(select(delivery).where(delivery.job_id.in_(jobs))).all()
    asked = sorted({one.confirmation_id for one in deliveries if one.confirmation_id is not None})
    for one in deliveries:
        close_problems_of(session, one.id, one.destination)
    names = [*((ProblemKind.DELIVERY_FAILED, one.id) for one in deliveries)]
    names += [(ProblemKind.JOB_FAILED, number) for number in session.scalars(jobs)]
    for kind, number in names:
        changed(session, delete(seen).where(seen.kind == kind, seen.key == str(number)))
    changed(session, delete(delivery).where(delivery.job_id.in_(jobs)))
    still = select(delivery.confirmation_id).where(delivery.confirmation_id.is_not(None))
    changed(session, delete(confirmation).where(confirmation.id.in_(asked), confirmation.id.not_in(still)))
    changed(session, delete(target).where(target.job_id.in_(jobs)))
    changed(session, delete(job).where(_of(job, uid)))


def _remove_procedure_steps(session: Session, uid: str) -> None:
    steps = _steps_of_no_other(session, uid)
    changed(session, delete(schema.ProcedureStepStudyRow).where(schema.ProcedureStepStudyRow.study_instance_uid == uid))
    for row in (schema.ProcedureStepStatementRow, schema.ProcedureStepRow):
        changed(session, delete(row).where(row.sop_instance_uid.in_(steps)))


def _steps_of_no_other(session: Session, uid: str) -> Sequence[str]:
    link = schema.ProcedureStepStudyRow
    others = select(link.sop_instance_uid).where(link.study_instance_uid != uid)
    here = (link.study_instance_uid == uid, link.sop_instance_uid.not_in(others))
    return session.scalars(select(link.sop_instance_uid).where(*here)).all()


def _remove_problems(session: Session, uid: str) -> None:
    problem, seen = schema.ProblemRow, schema.AcknowledgementRow
    named = session.execute(select(problem.kind, problem.key).where(problem.study_instance_uid == uid)).all()
    for kind, key in [*named, (ProblemKind.NEVER_COMPLETED, uid)]:
        changed(session, delete(seen).where(seen.kind == kind, seen.key == key))
    changed(session, delete(problem).where(problem.study_instance_uid == uid))


def _subjects(session: Session, uid: str) -> list[int]:
    """Return the identities that the instances of a study state."""
    rows = (schema.InstanceRow, schema.InstanceVersionRow)
    found = (session.scalars(select(row.subject_id).where(row.study_instance_uid == uid).distinct()) for row in rows)
    return sorted({number for numbers in found for number in numbers if number is not None})


def _remove_unnamed(session: Session, subjects: Sequence[int]) -> None:
    """Remove identities that no instance states any more."""
    row = schema.SubjectRow
    for number in subjects:
        named = or_(
            select(schema.InstanceRow.subject_id).where(schema.InstanceRow.subject_id == number).exists(),
            select(schema.InstanceVersionRow.subject_id).where(schema.InstanceVersionRow.subject_id == number).exists(),
        )
        changed(session, delete(row).where(and_(row.id == number, ~named)))


def _of(row: type[schema.JobRow] | type[schema.StudyRow], study_instance_uid: str) -> ColumnElement[bool]:
    return row.study_instance_uid == study_instance_uid
