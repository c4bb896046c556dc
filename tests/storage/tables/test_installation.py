"""The identity of an installation: made once, outlives the database, and keeps two nodes off one database."""

from pathlib import Path

import pytest
from sqlalchemy import delete, text

from storage.errors import Permanent
from storage.tables.database import schema
from storage.tables.database.connection import Database
from storage.tables.database.installation import check_installation, claim_installation


def test_the_identity_is_made_once_and_outlives_the_database(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "installation"
    assert check_installation(database, file) == ""
    assert not file.exists()  # asking makes nothing
    made = claim_installation(database, file)
    assert len(made) == 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert claim_installation(database, file) == check_installation(database, file) == made
    with database.session() as session:
        session.execute(delete(schema.InstallationRow))
    assert claim_installation(database, file) == made


def test_two_data_directories_on_one_database_are_refused(database: Database, tmp_path: Path) -> None:
    first, second = tmp_path / "one" / "installation", tmp_path / "two" / "installation"
    first.parent.mkdir()
    second.parent.mkdir()
    claim_installation(database, first)
    with pytest.raises(Permanent, match=r"belongs to another data directory than .*two, which has no file"):
        claim_installation(database, second)
    second.write_text("0" * 32)
    for call in (claim_installation, check_installation):
        with pytest.raises(Permanent, match="their identities differ"):
            call(database, second)
    second.write_text("no identity")
    with pytest.raises(Permanent, match="holds no identity"):
        claim_installation(database, second)


def test_the_table_holds_one_identity(database: Database, tmp_path: Path) -> None:
    claim_installation(database, tmp_path / "installation")
    with database.reading() as session:
        assert session.execute(text("SELECT count(*) FROM installation")).scalar() == 1
