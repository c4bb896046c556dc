"""The identity of an installation: one data directory and one database that belong together.

The identity is made once. It is kept in a file of the data directory and in a row of the database, so that it outlives
the loss of the database. All UIDs of results derive from it, because two installations that receive the same images,
such as one for tests and one for production, must never give two different reports the same UID.
"""

import re
import secrets
from pathlib import Path

from sqlalchemy import select

from storage.errors import Permanent
from storage.log.files import create_once
from storage.tables.database import schema
from storage.tables.database.connection import Database, insert_if_absent

_BYTES = 16
_FORM = re.compile(r"[0-9a-f]{32}")


def claim_installation(database: Database, file: Path) -> str:
    """Return the identity of the installation, and make it if there is none yet.

    A database without identity takes that of the data directory: it is new, or it replaces one that was lost. Raises
    Permanent if the database belongs to another data directory.
    """
    known = _of_database(database)
    if known is None:
        create_once(file, secrets.token_hex(_BYTES).encode() + b"\n")
        with database.session() as session:
            insert_if_absent(session, schema.InstallationRow, {"number": 1, "identity": _read(file)})
    return check_installation(database, file)


def check_installation(database: Database, file: Path) -> str:
    """Return the identity of the installation, or an empty text if it has none yet.

    Raises Permanent if the database belongs to another data directory.
    """
    known, kept = _of_database(database), _read(file)
    if known is None or known == kept:
        return known or ""
    if not kept:
        raise Permanent(
            f"The database belongs to another data directory than {file.parent}, which has no file {file.name!r}. "
            "Name another database or another data_dir. If only the file was lost, restore it: its one line is the "
            "identity in the table 'installation'"
        )
    raise Permanent(
        f"The database belongs to another data directory than {file.parent}: their identities differ. "
        "Two nodes must not share a database; name another database or another data_dir"
    )


def _of_database(database: Database) -> str | None:
    with database.reading() as session:
        return session.scalar(select(schema.InstallationRow.identity))


def _read(file: Path) -> str:
    """Return the identity in the file; an empty text if there is no file."""
    try:
        identity = file.read_text().strip()
    except FileNotFoundError:
        return ""
    if not _FORM.fullmatch(identity):
        raise Permanent(f"{file} holds no identity of an installation (32 hexadecimal digits); restore it")
    return identity
