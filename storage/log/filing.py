"""The filing of journals: each instance becomes a file of the archive, and then a whole batch is indexed at once.

Filing is idempotent: after a crash it may start again from any point of a journal with the same outcome. For this
purpose files are distinguished by their content and rows by their keys, and all times are those of the receiver.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TypeVar

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from storage.log.archive import QUARANTINE, Archive, IndexEntry, InstancePlace, index_entry
from storage.log.associations import AssociationEnded, AssociationOpened, association_ids, end_association, keep_opened
from storage.log.patient_key import PatientKey
from storage.log.study_update import StudyUpdate, is_own, tell_contradiction, tell_copies
from storage.records.instances import Facts, ReceivedInstance, Stored
from storage.records.patients import NOBODY, Subject
from storage.records.problems import ProblemKind
from storage.records.studies import Event, Stage, StudyState
from storage.tables.commitments import note_last_filed, set_aside
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed, chunks, insert_if_absent
from storage.tables.events import add_event
from storage.tables.patients import keep_subject
from storage.tables.problems import open_problem

COMMIT_ATTEMPTS = 3
_ROUTED = (StudyState.ROUTED, StudyState.IGNORED)
_FILED = (Stored.NEW, Stored.COPY, Stored.VERSION)

FeedsInputs = Callable[[str, str], bool]


@dataclass(frozen=True)
class Arrival:
    """An instance that waits to be indexed. Its file is at its place, or in quarantine."""

    entry: IndexEntry
    outcome: Stored
    at: datetime
    association: str | None = None


@dataclass(frozen=True)
class _Decided:
    """The decision on an arrival. `before` is what its place held; `elsewhere` are other places of the SOP instance."""

    arrival: Arrival
    outcome: Stored
    before: IndexEntry | None
    elsewhere: tuple[IndexEntry, ...]


class Filing:
    """A batch of instances and associations. `instance`, `opened` and `ended` collect; `commit` writes the rows.

    `feeds_inputs(sop_class_uid, modality)` says whether an instance can be an application's input. A late instance
    opens a new revision of its study only if this function returns True.
    """

    def __init__(self, database: Database, archive: Archive, key: PatientKey, feeds_inputs: FeedsInputs) -> None:
        self._database = database
        self._archive = archive
        self._key = key
        self._feeds_inputs = feeds_inputs
        self._arrivals: list[Arrival] = []
        self._opened: list[AssociationOpened] = []
        self._ended: list[AssociationEnded] = []
        self._current: dict[InstancePlace, IndexEntry] = {}  # in this batch
        self._versions: dict[tuple[InstancePlace, str], IndexEntry] = {}  # in this batch, by place and content

    def __len__(self) -> int:
        return len(self._arrivals) + len(self._opened) + len(self._ended)

    def instance(self, received: ReceivedInstance, content: bytes | Path) -> Stored:
        """File one instance, whose Part 10 file is `content`. The outcome NEW is provisional: `commit` may change it.

        Raises Unfileable for a UID that cannot be the name of a file, StorageFull, OSError.
        """
        entry = index_entry(received, content)
        placed, outcome = self._archive.place(entry, content, self._known(entry))
        placed = replace(placed, subject=received.subject or self._key.subject(received.patient))
        if outcome in (Stored.NEW, Stored.VERSION):
            self._current[entry.place] = placed
            self._versions[entry.place, entry.sha256] = placed
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
                decided = self._decide()
                with self._database.session(derivable=True) as session:
                    keys = self._associate(session)
                    outcomes = self._index(session, decided, keys)
                    self._tell_moved(session)
                    for ended in self._ended:
                        end_association(session, keys.get(ended.association), ended.end, ended.at)
                break
            except IntegrityError:  # PostgreSQL: another process wrote the same row meanwhile; now it is visible
                if attempt == COMMIT_ATTEMPTS:
                    raise
        for one in decided:
            if one.outcome is Stored.CONFLICT and one.arrival.outcome in (Stored.NEW, Stored.VERSION):
                self._archive.displace(one.arrival.entry)
        self._archive.forget_moved()
        self._arrivals.clear()
        self._opened.clear()
        self._ended.clear()
        self._current.clear()
        self._versions.clear()
        return outcomes

    # -- known versions ------------------------------------------------------------------------------------------------

    def _known(self, entry: IndexEntry) -> IndexEntry | None:
        """Return the version with the content of `entry` at its place, or else the current one; None if there is none.

        If no file is at the usual place, the index is not queried, because a study has thousands of new instances. An
        instance that is indexed in another place is found by `_decide`.
        """
        known = self._versions.get((entry.place, entry.sha256)) or self._current.get(entry.place)
        if known is not None or not self._archive.path(entry).exists():
            return known
        with self._database.reading() as session:
            found = session.get(schema.InstanceRow, entry.place)
            if found is None:
                return None
            version = session.get(schema.InstanceVersionRow, (*entry.place, entry.sha256))
            if version is None:
                return _entry(found)
            return replace(_entry(found), sha256=version.sha256, file=version.file, size=entry.size)

    def _decide(self) -> list[_Decided]:
        """Decide what becomes of each instance, in the order of arrival, before the database is locked for writing.

        Files are compared here if a SOP instance is known in another place. A new file becomes a conflict if its UID
        belongs to another image, and so does what came for the same place after it. An older version that is sent again
        after a newer one becomes the current one.
        """
        places = self._places(sorted({a.entry.sop_instance_uid for a in self._arrivals}))
        decided = []
        displaced: set[InstancePlace] = set()
        for arrival in self._arrivals:
            entry, outcome = arrival.entry, arrival.outcome
            known = places[entry.sop_instance_uid]
            before = known.get(entry.place)
            elsewhere = tuple(other for place, other in known.items() if place != entry.place)
            if entry.place in displaced:
                outcome = Stored.CONFLICT
            elif outcome is Stored.NEW:
                if before is not None:
                    outcome = Stored.DUPLICATE if before.sha256 == entry.sha256 else Stored.CONFLICT
                elif elsewhere:
                    is_copy = any(self._archive.is_copy(entry, other) for other in elsewhere)
                    outcome = Stored.COPY if is_copy else Stored.CONFLICT
                    if outcome is Stored.CONFLICT:
                        displaced.add(entry.place)
            elif outcome is Stored.DUPLICATE and before is not None and _is_later_version(before, entry):
                outcome = Stored.VERSION
            if outcome in _FILED:
                known[entry.place] = entry
            decided.append(_Decided(arrival, outcome, before, elsewhere))
        return decided

    def _places(self, sop_instance_uids: Sequence[str]) -> dict[str, dict[InstancePlace, IndexEntry]]:
        """Return the current versions of SOP instances in all their places, the first place first."""
        places: dict[str, dict[InstancePlace, IndexEntry]] = {uid: {} for uid in sop_instance_uids}
        row = schema.InstanceRow
        with self._database.reading() as session:
            for chunk in chunks(sop_instance_uids):
                for found in session.scalars(
                    select(row).where(row.sop_instance_uid.in_(chunk)).order_by(row.received_at)
                ):
                    entry = _entry(found)
                    places[entry.sop_instance_uid][entry.place] = entry
        return places

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _associate(self, session: Session) -> dict[str, int]:
        """Write the new associations, and return the ids of all associations that this batch names."""
        keep_opened(session, self._opened)
        arrived = (a.association for a in self._arrivals if a.association)
        return association_ids(session, [*arrived, *(ended.association for ended in self._ended)])

    def _index(self, session: Session, decided: Sequence[_Decided], keys: dict[str, int]) -> list[Stored]:
        """Write the rows of the instances, and return the outcomes."""
        subjects = {
            subject: keep_subject(session, subject)
            for subject in {one.arrival.entry.subject for one in decided if one.outcome in _FILED}
            if subject is not None
        }
        # A row without a patient was filed by an earlier version: what its file states is not known here.
        stated = {subject: row for subject, row in subjects.items() if subject.hashes != NOBODY}
        outcomes: list[Stored] = []
        studies: dict[str, StudyUpdate] = {}
        new: list[dict[str, object]] = []
        filed: dict[str, datetime] = {}
        copies: list[tuple[InstancePlace, IndexEntry]] = []
        arrived: set[str] = set()  # studies that got an instance or a version
        for one in decided:
            arrival, outcome = one.arrival, one.outcome
            entry, before = _with_subject(arrival.entry, subjects), _with_subject(one.before, stated)
            association = keys.get(arrival.association or "")
            if outcome is Stored.CONFLICT:
                self._keep_conflict(session, entry, one.elsewhere if before is None else ())
                outcomes.append(outcome)
                continue
            filed[entry.sop_instance_uid] = max(arrival.at, filed.get(entry.sop_instance_uid, arrival.at))
            study = self._study(session, studies, entry)
            if outcome in (Stored.NEW, Stored.COPY):
                revision = study.arrived(session, entry, association, self._can_feed(session, study, entry))
                new.append(_columns(entry, revision))
                copies += [(one.elsewhere[0].place, entry)] if one.elsewhere else []
            elif outcome is Stored.VERSION and before is not None and _is_newer(session, before, entry):
                study.versioned(session, entry, association, self._reopens(session, study, before, entry))
                self._keep_version(session, before, entry, study.revision, new)
            else:
                outcome = Stored.DUPLICATE
                study.repeated(arrival.at, association)
            outcomes.append(outcome)
            if outcome in _FILED:
                arrived.add(entry.study_instance_uid)
        if new:
            session.execute(insert(schema.InstanceRow.__table__), new)  # type: ignore[arg-type]
        for uid, study in studies.items():
            study.write(session)
            if study.state in _ROUTED and uid in arrived:
                tell_contradiction(session, uid, study.revision)
        tell_copies(session, copies)
        note_last_filed(session, filed)
        return outcomes

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

    def _reopens(self, session: Session, study: StudyUpdate, before: IndexEntry, entry: IndexEntry) -> bool:
        """Return True if a changed version reopens its study: it can feed an input, or is of a corrected patient."""
        if self._can_feed(session, study, entry):
            return True
        subjects = (before.subject_id, entry.subject_id)
        is_corrected = None not in subjects and subjects[0] != subjects[1]  # what states nothing corrects nothing
        return is_corrected and study.state != StudyState.RECEIVING and not is_own(session, entry.sop_instance_uid)

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
                    **version.place._asdict(),
                    "sha256": version.sha256,
                    "file": version.file,
                    "received_at": version.received_at,
                    "subject_id": version.subject_id,
                },
            )
        row = schema.InstanceRow
        here = [getattr(row, column) == value for column, value in entry.place._asdict().items()]
        changed(session, update(row).where(*here).values(_columns(entry, revision)))

    def _keep_conflict(self, session: Session, entry: IndexEntry, elsewhere: Sequence[IndexEntry]) -> None:
        """Note a file in quarantine: a problem, a warning in the timeline of its study, and what it means to peers.

        `elsewhere` are the places of the image that has the UID; empty if that is the place of `entry` too.
        """
        path = self._archive.quarantined(entry)
        file = str(path.relative_to(self._archive.quarantine))
        what = "an instance came again with another image; the first one stands, the other is in quarantine"
        if elsewhere:
            other = elsewhere[0]
            what = (
                "an instance came under the UID of another image, which is in series "
                f"{other.series_instance_uid} of study {other.study_instance_uid}; the new one is in quarantine"
            )
        set_aside(session, f"{QUARANTINE}/{file}", entry.sop_instance_uid, entry.received_at)
        text = f"{what[0].upper()}{what[1:]}, as {path.name}. It is part of no study"
        if not open_problem(session, ProblemKind.QUARANTINED, path.name, text, entry.study_instance_uid):
            return
        study = session.get(schema.StudyRow, entry.study_instance_uid)
        revision = 1 if study is None else study.revision
        data = {"sop_instance_uid": entry.sop_instance_uid, "file": file}
        event = Event(entry.received_at, entry.study_instance_uid, revision, Stage.WARNING, what, data=data)
        add_event(session, event)

    def _tell_moved(self, session: Session) -> None:
        for path in self._archive.moved:
            text = (
                f"A file that was not indexed was in the way of an instance, and is kept in quarantine as {path.name}"
            )
            open_problem(session, ProblemKind.QUARANTINED, path.name, text)


def _is_later_version(before: IndexEntry, entry: IndexEntry) -> bool:
    """Return True if other content came after the current one. A journal filed again brings older times."""
    return before.sha256 != entry.sha256 and entry.received_at > before.received_at


def _is_newer(session: Session, before: IndexEntry, entry: IndexEntry) -> bool:
    """Return True if a version was never the current one, or came again after the current one."""
    if before.sha256 == entry.sha256:
        return False
    if _is_later_version(before, entry):
        return True
    return session.get(schema.InstanceVersionRow, (*entry.place, entry.sha256)) is None


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
        subject_id=row.subject_id,
    )


def _columns(entry: IndexEntry, revision: int) -> dict[str, object]:
    columns = {**vars(entry), "facts": entry.facts.to_json(), "revision": revision}
    del columns["subject"]  # a row of its own
    return columns


_Entry = TypeVar("_Entry", IndexEntry, IndexEntry | None)


def _with_subject(entry: _Entry, subjects: Mapping[Subject, int]) -> _Entry:
    """Return the entry with the row of its patient. An entry that was read from the index has it already."""
    if entry is None or entry.subject is None or entry.subject_id is not None:
        return entry
    return replace(entry, subject_id=subjects.get(entry.subject))
