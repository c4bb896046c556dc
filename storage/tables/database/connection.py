"""The connection to the database: SQLite in write-ahead mode by default, or PostgreSQL."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, literal, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from storage.errors import IndexLost, NodeError, Permanent, Retriable, StorageFull
from storage.tables.database.columns import Base
from storage.tables.database.schema import REVISION

MIGRATIONS = Path(__file__).parent / "migrations"

BUSY_MILLISECONDS = 30_000
_TRUNCATE_MILLISECONDS = 2_000
_IN_VALUES = 500  # values in one IN clause
UPGRADE_LOCK = 0x6469636F6D  # an arbitrary number that identifies PostgreSQL's advisory lock

_POSTGRESQL_DISK_FULL = "53100"
_POSTGRESQL_NO_TABLE = "42P01"
_SQLITE_TRANSIENT = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_PROTOCOL")
_SQLITE_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_POSTGRESQL_TRANSIENT = ("08", "40", "53", "55", "57", "58")  # classes of SQLSTATE; a broken connection has none


def default_url(data_dir: Path) -> str:
    """Return the URL of the embedded database of a data directory."""
    return URL.create("sqlite", database=str(data_dir / "node.sqlite")).render_as_string()


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite database; None for another database, or for text that is no URL."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return None
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


class Database:
    """The database, and its transactions. `url` is one of SQLAlchemy for sqlite or postgresql.

    Raises Permanent for any other URL. Errors never show the URL, which may hold a password.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._reading = self._engine.execution_options(node_begin="DEFERRED")
        self._derivable = self._engine.execution_options(node_synchronous="NORMAL")
        # SQLite allows one writer. Threads that wait for this lock are served in turn and at once, whereas SQLite would
        # let them poll with growing pauses.
        self._one_writer = threading.Lock() if self._engine.dialect.name == "sqlite" else nullcontext()

    @contextmanager
    def session(self, derivable: bool = False) -> Iterator[Session]:
        """Run one writing transaction: committed at the end, rolled back by an exception.

        Raises Retriable if the database is busy or gone, StorageFull if its disk is full, and lets IntegrityError
        through.

        Commits survive a loss of power, except `derivable` ones on SQLite: the last of these may be lost, but never in
        part. They are for rows that `InstanceStore.reindex` can rebuild from durable files, and for rows that have no
        meaning after a restart, such as open associations and heartbeats.
        """
        # PostgreSQL flushes derivable rows too: if its server restarted alone, nothing would rebuild the index.
        engine = self._derivable if derivable else self._engine
        with self._one_writer, _translated(), Session(engine) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Run one transaction that only reads. On SQLite it waits for no writer. Raises as `session` does."""
        with _translated(), Session(self._reading) as session, session.begin():
            yield session

    def upgrade(self) -> None:
        """Upgrade the schema to this version. If several processes do this at once, one upgrades and the others wait.

        Raises Permanent if the schema is newer than this version.
        """
        # Alembic takes memory that the other commands do not need.
        from alembic import command
        from alembic.config import Config

        if self._engine.dialect.name == "sqlite":
            with _translated():
                _write_ahead(self._engine)
        with _translated(), self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": UPGRADE_LOCK})
            found = _revision(connection)
            if found == REVISION:
                return
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
            config.attributes["connection"] = connection
            _refuse_newer(found)
            command.upgrade(config, "head")

    def check_current(self) -> None:
        """Raise Permanent if the schema is not that of this version; the message says what to do."""
        with _translated(), self._reading.connect() as connection:
            found = _revision(connection)
        if found == REVISION:
            return
        _refuse_newer(found)
        what = "has no schema yet" if found is None else f"has the older schema {found}"
        raise Permanent(f"The database {what}; run `dicom-node db upgrade`")

    def forget_removed(self) -> None:
        """Empty the write-ahead log of SQLite, in which removed rows may still be read.

        It is emptied later if other processes read for long. PostgreSQL does so by itself, when it vacuums.
        """
        if self._engine.dialect.name != "sqlite":
            return
        engine = self._engine.execution_options(node_begin=None)
        with self._one_writer, _translated(), engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {_TRUNCATE_MILLISECONDS}")
            try:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")

    def close(self) -> None:
        self._engine.dispose()


def chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """Split the values of an IN clause into chunks, because SQLite limits their number."""
    return (values[i : i + _IN_VALUES] for i in range(0, len(values), _IN_VALUES))


def insert_if_absent(session: Session, model: type[Base], values: Mapping[str, Any]) -> bool:
    """Insert a row unless a row with the same key exists. Return True if it was inserted."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(model.__table__).values(values).on_conflict_do_nothing().returning(literal(1))
    return session.execute(statement).first() is not None


