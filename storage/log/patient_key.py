"""The key under which the values that identify a patient are hashed, in the log and in the database.

Metas and rows hold keyed hashes of what instances state about their patient. The key is a file beside the images, which
name the patients anyway. With metas or rows but without the key, nobody can test patient IDs against the hashes.
"""

import hashlib
import hmac
import secrets
from functools import cached_property, lru_cache
from pathlib import Path

from storage.errors import Retriable
from storage.log.files import create_once, make_folder
from storage.records.patients import PatientIdentity, Subject

PATIENT_KEY = "patients.key"  # the name of the file, in the data directory
HASH_LENGTH = 48
NAME_LENGTH = 16  # of the key; it begins every identity, so that identities under another key are recognised
_KEY_BYTES = 32
_REMEMBERED = 64  # the images of a study repeat one identity, and few studies arrive at once


class PatientKey:
    """The key of all hashes of patients. The first process that needs it creates the file, for all others.

    A process reads the file once and keeps what it read, so a file that is replaced counts from the next start on.
    The name of the key is part of every `Subject`, and subjects under different keys are never compared. Without a
    whole key every method raises Retriable.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._subject)

    def hash(self, said: str) -> str:
        return hmac.digest(self._key, said.encode(), "sha256").hex()[:HASH_LENGTH]

    @cached_property
    def name(self) -> str:
        return hashlib.sha256(self._key).hexdigest()[:NAME_LENGTH]

    def subject(self, identity: PatientIdentity) -> Subject:
        """Return the identity with the hash of each value. Empty values stay empty."""
        return self._remembered(identity)

    def _subject(self, identity: PatientIdentity) -> Subject:
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
        try:
            if not self._file.exists():
                make_folder(self._file.parent)
                create_once(self._file, secrets.token_bytes(_KEY_BYTES))
            key = self._file.read_bytes()
        except OSError as error:
            raise Retriable(f"The key {self._file.name} can neither be read nor created: {error.strerror}") from None
        if len(key) != _KEY_BYTES:  # hashes under a short key could be guessed
            raise Retriable(f"The key {self._file.name} is damaged: it has {len(key)} bytes instead of {_KEY_BYTES}")
        return key
