"""Filing what the journals hold: each instance a file in the archive, then the rows of many in one transaction.

Everything here may be done again after a crash, from any point of a journal, with the same outcome: files are told
apart by their content, rows by their keys, and times are those of the receiver.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from pathlib import Path

from sqlalchemy import and_, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from storage.log.archive import Archive, Row, row_of
from storage.records.evidence import AssociationEnd
from storage.records.instances import Facts, ReceivedInstance, Stored
from storage.records.studies import Event, Stage, StudyState
from storage.tables import schema
from storage.tables.database.connection import Database, changed, insert_if_absent
from storage.tables.events import add_event

PRIORITIES = {"STAT": 2, "HIGH": 1}  # Requested Procedure Priority (PS3.3 C.4.11); the rest is 0
COMMIT_ATTEMPTS = 3
_CHUNK = 500  # values of one IN: SQLite bounds them

Feeds = Callable[[str, str], bool]


@dataclass(frozen=True)
class Arrival:
    """An instance whose file is at its place, or in quarantine, on its way into the index."""

    row: Row
    outcome: Stored
    at: datetime
    association: str | None = None


@dataclass(frozen=True)
class Opened:
    """An association that a receiver noted. `receiver` names the process."""

    association: str
    calling_ae_title: str
    called_ae_title: str
    peer_host: str
    receiver: str
    at: datetime


@dataclass(frozen=True)
class Ended:
    association: str
    end: AssociationEnd
    at: datetime


class Filing:
    """One batch. `instance`, `opened` and `ended` collect; `commit` writes the rows.

    `feeds_inputs(sop_class_uid, modality)` says whether an instance can be an application's input: only such a one
    opens a new revision of its study when it comes late.
    """

    def __init__(self, database: Database, archive: Archive, feeds_inputs: Feeds) -> None:
        self._database = database
        self._archive = archive
        self._feeds_inputs = feeds_inputs
        self._arrivals: list[Arrival] = []
        self._opened: list[Opened] = []
        self._ended: list[Ended] = []
        self._current: dict[str, Row] = {}  # of this batch, by SOP Instance UID
        self._versions: dict[tuple[str, str], Row] = {}  # the same, by SOP Instance UID and content

    def __len__(self) -> int:
        return len(self._arrivals) + len(self._opened) + len(self._ended)

    def instance(self, received: ReceivedInstance, content: bytes | Path) -> Stored:
        """Files one instance; `content` is its Part 10 file. What the index makes of NEW is known after `commit`.

        Raises Unfileable for a UID that cannot be a file's name, StorageFull, OSError.
        """
        row = row_of(received, content)
        placed, outcome = self._archive.place(row, content, self._known(row))
        if outcome in (Stored.NEW, Stored.REVISION):
            self._current[row.sop_instance_uid] = placed
            self._versions[row.sop_instance_uid, row.sha256] = placed
        self._arrivals.append(Arrival(placed, outcome, row.received_at, received.association or None))
        return outcome

    def mend(self, received: ReceivedInstance, content: bytes | Path) -> None:
        """Before files are indexed that no row knows: makes sure that this instance is not one of them in part."""
        self._archive.mend(row_of(received, content), content)

    def opened(self, association: Opened) -> None:
        self._opened.append(association)

    def ended(self, association: Ended) -> None:
        self._ended.append(association)

    def commit(self) -> list[Stored]:
        """Writes the rows in one transaction; what became of each instance. The batch is empty afterwards.

        Raises Retriable when the database is busy or gone: the batch stays and may be committed again.
        """
        for attempt in count(1):
            try:
                with self._database.session(derivable=True) as session:
                    keys = self._associate(session)
                    outcomes, displaced = self._index(session, keys)
                    for ended in self._ended:
                        end_association(session, keys.get(ended.association), ended.end, ended.at)
                break
            except IntegrityError:  # PostgreSQL: someone wrote the same row since we looked; now there is one to see
                if attempt == COMMIT_ATTEMPTS:
                    raise
        for row in displaced:
            self._archive.displace(row)
        self._arrivals.clear()
        self._opened.clear()
        self._ended.clear()
        self._current.clear()
        self._versions.clear()
        return outcomes

    # -- what is known -------------------------------------------------------------------------------------------------

    def _known(self, row: Row) -> Row | None:
        """The version with the content of `row` where there is one, else the current one, else None.

        Where nothing is at the place, the index is not asked for each of a thousand new instances: one that is there
        under another series is met by `_index`.
        """
        known = self._versions.get((row.sop_instance_uid, row.sha256)) or self._current.get(row.sop_instance_uid)
        if known is not None or not self._archive.path(row).exists():
            return known
        with self._database.reading() as session:
            found = session.get(schema.InstanceRow, row.sop_instance_uid)
            if found is None:
                return None
            version = session.get(schema.InstanceVersionRow, (row.sop_instance_uid, row.sha256))
            if version is None:
                return _of(found)
            return replace(_of(found), sha256=version.sha256, file=version.file, size=row.size)

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _associate(self, session: Session) -> dict[str, int]:
        """Writes the associations that are new; the ids of all that this batch speaks of."""
        for opened in self._opened:
            insert_if_absent(
                session,
                schema.AssociationRow,
                {
                    "key": opened.association,
                    "calling_ae_title": opened.calling_ae_title[:16],
                    "called_ae_title": opened.called_ae_title[:16],
                    "peer_host": opened.peer_host[:255],
                    "receiver": opened.receiver,
                    "opened_at": opened.at,
                },
            )
        wanted = {a.association for a in self._arrivals if a.association} | {e.association for e in self._ended}
        return {
            str(key): number
            for keys in _chunks(sorted(wanted))
            for key, number in session.execute(
                select(schema.AssociationRow.key, schema.AssociationRow.id).where(schema.AssociationRow.key.in_(keys))
            )
        }

    def _index(self, session: Session, keys: dict[str, int]) -> tuple[list[Stored], list[Row]]:
        """The rows of the batch; the outcomes, and the rows whose UIDs are taken by instances of other series."""
        uids = sorted({a.row.sop_instance_uid for a in self._arrivals})
        known = {
            row.sop_instance_uid: _of(row)
            for chunk in _chunks(uids)
            for row in session.scalars(select(schema.InstanceRow).where(schema.InstanceRow.sop_instance_uid.in_(chunk)))
        }
        outcomes: list[Stored] = []
        displaced: list[Row] = []
        studies: dict[str, _Study] = {}
        new: list[dict[str, object]] = []
        for arrival in self._arrivals:
            row, outcome = arrival.row, arrival.outcome
            before = known.get(row.sop_instance_uid)
            association = keys.get(arrival.association or "")
            if outcome is Stored.NEW and before is not None:
                same = (before.study_instance_uid, before.series_instance_uid, before.sha256)
                if same == (row.study_instance_uid, row.series_instance_uid, row.sha256):
                    outcome = Stored.DUPLICATE
                else:
                    outcome = Stored.CONFLICT
                    displaced.append(row)
            if outcome is Stored.CONFLICT:
                self._warn_of_conflict(session, row)
            elif outcome is Stored.NEW:
                study = self._study(session, studies, row)
                revision = study.arrived(session, row, association, self._can_feed(session, study, row))
                new.append(_columns(row, revision))
                known[row.sop_instance_uid] = row
            elif outcome is Stored.REVISION:
                study = self._study(session, studies, row)
                if before is not None and before.sha256 != row.sha256 and not _is_version(session, row):
                    study.revised(session, row, association, self._can_feed(session, study, row))
                    self._keep_version(session, before, row, study.revision, new)
                    known[row.sop_instance_uid] = row
                else:
                    outcome = Stored.DUPLICATE
            else:
                study = self._study(session, studies, row)
                study.repeated(arrival.at, association)
            outcomes.append(outcome)
        if new:
            session.execute(insert(schema.InstanceRow.__table__), new)  # type: ignore[arg-type]
        for study in studies.values():
            study.write(session)
        return outcomes, displaced

    def _study(self, session: Session, studies: dict[str, "_Study"], row: Row) -> "_Study":
        if row.study_instance_uid not in studies:
            studies[row.study_instance_uid] = _Study.locked(session, row)
        return studies[row.study_instance_uid]

    def _can_feed(self, session: Session, study: "_Study", row: Row) -> bool:
        """Our own results must not: a PACS that routes them back would start an endless circle."""
        if study.state == StudyState.RECEIVING:
            return False  # nothing to reopen, so nobody need ask
        return self._feeds_inputs(row.sop_class_uid, row.modality) and not is_own(session, row.sop_instance_uid)

    def _keep_version(
        self, session: Session, before: Row, row: Row, revision: int, new: list[dict[str, object]]
    ) -> None:
        """The newer version is the instance from now on; both are listed."""
        if new:  # the row of this very batch must be there to be changed
            session.execute(insert(schema.InstanceRow.__table__), new)  # type: ignore[arg-type]
            new.clear()
        for version in (before, row):
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
        columns = _columns(row, revision)
        changed(
            session,
            update(schema.InstanceRow)
            .where(schema.InstanceRow.sop_instance_uid == columns.pop("sop_instance_uid"))
            .values(columns),
        )

    def _warn_of_conflict(self, session: Session, row: Row) -> None:
        """Once for each file in quarantine."""
        file = str(self._archive.quarantined(row).relative_to(self._archive.quarantine))
        told = session.scalars(
            select(schema.EventRow.data).where(
                schema.EventRow.study_instance_uid == row.study_instance_uid, schema.EventRow.stage == Stage.WARNING
            )
        ).all()
        if any(data.get("file") == file for data in told):
            return
        study = session.get(schema.StudyRow, row.study_instance_uid)
        add_event(
            session,
            Event(
                row.received_at,
                row.study_instance_uid,
                1 if study is None else study.revision,
                Stage.WARNING,
                "an instance came again with another image; the first one stands, the other is in quarantine",
                data={"sop_instance_uid": row.sop_instance_uid, "file": file},
            ),
        )


class _Study:
    """A study's row during one batch: changed in memory, written once."""

    def __init__(self, row: schema.StudyRow, is_new: bool) -> None:
        self._row = row
        self._is_new = is_new
        self._feeds: set[tuple[int, int]] = set()

    @classmethod
    def locked(cls, session: Session, row: Row) -> "_Study":
        """The row, held until the end of the transaction, so that no state changes in between. Made where absent."""
        own = is_own(session, row.sop_instance_uid)
        is_new = insert_if_absent(
            session,
            schema.StudyRow,
            {
                "study_instance_uid": row.study_instance_uid,
                "revision": 1,
                # A result that comes back is no reason to compute anything, not even in a study forgotten here.
                "state": StudyState.IGNORED if own else StudyState.RECEIVING,
                "reason": "nothing applies: only results of this node came" if own else "instances arrive",
                "instances": 0,
                "revision_started_at": row.received_at,
                "first_received_at": row.received_at,
                "last_received_at": row.received_at,
                "priority": 0,
            },
        )
        found = session.scalars(
            select(schema.StudyRow)
            .where(schema.StudyRow.study_instance_uid == row.study_instance_uid)
            .with_for_update()
        ).one()
        return cls(found, is_new)

    @property
    def state(self) -> StudyState:
        return self._row.state

    @property
    def revision(self) -> int:
        return self._row.revision

    def arrived(self, session: Session, row: Row, association: int | None, reopens: bool) -> int:
        """A new instance: of a new study, of the running revision, or late. The revision it belongs to."""
        if self._is_new:
            self._announce(session, row, association, "first instance")
            self._is_new = False
        elif reopens:
            self._reopen(session, row, association, f"a late {row.modality or 'image'} instance")
        self._row.instances += 1
        self._row.priority = max(self._row.priority, PRIORITIES.get(row.facts.priority or "", 0))
        self._note(row.received_at, association)
        return self._row.revision

    def revised(self, session: Session, row: Row, association: int | None, reopens: bool) -> None:
        if reopens:
            self._reopen(session, row, association, "a changed version of an instance")
        else:
            self._announce(
                session, row, association, "an instance came again under changed attributes: the newer one is used"
            )
        self._note(row.received_at, association)

    def repeated(self, at: datetime, association: int | None) -> None:
        """A sender that repeats what it sent before an abort is still at work: its study is not quiet."""
        if self._row.state == StudyState.RECEIVING:
            self._note(at, association)

    def write(self, session: Session) -> None:
        session.flush()
        for revision, association in self._feeds:
            insert_if_absent(
                session,
                schema.FeedRow,
                {
                    "study_instance_uid": self._row.study_instance_uid,
                    "revision": revision,
                    "association_id": association,
                },
            )

    def _reopen(self, session: Session, row: Row, association: int | None, what: str) -> None:
        self._row.revision += 1
        self._row.state = StudyState.RECEIVING
        self._row.reason = f"{what} of series {row.series_instance_uid} came"
        self._row.revision_started_at = row.received_at
        self._announce(session, row, association, f"revision {self._row.revision}: {self._row.reason}")

    def _note(self, at: datetime, association: int | None) -> None:
        self._row.last_received_at = max(self._row.last_received_at, at)
        if association is not None:
            self._feeds.add((self._row.revision, association))

    def _announce(self, session: Session, row: Row, association: int | None, text: str) -> None:
        found = None if association is None else session.get(schema.AssociationRow, association)
        source = "" if found is None else f", from {found.calling_ae_title}"
        add_event(
            session,
            Event(row.received_at, row.study_instance_uid, self._row.revision, Stage.RECEIVED, f"{text}{source}"),
        )


def end_association(session: Session, association: int | None, end: AssociationEnd, at: datetime) -> None:
    """Notes the end, once, on the timelines of the studies that the association fed. None: it fed nothing."""
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
    """Ends as aborted what an earlier life of a receiver, from before `before`, left open; their number."""
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


def is_own(session: Session, sop_instance_uid: str) -> bool:
    statement = select(schema.ResultObjectRow.id).where(schema.ResultObjectRow.sop_instance_uid == sop_instance_uid)
    return session.scalar(statement) is not None


def _is_version(session: Session, row: Row) -> bool:
    return session.get(schema.InstanceVersionRow, (row.sop_instance_uid, row.sha256)) is not None


def _of(row: schema.InstanceRow) -> Row:
    return Row(
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


def _columns(row: Row, revision: int) -> dict[str, object]:
    return {**vars(row), "facts": row.facts.to_json(), "revision": revision}


def _chunks(values: Sequence[str]) -> Iterable[Sequence[str]]:
    return (values[i : i + _CHUNK] for i in range(0, len(values), _CHUNK))
