"""Nodes that are treated badly: a few times in `make test`, many times in `make test-faults`."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from subprocess import run
from sys import executable

import pytest

from dicom_node.demo.pacs.ports import free_port
from tests.acceptance.node import Node
from tests.faults.ledger import receive_lines

MakeNode = Callable[..., Node]


@cache
def receiving_roles() -> tuple[str, ...]:
    """The processes that receive and index."""
    known = run([executable, "-m", "dicom_node.cli.main", "index", "--help"], capture_output=True, timeout=60)
    return ("receive", "index") if known.returncode == 0 else ("receive",)


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[MakeNode]:
    """Starts a node; whatever is left of it at the end is killed."""
    nodes: list[Node] = []

    def make(name: str = "node", **arguments: object) -> Node:
        given = {"roles": receiving_roles(), "receive": receive_lines(), **arguments}
        node = Node(tmp_path / name, free_port(), **given)  # type: ignore[arg-type]
        nodes.append(node)
        node.start()
        return node

    yield make
    for node in nodes:
        node.kill()
