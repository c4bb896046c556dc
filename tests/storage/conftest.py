"""Every test of the stores runs on SQLite and on PostgreSQL: a throw-away cluster made from installed binaries."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from storage.tables.database.connection import Database, default_url
from tests.storage.node import Node

SECONDS_TO_START = 30


class Cluster(NamedTuple):
    folder: Path

    def url(self, name: str) -> str:
        return f"postgresql://node@/{name}?host={self.folder}"


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    on_path = shutil.which("initdb")
    if on_path is not None:
        found.append(Path(on_path).resolve())
    return found[-1].parent if found else None


def _owner() -> str | None:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: no initdb on PATH or below /usr/lib/postgresql")
    folder = Path(tempfile.mkdtemp(prefix="node-pg-"))
    owner = _owner()
    group = None if owner is None else pwd.getpwnam(owner).pw_gid
    groups: list[int] | None = None if owner is None else []
    if owner is not None:
        shutil.chown(folder, owner)
    data = folder / "data"
    subprocess.run(
        [binaries / "initdb", "--no-sync", "--auth=trust", "--username=node", "--encoding=UTF8", "--locale=C", data],
        check=True,
        capture_output=True,
        cwd=folder,
        user=owner,
        group=group,
        extra_groups=groups,
    )
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-F"],
            stdout=log,
            stderr=log,
            cwd=folder,
            user=owner,
            group=group,
            extra_groups=groups,
        )
    try:
        cluster = Cluster(folder)
        _wait(cluster, server)
        yield cluster
    finally:
        server.send_signal(signal.SIGINT)  # "fast": does not wait for connections that tests left open
        server.wait()
        shutil.rmtree(folder)


def _wait(cluster: Cluster, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            psycopg.connect(cluster.url("postgres")).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail((cluster.folder / "log").read_text())
            time.sleep(0.05)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database."""
    if request.param == "sqlite":
        return default_url(tmp_path)
    cluster: Cluster = request.getfixturevalue("cluster")
    url = cluster.url("postgres")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    opened.upgrade()
    yield opened
    opened.close()


@pytest.fixture
def node(database: Database, tmp_path: Path) -> Node:
    return Node(database, tmp_path / "data" / "instances")
