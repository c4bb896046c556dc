"""The rows of associations that brought instances: when a peer opened them, and how they ended."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, select, update
from sqlalchemy.orm import Session

from storage.records.evidence import AssociationEnd
from storage.records.studies import Event, Stage
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed, chunks, insert_if_absent
from storage.tables.events import add_event


@dataclass(frozen=True)
class AssociationOpened:
    """A receiver's note that a peer opened an association. `receiver` names the process."""

    association: str
    calling_ae_title: str
    called_ae_title: str
    peer_host: str
    receiver: str
    at: datetime


@dataclass(frozen=True)
class AssociationEnded:
    """A receiver's note that an association ended: in which way, and when."""

    association: str
    end: AssociationEnd
    at: datetime


def keep_opened(session: Session, opened: Iterable[AssociationOpened]) -> None:
    """Insert the associations that have no row yet."""
    for one in opened:
        insert_if_absent(
            session,
            schema.AssociationRow,
            {
                "key": one.association,
                "calling_ae_title": one.calling_ae_title[:16],
                "called_ae_title": one.called_ae_title[:16],
                "peer_host": one.peer_host[:255],
                "receiver": one.receiver,
                "opened_at": one.at,
            },
        )


def association_ids(session: Session, associations: Iterable[str]) -> dict[str, int]:
    """Return the ids of the rows of these associations; an association without a row is left out."""
    row = schema.AssociationRow
    return {
        str(key): number
        for keys in chunks(sorted(set(associations)))
        for key, number in session.execute(select(row.key, row.id).where(row.key.in_(keys)))
    }


def end_association(session: Session, association: int | None, end: AssociationEnd, at: datetime) -> None:
    """Note the end of an association once, and in the timelines of its studies. None means that it has no row."""
    if association is None:
        return
    ended = changed(
        session,
        update(schema.AssociationRow)
        .where(schema.AssociationRow.id == association, schema.AssociationRow.ended.is_(None))
        .values(ended=end, ended_at=at),
    )
    if not ended:
        return
    fed = session.execute(
        select(schema.FeedRow.study_instance_uid, schema.FeedRow.revision, schema.AssociationRow.calling_ae_title)
        .join(schema.AssociationRow)
        .where(schema.FeedRow.association_id == association)
    ).all()
    for study_instance_uid, revision, calling in fed:
        aborted = end is AssociationEnd.ABORTED
        add_event(
            session,
            Event(
                at,
                study_instance_uid,
                revision,
                Stage.WARNING if aborted else Stage.RECEIVED,
                f"association with {calling} {'aborted' if aborted else 'released'}",
            ),
        )


def abort_open_associations(database: Database, receiver: str, before: datetime) -> int:
    """End as aborted the associations that a receiver opened before the time `before` and left open.

    Return their number.
    """
    with database.session(derivable=True) as session:
        stale = session.scalars(
            select(schema.AssociationRow.id).where(
                and_(
                    schema.AssociationRow.receiver == receiver,
                    schema.AssociationRow.ended.is_(None),
                    schema.AssociationRow.opened_at < before,
                )
            )
        ).all()
        for association in stale:
            end_association(session, association, AssociationEnd.ABORTED, before)
        return len(stale)
