"""Frames that are deleted: destroyed in place, passed over by readers, and told from damage."""

import os
import stat
from pathlib import Path

import pytest

from storage.log.journal import Journal
from storage.log.segments import holes
from storage.log.segments.frames import FrameKind
from storage.log.segments.names import segment_path
from storage.log.segments.reader import SegmentReader
from storage.log.segments.store import Segments
from storage.log.segments.writer import seal_segment
from tests.storage.log.crashes import tear
from tests.storage.log.logged import RECEIVER, addresses_in
from tests.storage.node import received

COUNT, GONE = 6, (1, 2, 5)  # instances in a segment, and those that are deleted
SECRET = b"SECRET^PERSON"


def fill(journals: Path, close: bool = True) -> Journal:
    journal = Journal(journals / RECEIVER)
    journal.open()
    for number in range(COUNT):
        sent = received(number, pixels=bytes([number + 1]) * 10_000)
        journal.store(sent.instance, sent.file)
    if close:
        journal.close()
    return journal


def delete(journals: Path) -> dict[int, int]:
    """Destroy some instances, and return the ends of their frames by their offsets."""
    segments = Segments(journals)
    places = [address for _, address in addresses_in(segments, 1)]
    ends = {places[n].frame_offset: places[n].body_offset + places[n].length for n in GONE}
    segments.punch(RECEIVER, 1, [(offset + 40, end) for offset, end in ends.items()])
    return ends


def left_in(journals: Path, ends: dict[int, int]) -> list[int]:
    """Read the segment as a walk does, which must pass over no byte; return the numbers of the instances."""
    found = []
    with Segments(journals, lambda receiver, number: ends).open(RECEIVER, 1) as reader:
        end = reader.first
        for frame in reader.all_frames():
            assert frame.offset == end
            end = frame.end
            if frame.kind is FrameKind.INSTANCE:
                found.append(int(frame.meta["sop_instance_uid"].split(".")[-1]))
                assert bytes([found[-1] + 1]) * 10_000 in reader.body(frame)
        assert end == reader.size
    return found


KEPT = [n for n in range(COUNT) if n not in GONE]


@pytest.mark.parametrize("state", ["sealed", "unsealed", "sealed afterwards", "live"])
def test_a_reader_passes_over_what_was_destroyed_and_loses_nothing_else(tmp_path: Path, state: str) -> None:
    journal = fill(tmp_path, close=state != "live")
    path = segment_path(tmp_path / RECEIVER, 1)
    if state.startswith(("unsealed", "sealed afterwards")):
        tear(path)
    ends = delete(tmp_path)
    if state == "sealed afterwards":
        seal_segment(path)
    assert left_in(tmp_path, ends) == KEPT
    assert path.read_bytes().count(SECRET) == 2 * len(KEPT)  # name and ID
    if state == "live":
        sent = received(COUNT, pixels=bytes([COUNT + 1]) * 10_000)
        journal.store(sent.instance, sent.file)
        journal.close()
        assert left_in(tmp_path, ends) == [*KEPT, COUNT]


def test_what_is_deleted_is_passed_over_before_it_is_destroyed(tmp_path: Path) -> None:
    fill(tmp_path)
    places = [address for _, address in addresses_in(Segments(tmp_path), 1)]
    ends = {places[n].frame_offset: places[n].body_offset + places[n].length for n in GONE}
    assert left_in(tmp_path, ends) == KEPT


def test_the_space_is_given_back(tmp_path: Path) -> None:
    if not holes.has_holes(tmp_path):
        pytest.skip("this file system has no holes")
    fill(tmp_path)
    path = segment_path(tmp_path / RECEIVER, 1)
    os.sync()
    size, before = path.stat().st_size, path.stat().st_blocks
    delete(tmp_path)
    assert path.stat().st_size == size
    assert path.stat().st_blocks <= before - 3 * 8  # two blocks at least of each


def test_zeros_are_written_where_the_file_system_has_no_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, start: int, length: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(holes, "_punch", refuse)
    fill(tmp_path)
    assert left_in(tmp_path, delete(tmp_path)) == KEPT
    assert segment_path(tmp_path / RECEIVER, 1).read_bytes().count(SECRET) == 2 * len(KEPT)
    assert not holes.has_holes(tmp_path)


def test_a_segment_whose_flush_failed_stays_marked(tmp_path: Path) -> None:
    fill(tmp_path)
    path = segment_path(tmp_path / RECEIVER, 1)
    tear(path)
    path.chmod(0o440)
    ends = delete(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o440
    assert left_in(tmp_path, ends) == KEPT
    path.chmod(0o1600)  # a crash came between the two
    seal_segment(path)
    with SegmentReader(path) as reader:
        assert reader.unsealed is not None


def test_bytes_that_were_not_deleted_are_damage(tmp_path: Path) -> None:
    fill(tmp_path)
    delete(tmp_path)
    with Segments(tmp_path).open(RECEIVER, 1) as reader:
        kinds = [frame.kind for frame in reader.all_frames()]
    assert kinds.count(FrameKind.INSTANCE) == len(KEPT)
    assert FrameKind.GONE not in kinds


def test_only_the_range_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\1" * 100_000)
    with path.open("r+b") as file:
        holes.clear(file.fileno(), 1_234, 77_777)
    assert path.read_bytes() == b"\1" * 1_234 + bytes(77_777 - 1_234) + b"\1" * (100_000 - 77_777)
