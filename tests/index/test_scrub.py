"""The scrub: what the disk has lost is told by name, once, until it is there again; and nothing else is told."""

import errno
import io
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from sqlalchemy import delete, select

from dicom_node.index.scrub import DAY_SECONDS, MOST_TOLD, SCRUBBED, Scrub
from dicom_node.read.stores import open_stores
from dicom_node.roles import build_scheduler
from dicom_node.settings.loading import load_settings
from storage.errors import Retriable
from storage.log import journal
from storage.log.journal import Journal
from storage.log.segments.frames import Frame, FrameKind
from storage.log.segments.names import list_segments
from storage.log.segments.ranges import InstanceFile
from storage.log.segments.reader import SegmentReader
from storage.records.problems import ProblemKind
from storage.tables.database import schema
from storage.tables.database.connection import Database, default_url
from storage.tables.problems import Problems
from tests.storage.node import STUDY, Node, received
from tests.stores import indexer_of


class Logged:
    """A sealed segment with three instances and a large one, all of them indexed."""

    def __init__(self, folder: Path) -> None:
        self.journals = folder / "journal"
        database = Database(default_url(folder))
        database.upgrade()
        self.node = Node(database, folder / "instances")
        self.now = 0.0
        self.deleted: dict[int, int] = {}
        life = Journal(self.journals / "receive-0")
        life.open()
        life.opened("a", "MR1", "NODE", "host")
        for number in (1, 2, 3):
            sent = received(number)
            life.store(sent.instance, sent.file, kept=sent.kept)
        sent = received(4)
        file = life.large()
        file.write(sent.file)
        life.store_large(sent.instance, file, sent.kept)
        life.close()
        indexer_of(self.node).advance()
        (self.segment,) = list_segments(life.folder)
        self.file = file.path
        with SegmentReader(self.segment) as reader:
            self.frames = [f for f in reader.all_frames() if "sop_instance_uid" in f.meta]

    def scrub(self, megabytes_per_second: float = 1000.0) -> Scrub:
        problems = Problems(self.node.database)
        return Scrub(
            self.journals, self.node.instances, problems, megabytes_per_second, self.deletions, lambda: self.now
        )

    def deletions(self, receiver: str, number: int) -> Mapping[int, int]:
        assert (receiver, number) == ("receive-0", 1)
        return self.deleted

    def found(self) -> dict[str, tuple[str, str]]:
        """One round, and the problems by their keys."""
        (self.journals / SCRUBBED).unlink(missing_ok=True)
        self.scrub().advance()
        return self.told()

    def told(self) -> dict[str, tuple[str, str]]:
        row = schema.ProblemRow
        with self.node.database.reading() as session:
            rows = session.execute(
                select(row.key, row.study_instance_uid, row.text).where(row.kind == ProblemKind.DAMAGED)
            )
            return {key: (study, text) for key, study, text in rows}


@pytest.fixture
def logged(tmp_path: Path) -> Logged:
    return Logged(tmp_path)


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("part", ["body", "meta", "kept", "head"])
def test_one_flipped_bit_is_told_until_it_is_right_again(logged: Logged, part: str) -> None:
    assert logged.found() == {}
    frame: Frame = logged.frames[1]
    at = {"body": frame.end - 1, "meta": frame.offset + 50, "kept": frame.body_offset - 1, "head": frame.offset + 9}
    flip(logged.segment, at[part])
    if part == "head":  # the table has it too
        assert logged.found() == {}
        return
    uid = frame.meta["sop_instance_uid"]
    key = f"receive-0/00000001:{frame.offset}"
    what = f"its bytes at {frame.offset} of segment receive-0/00000001 are damaged"
    expected = {key: (STUDY, f"SOP instance {uid} cannot be read: {what}")}
    assert logged.found() == expected
    assert logged.found() == expected
    flip(logged.segment, at[part])
    assert logged.found() == {}


