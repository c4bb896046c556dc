"""The journal: durable before it returns, whole or not at all, and readable whatever a crash left."""

import errno
import fcntl
import os
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage.errors import Permanent, Retriable, StorageFull
from storage.log import journal
from storage.log.journal import Journal
from storage.log.segments import names, store, writer
from storage.log.segments.frames import Frame, FrameKind, instance_of, meta_of, new_frame
from storage.log.segments.reader import SegmentReader
from storage.log.segments.store import Segments
from storage.records.evidence import AssociationEnd
from storage.records.instances import ContentHashes, Facts
from storage.records.patients import PatientIdentity, Subject
from tests.storage.log.crashes import tear
from tests.storage.log.release01 import old_segment
from tests.storage.node import received


@pytest.fixture
def opened(tmp_path: Path) -> Journal:
    result = Journal(tmp_path / "receive-0")
    result.open()
    return result


def frames(folder: Path) -> list[Frame]:
    found = []
    for path in names.list_segments(folder):
        with SegmentReader(path) as reader:
            found += list(reader.frames(0))
    return found


def test_what_is_stored_is_read_again(opened: Journal) -> None:
    sent = received()
    facts = Facts(images_in_acquisition=7, position=(1.0, 2.0, -3.5), priority="STAT")
    subject = Subject("f" * 16, PatientIdentity("a1", "b2", others=(("c3", ""),)))
    hashes = ContentHashes("", "d4")
    instance = replace(sent.instance, facts=facts, source_ae_title="MÜLLER", association="a-1")
    instance = replace(instance, subject=subject, hashes=hashes)
    opened.opened("a-1", "MR1", "NODE", "host")
    opened.store(instance, sent.file[:500], memoryview(sent.file)[500:])
    opened.ended("a-1", AssociationEnd.RELEASED)
    opened.close()
    started, association, stored, ended = frames(opened.folder)
    assert [f.kind for f in (started, association, stored, ended)] == [
        FrameKind.STARTED, FrameKind.ASSOCIATION, FrameKind.INSTANCE, FrameKind.ASSOCIATION_ENDED,
    ]  # fmt: skip
    assert instance_of(stored.meta) == instance
    with SegmentReader(opened.folder / "00000001.log") as reader:
        assert reader.body(stored) == sent.file
    assert association.meta["calling_ae_title"] == "MR1"
    assert ended.meta["end"] == "RELEASED"


def test_what_release_0_1_stored_is_read_again(tmp_path: Path) -> None:
    sent = received(patient=PatientIdentity("A1", "HOSPITAL", others=(("B2", ""),)))
    (tmp_path / "00000001.log").write_bytes(old_segment(sent))
    _, stored = frames(tmp_path)
    assert instance_of(stored.meta) == sent.instance
    assert "HOSPITAL" not in str(meta_of(sent.instance))


def test_a_large_instance_lies_beside(opened: Journal) -> None:
    sent = received()
    file = opened.large()
    for part in (sent.file[:100], sent.file[100:]):
        file.write(part)
    opened.store_large(sent.instance, file)
    _, stored = frames(opened.folder)
    assert stored.kind is FrameKind.LARGE_INSTANCE
    assert instance_of(stored.meta) == sent.instance
    assert (opened.folder / stored.meta["file"]).read_bytes() == sent.file
    assert stored.meta["size"] == len(sent.file)
    other = opened.large()
    other.write(b"x")
    other.discard()
    assert len(list(opened.folder.glob("*.large"))) == 1


