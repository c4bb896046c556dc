"""The filing of journals: each instance becomes a file of the archive, and then a whole batch is indexed at once.

Filing is idempotent: after a crash it may start again from any point of a journal with the same outcome. For this
purpose files are distinguished by their content and rows by their keys, and all times are those of the receiver.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from pathlib import Path

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from storage.log.archive import Archive, IndexEntry, index_entry
from storage.log.associations import AssociationEnded, AssociationOpened, association_ids, end_association, keep_opened
from storage.log.study_update import StudyUpdate, is_own
from storage.records.instances import Facts, ReceivedInstance, Stored
from storage.records.studies import Event, Stage, StudyState
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed, chunks, insert_if_absent
from storage.tables.events import add_event

COMMIT_ATTEMPTS = 3

FeedsInputs = Callable[[str, str], bool]


@dataclass(frozen=True)
class Arrival:
    """An instance that waits to be indexed. Its file is at its place, or in quarantine."""

    entry: IndexEntry
    outcome: Stored
    at: datetime
    association: str | None = None


class Filing:
    """A batch of instances and associations. `instance`, `opened` and `ended` collect; `commit` writes the rows.

    `feeds_inputs(sop_class_uid, modality)` says whether an instance can be an application's input. A late instance
    opens a new revision of its study only if this function returns True.
    """

    def __init__(self, database: Database, archive: Archive, feeds_inputs: FeedsInputs) -> None:
        self._database = database
        self._archive = archive
        self._feeds_inputs = feeds_inputs
        self._arrivals: list[Arrival] = []
        self._opened: list[AssociationOpened] = []
        self._ended: list[AssociationEnded] = []
        self._current: dict[str, IndexEntry] = {}  # in this batch, by SOP Instance UID
        self._versions: dict[tuple[str, str], IndexEntry] = {}  # in this batch, by SOP Instance UID and content

    def __len__(self) -> int:
        return len(self._arrivals) + len(self._opened) + len(self._ended)

    def instance(self, received: ReceivedInstance, content: bytes | Path) -> Stored:
        """File one instance, whose Part 10 file is `content`. The outcome NEW is provisional: `commit` may change it.

        Raises Unfileable for a UID that cannot be the name of a file, StorageFull, OSError.
        """
        entry = index_entry(received, content)
        placed, outcome = self._archive.place(entry, content, self._known(entry))
        if outcome in (Stored.NEW, Stored.VERSION):
            self._current[entry.sop_instance_uid] = placed
            self._versions[entry.sop_instance_uid, entry.sha256] = placed
        self._arrivals.append(Arrival(placed, outcome, entry.received_at, received.association or None))
        return outcome

    def mend(self, received: ReceivedInstance, content: bytes | Path) -> None:
        """Move away a partly written file of this instance, before files without a row are indexed."""
        self._archive.mend(index_entry(received, content), content)

    def opened(self, association: AssociationOpened) -> None:
        self._opened.append(association)

    def ended(self, association: AssociationEnded) -> None:
        self._ended.append(association)

    def commit(self) -> list[Stored]:
        """Write the rows in one transaction, return the outcome of each instance, and empty the batch.

        Raises Retriable if the database is busy or gone. The batch then stays and may be committed again.
        """
        for attempt in count(1):
            try:
                with self._database.session(derivable=True) as session:
                    keys = self._associate(session)
                    outcomes, displaced = self._index(session, keys)
                    for ended in self._ended:
                        end_association(session, keys.get(ended.association), ended.end, ended.at)
                break
            except IntegrityError:  # PostgreSQL: another process wrote the same row meanwhile; now it is visible
                if attempt == COMMIT_ATTEMPTS:
                    raise
        for entry in displaced:
            self._archive.displace(entry)
        self._arrivals.clear()
        self._opened.clear()
        self._ended.clear()
        self._current.clear()
        self._versions.clear()
        return outcomes

    # -- known versions ------------------------------------------------------------------------------------------------

    def _known(self, entry: IndexEntry) -> IndexEntry | None:
        """Return the indexed version with the content of `entry`, or else the current one; None if there is neither.

        If no file is at the usual place, the index is not queried, because a study has thousands of new instances. An
        instance that is indexed under another series is found by `_index`.
        """
        known = self._versions.get((entry.sop_instance_uid, entry.sha256)) or self._current.get(entry.sop_instance_uid)
        if known is not None or not self._archive.path(entry).exists():
            return known
        with self._database.reading() as session:
            found = session.get(schema.InstanceRow, entry.sop_instance_uid)
            if found is None:
                return None
            version = session.get(schema.InstanceVersionRow, (entry.sop_instance_uid, entry.sha256))
            if version is None:
                return _entry(found)
            return replace(_entry(found), sha256=version.sha256, file=version.file, size=entry.size)

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _associate(self, session: Session) -> dict[str, int]:
        """Write the new associations, and return the ids of all associations that this batch names."""
        keep_opened(session, self._opened)
        arrived = (a.association for a in self._arrivals if a.association)
        return association_ids(session, [*arrived, *(ended.association for ended in self._ended)])

    def _index(self, session: Session, keys: dict[str, int]) -> tuple[list[Stored], list[IndexEntry]]:
        """Write the rows of the instances.

        Return the outcomes, and the entries whose UIDs belong to instances of other series already.
        """
        uids = sorted({a.entry.sop_instance_uid for a in self._arrivals})
        known = {
            row.sop_instance_uid: _entry(row)
            for chunk in chunks(uids)
            for row in session.scalars(select(schema.InstanceRow).where(schema.InstanceRow.sop_instance_uid.in_(chunk)))
        }
        outcomes: list[Stored] = []
        displaced: list[IndexEntry] = []
        studies: dict[str, StudyUpdate] = {}
        new: list[dict[str, object]] = []
        for arrival in self._arrivals:
            entry, outcome = arrival.entry, arrival.outcome
            before = known.get(entry.sop_instance_uid)
            association = keys.get(arrival.association or "")
            if outcome is Stored.NEW and before is not None:
                same = (before.study_instance_uid, before.series_instance_uid, before.sha256)
                if same == (entry.study_instance_uid, entry.series_instance_uid, entry.sha256):
                    outcome = Stored.DUPLICATE
                else:
                    outcome = Stored.CONFLICT
                    displaced.append(entry)
            if outcome is Stored.CONFLICT:
                self._warn_of_conflict(session, entry)
            elif outcome is Stored.NEW:
                study = self._study(session, studies, entry)
                revision = study.arrived(session, entry, association, self._can_feed(session, study, entry))
                new.append(_columns(entry, revision))
                known[entry.sop_instance_uid] = entry
            elif outcome is Stored.VERSION:
                study = self._study(session, studies, entry)
                if before is not None and before.sha256 != entry.sha256 and not _is_version(session, entry):
                    study.versioned(session, entry, association, self._can_feed(session, study, entry))
                    self._keep_version(session, before, entry, study.revision, new)
                    known[entry.sop_instance_uid] = entry
                else:
                    outcome = Stored.DUPLICATE
            else:
                study = self._study(session, studies, entry)
                study.repeated(arrival.at, association)
            outcomes.append(outcome)
        if new:
            session.execute(insert(schema.InstanceRow.__table__), new)  # type: ignore[arg-type]
        for study in studies.values():
            study.write(session)
        return outcomes, displaced

    def _study(self, session: Session, studies: dict[str, StudyUpdate], entry: IndexEntry) -> StudyUpdate:
        if entry.study_instance_uid not in studies:
            studies[entry.study_instance_uid] = StudyUpdate.locked(session, entry)
        return studies[entry.study_instance_uid]

    def _can_feed(self, session: Session, study: StudyUpdate, entry: IndexEntry) -> bool:
        """Return True if an instance may reopen its study.

        Results of this node may not, because a PACS that routes them back would start an endless circle.
        """
        if study.state == StudyState.RECEIVING:
            return False  # there is nothing to reopen
        return self._feeds_inputs(entry.sop_class_uid, entry.modality) and not is_own(session, entry.sop_instance_uid)

    def _keep_version(
        self, session: Session, before: IndexEntry, entry: IndexEntry, revision: int, new: list[dict[str, object]]
    ) -> None:
        """List both versions, and make the newer one the current one."""
        if new:  # the row of this batch must be there to be changed
            session.execute(insert(schema.InstanceRow.__table__), new)  # type: ignore[arg-type]
            new.clear()
        for version in (before, entry):
            insert_if_absent(
                session,
                schema.InstanceVersionRow,
                {
                    "sop_instance_uid": version.sop_instance_uid,
                    "sha256": version.sha256,
                    "file": version.file,
                    "received_at": version.received_at,
                },
            )
        columns = _columns(entry, revision)
        changed(
            session,
            update(schema.InstanceRow)
            .where(schema.InstanceRow.sop_instance_uid == columns.pop("sop_instance_uid"))
            .values(columns),
        )

    def _warn_of_conflict(self, session: Session, entry: IndexEntry) -> None:
        """Warn in the timeline of the study about a file in quarantine, unless an earlier line does."""
        file = str(self._archive.quarantined(entry).relative_to(self._archive.quarantine))
        told = session.scalars(
            select(schema.EventRow.data).where(
                schema.EventRow.study_instance_uid == entry.study_instance_uid, schema.EventRow.stage == Stage.WARNING
            )
        ).all()
        if any(data.get("file") == file for data in told):
            return
        study = session.get(schema.StudyRow, entry.study_instance_uid)
        add_event(
            session,
            Event(
                entry.received_at,
                entry.study_instance_uid,
                1 if study is None else study.revision,
                Stage.WARNING,
                "an instance came again with another image; the first one stands, the other is in quarantine",
                data={"sop_instance_uid": entry.sop_instance_uid, "file": file},
            ),
        )


def _is_version(session: Session, entry: IndexEntry) -> bool:
    return session.get(schema.InstanceVersionRow, (entry.sop_instance_uid, entry.sha256)) is not None


def _entry(row: schema.InstanceRow) -> IndexEntry:
    return IndexEntry(
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        series_instance_uid=row.series_instance_uid,
        study_instance_uid=row.study_instance_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        modality=row.modality,
        size=row.size,
        sha256=row.sha256,
        received_at=row.received_at,
        facts=Facts.from_json(row.facts),
        file=row.file,
    )


def _columns(entry: IndexEntry, revision: int) -> dict[str, object]:
    return {**vars(entry), "facts": entry.facts.to_json(), "revision": revision}
