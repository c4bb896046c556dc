"""The identification of patients, inside a study and across studies, by keyed hashes (`storage.log.patient_key`)."""

import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path

from sqlalchemy import and_, func, select, update
from sqlalchemy.orm import Session, aliased

from storage.log.patient_key import HASH_LENGTH, NAME_LENGTH, PatientKey
from storage.records.patients import (
    IdentityGroup,
    PatientIdentity,
    StudyBatch,
    StudyIdentities,
    Subject,
    contradictions,
)
from storage.records.studies import Stage, StudyState
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed, chunks, insert_if_absent

_KEY_END = "-"  # between key and hash, which tells identities of studies from those that earlier versions made
_IDENTITY_LENGTH = 64


class Patients:
    """The identities of the patients of studies, by which studies of one patient are found.

    The index identifies the patient of a study. Studies that it filed before it did so, or under another key, are
    identified later, in batches.
    """

    def __init__(self, database: Database, key_file: Path) -> None:
        self._database = database
        self._key = PatientKey(key_file)

    def others(self, study_instance_uid: str) -> list[str]:
        """Return the other complete studies of the patient of this study, in the order of their UIDs."""
        with self._database.reading() as session:
            study = session.get(schema.StudyRow, study_instance_uid)
            return [] if study is None else _complete_studies(session, study.subject, study_instance_uid)

    def routed(self, study_instance_uid: str) -> list[str]:
        """Return the other complete studies that the routing of a study concerns.

        They are of its patient, and of the one under which it was routed before: an ID may have been corrected since.
        """
        with self._database.reading() as session:
            study = session.get(schema.StudyRow, study_instance_uid)
            subjects = set() if study is None else {study.subject, study.routed_subject}
            return sorted({uid for one in subjects for uid in _complete_studies(session, one, study_instance_uid)})

    def note_routed(self, study_instance_uid: str, revision: int) -> None:
        """Note under which patient a revision of a study is routed, unless the study has changed meanwhile."""
        row = schema.StudyRow
        here = (row.study_instance_uid == study_instance_uid, row.revision == revision)
        with self._database.session() as session:
            changed(
                session,
                update(row).where(*here, row.state == StudyState.COMPLETE).values(routed_subject=row.subject),
            )

    def last_event(self) -> int:
        """Return the id of the last event of any study; 0 before the first one."""
        with self._database.reading() as session:
            return session.scalar(select(func.max(schema.EventRow.id))) or 0

    def routed_since(self, study_instance_uid: str, event: int) -> list[str]:
        """Return the other studies of the patient of this study that were routed after this event."""
        row = schema.EventRow
        later = and_(row.stage == Stage.ROUTED, row.id > event)
        others = self.others(study_instance_uid)
        with self._database.reading() as session:
            found = (
                session.scalars(select(row.study_instance_uid).where(row.study_instance_uid.in_(chunk), later))
                for chunk in chunks(others)
            )
            return sorted({uid for uids in found for uid in uids})

    # -- studies that the index did not identify -----------------------------------------------------------------------

    def unidentified(self, after: str, count: int) -> StudyBatch:
        """Look at the next `count` studies behind `after`, by their UIDs, for those that have no identity."""
        row = schema.StudyRow
        statement = select(row.study_instance_uid, row.subject).where(row.study_instance_uid > after)
        with self._database.reading() as session:
            found = session.execute(statement.order_by(row.study_instance_uid).limit(count)).all()
        unknown = tuple(uid for uid, subject in found if not _is_under(subject, self._key.name))
        return StudyBatch(unknown, found[-1][0] if len(found) == count else None)

    def identify(self, study_instance_uid: str, read: Callable[[], PatientIdentity]) -> bool:
        """Identify the patient of a study from its rows, or by `read`. Return False if the index has identified it.

        `read` reads an instance, and is only called if no row states a patient under the key of today. What it raises
        passes through.
        """
        row = schema.StudyRow
        here = row.study_instance_uid == study_instance_uid
        with self._database.reading() as session:
            subject = session.scalar(select(row.subject).where(here))
            if _is_under(subject, self._key.name):
                return False
            found = _stated_identity(session, study_instance_uid, self._key.name)
        identity = found or study_identity(self._key.subject(read()))
        with self._database.session(derivable=True) as session:
            study = session.scalars(select(row).where(here).with_for_update()).one_or_none()
            if study is None or _is_under(study.subject, self._key.name):  # the index was faster
                return False
            if study.state in (StudyState.ROUTED, StudyState.IGNORED):
                study.routed_subject = identity
            study.subject = identity
            return True


def _complete_studies(session: Session, identity: str | None, besides: str) -> list[str]:
    """Return the complete studies that have this identity; none if it names nobody, or is of an earlier version."""
    if identity is None or not identity.partition(_KEY_END)[2]:
        return []
    study = schema.StudyRow
    known = select(study.study_instance_uid).where(
        study.subject == identity, study.state != StudyState.RECEIVING, study.study_instance_uid != besides
    )
    return list(session.scalars(known.order_by(study.study_instance_uid)))


# -- the identity of a study -------------------------------------------------------------------------------------------


