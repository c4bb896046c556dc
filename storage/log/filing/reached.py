"""The place up to which a journal is filed. It is written in the transaction that files what comes before it."""

from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from storage.errors import IndexLost
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed, insert_if_absent


@dataclass(frozen=True)
class Reached:
    """The place up to which a journal is filed, and the segment in which the present life of its receiver began."""

    receiver: str
    segment: int
    offset: int
    life: int


def read_reached(database: Database) -> list[Reached]:
    """Return the places of all journals of which something is filed."""
    row = schema.JournalRow
    with database.reading() as session:
        return [Reached(*found) for found in session.execute(select(row.receiver, row.segment, row.offset, row.life))]


def note_reached(session: Session, place: Reached, before: Reached | None) -> None:
    """Move the place of a journal from where it was before; None if nothing of the journal was filed.

    Raises IndexLost if it was not there: the database was replaced, perhaps by an older one.
    """
    row = schema.JournalRow
    if before is None:
        moved = insert_if_absent(session, row, vars(place))
    else:
        here = (row.receiver == before.receiver, row.segment == before.segment, row.offset == before.offset)
        moved = changed(session, update(row).where(*here).values(vars(place))) == 1
    if not moved:
        raise IndexLost("A journal is not filed up to where it was; the database was replaced")
