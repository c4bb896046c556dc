"""The confirmation of deliveries: SENT → COMMITTED, or once more QUEUED, or FAILED.

The deliveries of a job to a destination are confirmed together, once none of them is still on its way. A confirmation
moves ASKING → REQUESTED → REPORTED → CLOSED, or ASKING → READING → CLOSED if the destination takes no requests for
storage commitment (PS3.4 annex J). A report may come to any receiver at any time. The report is kept in any state, and
the `dispatch` role acts on it.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, and_, case, or_, select, update
from sqlalchemy.orm import Session, aliased

from storage.records.deliveries import (
    Confirmation,
    ConfirmationReport,
    ConfirmationState,
    Delivery,
    DeliveryState,
    Remark,
    StoredAs,
)
from storage.records.jobs import JobKind, JobState
from storage.records.results import ObjectKind, ResultObject
from storage.records.studies import Event, Stage
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed
from storage.tables.deliveries import LONGEST_LEAD_SECONDS, keep_remark
from storage.tables.events import add_event
from storage.tables.queueing import not_beside, withdrawn
from storage.tables.results import delivery_record, move, object_record, tell

WAITING = (ConfirmationState.ASKING, ConfirmationState.REQUESTED, ConfirmationState.READING)
_UNSENT = (DeliveryState.QUEUED, DeliveryState.RETRYING)


class Confirmations:
    """The storage commitment requests that this node makes of destinations, and the transitions by their reports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- asking --------------------------------------------------------------------------------------------------------

    def begin(
        self, destination: str, transaction_uid: str, now: datetime, deadline: datetime, since: datetime
    ) -> Confirmation | None:
        """Insert a confirmation in ASKING for the SENT objects of a job that have none yet.

        Only objects that were sent to `destination` after `since` count. Return None while further objects of every
        such job are on their way there.
        """
        sent, other = schema.DeliveryRow, aliased(schema.DeliveryRow)
        unasked = and_(
            sent.destination == destination,
            sent.state == DeliveryState.SENT,
            sent.confirmation_id.is_(None),
            sent.sent_at >= since,
        )
        is_under_way = (
            select(other.id)
            .where(
                other.job_id == sent.job_id,
                other.destination == sent.destination,
                other.state.in_((*_UNSENT, DeliveryState.SENDING)),
                other.waited_seconds < LONGEST_LEAD_SECONDS,
            )
            .exists()
        )
        with self._database.reading() as session:
            job_id = session.scalar(select(sent.job_id).where(unasked, ~is_under_way).order_by(sent.sent_at).limit(1))
        if job_id is None:
            return None
        with self._database.session() as session:
            row = _insert(session, destination, transaction_uid, [], now, deadline)
            asked = move(session, and_(unasked, sent.job_id == job_id), confirmation_id=row.id)
            if not asked:  # another process has asked
                session.delete(row)
                return None
            row.items = [[d.object.sop_class_uid, d.object.sop_instance_uid] for d in _in_order(asked)]
            return _record(row)

    def due(self, destination: str, now: datetime) -> Confirmation | None:
        """Return the next confirmation that needs an action; confirmations with a report come first."""
        row = schema.ConfirmationRow
        is_reported = row.state == ConfirmationState.REPORTED
        statement = (
            select(row)
            .where(row.destination == destination, or_(is_reported, and_(row.state.in_(WAITING), row.deadline <= now)))
            .order_by(case((is_reported, 0), else_=1), row.deadline, row.id)
            .limit(1)
        )
        with self._database.reading() as session:
            found = session.scalars(statement).one_or_none()
            return None if found is None else _record(found)

    def renew(
        self, confirmation_id: int, transaction_uid: str, now: datetime, deadline: datetime
    ) -> Confirmation | None:
        """Close a confirmation in ASKING and ask again under another transaction UID.

        Another UID is needed because the destination may have taken the first request. Return None if another process
        has done this.
        """
        row, delivery = schema.ConfirmationRow, schema.DeliveryRow
        due = and_(row.id == confirmation_id, row.state == ConfirmationState.ASKING, row.deadline <= now)
        with self._database.session() as session:
            if not changed(session, update(row).where(due).values(state=ConfirmationState.CLOSED)):
                return None
            old = session.get_one(row, confirmation_id)
            new = _insert(session, old.destination, transaction_uid, old.items, old.requested_at, deadline)
            changed(
                session,
                update(delivery).where(delivery.confirmation_id == confirmation_id).values(confirmation_id=new.id),
            )
            return _record(new)

    def taken(self, confirmation_id: int, deadline: datetime) -> bool:
        """Move from ASKING to REQUESTED. Return False in other states, because the report may have come before."""
        with self._database.session() as session:
            return _move(
                session,
                confirmation_id,
                [ConfirmationState.ASKING],
                state=ConfirmationState.REQUESTED,
                deadline=deadline,
            )

    def read_back(self, confirmation_id: int, now: datetime) -> bool:
        """Move from ASKING to READING. Return False in other states."""
        with self._database.session() as session:
            return _move(
                session, confirmation_id, [ConfirmationState.ASKING], state=ConfirmationState.READING, deadline=now
            )

    def postpone(self, confirmation_id: int, deadline: datetime, reason: str) -> bool:
        """Set a new deadline, and note the reason on the deliveries. Return False if the confirmation is closed."""
        with self._database.session() as session:
            if not _move(session, confirmation_id, WAITING, deadline=deadline):
                return False
            move(session, _sent_under(confirmation_id), reason=reason)
            return True

    def is_awaited(self, confirmation_id: int) -> bool:
        """Return True if the report is still to come."""
        row = schema.ConfirmationRow
        statement = select(row.id).where(row.id == confirmation_id, row.state == ConfirmationState.REQUESTED)
        with self._database.reading() as session:
            return session.scalar(statement) is not None

    def objects(self, confirmation_id: int) -> Sequence[ResultObject]:
        """Return the objects of a confirmation that are not committed yet."""
        target, delivery = schema.ResultObjectRow, schema.DeliveryRow
        statement = select(target).join(delivery, delivery.object_id == target.id).where(_sent_under(confirmation_id))
        with self._database.reading() as session:
            return [object_record(row) for row in session.scalars(statement.order_by(delivery.sequence))]

    def stored_as(self, confirmation_id: int) -> Mapping[str, StoredAs]:
        """Return, by SOP Instance UID, the other UIDs under which the destination keeps objects of a confirmation."""
        target, delivery = schema.ResultObjectRow, schema.DeliveryRow
        statement = select(target, delivery).join(delivery, delivery.object_id == target.id)
        with self._database.reading() as session:
            found = [
                delivery_record(row, made)
                for made, row in session.execute(statement.where(_sent_under(confirmation_id)))
            ]
        return {d.object.sop_instance_uid: d.stored_as for d in found if d.stored_as is not None}

    # -- reports and their effect --------------------------------------------------------------------------------------

    def report(self, transaction_uid: str, report: ConfirmationReport) -> bool:
        """Keep the report and move to REPORTED, even from CLOSED, because a destination may commit an object late.

        A second report under the same transaction UID changes nothing. Return False for a transaction UID that is not
        ours.
        """
        row = schema.ConfirmationRow
        mine = row.transaction_uid == transaction_uid
        with self._database.session() as session:
            first = update(row).where(mine, row.report.is_(None))
            changed(session, first.values(state=ConfirmationState.REPORTED, report=report.to_json()))
            return session.scalar(select(row.id).where(mine)) is not None

    def settle(
        self,
        confirmation_id: int,
        committed: Collection[str],
        missed: Mapping[str, str],
        how: str,
        now: datetime,
        moved: Mapping[str, StoredAs] = MappingProxyType({}),
    ) -> list[Delivery]:
        """Close the confirmation, and return the deliveries of the missed objects.

        `committed` are the SOP Instance UIDs that the destination holds, as `how` tells. `missed` are the objects that
        it accepted but does not hold, with the reason: they are sent once more, and are FAILED the second time. A
        missed object whose job was superseded or withdrawn meanwhile stays SENT, because the destination may have been
        told to reject it. So does one that the destination is known to have changed. `moved` are committed objects that
        turn out to be kept under other UIDs. Return nothing if another process has settled the confirmation.
        """
        row, delivery = schema.ConfirmationRow, schema.DeliveryRow
        with self._database.session() as session:
            open_ = (*WAITING, ConfirmationState.REPORTED)
            if not _move(session, confirmation_id, open_, state=ConfirmationState.CLOSED):
                return []
            destination = session.get_one(row, confirmation_id).destination
            landed = move(
                session,
                and_(
                    delivery.destination == destination,
                    _of(committed),
                    # Also objects that were sent again since: a late report may name them.
                    or_(
                        delivery.state == DeliveryState.SENT,
                        and_(delivery.resends > 0, delivery.state.in_((*_UNSENT, DeliveryState.FAILED))),
                    ),
                ),
                state=DeliveryState.COMMITTED,
                committed_at=now,
                reason="",
            )
            tell(session, _in_order(landed), now, Stage.DELIVERED, how)
            for arrived in _in_order(landed):
                if (place := moved.get(arrived.object.sop_instance_uid)) is not None:
                    keep_remark(session, arrived, Remark(stored_as=place), now)
            alarms: list[Delivery] = []
            for uid, why in missed.items():
                alarms += _miss(session, and_(_sent_under(confirmation_id), _of([uid])), why, now)
            return alarms

    def give_up(self, confirmation_id: int, reason: str, now: datetime) -> bool:
        """Close a confirmation because the destination has no way of confirming.

        The deliveries stay SENT, and the timeline says so once. Return False if another process has closed it.
        """
        with self._database.session() as session:
            if not _move(session, confirmation_id, WAITING, state=ConfirmationState.CLOSED):
                return False
            found = move(session, _sent_under(confirmation_id), reason=f"cannot be confirmed: {reason}")
            if found:
                first, kinds = found[0], ", ".join(d.object.kind for d in _in_order(found))
                job = session.get_one(schema.JobRow, first.object.job_id)
                text = f"{kinds} → {first.destination}: arrived, but cannot be confirmed: {reason}"
                add_event(session, Event(now, job.study_instance_uid, job.revision, Stage.DELIVERED, text, job.id))
            return True

    def list(self, states: Collection[ConfirmationState] | None = None, limit: int | None = 100) -> list[Confirmation]:
        """Return the confirmations, the newest first; all of them if `limit` is None."""
        row = schema.ConfirmationRow
        statement = select(row).order_by(row.id.desc()).limit(limit)
        if states is not None:
            statement = statement.where(row.state.in_(states))
        with self._database.reading() as session:
            return [_record(r) for r in session.scalars(statement)]