def test_success_comes_after_the_flush(opened: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    flush, write = os.fdatasync, os.writev

    def seen_flush(descriptor: int) -> None:
        flush(descriptor)
        order.append("flushed")

    def seen_write(descriptor: int, parts: list[memoryview]) -> int:
        order.append("written")
        return write(descriptor, parts)

    monkeypatch.setattr(os, "fdatasync", seen_flush)
    monkeypatch.setattr(os, "writev", seen_write)
    opened.store(received().instance, received().file)
    assert order == ["written", "flushed"]


def test_a_few_flush_at_once_and_the_others_share(opened: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """None waits behind a flush that began before it; and each has an opening of its own, which is told of failures."""
    running: list[int] = []
    most = []
    flushes = []
    slow = threading.Event()

    def flush(descriptor: int) -> None:
        assert descriptor not in running
        running.append(descriptor)
        most.append(len(running))
        flushes.append(descriptor)
        slow.wait(0.3)
        running.remove(descriptor)

    monkeypatch.setattr(os, "fdatasync", flush)
    number = 3 * writer.FLUSHES
    threads = [
        threading.Thread(target=opened.store, args=(received(n).instance, received(n).file))
        for n in range(1, number + 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == writer.FLUSHES
    assert len(flushes) <= 2 * writer.FLUSHES
    assert len(frames(opened.folder)) == number + 1


def test_segments_follow_one_another(opened: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 3000)
    for number in range(1, 11):
        opened.store(received(number).instance, received(number).file)
    assert len(names.list_segments(opened.folder)) > 2
    stored = [f.meta["sop_instance_uid"] for f in frames(opened.folder) if f.kind is FrameKind.INSTANCE]
    assert stored == [received(n).instance.sop_instance_uid for n in range(1, 11)]


def test_a_new_life_begins_a_new_segment(opened: Journal) -> None:
    opened.store(received().instance, received().file)
    with pytest.raises(Permanent, match="Another process"):
        Journal(opened.folder).open()
    assert journal.is_written(opened.folder)
    opened.close()
    assert not journal.is_written(opened.folder)
    again = Journal(opened.folder)
    again.open()
    assert [p.name for p in names.list_segments(opened.folder)] == ["00000001.log", "00000002.log"]


@pytest.mark.parametrize("cut", [1, 30, 200, 800])
def test_a_torn_tail_ends_the_segment(opened: Journal, cut: int) -> None:
    for number in (1, 2):
        opened.store(received(number).instance, received(number).file)
    opened.close()
    (path,) = names.list_segments(opened.folder)
    tear(path, cut)
    found = frames(opened.folder)
    assert [f.meta.get("sop_instance_uid") for f in found] == [None, received(1).instance.sop_instance_uid]
    with SegmentReader(path) as reader:
        assert reader.next_frame(found[-1].end) is None


@pytest.mark.parametrize("sealed", [True, False])
def test_damage_in_the_middle_is_told_from_a_torn_tail(opened: Journal, sealed: bool) -> None:
    for number in (1, 2, 3):
        opened.store(received(number).instance, received(number).file)
    opened.close()
    (path,) = names.list_segments(opened.folder)
    if not sealed:
        tear(path)
    whole = frames(opened.folder)
    content = bytearray(path.read_bytes())
    content[whole[1].end + 300] ^= 1
    path.write_bytes(content)
    found = frames(opened.folder)
    assert len(found) == 2
    with SegmentReader(path) as reader:
        behind = reader.next_frame(found[-1].end)
        assert behind == whole[2].end
        (last,) = reader.frames(behind)
        assert last.meta["sop_instance_uid"] == received(3).instance.sop_instance_uid


def test_a_write_that_failed_leaves_nothing(opened: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    opened.store(received(1).instance, received(1).file)
    write = os.writev

    def half(descriptor: int, parts: list[memoryview]) -> int:
        if len(parts) < 3:  # what the first call left
            raise OSError(errno.ENOSPC, "full")
        return write(descriptor, [parts[0], parts[1][:10]])

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", half)
        with pytest.raises(StorageFull):
            opened.store(received(2).instance, received(2).file)
    opened.store(received(3).instance, received(3).file)
    stored = [f.meta["sop_instance_uid"] for f in frames(opened.folder) if f.kind is FrameKind.INSTANCE]
    assert stored == [received(n).instance.sop_instance_uid for n in (1, 3)]
    assert len(names.list_segments(opened.folder)) == 1


def test_a_flush_that_failed_ends_its_segment(opened: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may have dropped what it could not write, and says so only once."""

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(Retriable, match="EIO"):
            opened.store(received(1).instance, received(1).file)
    opened.store(received(1).instance, received(1).file)
    assert len(names.list_segments(opened.folder)) == 2


def test_a_flush_that_failed_is_not_made_good_by_a_later_one(opened: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux tells once of what it could not write; whoever waits for the same flush must hear of it too."""
    opened.store(received(1).instance, received(1).file)
    segment, end = opened._write(new_frame(FrameKind.INSTANCE, {}, [b"x"]))
    flushes: list[int] = []

    def once(descriptor: int) -> None:
        flushes.append(descriptor)
        if len(flushes) == 1:
            raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fdatasync", once)
    with pytest.raises(Retriable):
        opened.store(received(2).instance, received(2).file)
    opened.store(received(3).instance, received(3).file)  # begins another segment, and closes this one
    with pytest.raises(OSError, match="flush"):
        segment.flush(end)


def test_a_full_device_does_not_keep_a_receiver_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def full(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if str(path).endswith(names.SEGMENT_SUFFIX):
            raise OSError(errno.ENOSPC, "full")
        return real(path, flags, mode)

    result = Journal(tmp_path / "receive-0")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        result.open()
        with pytest.raises(StorageFull):
            result.store(received(1).instance, received(1).file)
    result.store(received(2).instance, received(2).file)
    assert [f.kind for f in frames(result.folder)] == [FrameKind.STARTED, FrameKind.INSTANCE]


@pytest.mark.parametrize("content", [b"", b"\0" * 20, b"garbage", b"7", b"7 8 9", b"%020d %020d" % (7, 7)])
def test_the_number_of_the_last_segment_may_be_lost(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "receive-0"
    folder.mkdir()
    (folder / names.WRITER).write_bytes(content)
    (folder / "00000041.log").touch()
    assert Segments(tmp_path).last(folder.name) == 41
    opened = Journal(folder)
    opened.open()
    assert names.list_numbers(folder) == [41, 42]


def test_a_start_opens_no_segment_that_is_known_to_be_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 1)  # each instance begins a segment
    opened: list[int] = []
    seal = Segments.seal

    def seen(segments: Segments, receiver: str, number: int) -> None:
        opened.append(number)
        seal(segments, receiver, number)

    monkeypatch.setattr(Segments, "seal", seen)
    for _ in range(2):
        life = Journal(tmp_path / "receive-0")
        life.open()
        for number in range(1, 6):
            life.store(received(number).instance, received(number).file)
        life.close()
    assert opened == [6]
    os.truncate(tmp_path / "receive-0" / "00000012.log", 5000)  # as a crash leaves it
    opened.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Segments, "seal", _refuse)
        life = Journal(tmp_path / "receive-0")
        life.open()
        life.store(received(1).instance, received(1).file)
        life.close()
    Journal(tmp_path / "receive-0").open()
    assert opened == [12, 13, 14]
    assert _is_sealed(tmp_path / "receive-0" / "00000012.log")


def _refuse(_: Segments, receiver: str, number: int) -> None:
    raise Retriable(f"{receiver} {number}")


def _is_sealed(path: Path) -> bool:
    with SegmentReader(path) as reader:
        return reader.unsealed is None


def test_new_segments_are_found_without_listing_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 1)
    writer = Journal(tmp_path / "receive-0")
    writer.open()
    segments = Segments(tmp_path)
    assert segments.following("receive-0", 0) == [1]
    listed: list[Path] = []
    monkeypatch.setattr(store, "list_numbers", lambda folder: listed.append(folder) or [])
    for number in range(1, 5):
        writer.store(received(number).instance, received(number).file)
    (tmp_path / "receive-0" / "00000003.log").unlink()
    assert (segments.following("receive-0", 2), segments.last("receive-0")) == ([2, 4, 5], 5)
    assert segments.following("receive-0", 6) == []
    assert not listed


def test_segments_behind_a_large_gap_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "receive-0"
    folder.mkdir()
    assert (Segments(tmp_path).last("receive-0"), Segments(tmp_path).following("receive-0", 0)) == (-1, [])
    numbers = [3, 4 + 2 * store.LOOKED_FOR, 5 + 2 * store.LOOKED_FOR]
    for number in numbers:
        names.segment_path(folder, number).touch()
    with (folder / names.WRITER).open("wb") as note:
        names.WriterNote(5 * store.LOOKED_FOR).write(note.fileno())
    segments = Segments(tmp_path)
    assert segments.following("receive-0", 0) == numbers
    assert segments.following("receive-0", 4) == numbers[1:]
    assert segments.last("receive-0") == numbers[-1]


def test_the_indexer_s_look_does_not_keep_a_receiver_from_starting(tmp_path: Path) -> None:
    folder = tmp_path / "receive-0"
    folder.mkdir()
    with (folder / names.WRITER).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        released = threading.Timer(0.2, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        released.start()
        Journal(folder).open()
        released.join()


def test_the_watermark(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    low = Journal(tmp_path / "low", 2 * free)
    low.open()
    with pytest.raises(StorageFull, match="minimum_free_megabytes"):
        low.ensure_space()
    high = Journal(tmp_path / "high", free // 2)
    high.open()
    high.ensure_space()


def test_the_mark_says_until_when_everything_is_filed(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    assert journal.filed_until(folder) is None
    at = datetime.now(UTC)
    journal.mark_filed(folder, at, time.monotonic() - 7)
    found = journal.filed_until(folder)
    assert found is not None
    assert at - timedelta(seconds=7) <= found < at - timedelta(seconds=6)
    steady = at + timedelta(days=30)
    assert journal.filed_until(folder, lambda: steady) == pytest.approx(steady, abs=timedelta(seconds=8))


def test_a_mark_from_before_the_machine_was_started_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.mark_filed(tmp_path, datetime.now(UTC), time.monotonic())
    monkeypatch.setattr(journal, "boot_id", lambda: "another")
    assert journal.filed_until(tmp_path) is None


def test_a_mark_of_another_machine_is_read_by_the_wall_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.mark_filed(tmp_path, datetime.now(UTC) - timedelta(seconds=7), time.monotonic() + 1e6)
    monkeypatch.setattr(journal, "host_name", lambda: "another")
    found = journal.filed_until(tmp_path)
    assert found is not None
    assert 7 <= (datetime.now(UTC) - found).total_seconds() < 8
