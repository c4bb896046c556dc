"""The indexer: whatever is in a journal gets its row, once, through any number of crashes."""

import errno
import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from storage.errors import IndexLost, Retriable
from storage.log import journal
from storage.log.journal import Journal
from storage.log.segments import names
from storage.log.segments.frames import HEAD_BYTES, FrameKind, meta_of, new_frame
from storage.log.segments.ranges import SegmentRange
from storage.log.segments.reader import SegmentReader
from storage.log.segments.store import Segments
from storage.records.evidence import AssociationEnd
from storage.records.problems import ProblemKind
from storage.records.studies import StudyState
from storage.tables.database import schema
from storage.tables.database.connection import Database, default_url
from tests.storage.log.crashes import tear
from tests.storage.log.release01 import old_segment
from tests.storage.node import STUDY, Node, Sent, received
from tests.stores import indexer_of


@pytest.fixture
def node(tmp_path: Path) -> Node:
    database = Database(default_url(tmp_path))
    database.upgrade()
    return Node(database, tmp_path / "instances")


@pytest.fixture
def receiver(tmp_path: Path) -> Journal:
    opened = Journal(tmp_path / "journal" / "receive-0")
    opened.open()
    return opened


def store(receiver: Journal, sent: Sent, association: str = "a") -> None:
    receiver.store(replace(sent.instance, association=association), sent.file, kept=sent.kept)


def kept_aside(node: Node) -> dict[str, str]:
    """The reasons by the place of what is part of no study."""
    return {one.place: one.reason for one in node.instances.kept_aside()}


def problems(node: Node) -> list[str]:
    with node.database.reading() as session:
        return list(session.scalars(select(schema.ProblemRow.text)))


def held(node: Node, *sent: Sent) -> None:
    """Each of them is here byte for byte and indexed once, and nothing else is."""
    found = {i.sop_instance_uid: i for i in node.instances.instances(STUDY)}
    assert set(found) == {s.instance.sop_instance_uid for s in sent}
    for one in sent:
        assert found[one.instance.sop_instance_uid].blob.open().read() == one.file
    assert node.study().instances == len(sent)


def test_files_rows_associations(node: Node, receiver: Journal) -> None:
    sent = [received(n) for n in range(1, 6)]
    receiver.opened("a", "MR1", "NODE", "host")
    for one in sent:
        store(receiver, one)
    running = indexer_of(node)
    assert running.advance() == 5
    held(node, *sent)
    (evidence,) = node.studies.evidence()
    assert evidence.open_associations == 1
    receiver.ended("a", AssociationEnd.RELEASED)
    assert running.advance() == 0
    (evidence,) = node.studies.evidence()
    assert (evidence.open_associations, evidence.aborted_associations) == (0, 0)
    assert "received: first instance, from MR1" in node.texts()
    assert "received: association with MR1 released" in node.texts()


def test_reading_again_from_the_beginning_changes_nothing(node: Node, receiver: Journal) -> None:
    sent = [received(n) for n in range(1, 6)]
    receiver.opened("a", "MR1", "NODE", "host")
    for one in [*sent, sent[0]]:
        store(receiver, one)
    receiver.ended("a", AssociationEnd.RELEASED)
    indexer_of(node).advance()
    before, timeline = node.study(), node.texts()
    node.complete()
    for _ in range(2):
        indexer_of(node).advance()
    held(node, *sent)
    assert node.study().state is StudyState.COMPLETE
    assert (node.study().last_received_at, node.study().revision) == (before.last_received_at, 1)
    assert node.texts()[: len(timeline)] == timeline
    assert len(node.texts()) == len(timeline) + 1  # "complete"


def test_segments_stay_and_are_filed_once(node: Node, receiver: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 6000)
    sent = [received(n) for n in range(1, 11)]
    for one in sent[:5]:
        store(receiver, one)
    running = indexer_of(node)
    assert running.advance() == 5
    for one in sent[5:]:
        store(receiver, one)
    receiver.close()
    assert running.advance() == 5
    assert len(names.list_segments(receiver.folder)) > 3
    assert running.advance() == 0
    running.close()
    assert indexer_of(node).advance() == 0
    held(node, *sent)


