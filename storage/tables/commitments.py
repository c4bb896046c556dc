"""Storage commitment requests that peers make of this node (PS3.4 annex J): REQUESTED → REPORTED | RETRYING | FAILED.

The receiver of the requesting association holds a request until `run_after`. When that time has passed, or the
association is over, whoever claims the request first reports on it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session

from storage.records.commitments import Commitment, CommitmentRequest, CommitmentState
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed, chunks, insert_if_absent

_OPEN = (CommitmentState.REQUESTED, CommitmentState.RETRYING)
_DUPLICATE = "duplicate"  # marks an item of a second request under a transaction UID that was still in use


class Commitments:
    """The storage commitment requests of peers, and the instances that this node has committed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- asking --------------------------------------------------------------------------------------------------------

    def request(self, request: CommitmentRequest, now: datetime, run_after: datetime) -> Commitment:
        """Keep a request. Its report is due at `run_after` unless its receiver delivers it before.

        If the same peer uses the transaction UID again after it was reported on, this is a new request. Before that it
        is a repetition, or, with other items, a request whose items can only fail (PS3.3 C.14.1.1: duplicate
        transaction UID).
        """
        row = schema.CommitmentRow
        values: dict[str, Any] = {
            "peer_host": request.peer_host[:255],
            "state": CommitmentState.REQUESTED,
            "attempts": 0,
            "waited_seconds": 0.0,
            "reason": "",
            "requested_at": now,
            "run_after": run_after,
            "association": request.association[:64],
        }
        key = {"peer_ae_title": request.peer_ae_title[:16], "transaction_uid": request.transaction_uid}
        mine = and_(row.peer_ae_title == key["peer_ae_title"], row.transaction_uid == key["transaction_uid"])
        wanted = [list(item) for item in request.items]
        with self._database.session() as session:
            if not insert_if_absent(session, row, {**key, **values, "items": wanted}):
                known = session.scalars(select(row).where(mine).with_for_update()).one()
                if known.state in _OPEN:
                    before = [entry for entry in known.items if entry[2:] != [_DUPLICATE]]
                    if before != wanted:
                        wanted = [*known.items, *([*entry, _DUPLICATE] for entry in wanted)]
                    else:
                        wanted = known.items
                changed(session, update(row).where(mine).values(**values, items=wanted))
                session.expire_all()
            return _record(session.scalars(select(row).where(mine)).one())

    # -- reporting -----------------------------------------------------------------------------------------------------

    def due(self, now: datetime, peers: Collection[str] | None = None, limit: int = 20) -> list[Commitment]:
        """Return requests that are due and that no receiver holds, oldest first; of `peers`, unless that is None."""
        row = schema.CommitmentRow
        statement = select(row).where(row.state.in_(_OPEN), row.association == "", row.run_after <= now)
        if peers is not None:
            statement = statement.where(row.peer_ae_title.in_(peers))
        with self._database.reading() as session:
            return [_record(r) for r in session.scalars(statement.order_by(row.run_after, row.id).limit(limit))]

    def claim(self, commitment_id: int, now: datetime, until: datetime) -> Commitment | None:
        """Claim a request that is due, count an attempt, and return the request.

        Nobody else can claim it before `until`. Return None if the request is not due, for example because somebody
        else has claimed it, or if it is closed.
        """
        row = schema.CommitmentRow
        due = and_(_is_open(commitment_id), row.run_after <= now)
        with self._database.session() as session:
            return _move(session, due, attempts=row.attempts + 1, run_after=until)

    def hold(self, commitment_id: int, until: datetime) -> bool:
        """Give the receiver of the requesting association until `until` to report. Return False unless REQUESTED."""
        row = schema.CommitmentRow
        waits = and_(row.id == commitment_id, row.state == CommitmentState.REQUESTED)
        with self._database.session() as session:
            return _move(session, waits, run_after=until) is not None

    def leases(self) -> dict[int, datetime]:
        """Return until when receivers hold requests. A receiver that lives renews this again and again."""
        row = schema.CommitmentRow
        held = select(row.id, row.run_after).where(row.state.in_(_OPEN), row.association != "")
        with self._database.reading() as session:
            return {found.id: found.run_after for found in session.execute(held)}

    def release_silent(self, leases: Mapping[int, datetime], now: datetime) -> None:
        """Make requests due for any reporter that are still held as in `leases`."""
        for commitment_id, until in leases.items():
            same = and_(_is_open(commitment_id), schema.CommitmentRow.run_after == until)
            with self._database.session() as session:
                _move(session, same, association="", run_after=now)

    def hand_over(self, commitment_id: int, now: datetime) -> bool:
        """Make the request due for any reporter, because the requesting association is over."""
        with self._database.session() as session:
            return _move(session, _is_open(commitment_id), association="", run_after=now) is not None

    def reported(self, commitment_id: int, told: str) -> bool:
        """Move to REPORTED, because the peer answered Success. `told` is the report in words."""
        with self._database.session() as session:
            moved = _move(session, _is_open(commitment_id), state=CommitmentState.REPORTED, reason=told)
            return moved is not None

    def fail(self, commitment_id: int, reason: str, retry_at: datetime | None, attempts: int = 0) -> bool:
        """Move to RETRYING, due at `retry_at`, or to FAILED if that is None. Add `attempts` to the attempts made."""
        row = schema.CommitmentRow
        values: dict[str, Any] = {"reason": reason, "association": "", "attempts": row.attempts + attempts}
        if retry_at is None:
            values["state"] = CommitmentState.FAILED
        else:
            values |= {"state": CommitmentState.RETRYING, "run_after": retry_at}
        with self._database.session() as session:
            return _move(session, _is_open(commitment_id), **values) is not None

    def wait(self, commitment_id: int, reason: str, retry_at: datetime, pause: float, limit: float) -> bool:
        """Move to RETRYING without using up an attempt, because the peer gave no answer. Return True.

        Move to FAILED and return False if the pauses, of which `pause` seconds are the next, add up to `limit`.
        """
        row = schema.CommitmentRow
        waited = row.waited_seconds + pause
        values = {"reason": reason, "association": "", "attempts": row.attempts - 1, "waited_seconds": waited}
        with self._database.session() as session:
            late = and_(_is_open(commitment_id), waited >= limit)
            if _move(session, late, state=CommitmentState.FAILED, **values) is not None:
                return False
            _move(session, _is_open(commitment_id), state=CommitmentState.RETRYING, run_after=retry_at, **values)
            return True

    # -- for operators -------------------------------------------------------------------------------------------------

    def retry(self, commitment_id: int, now: datetime) -> bool:
        """Move from FAILED to REQUESTED and reset the attempts. Return False in other states."""
        row = schema.CommitmentRow
        failed = and_(row.id == commitment_id, row.state == CommitmentState.FAILED)
        with self._database.session() as session:
            anew = {"attempts": 0, "waited_seconds": 0.0, "reason": "", "association": "", "run_after": now}
            return _move(session, failed, state=CommitmentState.REQUESTED, **anew) is not None

    def list(self, states: Collection[CommitmentState] | None = None, limit: int | None = 100) -> Sequence[Commitment]:
        """Return the requests, the newest first; all of them if `limit` is None."""
        row = schema.CommitmentRow
        statement = select(row).order_by(row.id.desc()).limit(limit)
        if states is not None:
            statement = statement.where(row.state.in_(states))
        with self._database.reading() as session:
            return [_record(r) for r in session.scalars(statement)]

    # -- proof of storage ----------------------------------------------------------------------------------------------

    def indexed(self, sop_instance_uids: Iterable[str]) -> dict[str, str]:
        """Return the SOP classes of the given instances, without instances that are not indexed.

        A row is proof of storage, because it is written only after its bytes are durable. An instance that is kept
        aside (`aside`) may be indexed with content that was acknowledged earlier.
        """
        uids = sorted(set(sop_instance_uids))
        row = schema.InstanceRow
        with self._database.reading() as session:
            return {
                uid: sop_class
                for chunk in chunks(uids)
                for uid, sop_class in session.execute(
                    select(row.sop_instance_uid, row.sop_class_uid).where(row.sop_instance_uid.in_(chunk))
                )
            }

    def aside(self, sop_instance_uids: Iterable[str]) -> frozenset[str]:
        """Return those of the given instances whose content that was acknowledged last is part of no study."""
        row = schema.ContestedRow
        stands = or_(row.filed_at.is_(None), row.filed_at < row.aside_at)
        with self._database.reading() as session:
            return frozenset(
                uid
                for chunk in chunks(sorted(set(sop_instance_uids)))
                for uid in session.scalars(select(row.sop_instance_uid).where(row.sop_instance_uid.in_(chunk), stands))
            )


