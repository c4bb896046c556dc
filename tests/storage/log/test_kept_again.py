"""Headers of which the index keeps too little are read again, a few at a time, and never twice."""

import pytest

from storage.log import kept_again
from storage.log.filing import rows
from storage.log.headers import kept_header
from storage.log.headers.kept_header import NOT_ENOUGH, is_enough
from tests.storage.log.test_old_files import list_as_old
from tests.storage.node import STUDY, Node, received
from tests.stores import kept_headers_of


def kept(node: Node) -> dict[str, bytes]:
    return {place.sop_instance_uid: header for place, header in node.instances.kept_headers(STUDY).items()}


def test_what_release_01_filed_gets_a_kept_header(node: Node) -> None:
    list_as_old(node, received(1))
    assert kept(node) == {}
    headers = kept_headers_of(node)
    assert [headers.read_again() for _ in range(2)] == [1, 0]
    assert kept(node) == {f"{STUDY}.1.1": received(1).kept}
    assert is_enough(received(1).kept)


def test_a_file_that_is_gone_is_not_asked_for_again(node: Node) -> None:
    list_as_old(node, received(1)).unlink()
    headers = kept_headers_of(node)
    assert [headers.read_again() for _ in range(2)] == [1, 0]
    assert kept(node) == {f"{STUDY}.1.1": NOT_ENOUGH}


def test_a_longer_list_has_all_headers_read_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, kept_again.AT_ONCE + 4):
        node.store(received(number))
    headers = kept_headers_of(node)
    assert headers.read_again() == 0
    for module in (kept_again, kept_header):
        monkeypatch.setattr(module, "LIST_VERSION", 2)
    node.store(received(99))
    done = [headers.read_again() for _ in range(3)]
    assert done == [kept_again.AT_ONCE, 3, 0]
    assert {header[0] for header in kept(node).values()} == {2}
    assert all(map(is_enough, kept(node).values()))
    with node.database.reading() as session:
        versions = session.scalars(rows.select(rows.schema.SharedHeaderRow.list_version)).all()
    assert versions == [2]
