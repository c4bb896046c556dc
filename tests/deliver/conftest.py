"""A node with results on their way, and archives by script."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from storage.tables.database.connection import Database, default_url
from tests.deliver.archive import (
    Archive,
    Step,
)
from tests.deliver.way import NUMBERS, Way
from tests.instances import MakeFile
from tests.storage.node import Node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    database = Database(default_url(folder))
    database.upgrade()
    yield Node(database, folder / "instances")
    database.close()


@pytest.fixture
def way(node: Node, make_file: MakeFile) -> Way:
    found = Way(node, make_file, next(NUMBERS))
    found.job()
    return found


@pytest.fixture
def archive() -> Iterator[Callable[..., Archive]]:
    started: list[Archive] = []

    def start(*steps: Step, **kwargs: Any) -> Archive:
        started.append(Archive(*steps, **kwargs))
        return started[-1]

    yield start
    for one in started:
        one.close()