# -- content that is kept aside ----------------------------------------------------------------------------------------


def set_aside(session: Session, sop_instance_uid: str, received_at: datetime) -> None:
    """Note that content of a SOP instance was acknowledged that is part of no study."""
    row = schema.ContestedRow
    if not insert_if_absent(session, row, {"sop_instance_uid": sop_instance_uid, "aside_at": received_at}):
        here = (row.sop_instance_uid == sop_instance_uid, row.aside_at < received_at)
        changed(session, update(row).where(*here).values(aside_at=received_at))


def note_last_filed(session: Session, filed: Mapping[str, datetime]) -> None:
    """Note when content of these SOP instances was acknowledged that is part of a study, if other is kept aside."""
    row = schema.ContestedRow
    if session.scalar(select(row.sop_instance_uid).limit(1)) is None:
        return
    for chunk in chunks(sorted(filed)):
        for found in session.scalars(select(row).where(row.sop_instance_uid.in_(chunk))):
            at = filed[found.sop_instance_uid]
            found.filed_at = at if found.filed_at is None else max(at, found.filed_at)


def _is_open(commitment_id: int) -> ColumnElement[bool]:
    return and_(schema.CommitmentRow.id == commitment_id, schema.CommitmentRow.state.in_(_OPEN))


def _move(session: Session, where: ColumnElement[bool], **values: Any) -> Commitment | None:
    """Make one guarded transition. Return the changed request, or None if it was not in the required state."""
    row = session.scalars(
        update(schema.CommitmentRow).where(where).values(**values).returning(schema.CommitmentRow),
        execution_options={"synchronize_session": False},
    ).one_or_none()
    return None if row is None else _record(row)


def _record(row: schema.CommitmentRow) -> Commitment:
    return Commitment(
        id=row.id,
        transaction_uid=row.transaction_uid,
        peer_ae_title=row.peer_ae_title,
        peer_host=row.peer_host,
        items=tuple((entry[0], entry[1]) for entry in row.items if entry[2:] != [_DUPLICATE]),
        state=row.state,
        attempts=row.attempts,
        reason=row.reason,
        waited_seconds=row.waited_seconds,
        requested_at=row.requested_at,
        run_after=row.run_after,
        duplicates=tuple((entry[0], entry[1]) for entry in row.items if entry[2:] == [_DUPLICATE]),
    )
