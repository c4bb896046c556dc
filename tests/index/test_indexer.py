"""The indexer: whatever is in a journal gets its file and its row, once, through any number of crashes."""

import errno
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from dicom_node.index.indexer import Indexer
from storage.errors import Retriable
from storage.log import journal
from storage.log.files import FileSystem
from storage.log.journal import Journal
from storage.log.segments import names
from storage.log.segments.frames import FrameKind, meta_of, new_frame
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


def indexer(node: Node) -> Indexer:
    folder = node.root.parent
    return Indexer(folder / "journal", node.instances, node.database, [FileSystem(folder)])


def store(receiver: Journal, sent: Sent, association: str = "a") -> None:
    receiver.store(replace(sent.instance, association=association), sent.file)


def held(node: Node, *sent: Sent) -> None:
    """Each of them is filed byte for byte and indexed once, and nothing else is."""
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
    running = indexer(node)
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
    indexer(node).advance()
    before, timeline = node.study(), node.texts()
    node.complete()
    for _ in range(2):
        indexer(node).advance()
    held(node, *sent)
    assert node.study().state is StudyState.COMPLETE
    assert (node.study().last_received_at, node.study().revision) == (before.last_received_at, 1)
    assert node.texts()[: len(timeline)] == timeline
    assert len(node.texts()) == len(timeline) + 1  # "complete"


def test_filed_segments_are_removed(node: Node, receiver: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 2000)
    sent = [received(n) for n in range(1, 11)]
    for one in sent[:5]:
        store(receiver, one)
    running = indexer(node)
    running.advance()
    assert len(names.list_segments(receiver.folder)) == 1  # the one that is written
    for one in sent[5:]:
        store(receiver, one)
    receiver.close()
    running.advance()
    assert names.list_segments(receiver.folder) == []
    held(node, *sent)


