"""The studies that were routed, in the log of the index role, so that nobody analyses them again after a rebuild."""

import time
from datetime import UTC, datetime

from sqlalchemy import func, select, update

from storage.log.deletion.records import RoutedRevisions
from storage.log.index_log import IndexLog
from storage.records.studies import Event, Stage, StudyState
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed
from storage.tables.events import add_event

LOOK_SECONDS = 5.0
REASON = "it was routed before the database was lost; `dicom-node retry --study` has it routed again"
_LOOK_BACK = 1000  # events: a transaction that began earlier may end later
_NOTED_AT_ONCE = 1000
_SETTLED = (StudyState.ROUTED, StudyState.IGNORED)


class RoutedStudies:
    """The studies whose routing the database and `index_log` know of, which are kept the same."""

    def __init__(self, database: Database, index_log: IndexLog) -> None:
        self._database = database
        self._log = index_log
        self._last = 0  # id of an event
        self._noted: set[tuple[str, int]] = set()  # of the last events
        self._looked = 0.0

    def prepare(self) -> None:
        """Note in the log what only the database knows. Raises Retriable."""
        row = schema.StudyRow
        with self._database.reading() as session:
            settled = session.execute(select(row.study_instance_uid, row.revision).where(row.state.in_(_SETTLED)))
            found = {(study, revision) for study, revision in settled}
            self._last = session.scalar(select(func.max(schema.EventRow.id))) or 0
        self._note(found - self._log.routed())
        self._noted = self._recent()

    def advance(self) -> None:
        """Note studies that were routed since, every few seconds. Raises Retriable."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        found = self._recent()
        self._note(found - self._noted)
        self._noted = found
        self._looked = time.monotonic()

    def _recent(self) -> set[tuple[str, int]]:
        """Return the studies of the last events that are routed still."""
        row, event = schema.StudyRow, schema.EventRow
        since = event.id > max(0, self._last - _LOOK_BACK)
        routed = (
            select(row.study_instance_uid, row.revision)
            .join(event, row.study_instance_uid == event.study_instance_uid)
            .where(since, event.stage == Stage.ROUTED, row.state.in_(_SETTLED))
        )
        with self._database.reading() as session:
            last = session.scalar(select(func.max(event.id))) or 0
            found = {(study, revision) for study, revision in session.execute(routed)}
        self._last = last
        return found

    def restore(self, routed: RoutedRevisions) -> None:
        """Settle the studies of a database that is being rebuilt as far as they had come. Raises Retriable."""
        row, now = schema.StudyRow, datetime.now(UTC)
        with self._database.session(derivable=True) as session:
            for study, revision in routed.studies:
                settled = update(row).where(
                    row.study_instance_uid == study, row.state == StudyState.RECEIVING, row.revision <= revision
                )
                if changed(session, settled.values(state=StudyState.ROUTED, revision=revision, reason=REASON)):
                    add_event(session, Event(now, study, revision, Stage.ROUTED, REASON))

    def _note(self, studies: set[tuple[str, int]]) -> None:
        new = sorted(studies)
        for start in range(0, len(new), _NOTED_AT_ONCE):
            self._log.route(RoutedRevisions(tuple(new[start : start + _NOTED_AT_ONCE])))
