"""The verdict on each part of a segment."""

import errno
import os
from pathlib import Path

import pytest

from storage.log import journal
from storage.log.journal import Journal
from storage.log.segments.frames import Frame, FrameKind
from storage.log.segments.judged import FrameVerdict, JudgedFrame, judge_frames
from storage.log.segments.names import list_segments
from storage.log.segments.reader import SegmentReader
from storage.log.segments.store import Segments
from tests.storage.log.crashes import tear
from tests.storage.log.release01 import old_segment
from tests.storage.node import received

WHOLE, DAMAGED, TORN, DELETED = FrameVerdict.WHOLE, FrameVerdict.DAMAGED, FrameVerdict.TORN, FrameVerdict.DELETED


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A sealed segment with a note of the start, and three instances."""
    opened = Journal(tmp_path / "receive-0")
    opened.open()
    for number in (1, 2, 3):
        opened.store(received(number).instance, received(number).file, kept=b"kept")
    opened.close()
    return list_segments(opened.folder)[0]


def judged(path: Path, bodies: bool = True, start: int = 0) -> list[JudgedFrame]:
    with SegmentReader(path) as reader:
        parts = list(judge_frames(reader, bodies, start))
        assert [part.offset for part in parts[1:]] == [part.end for part in parts[:-1]]
        assert parts[-1].end == reader.size
    return parts


def verdicts(path: Path, bodies: bool = True) -> list[FrameVerdict]:
    return [part.verdict for part in judged(path, bodies)]


def frame(path: Path, number: int) -> Frame:
    with SegmentReader(path) as reader:
        return list(reader.all_frames())[number]


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("sealed", [True, False])
def test_damage_is_told_frame_by_frame(written: Path, sealed: bool) -> None:
    if not sealed:
        tear(written)
    body, meta = frame(written, 2), frame(written, 3)
    assert verdicts(written) == [WHOLE] * 4
    flip(written, body.end - 1)
    assert verdicts(written) == [WHOLE, WHOLE, DAMAGED, WHOLE]
    assert verdicts(written, bodies=False) == ([WHOLE] * 4 if sealed else [WHOLE, WHOLE, DAMAGED, WHOLE])
    flip(written, meta.offset + 50)
    assert [part.frame is None for part in judged(written)][-1]
    assert verdicts(written)[-1] is DAMAGED
    assert judged(written, start=body.end)[0].offset == meta.offset


def test_the_end_that_a_crash_cut_off_is_torn(written: Path) -> None:
    tear(written, cut=5)
    assert verdicts(written) == [WHOLE, WHOLE, WHOLE, TORN]


@pytest.mark.parametrize("sealed", [True, False])
def test_zeros_are_no_torn_end_if_the_table_says_that_frames_were_there(written: Path, sealed: bool) -> None:
    if not sealed:
        tear(written)
    last = frame(written, 3)
    with written.open("r+b") as file:
        file.seek(last.offset)
        file.write(bytes(last.end - last.offset))
    assert verdicts(written) == [WHOLE, WHOLE, WHOLE, DAMAGED if sealed else TORN]


def test_a_sector_that_cannot_be_read_is_damage(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, meta = frame(written, 1), frame(written, 3)
    read = os.pread
    code = errno.EIO

    def bad(descriptor: int, length: int, offset: int) -> bytes:
        if any(offset <= at < offset + length for at in (body.body_offset, meta.offset + 50)):
            raise OSError(code, "bad sector")
        return read(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", bad)
    assert verdicts(written) == [WHOLE, DAMAGED, WHOLE, DAMAGED]
    code = errno.ENOMEM
    with pytest.raises(OSError, match="bad sector"):
        verdicts(written)


def test_what_was_deleted_is_told_from_damage(written: Path) -> None:
    gone = frame(written, 2)
    with written.open("r+b") as file:
        file.seek(gone.offset)
        file.write(bytes(gone.end - gone.offset))
    assert verdicts(written)[2] is DAMAGED
    with SegmentReader(written, {gone.offset: gone.end}) as reader:
        assert [part.verdict for part in judge_frames(reader, bodies=True)] == [WHOLE, WHOLE, DELETED, WHOLE]


def test_segments_of_release_01_are_judged(tmp_path: Path) -> None:
    path = tmp_path / "00000001.log"
    path.write_bytes(old_segment(received(1), received(2)))
    assert verdicts(path) == [WHOLE] * 3
    flip(path, path.stat().st_size - 1)
    assert verdicts(path) == [WHOLE, WHOLE, DAMAGED]


# -- what depends on it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", [False, True])
def test_only_files_that_no_frame_can_name_are_strays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    """However many segments the life had, and wherever the frame of a large instance is in it."""
    monkeypatch.setattr("storage.log.segments.store.LOOKED_FOR", 2)
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 1)
    life = Journal(tmp_path / "receive-0")
    life.open()
    stray = life.large()
    for number in range(1, 6):
        life.store(received(number).instance, received(number).file)
    large = life.large()
    large.write(received(7).file)
    life.store_large(received(7).instance, large)
    life.close()
    last = list_segments(life.folder)[-1]
    if damaged:
        (kept,) = (f for f in (frame(last, 0),) if f.kind is FrameKind.LARGE_INSTANCE)
        flip(last, kept.offset + 50)
    Segments(tmp_path).remove_stray_files("receive-0", range(1, 99))
    assert stray.path.exists() is damaged
    assert large.path.exists()
