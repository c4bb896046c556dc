"""The queues of deliveries, one for each destination: QUEUED → SENDING → SENT → COMMITTED, RETRYING, REPLACED, FAILED.

The objects of one job go to a destination in their order, so that a report follows what it refers to. An object can be
claimed once all earlier objects of its job are SENT, COMMITTED or REPLACED there. If an earlier one FAILED, the later
ones wait as QUEUED until `retry` queues the failed one again and it is sent. An object that the destination does not
take, and that nothing can replace, is FAILED and goes to the end of the order, so that it blocks no other.

The module `storage.tables.confirmations` takes over once a delivery is SENT.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from storage.errors import Permanent
from storage.records.deliveries import Delivery, DeliveryState, Undelivered
from storage.records.results import ResultObject
from storage.records.studies import Event, Stage
from storage.tables.database import schema
from storage.tables.database.connection import Database
from storage.tables.events import add_event
from storage.tables.results import enqueue_deliveries, object_record

_PASSED = (DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.REPLACED)
_UNSENT = (DeliveryState.QUEUED, DeliveryState.RETRYING)


class Deliveries:
    """The deliveries of result objects to destinations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- for dispatchers -----------------------------------------------------------------------------------------------

    def claim(self, destination: str, dispatcher: str, now: datetime) -> Delivery | None:
        """Claim a due delivery to `destination` whose predecessors were sent; None if there is no such delivery.

        Deliveries of the most urgent job come first, and among these the oldest.
        """
        delivery, earlier = schema.DeliveryRow, aliased(schema.DeliveryRow)
        waits = (
            select(earlier.id)
            .where(
                earlier.job_id == delivery.job_id,
                earlier.destination == delivery.destination,
                earlier.sequence < delivery.sequence,
                earlier.state.not_in(_PASSED),
            )
            .exists()
        )
        due = (
            select(delivery.id)
            .join(schema.JobRow, schema.JobRow.id == delivery.job_id)
            .where(
                delivery.destination == destination,
                or_(
                    delivery.state == DeliveryState.QUEUED,
                    and_(delivery.state == DeliveryState.RETRYING, delivery.run_after <= now),
                ),
                ~waits,
            )
            .order_by(schema.JobRow.priority.desc(), delivery.created_at, delivery.job_id, delivery.sequence)
            .limit(1)
        )
        with self._database.reading() as session:
            if session.scalar(due) is None:
                return None
        with self._database.session() as session:
            locked = due.with_for_update(skip_locked=True, of=delivery)
            rows = move(
                session,
                delivery.id == locked.scalar_subquery(),
                state=DeliveryState.SENDING,
                dispatcher=dispatcher,
                attempts=delivery.attempts + 1,
                claimed_at=now,
            )
            return rows[0] if rows else None

    def sent(self, delivery_id: int, dispatcher: str, now: datetime) -> bool:
        """Move from SENDING to SENT: the destination answered Success.

        Return False if this dispatcher lost the delivery.
        """
        with self._database.session() as session:
            rows = move(
                session,
                _held(delivery_id, dispatcher),
                state=DeliveryState.SENT,
                reason="",
                sent_at=now,
            )
            tell(session, rows, now, Stage.DELIVERED, "arrived")
            return bool(rows)

    def fail(
        self, delivery_id: int, dispatcher: str, reason: str, retry_at: datetime | None, now: datetime
    ) -> DeliveryState:
        """Move from SENDING to RETRYING, due at `retry_at`, or to FAILED if that is None. Return the new state.

        Nothing changes if this dispatcher no longer holds the delivery. Raises Permanent if there is no such delivery.
        """
        with self._database.session() as session:
            if retry_at is None:
                rows = move(session, _held(delivery_id, dispatcher), state=DeliveryState.FAILED, reason=reason)
                tell(session, rows, now, Stage.WARNING, f"not delivered, for good: {reason}")
            else:
                rows = move(
                    session,
                    _held(delivery_id, dispatcher),
                    state=DeliveryState.RETRYING,
                    reason=reason,
                    run_after=retry_at,
                )
                tell(session, rows, now, Stage.WARNING, f"not delivered, will be tried again: {reason}")
            state = session.scalar(select(schema.DeliveryRow.state).where(schema.DeliveryRow.id == delivery_id))
        if state is None:
            raise Permanent(f"There is no delivery {delivery_id}")
        return state

    # -- objects that a destination refuses ----------------------------------------------------------------------------

    def offered(self, job_id: int, destination: str) -> list[tuple[ResultObject, Delivery | None]]:
        """Return the objects of a job that were made for a destination, in their order, stand-ins included.

        Each object comes with its delivery to the destination, or with None.
        """
        target, delivery = schema.ResultObjectRow, schema.DeliveryRow
        statement = (
            select(target, delivery)
            .outerjoin(delivery, and_(delivery.object_id == target.id, delivery.destination == destination))
            .where(target.job_id == job_id)
            .order_by(target.sequence)
        )
        with self._database.reading() as session:
            return [
                (object_record(made), None if row is None else _record(row, made))
                for made, row in session.execute(statement)
                if destination in made.destinations
            ]

    def choose_again(
        self,
        delivery_id: int,
        dispatcher: str,
        sent: Sequence[int],
        unsent: Mapping[int, Undelivered],
        now: datetime,
    ) -> Sequence[Delivery]:
        """End a delivery that its destination does not take, and apply the choice of other objects, in one transaction.

        `sent` and `unsent` name all objects of the job for that destination. Deliveries of `unsent` objects that are
        not sent yet become REPLACED or FAILED, and the `sent` objects are queued if they were not yet. Return the
        deliveries that ended. Nothing changes, and none is returned, if this dispatcher no longer holds the delivery.
        """
        delivery, target = schema.DeliveryRow, schema.ResultObjectRow
        with self._database.session() as session:
            held = select(delivery.job_id, delivery.destination).where(_held(delivery_id, dispatcher))
            refused = session.execute(held.with_for_update()).one_or_none()
            if refused is None:
                return ()
            here = and_(delivery.job_id == refused.job_id, delivery.destination == refused.destination)
            known = session.scalars(select(delivery.object_id).where(here)).all()
            last = max(
                session.scalars(select(func.max(target.sequence)).where(target.job_id == refused.job_id)).one(),
                session.scalars(select(func.max(delivery.sequence)).where(here)).one(),
            )
            ends = or_(delivery.id == delivery_id, and_(here, delivery.state.in_(_UNSENT)))
            ended: list[Delivery] = []
            for object_id, why in unsent.items():
                where = and_(delivery.object_id == object_id, ends)
                if why.replaced:
                    rows = move(session, where, state=DeliveryState.REPLACED, reason=why.reason)
                else:
                    last += 1
                    rows = move(session, where, state=DeliveryState.FAILED, reason=why.reason, sequence=last)
                tell(session, rows, now, Stage.WARNING, f"not delivered: {why.reason}")
                ended += rows
            for object_id in sent:
                if object_id not in known:
                    enqueue_deliveries(session, session.get_one(target, object_id), [refused.destination], now)
            return ended

    # -- deliveries whose dispatcher is gone ---------------------------------------------------------------------------

    def claims(self) -> dict[int, datetime]:
        """Return when each delivery in SENDING was claimed."""
        delivery = schema.DeliveryRow
        statement = select(delivery.id, delivery.claimed_at).where(delivery.state == DeliveryState.SENDING)
        with self._database.reading() as session:
            return {delivery_id: at for delivery_id, at in session.execute(statement) if at is not None}

    def release_silent(self, claims: Mapping[int, datetime], now: datetime) -> list[Delivery]:
        """Make deliveries due again that are still claimed as of then. An instance that is sent twice does no harm."""
        delivery = schema.DeliveryRow
        if not claims:
            return []
        same = or_(*(and_(delivery.id == delivery_id, delivery.claimed_at == at) for delivery_id, at in claims.items()))
        return self._release(and_(delivery.state == DeliveryState.SENDING, same), "its dispatcher fell silent", now)

    def release_dispatcher(self, dispatcher: str) -> list[Delivery]:
        """Make the deliveries due again that an earlier process of this dispatcher held."""
        delivery = schema.DeliveryRow
        held = and_(delivery.state == DeliveryState.SENDING, delivery.dispatcher == dispatcher)
        return self._release(held, "its dispatcher was restarted", datetime.now(UTC))

    def _release(self, held: ColumnElement[bool], reason: str, now: datetime) -> list[Delivery]:
        with self._database.reading() as session:
            if session.scalar(select(schema.DeliveryRow.id).where(held).limit(1)) is None:
                return []
        with self._database.session() as session:
            rows = move(session, held, state=DeliveryState.RETRYING, reason=reason, run_after=now)
            tell(session, rows, now, Stage.WARNING, f"delivery interrupted, will be tried again: {reason}")
            return rows

    # -- for operators -------------------------------------------------------------------------------------------------

    def retry(self, delivery_id: int) -> bool:
        """Move from FAILED to QUEUED and reset the attempts. Return False in other states."""
        delivery = schema.DeliveryRow
        now = datetime.now(UTC)
        with self._database.session() as session:
            rows = move(
                session,
                and_(delivery.id == delivery_id, delivery.state == DeliveryState.FAILED),
                state=DeliveryState.QUEUED,
                attempts=0,
                reason="",
                run_after=now,
                confirmation_id=None,
                resends=0,
            )
            tell(session, rows, now, Stage.QUEUED, "delivery queued again, as asked by the operator")
            return bool(rows)

    def list(
        self,
        states: Collection[DeliveryState] | None = None,
        study: str | None = None,
        destination: str | None = None,
    ) -> list[Delivery]:
        """Return deliveries by job, destination, and order of sending."""
        delivery, target = schema.DeliveryRow, schema.ResultObjectRow
        statement = select(delivery, target).join(target, target.id == delivery.object_id)
        if states is not None:
            statement = statement.where(delivery.state.in_(states))
        if study is not None:
            statement = statement.where(target.study_instance_uid == study)
        if destination is not None:
            statement = statement.where(delivery.destination == destination)
        ordered = statement.order_by(delivery.job_id, delivery.destination, delivery.sequence)
        with self._database.reading() as session:
            return [_record(row, target) for row, target in session.execute(ordered)]


def _held(delivery_id: int, dispatcher: str) -> ColumnElement[bool]:
    delivery = schema.DeliveryRow
    return and_(delivery.id == delivery_id, delivery.state == DeliveryState.SENDING, delivery.dispatcher == dispatcher)


def move(session: Session, where: ColumnElement[bool], **values: Any) -> list[Delivery]:
    """Make one guarded transition, and return the changed deliveries."""
    rows = session.scalars(
        update(schema.DeliveryRow).where(where).values(**values).returning(schema.DeliveryRow),
        execution_options={"synchronize_session": False},
    ).all()
    return [_record(row, session.get_one(schema.ResultObjectRow, row.object_id)) for row in rows]


def tell(session: Session, deliveries: Collection[Delivery], now: datetime, stage: Stage, what: str) -> None:
    """Add one line for each delivery to the timeline of its study."""
    for delivery in deliveries:
        target = delivery.object
        revision = session.get_one(schema.JobRow, target.job_id).revision
        text = f"{target.kind} → {delivery.destination}: {what}"
        add_event(session, Event(now, target.study_instance_uid, revision, stage, text, target.job_id))


def _record(row: schema.DeliveryRow, target: schema.ResultObjectRow) -> Delivery:
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
    )
