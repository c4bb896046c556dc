"""The reading of headers of which the index keeps too little: release 0.1 kept none, and the list of elements grows."""

from dataclasses import replace

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from storage.errors import MalformedObject
from storage.log.filing.blobs import StoredBlobs
from storage.log.filing.entries import IndexEntry
from storage.log.filing.rows import is_at, keep_headers, known_entries
from storage.log.headers.instance_reader import read_kept_header
from storage.log.headers.kept_elements import LIST_VERSION
from storage.log.headers.kept_header import NOT_ENOUGH
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed

AT_ONCE = 16  # instances, so that one call takes milliseconds


class KeptHeaders:
    """The kept headers of instances that have none, or one of an earlier list."""

    def __init__(self, database: Database, blobs: StoredBlobs) -> None:
        self._database = database
        self._blobs = blobs

    def read_again(self) -> int:
        """Read some headers, and return their number; 0 if none is lacking. Raises Retriable and OSError."""
        with self._database.reading() as session:
            lacking = _lacking(session)
        if not lacking:
            return 0
        read = [replace(entry, kept=self._read(entry)) for entry in lacking]
        row = schema.InstanceRow
        with self._database.session(derivable=True) as session:
            for (place, _), columns in keep_headers(session, read).items():
                changed(session, update(row).where(*is_at(row, place)).values(columns))
            _remove_unused(session)
        return len(read)

    def _read(self, entry: IndexEntry) -> bytes:
        try:
            return read_kept_header(self._blobs.of(entry))
        except (MalformedObject, FileNotFoundError):  # whoever needs the header meets the same, and says so
            return NOT_ENOUGH


def _lacking(session: Session) -> list[IndexEntry]:
    row, shared = schema.InstanceRow, schema.SharedHeaderRow
    columns = select(row.sop_instance_uid, row.series_instance_uid, row.study_instance_uid).limit(AT_ONCE)
    places = session.execute(columns.where(row.shared_header_id.is_(None))).all()
    if not places:
        old = select(shared.id).where(shared.list_version < LIST_VERSION).limit(1)
        places = session.execute(columns.where(row.shared_header_id == old.scalar_subquery())).all()
    known = known_entries(session, sorted({sop for sop, _, _ in places}))
    wanted = set(map(tuple, places))
    return [entry for one in known.values() for place, entry in one.current.items() if tuple(place) in wanted]


def _remove_unused(session: Session) -> None:
    """Remove headers of an earlier list that no instance is compressed against any more."""
    row, shared = schema.InstanceRow, schema.SharedHeaderRow
    used = select(row.shared_header_id).where(row.shared_header_id == shared.id).exists()
    session.execute(delete(shared).where(shared.list_version < LIST_VERSION, ~used))