def changed(session: Session, statement: Any) -> int:
    """Execute an UPDATE or DELETE and return the number of rows it changed.

    Of racing processes, the one that gets 1 has made the transition.
    """
    result = session.execute(statement, execution_options={"synchronize_session": False})
    return int(result.rowcount)  # type: ignore[attr-defined]


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise Permanent(
            "The database URL cannot be read; it looks like sqlite:///path or postgresql://host/name"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        engine = create_engine(parsed, hide_parameters=True, connect_args={"timeout": BUSY_MILLISECONDS / 1000})
        event.listen(engine, "connect", _prepare_sqlite)
        if parsed.database and parsed.database != ":memory:":
            _watch_file(engine, Path(parsed.database))
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if backend == "postgresql":
        try:
            return create_engine(parsed.set(drivername="postgresql+psycopg"), hide_parameters=True, pool_pre_ping=True)
        except ModuleNotFoundError:
            raise Permanent("PostgreSQL needs its driver: pip install 'dicom-node[postgresql]'") from None
    raise Permanent(f"Databases of kind {backend!r} are not supported; use sqlite or postgresql")


def _prepare_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None  # the driver must not begin transactions; _begin_sqlite does
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # what is removed of a patient must not stay in the file


def _watch_file(engine: Engine, path: Path) -> None:
    """Reconnect when the database file was removed or replaced.

    Otherwise a process that has the old file open would go on writing to it, and its writes would be lost.
    """

    def identity() -> tuple[int, int] | None:
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def remember(connection: object, record: Any) -> None:
        record.info["file"] = identity()

    def compare(connection: object, record: Any, proxy: object) -> None:
        if record.info["file"] != identity():
            raise DisconnectionError

    event.listen(engine, "connect", remember)
    event.listen(engine, "checkout", compare)


def _write_ahead(engine: Engine) -> None:
    """Set write-ahead mode, in which readers and the writer do not wait for each other. The file keeps the mode.

    If two processes do this at once, SQLite does not make one wait but reports an error to it; that process tries
    again.
    """
    deadline = time.monotonic() + BUSY_MILLISECONDS / 1000
    with engine.execution_options(node_begin=None).connect() as connection:
        while True:
            try:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                return
            except OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def _begin_sqlite(connection: Connection) -> None:
    """Begin a transaction, as a writer unless the options say otherwise.

    A transaction that first reads and later writes would fail instead of waiting if another one writes in between.
    """
    options = connection.get_execution_options()
    begin = options.get("node_begin", "IMMEDIATE")
    if begin is not None:  # the journal mode cannot be changed inside a transaction
        connection.exec_driver_sql(f"PRAGMA synchronous = {options.get('node_synchronous', 'FULL')}")
        connection.exec_driver_sql(f"BEGIN {begin}")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _refuse_newer(found: str | None) -> None:
    if found is not None and found > REVISION:  # revisions are numbers of four digits
        raise Permanent(f"The database has schema {found}, made by a newer version of this node; install that version")


@contextmanager
def _translated() -> Iterator[None]:
    """Translate errors of the driver into ours. Their texts are dropped, because they may quote the URL or values."""
    try:
        yield
    except IntegrityError:
        raise
    except PoolTimeoutError:
        raise Retriable("All connections to the database are in use") from None
    except DBAPIError as error:
        translated = _translate(error)
        if translated is None:
            raise
        raise translated from None


def _translate(error: DBAPIError) -> NodeError | None:
    """Return our error for one of the driver; None for an error that only a mistake in our statements can cause."""
    name = getattr(error.orig, "sqlite_errorname", None)
    if name is not None:
        if name == "SQLITE_ERROR" and str(error.orig).startswith("no such table"):
            return IndexLost("The database has no tables; the index role makes them anew")
        if name.startswith("SQLITE_FULL"):
            return StorageFull(f"No space left for the database ({name})")
        if name.startswith(_SQLITE_TRANSIENT):
            return Retriable(f"The database is busy or cannot be opened ({name})")
        if name.startswith(_SQLITE_DAMAGED):
            return Permanent(f"The database file is damaged ({name}); move it away, or restore it from a backup")
        if name.startswith("SQLITE_READONLY"):
            return Permanent(f"The database file cannot be written ({name}); check who owns it")
        return None
    state = getattr(error.orig, "sqlstate", None)
    if state == _POSTGRESQL_NO_TABLE:
        return IndexLost("The database has no tables; the index role makes them anew")
    if state == _POSTGRESQL_DISK_FULL:
        return StorageFull(f"No space left for the database (SQLSTATE {state})")
    if state is not None and state.startswith(_POSTGRESQL_TRANSIENT):
        return Retriable(f"The database is busy or going down (SQLSTATE {state})")
    if type(error.orig).__name__ in ("OperationalError", "InterfaceError"):
        return Retriable(f"The database cannot be reached ({state or type(error.orig).__name__})")
    return None