def test_a_segment_is_flushed_before_it_is_removed(
    node: Node, receiver: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(receiver, received())
    receiver.close()
    order: list[str] = []
    monkeypatch.setattr(FileSystem, "flush", lambda self: order.append("settled"))
    unlink = Path.unlink

    def seen(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == names.SEGMENT_SUFFIX:
            order.append("removed")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", seen)
    indexer(node).advance()
    assert order == ["settled", "removed"]


def test_a_large_instance_is_filed_and_its_file_removed(node: Node, receiver: Journal) -> None:
    sent = received()
    file = receiver.large()
    file.write(sent.file)
    receiver.store_large(sent.instance, file)
    stray = receiver.large()
    stray.write(b"cut off by a crash")
    running = indexer(node)
    running.advance()
    held(node, sent)
    receiver.close()
    again = Journal(receiver.folder)
    again.open()
    running.advance()
    held(node, sent)
    assert list(receiver.folder.glob("*.large")) == []


def test_what_an_earlier_life_left_open_was_aborted(node: Node, receiver: Journal) -> None:
    receiver.opened("a", "MR1", "NODE", "host")
    store(receiver, received(1))
    receiver.close()
    again = Journal(receiver.folder)
    again.open()
    again.opened("b", "MR1", "NODE", "host")
    store(again, received(2), "b")
    for _ in range(2):  # the second one reads the segment of the new life from its beginning
        indexer(node).advance()
        (evidence,) = node.studies.evidence()
        assert (evidence.open_associations, evidence.aborted_associations) == (1, 1)


def test_a_new_life_is_filed_by_an_indexer_that_knew_the_old_one(node: Node, receiver: Journal) -> None:
    """All segments of the old life are gone; the new one must not begin with their numbers again."""
    store(receiver, received(1))
    receiver.close()
    running = indexer(node)
    running.advance()
    assert names.list_segments(receiver.folder) == []
    again = Journal(receiver.folder)
    again.open()
    store(again, received(2))
    assert running.advance() == 1
    held(node, received(1), received(2))


@pytest.mark.parametrize("cut", [1, 100, 700])
def test_a_torn_tail_is_passed_over(node: Node, receiver: Journal, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    store(receiver, received(1))
    store(receiver, received(2))
    receiver.close()
    (path,) = names.list_segments(receiver.folder)
    tear(path, cut)
    indexer(node).advance()
    held(node, received(1))
    assert "never acknowledged" in caplog.text
    assert names.list_segments(receiver.folder) == []


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
    at = content.index(sent[1].dataset)
    content[at + 10] ^= 0xFF
    path.write_bytes(content)
    indexer(node).advance()
    held(node, sent[0], *sent[2:])
    assert "damaged" in caplog.text
    (kept,) = receiver.folder.glob("*.damaged")
    assert sent[1].dataset[20:] in kept.read_bytes()


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
    indexer(node).advance()
    held(node, received(1), received(3))
    assert "never acknowledged" in caplog.text
    assert list(receiver.folder.glob("*.damaged")) == []


def test_nothing_outside_the_journal_is_read_or_removed(node: Node, receiver: Journal) -> None:
    victim = node.root.parent / "victim"
    victim.write_bytes(received(1).file)
    meta = meta_of(received(1).instance) | {"file": "../../victim", "size": len(received(1).file)}
    receiver._write(new_frame(FrameKind.LARGE_INSTANCE, meta))
    store(receiver, received(2))
    receiver.close()
    indexer(node).advance()
    held(node, received(2))
    assert victim.read_bytes() == received(1).file
    assert names.list_segments(receiver.folder) == []


def test_a_journal_of_release_01_is_filed(node: Node, receiver: Journal) -> None:
    (receiver.folder / "00000000.log").write_bytes(old_segment(received(1), received(2)))
    store(receiver, received(3))
    indexer(node).advance()
    held(node, received(1), received(2), received(3))


def test_a_file_that_power_loss_damaged_is_restored(node: Node, receiver: Journal) -> None:
    sent = received()
    store(receiver, sent)
    indexer(node).advance()
    (path,) = node.root.rglob("[0-9]*.dcm")
    path.write_bytes(bytes(len(sent.file)))
    indexer(node).advance()
    held(node, sent)


def test_a_busy_database_puts_it_off(node: Node, receiver: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object, **__: object) -> None:
        raise Retriable("busy")

    store(receiver, received(1))
    running = indexer(node)
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
    running = indexer(node)
    running.advance()
    running.advance()
    held(node, received(1), received(2), received(3))


def test_a_life_that_begins_before_the_indexer_asks_is_kept(
    node: Node, receiver: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.close()
    numbers = Segments.numbers
    lives: list[Journal] = []

    def start_before_listing(listed: Segments, name: str) -> list[int]:
        if not lives:
            lives.append(Journal(receiver.folder))
            lives[0].open()
            store(lives[0], received(1))
        return numbers(listed, name)

    running = indexer(node)
    running.advance()
    monkeypatch.setattr(Segments, "numbers", start_before_listing)
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

    monkeypatch.setattr(SegmentReader, "frames", overtaken)
    one = indexer(node)
    assert one.advance() == 1
    assert one.advance() == 2
    held(node, received(1), received(2), received(3))
    assert list(receiver.folder.glob("*.damaged")) == []


def test_a_frame_that_nobody_can_file_holds_up_no_other(
    node: Node, receiver: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    store(receiver, received(1))
    receiver._write(new_frame(FrameKind.INSTANCE, {"sop_instance_uid": "1.2"}, [b"no more than that"]))
    receiver._write(new_frame(9, {}, [b"of another version"]))  # type: ignore[arg-type]
    store(receiver, received(2))
    receiver.close()
    indexer(node).advance()
    held(node, received(1), received(2))
    kept = {path.read_bytes() for path in (node.root.parent / "unfiled").iterdir()}
    assert kept == {b"no more than that", b"of another version"}
    assert "KeyError" in caplog.text


def test_trouble_with_one_journal_holds_up_no_other(node: Node, receiver: Journal) -> None:
    other = Journal(receiver.folder.parent / "receive-1")
    other.open()
    store(other, received(2))
    store(receiver, received(1))
    running = indexer(node)
    advance = running._advance

    def trouble(place: Any) -> tuple[int, bool]:
        if place.folder == receiver.folder:
            raise OSError(5, "input/output error")
        return advance(place)

    running._advance = trouble  # type: ignore[method-assign]
    with pytest.raises(OSError, match="input/output"):
        running.advance()
    held(node, received(2))


def test_a_failed_flush_has_everything_compared_again(
    node: Node, receiver: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = received()
    store(receiver, sent)
    receiver.close()
    (settled,) = [FileSystem.flush]

    def lose(file_system: FileSystem) -> None:
        monkeypatch.setattr(FileSystem, "flush", settled)
        for path in node.root.rglob("[0-9]*.dcm"):
            path.write_bytes(bytes(len(sent.file)))
        raise OSError(5, "input/output error")

    monkeypatch.setattr(FileSystem, "flush", lose)
    running = indexer(node)
    with pytest.raises(OSError, match="input/output"):
        running.advance()
    running.advance()
    held(node, sent)
    assert names.list_segments(receiver.folder) == []


@pytest.mark.parametrize("left", [4096, 8192])
def test_a_torn_file_beside_a_lost_database(node: Node, receiver: Journal, left: int) -> None:
    sent = received(pixels=bytes(range(1, 251)) * 80, size=100)
    store(receiver, sent)
    path = node.root / STUDY / f"{STUDY}.1" / f"{STUDY}.1.1.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(sent.file[:left])
    running = indexer(node)
    running.prepare()
    running.advance()
    held(node, sent)
    assert list((node.root.parent / "quarantine").rglob("*.dcm")) == []


def test_a_torn_file_in_quarantine_is_written_again(node: Node, receiver: Journal) -> None:
    first, other = received(), received(pixels=rb"\9\9\9\9")
    store(receiver, first)
    store(receiver, other)
    indexer(node).advance()
    (kept,) = (node.root.parent / "quarantine").rglob("*.dcm")
    kept.write_bytes(b"")
    receiver.close()
    indexer(node).advance()
    assert names.list_segments(receiver.folder) == []
    assert kept.read_bytes() == other.file


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
    Indexer(folder / "journal", node.instances, node.database, [FileSystem(folder)], turns).run(None)  # type: ignore[arg-type]
    held(node, *sent)
    with sqlite3.connect(folder / "node.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM instance").fetchone() == (3,)
    with node.database.reading() as session:
        assert session.scalar(text("SELECT count(*) FROM instance")) == 3


def test_a_uid_that_cannot_be_filed_is_kept(node: Node, receiver: Journal, caplog: pytest.LogCaptureFixture) -> None:
    """Receivers refuse such an instance; one in a journal was acknowledged all the same."""
    sent = received()
    strange = Sent(replace(sent.instance, study_instance_uid="../x"), sent.dataset)
    store(receiver, strange)
    store(receiver, received(2))
    receiver.close()
    indexer(node).advance()
    held(node, received(2))
    (kept,) = (node.root.parent / "unfiled").iterdir()
    assert kept.read_bytes() == strange.file
    assert "cannot be filed" in caplog.text


@pytest.mark.parametrize("damaged", [True, False])
def test_what_a_full_disk_left_of_kept_bytes_is_written_again(
    node: Node, receiver: Journal, damaged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = received()
    store(receiver, sent if damaged else Sent(replace(sent.instance, study_instance_uid="../x"), sent.dataset))
    receiver.close()
    (path,) = names.list_segments(receiver.folder)
    content = path.read_bytes()
    if damaged:
        path.write_bytes(content.replace(sent.dataset[20:], b"!" * len(sent.dataset[20:])))
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        write(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "full")

    running = indexer(node)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="full"):
            running.advance()
    running.advance()
    assert names.list_segments(receiver.folder) == []
    (kept,) = receiver.folder.glob("*.damaged") if damaged else (node.root.parent / "unfiled").iterdir()
    assert (b"!" * len(sent.dataset[20:]) if damaged else sent.file) in kept.read_bytes()


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
    indexer(node).advance()
    assert order.index("flush") < len(order) - 1 - order[::-1].index("rows")


def test_times_are_those_of_the_receiver(node: Node, receiver: Journal) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    sent = received()
    receiver.store(replace(sent.instance, received_at=at), sent.file)
    indexer(node).advance()
    assert node.study().first_received_at == node.study().last_received_at == at


def test_refused_instances_are_told(node: Node, receiver: Journal) -> None:
    reason = "0xC000 Study Instance UID is missing"
    for count in (3, 1):
        receiver.refused("MR1", "host", {reason: count})
    indexer(node).advance()
    with node.database.reading() as session:
        (problem,) = session.scalars(select(schema.ProblemRow))
        assert (problem.kind, problem.key, problem.times) == (ProblemKind.REFUSED, f"MR1: {reason}", 2)
        assert problem.text == f"instances from MR1 were refused: {reason}"
