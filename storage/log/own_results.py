"""The results of this node, by their UIDs: known in the database, and in the log of the index role if that is lost."""

import time

from sqlalchemy import select

from storage.log.index_log import IndexLog
from storage.tables.database import schema
from storage.tables.database.connection import Database, chunks, insert_if_absent

LOOK_SECONDS = 5.0
_LOOK_BACK = 1000  # rows: a transaction that began earlier may end later


class OwnResults:
    """The UIDs of results in the database and in `index_log`, which are kept the same."""

    def __init__(self, database: Database, index_log: IndexLog) -> None:
        self._database = database
        self._log = index_log
        self._last = 0  # id of a result object
        self._logged: set[str] = set()  # of the last results
        self._looked = 0.0

    def prepare(self) -> None:
        """Tell the database what only the log knows, because the database was lost, and the other way round."""
        logged = self._log.own_results()
        row, result = schema.OwnInstanceRow, schema.ResultObjectRow
        with self._database.session() as session:
            known = set(session.scalars(select(row.sop_instance_uid)))
            for uid in sorted(logged - known):
                insert_if_absent(session, row, {"sop_instance_uid": uid})
            latest = select(result.id, result.sop_instance_uid).order_by(result.id.desc()).limit(_LOOK_BACK)
            found = session.execute(latest).all()
        for chunk in chunks(sorted(known - logged)):
            self._log.own(chunk)
        self._last = max((number for number, _ in found), default=0)
        self._logged = {uid for _, uid in found}
        self._looked = time.monotonic()

    def advance(self) -> None:
        """Note new results in the log, every few seconds. Raises Retriable."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        result = schema.ResultObjectRow
        start = max(0, self._last - _LOOK_BACK)
        with self._database.reading() as session:
            found = session.execute(select(result.id, result.sop_instance_uid).where(result.id > start)).all()
        uids = {uid for _, uid in found}
        if new := sorted(uids - self._logged):
            self._log.own(new)
        self._logged = uids
        self._last = max((number for number, _ in found), default=self._last)
        self._looked = time.monotonic()
