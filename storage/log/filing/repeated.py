"""Content that lies in the log more than once: one row names it, and the rest must be found when it is deleted."""

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.log.filing.entries import IndexEntry
from storage.log.filing.rows import SegmentKey, is_at, place_columns
from storage.tables.database import schema
from storage.tables.database.connection import insert_if_absent


def note_repeated(session: Session, entry: IndexEntry, segments: Mapping[SegmentKey, int]) -> None:
    """Note where an instance lies that came again, and whose content is listed elsewhere."""
    if entry.address is None:  # release 0.1 filed it by its study
        return
    values = {
        **entry.place._asdict(),
        **place_columns(entry.address, segments),
        "size": entry.size,
        "sha256": entry.sha256,
        "received_at": entry.received_at,
    }
    insert_if_absent(session, schema.RepeatedRow, values)


def note_replaced(session: Session, entry: IndexEntry) -> None:
    """Note where content lies, damaged, whose rows are about to name the bytes of `entry` instead."""
    columns = [column.name for column in schema.RepeatedRow.__table__.columns]
    for row in (schema.InstanceRow, schema.InstanceVersionRow):
        damaged = select(*(getattr(row, name) for name in columns))
        damaged = damaged.where(*is_at(row, entry.place), row.sha256 == entry.sha256, row.segment_id.is_not(None))
        for found in session.execute(damaged).all():
            insert_if_absent(session, schema.RepeatedRow, dict(zip(columns, found, strict=True)))
