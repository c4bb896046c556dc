"""The mark of the indexer, which storage commitment takes as proof that an instance without a row is not there."""

import threading
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dicom_node.index.journal_filing import JournalFiling
from storage.errors import Retriable
from storage.log import journal as journal_module
from storage.log.journal import Journal, filed_until
from storage.tables.database.connection import Database, default_url
from tests.storage.node import Node, received
from tests.stores import indexer_of


def test_it_moves_only_once_everything_before_it_has_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(default_url(tmp_path))
    database.upgrade()
    node = Node(database, tmp_path / "instances")
    journals = tmp_path / "journal"
    journal = Journal(journals / "receive-0")
    journal.open()
    indexer = indexer_of(node)
    sent = received(1)
    journal.store(sent.instance, sent.file)
    acknowledged = datetime.now(UTC)
    assert filed_until(journals) is None

    with monkeypatch.context() as patch:
        patch.setattr(Database, "session", _busy)
        with pytest.raises(Retriable):
            indexer.advance()
    assert filed_until(journals) is None

    assert indexer.advance() == 1
    mark = filed_until(journals)
    assert mark is not None
    assert acknowledged <= mark <= datetime.now(UTC)
    assert node.study().instances == 1
    journal.close()
    database.close()


def test_it_says_nothing_of_what_came_while_it_was_filing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(default_url(tmp_path))
    database.upgrade()
    journals = tmp_path / "journal"
    journal = Journal(journals / "receive-0")
    journal.open()
    indexer = indexer_of(Node(database, tmp_path / "instances"))
    advance, acknowledged = JournalFiling.advance, []

    def one_comes_behind(self: JournalFiling, place: Any) -> int:
        filed = advance(self, place)
        sent = received(1)
        journal.store(sent.instance, sent.file)
        acknowledged.append(datetime.now(UTC))
        return filed

    monkeypatch.setattr(JournalFiling, "advance", one_comes_behind)
    assert indexer.advance() == 0
    mark = filed_until(journals)
    assert mark is not None
    assert mark < acknowledged[0]
    journal.close()
    database.close()


def _busy(self: Database, derivable: bool = False) -> None:
    raise Retriable("The database is busy")


def test_it_moves_under_a_load_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report on a commitment waits for the mark, so it must not wait for the end of all sending."""
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 1)  # each instance fills a segment
    database = Database(default_url(tmp_path))
    database.upgrade()
    journals = tmp_path / "journal"
    journal = Journal(journals / "receive-0")
    journal.open()
    stop = threading.Event()
    advance, rounds = JournalFiling.advance, count(1)

    def one_comes_behind(self: JournalFiling, place: Any) -> tuple[int, bool]:
        for n in range(2):
            sent = received(1000 * n + (number := next(rounds)))
            journal.store(sent.instance, sent.file)
        if filed_until(journals) is not None or number > 50:
            stop.set()
        return advance(self, place)

    sent = received(5000)
    journal.store(sent.instance, sent.file)
    monkeypatch.setattr(JournalFiling, "advance", one_comes_behind)
    indexer_of(Node(database, tmp_path / "instances")).advance(stop)
    assert filed_until(journals) is not None
    journal.close()
    database.close()