def _move(session: Session, confirmation_id: int, states: Collection[ConfirmationState], **values: Any) -> bool:
    """Make one guarded transition, and return whether it was made."""
    row = schema.ConfirmationRow
    return changed(session, update(row).where(row.id == confirmation_id, row.state.in_(states)).values(**values)) > 0


def _miss(session: Session, where: ColumnElement[bool], why: str, now: datetime) -> list[Delivery]:
    delivery = schema.DeliveryRow
    is_outdated = and_(_is_outdated(), ~_is_note())
    text = f"accepted but not committed ({why})"
    outdated = f"{text}; a later result has replaced it, so that it is not sent again"
    kept = move(session, and_(where, is_outdated), reason=outdated)
    tell(session, kept, now, Stage.WARNING, outdated)
    where = and_(where, ~is_outdated)
    changed_there = f"accepted and changed, and not found under its own UIDs ({why}); it is not sent again"
    coerced = move(session, and_(where, delivery.coerced), reason=changed_there)
    tell(session, coerced, now, Stage.WARNING, changed_there)
    current = and_(where, ~delivery.coerced)
    lost = f"accepted twice and not committed ({why})"
    failed = move(session, and_(current, delivery.resends > 0), state=DeliveryState.FAILED, reason=lost)
    tell(session, failed, now, Stage.WARNING, f"not delivered, for good: {lost}")
    again = move(
        session,
        and_(current, delivery.resends == 0),
        state=DeliveryState.QUEUED,
        attempts=0,
        resends=1,
        may_have_arrived=False,
        waited_seconds=0.0,
        run_after=now,
        confirmation_id=None,
        reason=text,
    )
    tell(session, again, now, Stage.WARNING, f"{text}, and is sent once more")
    return kept + coerced + failed + again