def study_identity(subject: Subject) -> str:
    """Return the identity of a study whose instances state `subject`.

    It is made of the name of the key, and of the hashes of Patient ID and its issuer. Without a Patient ID, it is one
    of nobody, and matches no other study.
    """
    patient_id, issuer = subject.hashes.patient_id, subject.hashes.issuer
    digest = hashlib.sha256(f"{issuer}:{patient_id}".encode()).hexdigest() if patient_id else ""
    return f"{subject.key}{_KEY_END}{digest}"[:_IDENTITY_LENGTH]


def identify_study(session: Session, study: schema.StudyRow, subjects: Collection[Subject]) -> None:
    """Keep the identity of a study after instances that state `subjects` were indexed.

    If the instances of the study differ in it, its identity is that of the first instance, by the UIDs of series and
    instance, that states a Patient ID and is no result of this node. This is read from rows, so those of these
    instances must be there.
    """
    found = {study_identity(subject) for subject in subjects}
    if found and found != {study.subject}:
        key = next(iter(subjects)).key
        identity = _stated_identity(session, study.study_instance_uid, key) or study_identity(Subject(key))
        study.subject = identity


def _stated_identity(session: Session, study_instance_uid: str, key: str) -> str | None:
    """Return the identity that the rows of a study state under this key; None if they state none.

    Results of this node that came back do not count: they state the patient of the time when they were made.
    """
    instance, subject, own = schema.InstanceRow, schema.SubjectRow, schema.OwnInstanceRow
    statement = (
        select(subject.hashes)
        .join(instance, instance.subject_id == subject.id)
        .outerjoin(own, own.sop_instance_uid == instance.sop_instance_uid)
        .where(
            instance.study_instance_uid == study_instance_uid,
            own.sop_instance_uid.is_(None),
            func.substr(subject.digest, 1, NAME_LENGTH) == key,
            subject.hashes["patient_id"].as_string().is_not(None),
        )
        .order_by(instance.series_instance_uid, instance.sop_instance_uid)
        .limit(1)
    )
    hashes = session.scalar(statement)
    return None if hashes is None else study_identity(Subject(key, PatientIdentity.from_json(hashes)))


def _is_under(identity: str | None, key: str) -> bool:
    """Return True if an identity was made under this key, and in the way of this version."""
    return identity is not None and identity.startswith(key + _KEY_END)


# -- the patients inside a study ---------------------------------------------------------------------------------------


def keep_subject(session: Session, subject: Subject) -> int:
    """Return the id of the row of an identity, which is inserted if it is absent."""
    hashes = subject.hashes.to_json()
    digest = subject.key + hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:HASH_LENGTH]
    known = select(schema.SubjectRow.id).where(schema.SubjectRow.digest == digest)
    found = session.scalar(known)
    if found is None:
        insert_if_absent(session, schema.SubjectRow, {"digest": digest, "hashes": hashes})
        found = session.scalars(known).one()
    return found


def study_identities(session: Session, study_instance_uid: str) -> StudyIdentities:
    """Return the patients that the instances of a study state. Results of this node that came back do not count.

    Hashes under an earlier key cannot be compared, and are left out.
    """
    instance, subject, own = schema.InstanceRow, schema.SubjectRow, schema.OwnInstanceRow
    rows = session.execute(
        select(subject.id, subject.digest, subject.hashes, func.count(), func.max(instance.received_at))
        .join(subject, subject.id == instance.subject_id)
        .outerjoin(own, own.sop_instance_uid == instance.sop_instance_uid)
        .where(instance.study_instance_uid == study_instance_uid, own.sop_instance_uid.is_(None))
        .group_by(subject.id)
        .order_by(subject.id)
    ).all()
    rows = [row for row in rows if row[1][:NAME_LENGTH] == rows[-1][1][:NAME_LENGTH]]
    groups = tuple(IdentityGroup(PatientIdentity.from_json(row[2]), row[3], row[4]) for row in rows)
    if not contradictions([group.identity for group in groups]):
        return StudyIdentities(groups, key=rows[-1][1][:NAME_LENGTH] if rows else "")
    index = {row[0]: number for number, row in enumerate(rows)}
    pairs = _corrections(session, study_instance_uid)
    corrected = frozenset((index[a], index[b]) for a, b in pairs if a in index and b in index)
    return StudyIdentities(groups, corrected, rows[-1][1][:NAME_LENGTH])


def _corrections(session: Session, study_instance_uid: str) -> list[tuple[int, int]]:
    """Return the identities under which one SOP instance of a study was seen: earlier and now, or in two series."""
    instance, version = schema.InstanceRow, schema.InstanceVersionRow
    statement = (
        select(version.subject_id, instance.subject_id)
        .join(
            instance,
            (instance.sop_instance_uid == version.sop_instance_uid)
            & (instance.series_instance_uid == version.series_instance_uid)
            & (instance.study_instance_uid == version.study_instance_uid),
        )
        .where(
            version.study_instance_uid == study_instance_uid,
            instance.study_instance_uid == study_instance_uid,
            version.subject_id != instance.subject_id,
        )
        .distinct()
    )
    other = aliased(instance)
    in_two_series = (
        select(instance.subject_id, other.subject_id)
        .join(other, other.sop_instance_uid == instance.sop_instance_uid)
        .where(
            instance.study_instance_uid == study_instance_uid,
            other.study_instance_uid == study_instance_uid,
            other.subject_id > instance.subject_id,
        )
        .distinct()
    )
    pairs = (*session.execute(statement), *session.execute(in_two_series))
    return [(one, two) for one, two in pairs if one is not None and two is not None]
