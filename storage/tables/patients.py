"""The identification of patients across studies, without storing who they are.

The database holds a keyed hash of Patient ID and its issuer. The key is a file beside the images, which name the
patients anyway. With the database but without the key, nobody can test patient IDs against the hashes.
"""

import hashlib
import hmac
import secrets
from functools import cached_property
from pathlib import Path

from sqlalchemy import or_, select, update

from storage.log.files import create_once
from storage.records.studies import StudyState
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed

_KEY_BYTES = 32
_NAME_LENGTH = 16  # of the key; it begins every identity, so that identities under another key are recognised
_HASH_LENGTH = 48


class Patients:
    """The identities of the patients of studies.

    The key is created with the first identity. If the key changes, for example because its file was lost, all studies
    have to be identified again.
    """

    def __init__(self, database: Database, key_file: Path) -> None:
        self._database = database
        self._key_file = key_file

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
        unknown = or_(study.subject.is_(None), ~study.subject.startswith(self._key_name, autoescape=True))
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
            return self._key_name
        said = f"{len(issuer)}:{issuer}{patient_id}".encode()
        return self._key_name + hmac.new(self._key, said, hashlib.sha256).hexdigest()[:_HASH_LENGTH]

    @cached_property
    def _key_name(self) -> str:
        return hashlib.sha256(self._key).hexdigest()[:_NAME_LENGTH]

    @cached_property
    def _key(self) -> bytes:
        if not self._key_file.exists():
            create_once(self._key_file, secrets.token_bytes(_KEY_BYTES))
        return self._key_file.read_bytes()
