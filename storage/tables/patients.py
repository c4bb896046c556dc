"""The identification of patients, inside a study and across studies, without storing who they are.

The database holds keyed hashes of what instances state about their patient. The key is a file beside the images, which
name the patients anyway. With the database but without the key, nobody can test patient IDs against the hashes.
"""

import hashlib
import hmac
import json
import secrets
from functools import cached_property
from pathlib import Path

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session, aliased

from storage.log.files import create_once
from storage.records.patients import IdentityGroup, PatientIdentity, StudyIdentities, Subject, contradictions
from storage.records.studies import StudyState
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed, insert_if_absent

PATIENT_KEY = "patients.key"  # the name of the file, in the data directory
_KEY_BYTES = 32
_NAME_LENGTH = 16  # of the key; it begins every identity, so that identities under another key are recognised
_HASH_LENGTH = 48


class PatientKey:
    """The key of all hashes of patients. The file is created with the first hash."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def hash(self, said: str) -> str:
        return hmac.new(self._key, said.encode(), hashlib.sha256).hexdigest()[:_HASH_LENGTH]

    @cached_property
    def name(self) -> str:
        return hashlib.sha256(self._key).hexdigest()[:_NAME_LENGTH]

    def subject(self, identity: PatientIdentity) -> Subject:
        """Return the identity with the hash of each value. Empty values stay empty."""

        def hashed(kind: str, value: str) -> str:
            return self.hash(f"{kind}:{value}") if value else ""

        hashes = PatientIdentity(
            patient_id=hashed("ID", identity.patient_id),
            issuer=hashed("issuer", identity.issuer),
            birth_date=hashed("birth date", identity.birth_date),
            sex=hashed("sex", identity.sex),
            others=tuple(sorted((hashed("ID", one), hashed("issuer", issuer)) for one, issuer in identity.others)),
        )
        return Subject(self.name, hashes)

    @cached_property
    def _key(self) -> bytes:
        if not self._file.exists():
            create_once(self._file, secrets.token_bytes(_KEY_BYTES))
        return self._file.read_bytes()


class Patients:
    """The identities of the patients of studies.

    The key is created with the first identity. If the key changes, for example because its file was lost, all studies
    have to be identified again.
    """

    def __init__(self, database: Database, key_file: Path) -> None:
        self._database = database
        self._key = PatientKey(key_file)

    def identify(self, study_instance_uid: str, patient_id: str, issuer: str) -> None:
        """Keep the identity of the study's patient. Without a patient ID, it matches that of no other study."""
        identity = self._identity(patient_id, issuer)
        study = schema.StudyRow
        with self._database.session() as session:
            changed(
                session, update(study).where(study.study_instance_uid == study_instance_uid).values(subject=identity)
            )

    def unidentified(self) -> list[str]:
        """Return the complete studies whose patient was not identified yet."""
        study = schema.StudyRow
        unknown = or_(study.subject.is_(None), ~study.subject.startswith(self._key.name, autoescape=True))
        with self._database.reading() as session:
            return list(
                session.scalars(select(study.study_instance_uid).where(study.state != StudyState.RECEIVING, unknown))
            )

    def studies(self, patient_id: str, issuer: str) -> list[str]:
        """Return the complete studies that are identified as this patient's."""
        return self._studies(self._identity(patient_id, issuer))

    def others(self, study_instance_uid: str) -> list[str]:
        """Return the other complete studies of the patient of this study."""
        with self._database.reading() as session:
            study = session.get(schema.StudyRow, study_instance_uid)
            identity = None if study is None else study.subject
        return [uid for uid in self._studies(identity or "") if uid != study_instance_uid]

    def _studies(self, identity: str) -> list[str]:
        if len(identity) <= _NAME_LENGTH:
            return []
        study = schema.StudyRow
        with self._database.reading() as session:
            return list(
                session.scalars(
                    select(study.study_instance_uid)
                    .where(study.subject == identity, study.state != StudyState.RECEIVING)
                    .order_by(study.study_instance_uid)
                )
            )

    def _identity(self, patient_id: str, issuer: str) -> str:
        if not patient_id:
            return self._key.name
        return self._key.name + self._key.hash(f"{len(issuer)}:{issuer}{patient_id}")


# -- the patients inside a study ---------------------------------------------------------------------------------------


def keep_subject(session: Session, subject: Subject) -> int:
    """Return the id of the row of an identity, which is inserted if it is absent."""
    hashes = subject.hashes.to_json()
    digest = subject.key + hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:_HASH_LENGTH]
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
    instance, subject, own = schema.InstanceRow, schema.SubjectRow, schema.ResultObjectRow
    rows = session.execute(
        select(subject.id, subject.digest, subject.hashes, func.count(), func.max(instance.received_at))
        .join(subject, subject.id == instance.subject_id)
        .outerjoin(own, own.sop_instance_uid == instance.sop_instance_uid)
        .where(instance.study_instance_uid == study_instance_uid, own.id.is_(None))
        .group_by(subject.id)
        .order_by(subject.id)
    ).all()
    rows = [row for row in rows if row[1][:_NAME_LENGTH] == rows[-1][1][:_NAME_LENGTH]]
    groups = tuple(IdentityGroup(PatientIdentity.from_json(row[2]), row[3], row[4]) for row in rows)
    if not contradictions([group.identity for group in groups]):
        return StudyIdentities(groups)
    index = {row[0]: number for number, row in enumerate(rows)}
    pairs = _corrections(session, study_instance_uid)
    return StudyIdentities(groups, frozenset((index[a], index[b]) for a, b in pairs if a in index and b in index))


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
