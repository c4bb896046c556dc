"""The queues of deliveries, one for each destination: QUEUED → SENDING → SENT → COMMITTED, RETRYING, REPLACED, FAILED.

The objects of one job go to a destination in their order, so that a report follows what it refers to. An object waits
while an earlier object of its job is on its way there, but no longer than `LONGEST_LEAD_SECONDS`. An earlier object
that FAILED holds it up no longer.

A delivery whose destination gives no answer uses up no attempt: it waits, and is given up once it has waited long
enough. `waited_seconds` adds up the pauses between such tries, so that no step of the wall clock ends the waiting.

The module `storage.tables.confirmations` takes over once a delivery is SENT.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session, aliased

from storage.errors import Permanent
from storage.records.deliveries import NO_REMARK, Delivery, DeliveryState, Remark, Silence, Undelivered, Waited
from storage.records.problems import ProblemKind
from storage.records.results import ResultObject
from storage.records.studies import Stage
from storage.tables.database import schema
from storage.tables.database.connection import Database
from storage.tables.problems import close_problem, is_problem, open_problem, unanswered_key
from storage.tables.results import delivery_record, enqueue_deliveries, move, object_record, tell

ALARM_SECONDS = 3600.0  # without an answer
LONGEST_LEAD_SECONDS = 3600.0  # a report does not wait longer for what is tried before it, and never answered

_UNSENT = (DeliveryState.QUEUED, DeliveryState.RETRYING)
_UNDER_WAY = (*_UNSENT, DeliveryState.SENDING)
_ABSENT = (*_UNDER_WAY, DeliveryState.FAILED)


class Deliveries:
    """The deliveries of result objects to destinations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- for dispatchers -----------------------------------------------------------------------------------------------

    def claim(self, destination: str, dispatcher: str, now: datetime) -> Delivery | None:
        """Claim a due delivery to `destination` that waits for no earlier one; None if there is no such delivery.

        Deliveries of the most urgent job come first, and among these the oldest.
        """
        delivery, earlier = schema.DeliveryRow, aliased(schema.DeliveryRow)
        waits = (
            select(earlier.id)
            .where(
                earlier.job_id == delivery.job_id,
                earlier.destination == delivery.destination,
                earlier.sequence < delivery.sequence,
                earlier.state.in_(_UNDER_WAY),
                earlier.waited_seconds < LONGEST_LEAD_SECONDS,
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

    def sent(
        self, delivery_id: int, dispatcher: str, now: datetime, remark: Remark = NO_REMARK, how: str = "arrived"
    ) -> bool:
        """Move from SENDING to SENT: the destination has the object, as `how` tells.

        Return False if this dispatcher lost the delivery. What the destination remarked is kept, and is a problem if it
        changed the object or left out a part of it.
        """
        with self._database.session() as session:
            rows = move(session, _held(delivery_id, dispatcher), state=DeliveryState.SENT, reason="", sent_at=now)
            for row in rows:
                tell(session, [row], now, Stage.DELIVERED, f"{how}{_without(session, row)}")
                close_problem(session, ProblemKind.DESTINATION_UNREACHABLE, unanswered_key(row.id, row.destination))
                if str(remark):
                    keep_remark(session, row, remark, now)
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
                _end(session, rows, now, f"not delivered, for good: {reason}")
            else:
                retrying = {"state": DeliveryState.RETRYING, "reason": reason, "run_after": retry_at}
                rows = move(session, _held(delivery_id, dispatcher), **retrying)
                tell(session, rows, now, Stage.WARNING, f"not delivered, will be tried again: {reason}")
            state = session.scalar(select(schema.DeliveryRow.state).where(schema.DeliveryRow.id == delivery_id))
        if state is None:
            raise Permanent(f"There is no delivery {delivery_id}")
        return state

    def may_have_arrived(self, delivery_id: int, dispatcher: str) -> None:
        """Note that the object was sent, and that no clear answer came: the destination may have it."""
        with self._database.session() as session:
            move(session, _held(delivery_id, dispatcher), may_have_arrived=True)

    def wait(self, delivery_id: int, dispatcher: str, silence: Silence, now: datetime) -> Waited:
        """Move from SENDING to RETRYING without using up an attempt, because no answer came.

        If the destination was not reached, every delivery that is to go there has waited longer, and this one stays
        first in the order. What has waited too long is FAILED. Waiting for `ALARM_SECONDS` is a problem.
        """
        delivery = schema.DeliveryRow
        with self._database.session() as session:
            before = session.scalar(select(delivery.reason).where(delivery.id == delivery_id))
            waiting = {"state": DeliveryState.RETRYING, "attempts": delivery.attempts - 1, "reason": silence.reason}
            due = now + timedelta(seconds=silence.pause) if silence.sent else now
            rows = move(session, _held(delivery_id, dispatcher), run_after=due, **waiting)
            if not rows:
                return Waited()
            if before != silence.reason:  # a night without the destination is one line of the timeline
                tell(session, rows, now, Stage.WARNING, f"not delivered, will be tried again: {silence.reason}")
            everything = and_(delivery.destination == rows[0].destination, delivery.state.in_(_UNSENT))
            waits = delivery.id == delivery_id if silence.sent else everything
            move(session, waits, waited_seconds=delivery.waited_seconds + silence.pause)
            alarm = ""
            if rows[0].waited_seconds + silence.pause >= ALARM_SECONDS:
                alarm = _alarm(session, rows[0], silence)
            reason = f"given up after {silence.limit / 86400:g} days without an answer: {silence.reason}"
            late = and_(waits, delivery.waited_seconds >= silence.limit)
            ended = sorted(move(session, late, state=DeliveryState.FAILED, reason=reason), key=_order)
            _end(session, ended, now, f"not delivered, for good: {reason}")
            return Waited(tuple(ended), alarm)

    def is_missed(self, destination: str) -> bool:
        """Return True if it is a problem that the destination is not reached."""
        with self._database.reading() as session:
            return is_problem(session, ProblemKind.DESTINATION_UNREACHABLE, destination)

    def reached(self, destination: str) -> bool:
        """End the problem that a destination is not reached. Return True if there was one; all waiting starts anew."""
        delivery = schema.DeliveryRow
        with self._database.session() as session:
            was_away = close_problem(session, ProblemKind.DESTINATION_UNREACHABLE, destination)
            if was_away:
                waits = and_(delivery.destination == destination, delivery.state.in_(_UNDER_WAY))
                move(session, waits, waited_seconds=0.0)
            return was_away

    def conflict(self, delivery: Delivery) -> None:
        """Open the problem that a destination has an object of this UID which no try of the delivery has brought."""
        text = (
            f"{delivery.destination} has another object of the UID of a {delivery.object.kind} of job "
            f"{delivery.object.job_id}, or one that this node has forgotten: the result is not sent"
        )
        with self._database.session() as session:
            uid = delivery.object.study_instance_uid
            open_problem(session, ProblemKind.UNEXPECTED_DUPLICATE, str(delivery.id), text, uid)

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
                (object_record(made), None if row is None else delivery_record(row, made))
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
        not sent yet become REPLACED or FAILED, and the `sent` objects are queued if they were not yet. A delivery that
        is FAILED goes to the end of the order. Return the deliveries that ended. Nothing changes, and none is returned,
        if this dispatcher no longer holds the delivery.
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
                _end(session, rows, now, f"not delivered: {why.reason}")
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
            rows = move(
                session,
                held,
                state=DeliveryState.RETRYING,
                attempts=schema.DeliveryRow.attempts - 1,
                may_have_arrived=True,
                reason=reason,
                run_after=now,
            )
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
                waited_seconds=0.0,
                reason="",
                run_after=now,
                confirmation_id=None,
                resends=0,
            )
            tell(session, rows, now, Stage.QUEUED, "delivery queued again, as asked by the operator")
            close_problem(session, ProblemKind.UNEXPECTED_DUPLICATE, str(delivery_id))
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
            return [delivery_record(row, target) for row, target in session.execute(ordered)]


def _held(delivery_id: int, dispatcher: str) -> ColumnElement[bool]:
    delivery = schema.DeliveryRow
    return and_(delivery.id == delivery_id, delivery.state == DeliveryState.SENDING, delivery.dispatcher == dispatcher)


def keep_remark(session: Session, sent: Delivery, remark: Remark, now: datetime) -> None:
    """Keep what a destination remarked on an object that it stored, in the row, the timeline and among the problems."""
    values: dict[str, Any] = {"warning": "; ".join(dict.fromkeys(filter(None, [sent.warning, str(remark)])))}
    if remark.coerced:
        values["coerced"] = True
    if remark.stored_as is not None:
        values["stored_as"] = list(vars(remark.stored_as).values())
    move(session, schema.DeliveryRow.id == sent.id, **values)
    tell(session, [sent], now, Stage.WARNING, f"stored with a remark: {remark}")
    uid = sent.object.study_instance_uid
    if remark.coerced:
        text = f"{sent.destination} changes identifiers or other attributes of the results that it stores"
        open_problem(session, ProblemKind.COERCED, sent.destination, text)
    if remark.discarded:
        text = f"{sent.destination} discarded elements of a {sent.object.kind}: it does not hold the whole object"
        open_problem(session, ProblemKind.ELEMENTS_DISCARDED, str(sent.id), text, uid)


def _without(session: Session, sent: Delivery) -> str:
    """Return a note on the objects that were to arrive before this one, and are not there; else an empty text."""
    delivery, target = schema.DeliveryRow, schema.ResultObjectRow
    absent = (
        select(target.kind, delivery.state)
        .join(target, target.id == delivery.object_id)
        .where(
            delivery.job_id == sent.object.job_id,
            delivery.destination == sent.destination,
            delivery.state.in_(_ABSENT),
            target.sequence < sent.object.sequence,
        )
        .order_by(target.sequence)
    )
    found = ", ".join(f"{kind} ({state})" for kind, state in session.execute(absent))
    return f", without {found}" if found else ""


def _end(session: Session, deliveries: Collection[Delivery], now: datetime, what: str) -> None:
    """Note in the timelines that deliveries ended, and that nobody waits for an answer to them any more."""
    tell(session, deliveries, now, Stage.WARNING, what)
    for ended in deliveries:
        close_problem(session, ProblemKind.DESTINATION_UNREACHABLE, unanswered_key(ended.id, ended.destination))


def _alarm(session: Session, waiting: Delivery, silence: Silence) -> str:
    """Open the problem of a delivery that gets no answer. Return its text if it is new, else an empty text."""
    kind, uid = ProblemKind.DESTINATION_UNREACHABLE, waiting.object.study_instance_uid
    hours = f"for more than {ALARM_SECONDS / 3600:g} h"
    if silence.sent:
        text = f"{waiting.destination} gives no answer to a {waiting.object.kind} {hours}: {silence.reason}"
        key = unanswered_key(waiting.id, waiting.destination)
        return text if open_problem(session, kind, key, text, uid) else ""
    text = f"{waiting.destination} has not been reached {hours}, and results wait for it: {silence.reason}"
    return text if open_problem(session, kind, waiting.destination, text) else ""


def _order(delivery: Delivery) -> tuple[int, int]:
    return delivery.object.job_id, delivery.object.sequence
