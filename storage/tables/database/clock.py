"""The clock of each machine, and the times of rows that wait: what happens to them when a clock is set.

A row that waits holds the time at which it is due, or from which its age is counted. These columns are listed in
`_WAITING`; a new one belongs there too. So does the time at which an object was sent that is still to be confirmed.
When the clock of a machine is set, they are moved along, once for each step, so that no waiting ends early and none is
prolonged.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from storage.records.commitments import CommitmentState
from storage.records.deliveries import LOOK_BACK, ConfirmationState, DeliveryState
from storage.records.jobs import JobState
from storage.records.problems import ProblemKind
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed, insert_if_absent
from storage.tables.problems import open_problem

TOLERANCE_SECONDS = 2.0
MARGIN = timedelta(minutes=1)  # clocks of several machines may differ by seconds

_OPEN_COMMITMENT = schema.CommitmentRow.state.in_((CommitmentState.REQUESTED, CommitmentState.RETRYING))
_OPEN_CONFIRMATION = schema.ConfirmationRow.state.in_(
    (ConfirmationState.ASKING, ConfirmationState.REQUESTED, ConfirmationState.READING)
)
_UNASKED = and_(schema.DeliveryRow.state == DeliveryState.SENT, schema.DeliveryRow.confirmation_id.is_(None))
_DUE_AT: tuple[tuple[InstrumentedAttribute[datetime], ColumnElement[bool]], ...] = (
    (schema.JobRow.run_after, schema.JobRow.state == JobState.RETRYING),
    (schema.DeliveryRow.run_after, schema.DeliveryRow.state == DeliveryState.RETRYING),
    (schema.CommitmentRow.run_after, and_(_OPEN_COMMITMENT, schema.CommitmentRow.association == "")),
    (schema.ConfirmationRow.deadline, _OPEN_CONFIRMATION),
)
_SINCE: tuple[tuple[InstrumentedAttribute[datetime], ColumnElement[bool]], ...] = (
    (schema.CommitmentRow.requested_at, _OPEN_COMMITMENT),
    (schema.ConfirmationRow.requested_at, _OPEN_CONFIRMATION),
)
_WAITING = (*_DUE_AT, *_SINCE)


class Clocks:
    """The clocks of all machines that use the database. `longest` is the longest time for which any row is put off."""

    def __init__(self, database: Database, longest: timedelta) -> None:
        self._database = database
        self._longest = longest

    def settle(self, host: str, boot: str, offset: float, now: datetime) -> tuple[float, int]:
        """Bring the times of waiting rows in line with the clock of a machine, which shows `now`.

        `offset` is the wall clock minus the monotonic clock in seconds, comparable within one `boot`. If it has changed
        since any process of the machine came here last, all waiting rows are moved by the step, and a problem is
        opened. Times that lie further ahead than any waiting are due at once. Return the step in seconds, 0 if there
        was none, and the number of times that were too far ahead.
        """
        if self._known(host, boot, offset) and not self._too_far(now):
            return 0.0, 0
        with self._database.session() as session:
            step = self._step(session, host, boot, offset)
            if step:
                _move_all(session, timedelta(seconds=step), now)
                open_problem(session, ProblemKind.CLOCK_STEPPED, host[:200], _problem(host, step))
            return step, self._bring_back(session, now)

    def _known(self, host: str, boot: str, offset: float) -> bool:
        with self._database.reading() as session:
            row = session.get(schema.MachineClockRow, host[:255])
            return row is not None and row.boot == boot and abs(offset - row.offset_seconds) < TOLERANCE_SECONDS / 2

    def _too_far(self, now: datetime) -> bool:
        with self._database.reading() as session:
            return any(
                session.scalar(select(column).where(waits, column > self._latest(now)).limit(1)) is not None
                for column, waits in _DUE_AT
            )

    def _step(self, session: Session, host: str, boot: str, offset: float) -> float:
        row = schema.MachineClockRow
        values: dict[str, Any] = {"boot": boot, "offset_seconds": offset}
        if insert_if_absent(session, row, {"host": host[:255], **values}):
            return 0.0
        mine = row.host == host[:255]
        held = select(row).where(or_(mine, row.boot == boot)).order_by(row.host).with_for_update()
        (known,) = (one for one in session.scalars(held) if one.host == host[:255])
        step = offset - known.offset_seconds
        is_step = known.boot == boot and abs(step) > TOLERANCE_SECONDS
        if is_step:  # several containers may share one kernel, and so one clock
            others = update(row).where(row.boot == boot, ~mine)
            changed(session, others.values(offset_seconds=row.offset_seconds + step))
        changed(session, update(row).where(mine).values(**values))
        return step if is_step else 0.0

    def _bring_back(self, session: Session, now: datetime) -> int:
        return sum(
            changed(session, update(column.class_).where(waits, column > self._latest(now)).values({column: now}))
            for column, waits in _DUE_AT
        )

    def _latest(self, now: datetime) -> datetime:
        return now + self._longest + MARGIN


def _move_all(session: Session, step: timedelta, now: datetime) -> None:
    sent_at = schema.DeliveryRow.sent_at
    to_be_asked = (sent_at, and_(_UNASKED, sent_at >= now - step - LOOK_BACK))
    for column, waits in (*_WAITING, to_be_asked):
        table = column.class_
        rows = session.execute(select(table.id, column).where(waits).order_by(table.id).with_for_update()).all()
        if rows:
            session.execute(update(table), [{"id": key, column.key: at + step} for key, at in rows])


def _problem(host: str, step: float) -> str:
    way = "forward" if step > 0 else "back"
    return (
        f"The clock of {host} was set {way} by {timedelta(seconds=round(abs(step)))}, or the machine was suspended. "
        "Everything that waits goes on as before; times in timelines and results are those of its clock"
    )
