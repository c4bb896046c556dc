"""The log of the index role: what it says after a restart, in what order, and on a full disk."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage.errors import Permanent, StorageFull
from storage.log.deletion.records import DeletedFrame, Deletion, TakenRange
from storage.log.index_log import RESERVE, RESERVE_BYTES, IndexLog, in_order, read_deleted_frames
from storage.log.journal import Journal
from storage.log.segments.frames import FrameKind, NewFrame
from storage.log.segments.names import list_segments
from tests.storage.log.crashes import tear

AT = datetime(2026, 5, 4, 12, tzinfo=UTC)


def deletion(key: str, *frames: DeletedFrame) -> Deletion:
    return Deletion(key, "1.2.3", "asked for", AT, 2, frames, ("mpps/1.dcm",))


@pytest.mark.parametrize("killed", [False, True])
def test_it_says_the_same_after_a_restart(tmp_path: Path, killed: bool) -> None:
    folder = tmp_path / "index-log"
    frames = [DeletedFrame("receive-0", 1, 4116, 5000, "a" * 64), DeletedFrame("receive-0", 2, 5000, 5100, "b", "f")]
    for start in (0, 100):
        log = IndexLog(folder)
        log.open()
        log.take(TakenRange("receive-0", 1, start, start + 100))
        log.own([f"2.25.{start}"])
        log.delete(deletion(f"{start}", *frames))
        if start:
            log.deleted("0")
        log.close()
        if killed:
            tear(list_segments(folder)[-1])
    read = IndexLog(folder)
    assert read.history({}) == [TakenRange("receive-0", 1, 0, 100), TakenRange("receive-0", 1, 100, 200)]
    assert read.history({"receive-0": (1, 100)}) == [TakenRange("receive-0", 1, 100, 200)]
    assert read.history({"receive-0": (2, 0)}) == []
    assert read.own_results() == {"2.25.0", "2.25.100"}
    assert list(read.deletions()) == [deletion("0", *frames), deletion("100", *frames)]
    assert read.unfinished() == [deletion("100", *frames)]


def test_deleted_frames_are_known_of_segments_that_exist(tmp_path: Path) -> None:
    journals = tmp_path / "journal"
    journal = Journal(journals / "receive-0")
    journal.open()
    log = IndexLog(tmp_path / "index-log")
    log.open()
    frames = [DeletedFrame("receive-0", 1, 4116, 5000, ""), DeletedFrame("receive-0", 2, 4116, 5000, "")]
    log.delete(deletion("0", *frames))
    deleted = read_deleted_frames(tmp_path / "index-log", journals)  # while it is written
    assert deleted.of("receive-0", 1) == {4116: 5000}
    assert deleted.of("receive-0", 2) == {}
    assert deleted.segments() == [("receive-0", 1)]
    with pytest.raises(Permanent):
        IndexLog(tmp_path / "index-log").open()
    journal.close()
    log.close()


def test_frames_that_were_taken_again_stand_where_they_came_last() -> None:
    a, b = "receive-0", "receive-1"
    taken = [
        TakenRange(a, 1, 0, 100),
        TakenRange(a, 1, 100, 200),
        TakenRange(b, 1, 0, 50),
        TakenRange(a, 2, 0, 10),
        TakenRange(a, 1, 150, 250),  # the database was replaced by an older one
    ]
    assert in_order(taken) == [
        TakenRange(a, 1, 0, 100),
        TakenRange(a, 1, 100, 150),
        TakenRange(b, 1, 0, 50),
        TakenRange(a, 1, 150, 250),
    ]


def test_a_deletion_is_noted_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = IndexLog(tmp_path / "index-log")
    log.open()
    reserve = log.folder / RESERVE
    assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES
    append = Journal.append

    def full(journal: Journal, frame: NewFrame, flush: bool = False) -> None:
        if reserve.exists():
            raise StorageFull("No space left")
        append(journal, frame, flush)

    monkeypatch.setattr(Journal, "append", full)
    log.delete(deletion("0"))
    assert [one.key for one in log.deletions()] == ["0"]
    log.keep_reserve()
    with pytest.raises(StorageFull):
        log.take(TakenRange("receive-0", 1, 0, 1))  # does not take what is reserved
    log.close()


def test_a_damaged_frame_is_told_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = IndexLog(tmp_path / "index-log")
    log.open()
    log.delete(deletion("0"))
    log.delete(deletion("1"))
    log.close()
    (segment,) = list_segments(log.folder)
    content = segment.read_bytes()
    segment.write_bytes(content.replace(b"mpps/1", b"mpps/2", 1))
    assert [one.key for one in log.deletions()] == ["1"]
    assert [one.kind for one in log.read(FrameKind.DELETION)] == [FrameKind.DELETION]
    assert "index_log_damaged" in {getattr(record, "action", "") for record in caplog.records}
