"""The problems that are told as they happen, and what a person has acknowledged."""

from datetime import UTC, datetime

from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from storage.records.problems import ProblemKind
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed, insert_if_absent


def open_problem(session: Session, kind: ProblemKind, key: str, text: str, study_instance_uid: str = "") -> bool:
    """Open a problem in the transaction of what it is about. Return True if it was not open already.

    The same kind and key is the same problem: it is counted once more. An acknowledgement holds until the text changes,
    so a text that repeats should say the same words, without counters and times. It holds no attribute of a patient.
    """
    now = datetime.now(UTC)
    values = {
        "kind": kind,
        "key": key,
        "study_instance_uid": study_instance_uid,
        "text": text,
        "since": now,
        "last_at": now,
        "times": 1,
    }
    if insert_if_absent(session, schema.ProblemRow, values):
        _forget_acknowledgement(session, kind, key)
        return True
    row = schema.ProblemRow
    same = update(row).where(row.kind == kind, row.key == key)
    if changed(session, same.where(row.text != text).values(text=text)):
        _forget_acknowledgement(session, kind, key)
    changed(session, same.values(last_at=now, times=row.times + 1))
    return False


def close_problem(session: Session, kind: ProblemKind, key: str) -> bool:
    """End a problem, because its condition is over. Return True if it was open."""
    row = schema.ProblemRow
    _forget_acknowledgement(session, kind, key)
    return bool(changed(session, delete(row).where(row.kind == kind, row.key == key)))


def _forget_acknowledgement(session: Session, kind: ProblemKind, key: str) -> None:
    row = schema.AcknowledgementRow
    changed(session, delete(row).where(row.kind == kind, row.key == key))


class Problems:
    """The problems of the node, in transactions of their own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, kind: ProblemKind, key: str, text: str, study_instance_uid: str = "") -> bool:
        """Open a problem, as `open_problem` does."""
        with self._database.session() as session:
            return open_problem(session, kind, key, text, study_instance_uid)

    def close(self, kind: ProblemKind, key: str) -> bool:
        """End a problem, as `close_problem` does."""
        with self._database.session() as session:
            return close_problem(session, kind, key)