@pytest.mark.parametrize("how", ["missing", "shorter", "changed", "bad sector"])
def test_a_large_file_is_told_until_it_is_right_again(
    logged: Logged, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    content = logged.file.read_bytes()
    match how:
        case "missing":
            logged.file.unlink()
        case "shorter":
            logged.file.write_bytes(content[:-1])
        case "changed":
            flip(logged.file, len(content) - 1)
        case _:

            def bad(_: InstanceFile) -> io.BufferedReader:
                raise OSError(errno.EIO, "bad sector")

            monkeypatch.setattr(InstanceFile, "open", bad)
    ((key, (study, text)),) = logged.found().items()
    large = logged.frames[3]
    assert (key, study) == (f"receive-0/00000001:{large.offset}", STUDY)
    what = "missing" if how == "missing" else "damaged"
    assert text == (
        f"SOP instance {large.meta['sop_instance_uid']} cannot be read: the file {logged.file.name} "
        f"beside segment receive-0/00000001 is {what}"
    )
    monkeypatch.undo()
    logged.file.write_bytes(content)
    assert logged.found() == {}


def test_what_was_deleted_is_no_damage(logged: Logged) -> None:
    """Its bytes are zeros, and its rows are gone. What lies between two deleted frames is told."""
    first, second, third, large = logged.frames
    with logged.segment.open("r+b") as file:
        for frame in (first, second, large):
            file.seek(frame.offset)
            file.write(bytes(frame.end - frame.offset))
    logged.file.unlink()
    for frame in (first, large):
        logged.deleted[frame.offset] = frame.end
    assert list(logged.found()) == [f"receive-0/00000001:{second.offset}"]  # before the rows are gone
    row = schema.InstanceRow
    gone = [frame.meta["sop_instance_uid"] for frame in (first, large)]
    with logged.node.database.session() as session:
        session.execute(delete(row).where(row.sop_instance_uid.in_(gone)))
    assert list(logged.found()) == [f"receive-0/00000001:{second.offset}"]
    logged.deleted[second.offset] = second.end
    assert logged.found() == {}
    flip(logged.segment, third.end - 1)
    assert list(logged.found()) == [f"receive-0/00000001:{third.offset}"]


def test_an_instance_that_came_again_is_whole(logged: Logged) -> None:
    flip(logged.segment, logged.frames[0].end - 1)
    assert len(logged.found()) == 1
    life = Journal(logged.journals / "receive-0")
    life.open()
    sent = received(1)
    life.store(sent.instance, sent.file, kept=sent.kept)
    life.close()
    indexer_of(logged.node).advance()
    assert logged.found() == {}
    flip(logged.segment, logged.frames[1].end - 1)
    assert list(logged.found()) == [f"receive-0/00000001:{logged.frames[1].offset}"]


def test_damage_that_concerns_no_instance_is_told_by_its_place(logged: Logged) -> None:
    with SegmentReader(logged.segment) as reader:
        (association,) = (f for f in reader.all_frames() if f.kind is FrameKind.ASSOCIATION)
    flip(logged.segment, association.offset + 50)
    size = association.end - association.offset
    assert logged.found() == {
        f"receive-0/00000001:{association.offset}": (
            "",
            f"{size} bytes at {association.offset} of segment receive-0/00000001 are damaged; "
            "no instance is listed there",
        )
    }


def test_a_lost_segment_opens_no_thousand_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged = Logged(tmp_path)
    monkeypatch.setattr("dicom_node.index.scrub.MOST_TOLD", 2)
    for frame in logged.frames[:3]:
        flip(logged.segment, frame.end - 1)
    assert len(logged.found()) == 2 < MOST_TOLD


def test_it_keeps_to_its_rate_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 1)
    logged = Logged.__new__(Logged)
    for name in ("receive-0", "receive-1"):
        life = Journal(tmp_path / "journal" / name)
        life.open()
        for number in range(1, 4):
            sent = received(number)
            life.store(sent.instance, sent.file)
    database = Database(default_url(tmp_path))
    database.upgrade()
    logged.node, logged.journals, logged.now = Node(database, tmp_path / "instances"), tmp_path / "journal", 0.0
    read: list[tuple[str, int]] = []
    segment = Scrub._segment

    def seen(scrub: Scrub, receiver: str, number: int) -> object:
        read.append((receiver, number))
        yield from segment(scrub, receiver, number)

    monkeypatch.setattr(Scrub, "_segment", seen)
    all_of = [(name, number) for name in ("receive-0", "receive-1") for number in (1, 2, 3, 4)]
    scrub = logged.scrub(0.0002)  # a part of a segment in each step
    for _ in range(5):
        scrub.advance()
    assert 1 < len(read) < 5
    before = len(read)
    scrub = logged.scrub(0.0002)  # after a restart
    for _ in range(60):
        scrub.advance()
    assert read[:before] + read[before + (read[before] == read[before - 1]) :] == all_of
    logged.now = DAY_SECONDS - 1
    scrub.advance()
    done = len(read)
    assert done <= len(all_of) + 1
    logged.now = DAY_SECONDS + 1
    scrub.advance()
    assert read[done] == ("receive-0", 1)


def test_damaged_segments_are_read_again_at_a_start_and_each_day(logged: Logged) -> None:
    frame = logged.frames[0]
    flip(logged.segment, frame.end - 1)
    assert len(logged.found()) == 1
    scrub = logged.scrub()  # the round is over: the note names the last segment
    scrub.advance()
    assert len(logged.told()) == 1
    flip(logged.segment, frame.end - 1)
    scrub.advance()
    assert len(logged.told()) == 1
    logged.now += DAY_SECONDS + 1
    scrub.advance()
    assert logged.told() == {}
    flip(logged.segment, frame.end - 1)
    assert len(logged.found()) == 1
    flip(logged.segment, frame.end - 1)
    logged.scrub().advance()
    assert logged.told() == {}


def test_trouble_of_the_machine_puts_it_off(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(logged.segment, logged.frames[0].end - 1)
    scrub = logged.scrub()
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(errno.EMFILE, "too many files")

        patch.setattr(SegmentReader, "drop_cached", full)
        with pytest.raises(Retriable, match="too many files"):
            scrub.advance()
    scrub.advance()
    assert len(logged.found()) == 1


@pytest.mark.parametrize("rate", ["", "scrub_megabytes_per_second = 0"])
def test_the_schedule_role_scrubs_unless_that_is_turned_off(logged: Logged, tmp_path: Path, rate: str) -> None:
    flip(logged.segment, logged.frames[0].end - 1)
    config = tmp_path / "node.toml"
    config.write_text(f"[node]\ndata_dir = '{tmp_path}'\n[storage]\n{rate}\n")
    settings = load_settings(config)
    scheduler = build_scheduler(settings, open_stores(settings.stores))
    stop = threading.Event()
    role = threading.Thread(target=scheduler.run, args=(stop,))
    role.start()
    try:
        deadline = time.monotonic() + (1.0 if rate else 20.0)
        while not (found := logged.told()) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        stop.set()
        role.join()
    assert len(found) == (0 if rate else 1)