def test_a_large_instance_stays_beside_the_segments(node: Node, receiver: Journal) -> None:
    sent = received()
    file = receiver.large()
    file.write(sent.file)
    receiver.store_large(sent.instance, file, sent.kept)
    stray = receiver.large()
    stray.write(b"cut off by a crash")
    running = indexer_of(node)
    running.advance()
    held(node, sent)
    assert len(list(receiver.folder.glob("*.large"))) == 2
    receiver.close()
    again = Journal(receiver.folder)
    again.open()
    running.advance()
    held(node, sent)
    (kept,) = receiver.folder.glob("*.large")
    assert kept.read_bytes() == sent.file


def test_what_an_earlier_life_left_open_was_aborted(node: Node, receiver: Journal) -> None:
    receiver.opened("a", "MR1", "NODE", "host")
    store(receiver, received(1))
    receiver.close()
    again = Journal(receiver.folder)
    again.open()
    again.opened("b", "MR1", "NODE", "host")
    store(again, received(2), "b")
    for _ in range(2):  # the second one reads the segment of the new life from its beginning
        indexer_of(node).advance()
        (evidence,) = node.studies.evidence()
        assert (evidence.open_associations, evidence.aborted_associations) == (1, 1)


def test_a_new_life_is_filed_by_an_indexer_that_knew_the_old_one(node: Node, receiver: Journal) -> None:
    store(receiver, received(1))
    receiver.close()
    running = indexer_of(node)
    running.advance()
    again = Journal(receiver.folder)
    again.open()
    store(again, received(2))
    assert running.advance() == 1
    held(node, received(1), received(2))


