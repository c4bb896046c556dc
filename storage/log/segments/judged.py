"""The frames of a segment, each with the verdict on it: what checks of the whole log are made of."""

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from storage.errors import DamagedFrame
from storage.log.segments.frames import Frame, FrameKind
from storage.log.segments.reader import SegmentReader


class FrameVerdict(Enum):
    """The state of a part of a segment."""

    WHOLE = "whole"  # a frame as it was written
    DAMAGED = "damaged"  # bytes that were a frame, or a frame whose body has changed
    DELETED = "deleted"  # a frame that was deleted
    TORN = "torn"  # the end of a segment that a crash cut off; nothing in it was acknowledged


@dataclass(frozen=True)
class JudgedFrame:
    """A part of a segment, from `offset` to `end`. `frame` is None if its meta cannot be read.

    Where several damaged frames follow one another, they may be one part.
    """

    verdict: FrameVerdict
    offset: int
    end: int
    frame: Frame | None = None


def judge_frames(reader: SegmentReader, bodies: bool, start: int = 0) -> Iterator[JudgedFrame]:
    """Yield all parts of a segment from `start` on, in their order. With `bodies`, the body of each frame is read.

    What the disk cannot read counts as damaged. Raises OSError for other trouble of the machine.
    """
    start = max(start, reader.first)
    while start < reader.size:
        frame = _frame_at(reader, start)
        if frame is not None and frame.kind is FrameKind.GONE:
            yield JudgedFrame(FrameVerdict.DELETED, start, frame.end)
            start = frame.end
            continue
        if frame is not None:
            yield JudgedFrame(_verdict(reader, frame, bodies), start, frame.end, frame)
            start = frame.end
            continue
        following = _next_at(reader, start)
        if following is None and _is_cut_off(reader, start):
            yield JudgedFrame(FrameVerdict.TORN, start, reader.size)
            return
        end = reader.size if following is None else following
        yield JudgedFrame(FrameVerdict.DAMAGED, start, end)
        start = end


def _frame_at(reader: SegmentReader, start: int) -> Frame | None:
    try:
        return next(reader.frames(start), None)
    except OSError as error:
        _pass_unreadable(error)
        return None


def _next_at(reader: SegmentReader, start: int) -> int | None:
    try:
        return reader.next_frame(start)
    except OSError as error:
        _pass_unreadable(error)
        return None


def _is_cut_off(reader: SegmentReader, start: int) -> bool:
    try:
        return reader.is_cut_off(start)
    except OSError as error:
        _pass_unreadable(error)
        return False


def _pass_unreadable(error: OSError) -> None:
    if error.errno != errno.EIO:
        raise error


def _verdict(reader: SegmentReader, frame: Frame, bodies: bool) -> FrameVerdict:
    if not bodies:
        return FrameVerdict.WHOLE
    try:
        reader.body(frame)
    except DamagedFrame:
        return FrameVerdict.DAMAGED
    except OSError as error:
        _pass_unreadable(error)
        return FrameVerdict.DAMAGED
    return FrameVerdict.WHOLE
