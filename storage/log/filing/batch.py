"""A batch of instances that are filed: decided on together, and given their rows in one transaction.

No byte of an image is copied, and none is read but to compare two instances of one UID. Filing is idempotent: it may
start again from any point of a journal with the same outcome. For this purpose rows are distinguished by their keys and
contents by their hashes, and all times are those of the receiver.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from storage.log.filing.aside import Aside, keep_aside
from storage.log.filing.associations import (
    AssociationEnded,
    AssociationOpened,
    association_ids,
    end_association,
    keep_opened,
)
from storage.log.filing.blobs import StoredBlobs
from storage.log.filing.decision import Decided, Decisions
from storage.log.filing.entries import IndexEntry, index_entry
from storage.log.filing.reached import Reached, note_reached
from storage.log.filing.repeated import note_repeated, note_replaced
from storage.log.filing.rows import (
    ContentKey,
    KeptColumns,
    SegmentKey,
    instance_columns,
    is_at,
    keep_headers,
    known_entries,
    segment_ids,
    version_columns,
)
from storage.log.filing.study_update import StudyUpdate, is_own, tell_contradiction, tell_copies
from storage.log.patient_key import PatientKey
from storage.records.instances import Address, InstancePlace, ReceivedInstance, Stored
from storage.records.patients import Subject
from storage.records.problems import ProblemKind
from storage.records.studies import Event, Stage, StudyState
from storage.tables.commitments import note_last_filed
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed, insert_if_absent
from storage.tables.events import add_event
from storage.tables.patients import keep_subject
from storage.tables.problems import open_problem

log = logging.getLogger(__name__)

COMMIT_ATTEMPTS = 3
_ROUTED = (StudyState.ROUTED, StudyState.IGNORED)
_LISTED = (Stored.NEW, Stored.COPY, Stored.VERSION)

FeedsInputs = Callable[[str, str], bool]


@dataclass(frozen=True)
class _Written:
    """The ids of rows to which the rows of a transaction refer."""

    associations: Mapping[str, int]
    segments: Mapping[SegmentKey, int]
    headers: Mapping[ContentKey, KeptColumns]


class Filing:
    """A batch of instances and associations. `instance`, `opened` and `ended` collect; `commit` writes the rows.

    `feeds_inputs(sop_class_uid, modality)` says whether an instance can be an application's input. A late instance
    opens a new revision of its study only if this function returns True.
    """

    def __init__(self, database: Database, blobs: StoredBlobs, key: PatientKey, feeds_inputs: FeedsInputs) -> None:
        self._database = database
        self._blobs = blobs
        self._key = key
        self._feeds_inputs = feeds_inputs
        self._arrivals: list[tuple[IndexEntry, str | None]] = []  # each with the name of its association
        self._aside: list[Aside] = []
        self._opened: list[AssociationOpened] = []
        self._ended: list[AssociationEnded] = []
        self._reached: tuple[Reached, Reached | None] | None = None

    def __len__(self) -> int:
        return len(self._arrivals) + len(self._aside) + len(self._opened) + len(self._ended)

    def instance(self, received: ReceivedInstance, address: Address, kept: bytes = b"") -> None:
        """Add an instance whose frame lies at this address, with its kept header.

        What release 0.1 wrote has no hashes; such an instance is read. Raises Unfileable for a UID that no peer could
        ask for, and OSError.
        """
        if received.hashes is None:
            received, kept = self._blobs.read_again(received, address)
        self._arrive(index_entry(self._hashed(received), kept, address.length, address), received.association)

    def file(self, received: ReceivedInstance, file: str) -> None:
        """Add an instance that release 0.1 filed as `file`. Raises as `instance` does."""
        received, kept = self._blobs.read_again(received, file)
        size = self._blobs.file(file).size
        self._arrive(index_entry(self._hashed(received), kept, size, file=file), received.association)

    def aside(self, one: Aside) -> None:
        """Add an acknowledged frame that stays in the log and is part of no study."""
        self._aside.append(one)

    def opened(self, association: AssociationOpened) -> None:
        self._opened.append(association)

    def ended(self, association: AssociationEnded) -> None:
        self._ended.append(association)

    def reached(self, place: Reached, noted: Reached | None) -> None:
        """Note up to where the journal is filed once this batch is committed. `noted` is what the database says now."""
        self._reached = place, noted

    def commit(self) -> list[Stored]:
        """Write the rows in one transaction, return the outcome of each instance, and empty the batch.

        Raises Retriable if the database is busy or gone, and OSError if the disk is in trouble. The batch then stays
        and may be committed again. Raises IndexLost if the journal is not filed up to where it was.
        """
        for attempt in count(1):
            try:
                decided = self._decide()
                with self._database.session(derivable=True) as session:
                    outcomes = self._write(session, decided)
                break
            except IntegrityError:  # PostgreSQL: another process wrote the same row meanwhile; now it is visible
                if attempt == COMMIT_ATTEMPTS:
                    raise
        for one in decided:
            if one.restores:
                extra = {"action": "instance_restored", "sop_instance": one.entry.sop_instance_uid}
                log.warning("Bytes of an instance were damaged or missing; those that came again are used", extra=extra)
        for batch in (self._arrivals, self._aside, self._opened, self._ended):
            batch.clear()
        self._reached = None
        return outcomes

    def _arrive(self, entry: IndexEntry, association: str) -> None:
        self._arrivals.append((entry, association or None))

    def _hashed(self, received: ReceivedInstance) -> ReceivedInstance:
        return received if received.subject else replace(received, subject=self._key.subject(received.patient))

    def _decide(self) -> list[Decided]:
        """Decide what becomes of each instance before the database is locked for writing."""
        uids = sorted({entry.sop_instance_uid for entry, _ in self._arrivals})
        with self._database.reading() as session:
            known = known_entries(session, uids)
        decisions = Decisions(known, self._blobs.comparisons())
        return [decisions.decide(entry, association) for entry, association in self._arrivals]

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _write(self, session: Session, decided: Sequence[Decided]) -> list[Stored]:
        keep_opened(session, self._opened)
        arrived = (name for _, name in self._arrivals if name)
        associations = association_ids(session, [*arrived, *(ended.association for ended in self._ended)])
        addresses = [one.entry.address for one in decided] + [one.address for one in self._aside]
        addresses += [entry.address for entry, _ in self._arrivals]
        # A version that is listed now lay in a file or a segment before, and keeps a row of its own.
        addresses += [one.before.address for one in decided if one.before is not None]
        segments = segment_ids(session, [(a.receiver, a.segment) for a in addresses if a is not None])
        headers = keep_headers(session, (one.entry for one in decided if one.outcome in _LISTED or one.restores))
        outcomes = self._index(session, decided, _Written(associations, segments, headers))
        for ended in self._ended:
            end_association(session, associations.get(ended.association), ended.end, ended.at)
        for aside in self._aside:
            self._keep_unfiled(session, aside, segments)
        if self._reached is not None:
            note_reached(session, *self._reached)
        return outcomes

    def _index(self, session: Session, decided: Sequence[Decided], written: _Written) -> list[Stored]:
        """Write the rows of the instances, and return the outcomes."""
        subjects = {
            subject: keep_subject(session, subject)
            for subject in {one.entry.subject for one in decided if one.outcome in _LISTED or one.restores}
            if subject is not None
        }
        outcomes: list[Stored] = []
        studies: dict[str, StudyUpdate] = {}
        new: list[dict[str, object]] = []
        filed: dict[str, datetime] = {}
        copies: list[tuple[InstancePlace, IndexEntry]] = []
        arrived: set[str] = set()  # studies that got an instance or a version
        for (arrival, _), one in zip(self._arrivals, decided, strict=True):
            entry, outcome, before = _with_subject(one.entry, subjects), one.outcome, one.before
            before = before and _with_subject(before, subjects)
            association = written.associations.get(one.association or "")
            if outcome is Stored.CONFLICT:
                self._keep_conflict(session, entry, one.elsewhere if before is None else (), written.segments)
                outcomes.append(outcome)
                continue
            filed[entry.sop_instance_uid] = max(
                arrival.received_at, filed.get(entry.sop_instance_uid, arrival.received_at)
            )
            study = self._study(session, studies, entry)
            if outcome in (Stored.NEW, Stored.COPY):
                revision = study.arrived(session, entry, association, self._can_feed(session, study, entry))
                new.append(instance_columns(entry, revision, written.segments, written.headers))
                copies += [(one.elsewhere[0].place, entry)] if one.elsewhere else []
            elif outcome is Stored.VERSION and before is not None:
                study.versioned(session, entry, association, self._reopens(session, study, before, entry))
                self._insert(session, new)
                if one.restores:
                    note_replaced(session, entry)
                _keep_version(session, before, entry, study.revision, written)
            else:
                study.repeated(arrival.received_at, association)
                if one.restores and before is not None:
                    self._insert(session, new)
                    note_replaced(session, entry)
                    _restore(session, before, entry, written)
            outcomes.append(outcome)
            if outcome in _LISTED:
                arrived.add(entry.study_instance_uid)
        self._insert(session, new)
        for (arrival, _), one in zip(self._arrivals, decided, strict=True):
            if one.outcome is not Stored.CONFLICT and arrival.address != one.entry.address:
                note_repeated(session, arrival, written.segments)
        for uid, study in studies.items():
            study.write(session)
            if study.state in _ROUTED and uid in arrived:
                tell_contradiction(session, uid, study.revision)
        tell_copies(session, copies)
        note_last_filed(session, filed)
        return outcomes

    def _insert(self, session: Session, new: list[dict[str, object]]) -> None:
        """Insert the new rows of this batch, which must be there before one of them changes."""
        if new:
            session.execute(insert(schema.InstanceRow.__table__), new)  # type: ignore[arg-type]
            new.clear()

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

    def _keep_conflict(
        self,
        session: Session,
        entry: IndexEntry,
        elsewhere: Sequence[IndexEntry],
        segments: Mapping[SegmentKey, int],
    ) -> None:
        """Quarantine an instance: a row, a problem, and a warning in the timeline of its study.

        `elsewhere` are the places of the image that has the UID; empty if that is the place of `entry` too.
        """
        what = "an instance came again with another image; the first one stands, the other is in quarantine"
        if elsewhere:
            other = elsewhere[0]
            what = (
                "an instance came under the UID of another image, which is in series "
                f"{other.series_instance_uid} of study {other.study_instance_uid}; the new one is in quarantine"
            )
        uids = (entry.sop_instance_uid, entry.series_instance_uid, entry.study_instance_uid)
        where = str(entry.address or entry.file)
        place = keep_aside(session, Aside(where, entry.address, *uids, entry.sha256, entry.received_at, what), segments)
        if place != where:
            note_repeated(session, entry, segments)
        text = f"{what[0].upper()}{what[1:]}, as {place}. It is part of no study"
        if not open_problem(session, ProblemKind.QUARANTINED, place, text, entry.study_instance_uid):
            return
        study = session.get(schema.StudyRow, entry.study_instance_uid)
        revision = 1 if study is None else study.revision
        data = {"sop_instance_uid": entry.sop_instance_uid, "file": place}
        event = Event(entry.received_at, entry.study_instance_uid, revision, Stage.WARNING, what, data=data)
        add_event(session, event)

    def _keep_unfiled(self, session: Session, one: Aside, segments: Mapping[SegmentKey, int]) -> None:
        place = keep_aside(session, one, segments)
        text = f"An acknowledged frame of a journal cannot be filed ({one.reason}); it is kept as {place}"
        open_problem(session, ProblemKind.UNFILED, place, text, one.study)


def _keep_version(session: Session, before: IndexEntry, entry: IndexEntry, revision: int, written: _Written) -> None:
    """List both versions, and make the newer one the current one."""
    row = schema.InstanceVersionRow
    for version in (before, entry):
        values = version_columns(version, written.segments)
        if not insert_if_absent(session, row, values) and version is entry:  # its bytes may have come again
            changed(session, update(row).where(*is_at(row, entry.place), row.sha256 == entry.sha256).values(values))
    _update(session, entry, revision, written)


def _restore(session: Session, before: IndexEntry, entry: IndexEntry, written: _Written) -> None:
    """Let the rows of an instance name the bytes that came again, because those that they named are damaged."""
    row, version = schema.InstanceRow, schema.InstanceVersionRow
    values = version_columns(entry, written.segments)
    same = version.sha256 == entry.sha256
    is_version = changed(session, update(version).where(*is_at(version, entry.place), same).values(values))
    if before.sha256 == entry.sha256 or not is_version:
        _update(session, entry, session.scalars(select(row.revision).where(*is_at(row, entry.place))).one(), written)


def _update(session: Session, entry: IndexEntry, revision: int, written: _Written) -> None:
    row = schema.InstanceRow
    columns = instance_columns(entry, revision, written.segments, written.headers)
    changed(session, update(row).where(*is_at(row, entry.place)).values(columns))


def _with_subject(entry: IndexEntry, subjects: Mapping[Subject, int]) -> IndexEntry:
    """Return the entry with the row of its patient. An entry that was read from the index has it already."""
    if entry.subject is None or entry.subject_id is not None:
        return entry
    return replace(entry, subject_id=subjects.get(entry.subject))