def _in_order(deliveries: Collection[Delivery]) -> list[Delivery]:
    """Sort deliveries by the order of sending, because the database returns changed rows in any order."""
    return sorted(deliveries, key=lambda delivery: delivery.object.sequence)


def _sent_under(confirmation_id: int) -> ColumnElement[bool]:
    delivery = schema.DeliveryRow
    return and_(delivery.confirmation_id == confirmation_id, delivery.state == DeliveryState.SENT)


def _is_outdated() -> ColumnElement[bool]:
    """Return the SQL condition that a delivery's result was withdrawn, or superseded by a result that ended later.

    The destination may have been told to reject such an object.
    """
    job, later = schema.JobRow, aliased(schema.JobRow)
    ended_later = or_(
        later.finished_at > job.finished_at, and_(later.finished_at == job.finished_at, later.id > job.id)
    )
    superseded = (
        select(later.id)
        .where(
            later.study_instance_uid == job.study_instance_uid,
            later.application == job.application,
            later.kind == JobKind.ANALYSIS,
            later.state == JobState.SUCCEEDED,
            ended_later,
            not_beside(job.side, later.beside),
        )
        .exists()
    )
    outdated = or_(withdrawn(job.study_instance_uid, job.id), superseded)
    return select(job.id).where(job.id == schema.DeliveryRow.job_id, outdated).exists()


def _is_note() -> ColumnElement[bool]:
    """Return the SQL condition for deliveries of rejection notes, which are sent whatever comes later."""
    target = schema.ResultObjectRow
    return schema.DeliveryRow.object_id.in_(select(target.id).where(target.kind == ObjectKind.REJECTION))


def _of(sop_instance_uids: Collection[str]) -> ColumnElement[bool]:
    target = schema.ResultObjectRow
    return schema.DeliveryRow.object_id.in_(select(target.id).where(target.sop_instance_uid.in_(sop_instance_uids)))


def _insert(
    session: Session,
    destination: str,
    transaction_uid: str,
    items: list[list[str]],
    requested_at: datetime,
    deadline: datetime,
) -> schema.ConfirmationRow:
    row = schema.ConfirmationRow(
        transaction_uid=transaction_uid,
        destination=destination,
        items=items,
        state=ConfirmationState.ASKING,
        requested_at=requested_at,
        deadline=deadline,
    )
    session.add(row)
    session.flush()
    return row


def _record(row: schema.ConfirmationRow) -> Confirmation:
    return Confirmation(
        id=row.id,
        transaction_uid=row.transaction_uid,
        destination=row.destination,
        items=tuple((entry[0], entry[1]) for entry in row.items),
        state=row.state,
        requested_at=row.requested_at,
        deadline=row.deadline,
        report=None if row.report is None else ConfirmationReport.from_json(row.report),
    )
