"""Schema, transactions and errors, on both databases."""

import multiprocessing
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import select, text

from storage.errors import Permanent, Retriable, StorageFull
from storage.records.studies import Event, Stage
from storage.tables.database import connection as module
from storage.tables.database import schema
from storage.tables.database.connection import MIGRATIONS, Database
from storage.tables.events import add_event
from storage.tables.studies import Studies
from tests.storage.node import NOW, STUDY, Node, received


def test_migrations_lead_to_the_tables_of_the_schema(database: Database) -> None:
    with database.reading() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, schema.Base.metadata) == []


def test_the_schemas_revision_is_the_last_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.REVISION


def test_an_old_schema_is_refused_with_the_way_out(url: str) -> None:
    database = Database(url)
    with pytest.raises(Permanent, match=r"no schema yet; run `dicom-node db upgrade`"):
        database.check_current()
    database.upgrade()
    database.check_current()
    with database.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    with pytest.raises(Permanent, match=r"older schema 0000; run `dicom-node db upgrade`"):
        database.check_current()
    database.close()


def test_a_newer_schema_is_left_alone(database: Database) -> None:
    with database.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for call in (database.check_current, database.upgrade):
        with pytest.raises(Permanent, match="newer version"):
            call()


def _upgrade(url: str, start: float) -> None:
    time.sleep(max(0.0, start - time.time()))
    database = Database(url)
    database.upgrade()
    database.check_current()


def test_processes_may_upgrade_at_once(url: str) -> None:
    start = time.time() + 2.0
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_upgrade, args=(url, start)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]


def test_times_keep_their_instant(database: Database) -> None:
    local = datetime(2026, 3, 29, 1, 30, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    with database.session() as session:
        add_event(session, Event(local, STUDY, 1, Stage.WARNING, "text"))
    (event,) = Studies(database).events(STUDY)
    assert event.at == local
    assert event.at.tzinfo is UTC


def test_a_time_without_zone_is_a_mistake(database: Database) -> None:
    with pytest.raises(Exception, match="without time zone"), database.session() as session:  # noqa: PT012
        add_event(session, Event(datetime(2026, 1, 1), STUDY, 1, Stage.WARNING, "text"))
        session.flush()


def test_no_column_is_an_attribute_of_the_patient() -> None:
    words = ("patient", "birth", "sex", "age", "name", "accession", "description", "comment", "physician", "address")
    columns = [f"{t.name}.{c.name}" for t in schema.Base.metadata.tables.values() for c in t.columns]
    parts = {column: column.replace(".", "_").split("_") for column in columns}
    assert [column for column in columns if set(parts[column]) & set(words)] == []


def test_an_exception_leaves_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError), database.session() as session:  # noqa: PT012
        session.add(
            schema.EventRow(at=NOW, study_instance_uid=STUDY, revision=1, stage=Stage.WARNING, text="", data={})
        )
        session.flush()
        raise RuntimeError
    assert Studies(database).events(STUDY) == []


def test_transactions_of_threads_do_not_lose_updates(database: Database) -> None:
    with database.session() as session:
        session.add(
            schema.StudyRow(
                study_instance_uid=STUDY,
                revision=1,
                state="RECEIVING",
                reason="",
                instances=0,
                revision_started_at=NOW,
                first_received_at=NOW,
                last_received_at=NOW,
            )
        )

    def count() -> None:
        for _ in range(20):
            with database.session() as session:
                study = session.scalars(select(schema.StudyRow).with_for_update()).one()
                study.instances += 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Node(database, Path("unused")).study().instances == 80


# -- errors ------------------------------------------------------------------------------------------------------------


def test_a_locked_database_is_retriable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_MILLISECONDS", 50)
    database = Database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    database.upgrade()
    other = sqlite3.connect(tmp_path / "node.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Retriable, match="SQLITE_BUSY"), database.session() as session:
        session.execute(text("SELECT 1"))  # a transaction that may write waits from its first statement on
    with database.reading() as session:  # readers do not wait
        assert session.scalars(select(schema.StudyRow)).all() == []
    other.execute("ROLLBACK")
    with database.session() as session:
        session.execute(text("SELECT 1"))


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    database.upgrade()
    with pytest.raises(StorageFull), database.session() as session:  # noqa: PT012
        session.execute(text("PRAGMA max_page_count = 1"))  # the pages there are already stay allowed
        session.add_all(
            schema.EventRow(at=NOW, study_instance_uid=STUDY, revision=1, stage=Stage.WARNING, text="x" * 9999, data={})
            for _ in range(100)
        )


def test_a_damaged_file_is_permanent(tmp_path: Path) -> None:
    (tmp_path / "node.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(Permanent, match="damaged"):
        Database(f"sqlite:///{tmp_path / 'node.sqlite'}").upgrade()


def test_a_lost_connection_is_retriable(database: Database) -> None:
    with database.reading() as session:
        if session.get_bind().dialect.name != "postgresql":
            pytest.skip("SQLite has no connection to lose")
    with pytest.raises(Retriable), database.session() as session:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    with database.session() as session:  # a new one is made
        assert session.scalar(text("SELECT 1")) == 1


def test_errors_never_show_the_password() -> None:
    database = Database("postgresql://node:hush-hush@127.0.0.1:1/node")
    with pytest.raises(Retriable) as caught, database.session() as session:
        session.execute(text("SELECT 1"))
    assert "hush" not in str(caught.value)
    assert caught.value.__suppress_context__
    for url in ("mysql://node:hush-hush@host/node", "hush-hush"):
        with pytest.raises(Permanent) as refused:
            Database(url)
        assert "hush" not in str(refused.value)


def test_nothing_of_the_dataset_reaches_the_database(node: Node) -> None:
    """Not even in the warning about a conflict."""
    node.deliver("PACS")
    node.store(received(comment="other bytes"))
    with node.database.reading() as session:
        for table in schema.Base.metadata.sorted_tables:
            assert "SECRET" not in repr(session.execute(select(table)).all())