@pytest.mark.parametrize("cut", [1, 100, 700])
def test_a_torn_tail_is_passed_over_and_told_once(
    node: Node, receiver: Journal, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    store(receiver, received(1))
    store(receiver, received(2))
    receiver.close()
    (path,) = names.list_segments(receiver.folder)
    tear(path, cut)
    running = indexer_of(node)
    for _ in range(3):
        running.advance()
    running.close()
    indexer_of(node).advance()
    held(node, received(1))
    assert caplog.text.count("never acknowledged") == 1
    assert problems(node) == []


def test_what_comes_again_replaces_what_a_bad_sector_hides(
    node: Node, receiver: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [received(1), received(2)]
    store(receiver, sent[0])
    running = indexer_of(node)
    running.advance()
    (known,) = node.instances.instances(STUDY)
    for one in sent:
        store(receiver, one)
    assert isinstance(known.blob, SegmentRange)
    hidden = (known.blob.size, known.blob.offset)
    read = os.pread

    def read_or_fail(descriptor: int, *part: int) -> bytes:
        if part == hidden:
            raise OSError(errno.EIO, "bad sector")
        return read(descriptor, *part)

    monkeypatch.setattr(os, "pread", read_or_fail)
    running.advance()
    held(node, *sent)
    assert all(one.blob.is_intact() for one in node.instances.instances(STUDY))


@pytest.mark.parametrize("gone", [False, True])
def test_a_bad_sector_hides_one_instance_and_a_disk_that_is_gone_hides_none(
    node: Node, receiver: Journal, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    sent = [received(n) for n in (1, 2, 3)]
    for one in sent:
        store(receiver, one)
    receiver.close()
    (path,) = names.list_segments(receiver.folder)
    with SegmentReader(path) as reader:
        bad = [frame.offset for frame in reader.frames_of([FrameKind.INSTANCE])][1] + HEAD_BYTES
    read = os.pread

    def read_or_fail(descriptor: int, length: int, offset: int) -> bytes:
        if offset == bad or (gone and (length, offset) == (1, 0)):
            raise OSError(errno.EIO, "bad sector")
        return read(descriptor, length, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", read_or_fail)
        if gone:
            with pytest.raises(OSError, match="bad sector"):
                indexer_of(node).advance()
        else:
            indexer_of(node).advance()
            held(node, sent[0], sent[2])
            (told,) = problems(node)
            assert told.endswith("are no frame")


@pytest.mark.parametrize("sealed", [True, False])
def test_damage_loses_only_what_is_damaged(
    node: Node, receiver: Journal, sealed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    sent = [received(n) for n in range(1, 5)]
    for one in sent:
        store(receiver, one)
    receiver.close()
    (path,) = names.list_segments(receiver.folder)
    if not sealed:
        tear(path)
    content = bytearray(path.read_bytes())
    # A sealed segment was whole when it was sealed, so bodies are not read. The scrub and fsck find bad ones.
    at = content.index(sent[1].instance.sop_instance_uid.encode() if sealed else sent[1].dataset)
    content[at + 5] ^= 0xFF
    path.write_bytes(content)
    indexer_of(node).advance()
    held(node, sent[0], *sent[2:])
    assert "damaged" in caplog.text
    (told,) = problems(node)
    assert told.endswith("are no frame")


def test_a_torn_tail_that_the_next_process_sealed_is_passed_over(
    node: Node, receiver: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    store(receiver, received(1))
    store(receiver, received(2))
    receiver.close()
    tear(*names.list_segments(receiver.folder), 100)
    again = Journal(receiver.folder)
    again.open()
    store(again, received(3))
    indexer_of(node).advance()
    held(node, received(1), received(3))
    assert "never acknowledged" in caplog.text
    assert problems(node) == []


def test_nothing_outside_the_journal_is_read_or_removed(node: Node, receiver: Journal) -> None:
    victim = node.root.parent / "victim"
    victim.write_bytes(received(1).file)
    meta = meta_of(received(1).instance) | {"file": "../../victim", "size": len(received(1).file)}
    receiver._write(new_frame(FrameKind.LARGE_INSTANCE, meta))
    store(receiver, received(2))
    receiver.close()
    indexer_of(node).advance()
    held(node, received(2))
    assert victim.read_bytes() == received(1).file


def test_a_journal_of_release_01_is_filed(node: Node, receiver: Journal) -> None:
    (receiver.folder / "00000000.log").write_bytes(old_segment(received(1), received(2)))
    store(receiver, received(3))
    indexer_of(node).advance()
    held(node, received(1), received(2), received(3))


def test_bytes_that_a_bad_disk_damaged_are_replaced_when_they_come_again(node: Node, receiver: Journal) -> None:
    sent = received()
    store(receiver, sent)
    store(receiver, received(2))
    receiver.close()
    running = indexer_of(node)
    running.advance()
    (path,) = names.list_segments(receiver.folder)
    content = path.read_bytes()
    path.write_bytes(content.replace(sent.dataset[20:], b"!" * len(sent.dataset[20:])))
    again = Journal(receiver.folder)
    again.open()
    store(again, sent)
    running.advance()
    held(node, sent, received(2))


def test_a_busy_database_puts_it_off(node: Node, receiver: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object, **__: object) -> None:
        raise Retriable("busy")

    store(receiver, received(1))
    running = indexer_of(node)
    with monkeypatch.context() as patch:
        patch.setattr(node.database, "session", busy)
        with pytest.raises(Retriable):
            running.advance()
    store(receiver, received(2))
    running.advance()
    held(node, received(1), received(2))


def test_a_life_that_begins_while_the_indexer_looks_is_kept(
    node: Node, receiver: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two looks of the indexer a receiver may start again, and acknowledge."""
    store(receiver, received(1))
    receiver.close()
    look, lives = journal.is_written, []

    def start_after_look(folder: Path) -> bool:
        written = look(folder)
        if not lives:
            life = Journal(folder)
            life.open()
            lives.append(life)
            store(life, received(2))
            large = life.large()
            large.write(received(3).file)
            life.store_large(received(3).instance, large)
        return written

    monkeypatch.setattr(journal, "is_written", start_after_look)
    running = indexer_of(node)
    running.advance()
    running.advance()
    held(node, received(1), received(2), received(3))


def test_a_life_that_begins_before_the_indexer_asks_is_kept(
    node: Node, receiver: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.close()
    following = Segments.following
    lives: list[Journal] = []

    def start_before_listing(listed: Segments, name: str, number: int) -> list[int]:
        if not lives:
            lives.append(Journal(receiver.folder))
            lives[0].open()
            store(lives[0], received(1))
        return following(listed, name, number)

    running = indexer_of(node)
    running.advance()
    monkeypatch.setattr(Segments, "following", start_before_listing)
    running.advance()
    store(lives[0], received(2))
    running.advance()
    held(node, received(1), received(2))


def test_a_frame_that_was_unfinished_a_moment_ago_is_no_damage(
    node: Node, receiver: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a segment is read, an unfinished frame becomes whole and others follow it: they are for the next pass."""
    store(receiver, received(1))
    frames = SegmentReader.frames
    more = [received(2), received(3)]

    def overtaken(reader: SegmentReader, start: int) -> Any:
        yield from frames(reader, start)
        while more:
            store(receiver, more.pop(0))

    one = indexer_of(node)
    one.start_over()  # it has read its own log
    monkeypatch.setattr(SegmentReader, "frames", overtaken)
    assert one.advance() == 1
    assert one.advance() == 2
    held(node, received(1), received(2), received(3))
    assert problems(node) == []


def test_a_frame_that_nobody_can_file_holds_up_no_other(
    node: Node, receiver: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    store(receiver, received(1))
    receiver._write(new_frame(FrameKind.INSTANCE, {"sop_instance_uid": "1.2"}, [b"no more than that"]))
    receiver._write(new_frame(9, {}, [b"of another version"]))  # type: ignore[arg-type]
    store(receiver, received(2))
    receiver.close()
    indexer_of(node).advance()
    held(node, received(1), received(2))
    unreadable, foreign = sorted(kept_aside(node).values())
    assert (unreadable.split()[0], foreign) == ("KeyError", "it was written by another version")
    assert len(problems(node)) == 2
    assert "KeyError" in caplog.text


def test_trouble_with_one_journal_holds_up_no_other(node: Node, receiver: Journal) -> None:
    other = Journal(receiver.folder.parent / "receive-1")
    other.open()
    store(other, received(2))
    store(receiver, received(1))
    running = indexer_of(node)
    advance = running._filing.advance

    def trouble(place: Any) -> tuple[int, bool]:
        if place.receiver == receiver.folder.name:
            raise OSError(5, "input/output error")
        return advance(place)

    running._filing.advance = trouble  # type: ignore[method-assign]
    with pytest.raises(OSError, match="input/output"):
        running.advance()
    held(node, received(2))


class Turns:
    """Lets `Indexer.run` take so many turns, with something done before each."""

    def __init__(self, *before: Callable[[], object]) -> None:
        self.before = list(before)

    def __call__(self, stop: object, seconds: float) -> bool:
        if not self.before:
            return True
        self.before.pop(0)()
        return False


def test_a_database_that_was_removed_is_made_anew(node: Node, receiver: Journal) -> None:
    folder = node.root.parent
    sent = [received(n) for n in (1, 2, 3)]
    store(receiver, sent[0])

    def remove() -> None:
        for path in folder.glob("node.sqlite*"):
            path.unlink()
        store(receiver, sent[1])

    def more() -> None:
        store(receiver, sent[2])

    turns = Turns(lambda: None, remove, more, lambda: None)
    indexer_of(node, turns).run(None)  # type: ignore[arg-type]
    held(node, *sent)
    with sqlite3.connect(folder / "node.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM instance").fetchone() == (3,)
    with node.database.reading() as session:
        assert session.scalar(text("SELECT count(*) FROM instance")) == 3


@pytest.mark.parametrize("by_older", [False, True])
def test_a_database_that_is_lost_while_nothing_arrives_is_filed_again(
    node: Node, receiver: Journal, by_older: bool, caplog: pytest.LogCaptureFixture
) -> None:
    folder = node.root.parent
    older = folder / "older.sqlite"
    sent = [received(n) for n in (1, 2)]

    def back_up() -> None:
        with sqlite3.connect(folder / "node.sqlite") as connection, sqlite3.connect(older) as copy:
            connection.backup(copy)
        store(receiver, sent[1])

    def lose() -> None:
        for path in folder.glob("node.sqlite*"):
            path.unlink()
        if by_older:
            older.rename(folder / "node.sqlite")

    def nothing() -> None:
        pass

    store(receiver, sent[0])
    indexer_of(node, Turns(nothing, back_up, lose, nothing, nothing)).run(None)  # type: ignore[arg-type]
    held(node, *sent)
    assert caplog.text.count("removed or replaced") == 1


def test_a_database_that_an_older_one_replaced_is_filed_on_from_where_it_stands(node: Node, receiver: Journal) -> None:
    folder = node.root.parent
    sent = [received(n) for n in (1, 2, 3)]
    running = indexer_of(node)
    store(receiver, sent[0])
    running.advance()
    older = folder / "older.sqlite"
    with sqlite3.connect(folder / "node.sqlite") as connection, sqlite3.connect(older) as copy:
        connection.backup(copy)
    store(receiver, sent[1])
    running.advance()
    node.database.close()
    for path in folder.glob("node.sqlite*"):
        path.unlink()
    older.rename(folder / "node.sqlite")
    store(receiver, sent[2])
    with pytest.raises(IndexLost):
        running.advance()
    running.advance()
    held(node, *sent)


def test_a_uid_that_cannot_be_filed_is_kept(node: Node, receiver: Journal, caplog: pytest.LogCaptureFixture) -> None:
    """Receivers refuse such an instance; one in a journal was acknowledged all the same."""
    sent = received()
    strange = Sent(replace(sent.instance, study_instance_uid="../x"), sent.dataset)
    store(receiver, strange)
    store(receiver, received(2))
    receiver.close()
    indexer_of(node).advance()
    held(node, received(2))
    assert list(kept_aside(node).values()) == ["A UID has other characters than digits and dots, or more than 64"]
    assert len(problems(node)) == 1
    assert "cannot be filed" in caplog.text


def test_rows_wait_for_the_flush(node: Node, receiver: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame can be read before its receiver has flushed it."""
    order: list[str] = []
    sync = SegmentReader.sync
    session = node.database.session

    def seen_sync(reader: SegmentReader) -> None:
        sync(reader)
        order.append("flush")

    def seen_session(derivable: bool = False) -> object:
        order.append("rows")
        return session(derivable)

    store(receiver, received())
    monkeypatch.setattr(SegmentReader, "sync", seen_sync)
    monkeypatch.setattr(node.database, "session", seen_session)
    indexer_of(node).advance()
    assert order.index("flush") < len(order) - 1 - order[::-1].index("rows")


def test_times_are_those_of_the_receiver(node: Node, receiver: Journal) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    sent = received()
    receiver.store(replace(sent.instance, received_at=at), sent.file)
    indexer_of(node).advance()
    assert node.study().first_received_at == node.study().last_received_at == at


def test_refused_instances_are_told(node: Node, receiver: Journal) -> None:
    reason = "0xC000 Study Instance UID is missing"
    for count in (3, 1):
        receiver.refused("MR1", "host", {reason: count})
    indexer_of(node).advance()
    with node.database.reading() as session:
        (problem,) = session.scalars(select(schema.ProblemRow))
        assert (problem.kind, problem.key, problem.times) == (ProblemKind.REFUSED, f"MR1: {reason}", 2)
        assert problem.text == f"instances from MR1 were refused: {reason}"
