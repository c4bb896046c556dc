"""The row of a study while a batch of instances is filed: its revision, its counts, and its reopening."""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.log.filing.entries import IndexEntry
from storage.records.instances import InstancePlace
from storage.records.patients import Subject
from storage.records.problems import ProblemKind
from storage.records.studies import Event, Stage, StudyState
from storage.tables.database import schema
from storage.tables.database.connection import insert_if_absent
from storage.tables.events import add_event
from storage.tables.patients import identify_study, study_identities
from storage.tables.problems import is_problem, open_problem

log = logging.getLogger(__name__)

PRIORITIES = {"STAT": 2, "HIGH": 1}  # Requested Procedure Priority (PS3.3 C.4.11); the rest is 0


class StudyUpdate:
    """A study's row during one batch: changed in memory and written once."""

    def __init__(self, row: schema.StudyRow, is_new: bool) -> None:
        self._row = row
        self._is_new = is_new
        self._feeds: set[tuple[int, int]] = set()  # (revision, association)
        self._subjects: set[Subject] = set()  # the patients that new instances and versions state

    @classmethod
    def locked(cls, session: Session, entry: IndexEntry) -> "StudyUpdate":
        """Lock the row of the entry's study until the end of the transaction; insert it if it is absent."""
        here = schema.StudyRow.study_instance_uid == entry.study_instance_uid
        locked = select(schema.StudyRow).where(here).with_for_update()
        found = session.scalars(locked).one_or_none()
        is_new = found is None and _insert(session, entry)
        return cls(session.scalars(locked).one() if found is None else found, is_new)

    @property
    def state(self) -> StudyState:
        return self._row.state

    @property
    def revision(self) -> int:
        return self._row.revision

    def arrived(self, session: Session, entry: IndexEntry, association: int | None, reopens: bool) -> int:
        """Count a new instance, which may be late, and return the revision to which it belongs."""
        if self._is_new:
            self._announce(session, entry, association, "first instance")
            self._is_new = False
        elif reopens:
            self._reopen(session, entry, association, f"a late {entry.modality or 'image'} instance")
        self._note_subject(entry)
        self._row.instances += 1
        self._row.priority = max(self._row.priority, PRIORITIES.get(entry.facts.priority or "", 0))
        self._note(entry.received_at, association)
        return self._row.revision

    def versioned(self, session: Session, entry: IndexEntry, association: int | None, reopens: bool) -> None:
        """Take note of a changed version of an instance that is already here."""
        if reopens:
            self._reopen(session, entry, association, "a changed version of an instance")
        else:
            self._announce(
                session, entry, association, "an instance came again under changed attributes: the newer one is used"
            )
        self._note_subject(entry)
        self._note(entry.received_at, association)

    def repeated(self, at: datetime, association: int | None) -> None:
        """Note a duplicate: a sender that repeats instances after an abort is still sending the study."""
        if self._row.state == StudyState.RECEIVING:
            self._note(at, association)

    def write(self, session: Session) -> None:
        """Write the row, once those of the instances are written."""
        identify_study(session, self._row, self._subjects)
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

    def _reopen(self, session: Session, entry: IndexEntry, association: int | None, what: str) -> None:
        self._row.revision += 1
        self._row.state = StudyState.RECEIVING
        self._row.reason = f"{what} of series {entry.series_instance_uid} came"
        self._row.revision_started_at = entry.received_at
        self._announce(session, entry, association, f"revision {self._row.revision}: {self._row.reason}")

    def _note_subject(self, entry: IndexEntry) -> None:
        if entry.subject is not None:
            self._subjects.add(entry.subject)

    def _note(self, at: datetime, association: int | None) -> None:
        last = self._row.last_received_at
        # It moves with every instance, even if the clock was set back, because the change shows that more arrive.
        self._row.last_received_at = at if at >= last else last + timedelta(microseconds=1)
        if association is not None:
            self._feeds.add((self._row.revision, association))

    def _announce(self, session: Session, entry: IndexEntry, association: int | None, text: str) -> None:
        found = None if association is None else session.get(schema.AssociationRow, association)
        source = "" if found is None else f", from {found.calling_ae_title}"
        add_event(
            session,
            Event(entry.received_at, entry.study_instance_uid, self._row.revision, Stage.RECEIVED, f"{text}{source}"),
        )


def _insert(session: Session, entry: IndexEntry) -> bool:
    """Insert the row of the entry's study. Return False if another process inserted it."""
    own = is_own(session, entry.sop_instance_uid)
    return insert_if_absent(
        session,
        schema.StudyRow,
        {
            "study_instance_uid": entry.study_instance_uid,
            "revision": 1,
            # A result that comes back is no reason to compute anything, even if its study is unknown here.
            "state": StudyState.IGNORED if own else StudyState.RECEIVING,
            "reason": "nothing applies: only results of this node came" if own else "instances arrive",
            "instances": 0,
            "revision_started_at": entry.received_at,
            "first_received_at": entry.received_at,
            "last_received_at": entry.received_at,
            "priority": 0,
        },
    )


def is_own(session: Session, sop_instance_uid: str) -> bool:
    """Return True if the instance is a result of this node."""
    return session.get(schema.OwnInstanceRow, sop_instance_uid) is not None


def tell_contradiction(session: Session, study_instance_uid: str, revision: int) -> None:
    """Open a problem if a late instance contradicts the patient of a study that was routed, unless one is open."""
    conflict = study_identities(session, study_instance_uid).conflict()
    kinds = (ProblemKind.PATIENTS_MIXED, ProblemKind.CORRECTION_INCOMPLETE)
    if conflict is None or any(is_problem(session, kind, study_instance_uid) for kind in kinds):
        return
    text = f"An instance came after the study was routed. Now {conflict.text}"
    kind = ProblemKind.CORRECTION_INCOMPLETE if conflict.is_correction else ProblemKind.PATIENTS_MIXED
    open_problem(session, kind, study_instance_uid, text, study_instance_uid)
    add_event(session, Event(datetime.now(UTC), study_instance_uid, revision, Stage.WARNING, text))
    extra = {"action": "late_instance_contradicts", "study": study_instance_uid}
    log.error("An instance came after its study was routed, and contradicts it: %s", conflict.text, extra=extra)


def tell_copies(session: Session, copies: Iterable[tuple[InstancePlace, IndexEntry]]) -> None:
    """Say in the timelines of both studies that instances of one series are filed in another series too.

    Each copy is the first place of an instance, and the new one. The same pair of series is told once.
    """
    pairs = {
        (before.study_instance_uid, before.series_instance_uid, entry.study_instance_uid, entry.series_instance_uid): (
            entry.received_at
        )
        for before, entry in copies
    }
    for (from_study, from_series, to_study, to_series), at in pairs.items():
        data = {"copied": [from_study, from_series, to_study, to_series]}
        whole = f"series {from_series} of study {from_study}"
        texts = {
            from_study: f"instances of series {from_series} came again with the same pixels, as series {to_series} "
            f"of study {to_study}, and are filed there too",
            to_study: f"instances of {whole} came with the same pixels as series {to_series}, and are filed here too",
        }
        for uid, text in texts.items():
            if not _is_told(session, uid, data):
                study = session.get(schema.StudyRow, uid)
                revision = 1 if study is None else study.revision
                add_event(session, Event(at, uid, revision, Stage.RECEIVED, text, data=data))


def _is_told(session: Session, study_instance_uid: str, data: dict[str, list[str]]) -> bool:
    event = schema.EventRow
    here = event.study_instance_uid == study_instance_uid
    return data in session.scalars(select(event.data).where(here, event.stage == Stage.RECEIVED)).all()
