"""The reading of segments: frames in their order, also behind damage, and bodies only where they are wanted.

A frame that a crash cut off is short, or has a wrong checksum, and ends its segment. Such a frame was never
acknowledged, unless the device lost bytes that it had reported as written. Therefore damaged bytes are kept, unless
they are plainly the beginning of a frame.
"""

import errno
import fcntl
import os
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Protocol

from storage.errors import DamagedFrame
from storage.log.segments.disk import drop_cached, read_all
from storage.log.segments.frames import (
    HEAD_BYTES,
    MAGIC,
    Frame,
    FrameHead,
    FrameKind,
    decode_head,
    decode_meta,
    gone_frame,
)
from storage.log.segments.layout import FIRST_FRAME, FOOTER_BYTES, decode_footer, decode_salt, decode_table
from storage.log.segments.release01 import OLD_MAGIC, OldFrames

SEARCHED_AT_ONCE = 2**20
NOTHING_DELETED: Mapping[int, int] = MappingProxyType({})


class SegmentFrames(Protocol):
    """The frames of one segment, as its format and its state allow them to be found."""

    first: int  # where the first frame begins
    size: int  # where the last one ends at the latest
    sealed: bool

    def at(self, offset: int) -> Frame | None:
        """Return the whole frame at this offset; None if there is none."""
        ...

    def following(self, offset: int) -> int | None:
        """Return the offset of the first whole frame behind damage that begins here."""
        ...

    def is_cut_off(self, offset: int) -> bool:
        """Return True if what begins here was never finished."""
        ...

    def lists_from(self, offset: int) -> bool:
        """Return True if a table says that frames were written here or behind."""
        ...

    def offsets(self, kinds: Collection[FrameKind]) -> list[int] | None:
        """Return where the frames of these kinds begin; None if nothing but reading all frames tells that."""
        ...

    def end(self, offset: int) -> int | None:
        """Return where the frame ends that begins here, whatever its content; None if its head is damaged."""
        ...


class UnsealedFrames:
    """The frames of a segment without a table. Each leads to the next one.

    Such a segment may hold torn frames. So a frame counts as whole once its body was checked, unless the segment is
    `live`: as long as its writer runs, all bytes are there that the size of the file promises.
    """

    first = FIRST_FRAME
    sealed = False

    def __init__(self, descriptor: int, size: int, salt: bytes, live: bool) -> None:
        self._descriptor = descriptor
        self.size = size
        self.salt = salt
        self.live = live

    def at(self, offset: int) -> Frame | None:
        head = self._head(offset)
        if head is None or not self._is_written(offset + HEAD_BYTES + head.content_bytes):
            return None
        frame = self._read(head, offset)
        if frame is None or self.live:
            return frame
        return frame if is_whole(frame, self._body(frame)) else None

    def following(self, offset: int) -> int | None:
        """Search for the next frame. Only one of this segment, at its own offset, has the right check."""
        while searched := read_all(self._descriptor, offset, min(SEARCHED_AT_ONCE, max(0, self.size - offset))):
            found = searched.find(MAGIC, 1)
            while found >= 0:
                if self.at(offset + found) is not None:
                    return offset + found
                found = searched.find(MAGIC, found + 1)
            offset += max(1, len(searched) - len(MAGIC))
        return None

    def is_cut_off(self, offset: int) -> bool:
        head = self._head(offset)
        if head is None:
            footer = decode_footer(read_all(self._descriptor, offset, FOOTER_BYTES))
            return self.size - offset < HEAD_BYTES or footer is not None  # the torn end gave way to it meanwhile
        return head.kind == FrameKind.SEALED or offset + HEAD_BYTES + head.content_bytes > self.size

    def lists_from(self, offset: int) -> bool:
        return False

    def offsets(self, kinds: Collection[FrameKind]) -> list[int] | None:
        return None

    def end(self, offset: int) -> int | None:
        head = self._head(offset)
        return None if head is None else offset + HEAD_BYTES + head.content_bytes

    def _head(self, offset: int) -> FrameHead | None:
        return decode_head(read_all(self._descriptor, offset, HEAD_BYTES), offset, self.salt)

    def _read(self, head: FrameHead, offset: int) -> Frame | None:
        """Return the frame, without its body; None if its meta or its kept header is damaged."""
        content = read_all(self._descriptor, offset + HEAD_BYTES, head.meta_bytes + head.kept_bytes)
        if zlib.crc32(content) != head.meta_crc:
            return None
        meta = decode_meta(head.kind, content[: head.meta_bytes])
        if meta is None:
            return None
        return Frame(head, offset, offset + HEAD_BYTES + len(content), meta, content[head.meta_bytes :])

    def _body(self, frame: Frame) -> bytes:
        return read_all(self._descriptor, frame.body_offset, frame.head.body_bytes)

    def _is_written(self, end: int) -> bool:
        """Return True if the file reaches to `end`.

        A live writer may have cut off a frame that did not fit since the size was read, and begun another one there.
        """
        return end <= self.size and (not self.live or end <= os.fstat(self._descriptor).st_size)


class SealedFrames(UnsealedFrames):
    """The frames of a sealed segment. Its table has their heads, so damage hides only the frame that it hits."""

    sealed = True

    def __init__(self, descriptor: int, size: int, salt: bytes, table: dict[int, FrameHead]) -> None:
        super().__init__(descriptor, size, salt, live=False)
        self._table = table

    def at(self, offset: int) -> Frame | None:
        head = self._table.get(offset)
        return None if head is None else self._read(head, offset)

    def is_cut_off(self, offset: int) -> bool:
        return not self.lists_from(offset) and super().is_cut_off(offset)

    def lists_from(self, offset: int) -> bool:
        return any(at >= offset for at in self._table)

    def following(self, offset: int) -> int | None:
        return next((at for at in self._table if at > offset and self.at(at) is not None), None)

    def offsets(self, kinds: Collection[FrameKind]) -> list[int] | None:
        return [offset for offset, head in self._table.items() if head.kind in kinds]

    def _head(self, offset: int) -> FrameHead | None:
        return self._table.get(offset) or super()._head(offset)


class SegmentReader:
    """A reader of the frames of a segment that may still grow. `path` must exist.

    Only the bytes that were there at the start are read, because a reader that follows the writer would get one frame
    at a time. `deleted` has the end of each frame that was deleted, by its offset: such a frame is yielded as GONE,
    whatever is left of it. Raises Retriable for a segment of a later version.
    """

    def __init__(self, path: Path, deleted: Mapping[int, int] = NOTHING_DELETED) -> None:
        self.path = path
        self._deleted = deleted
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._frames = _find_frames(self.descriptor)
        except BaseException:
            os.close(self.descriptor)
            raise

    def __enter__(self) -> "SegmentReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self.descriptor)

    @property
    def first(self) -> int:
        """Return the offset of the first frame."""
        return self._frames.first

    @property
    def size(self) -> int:
        """Return the offset behind the last frame, which is the table of a sealed segment or the end of the file."""
        return self._frames.size

    @property
    def unsealed(self) -> UnsealedFrames | None:
        """Return the frames of a segment that may be sealed; None for any other."""
        return self._frames if isinstance(self._frames, UnsealedFrames) and not self._frames.sealed else None

    @property
    def is_sealed(self) -> bool:
        return self._frames.sealed

    @property
    def is_live(self) -> bool:
        """Return True if a process was writing this segment when it was opened."""
        return self.unsealed is not None and self.unsealed.live

    def drop_cached(self) -> None:
        """Have everything read from the disk the next time, and not from the page cache."""
        drop_cached(self.descriptor, 0, os.fstat(self.descriptor).st_size)

    def sync(self) -> None:
        """Make the bytes that were read durable: a row must never refer to bytes that a loss of power destroys."""
        os.fdatasync(self.descriptor)

    def frames(self, start: int) -> Iterator[Frame]:
        """Yield the whole frames from `start` on, up to the first one that is unfinished or damaged.

        The body of a frame is read only if it may be torn: in a segment that is neither sealed nor being written.
        """
        start = max(start, self.first)
        while (frame := self._at(start)) is not None:
            yield frame
            start = frame.end

    def next_frame(self, start: int) -> int | None:
        """Return the offset of the next whole frame, at `start` or after damaged bytes; None if there is none.

        Frames are appended one after another. Therefore bytes before a whole frame are damaged, and not a frame that is
        still being written.
        """
        return start if self._at(start) is not None else self._frames.following(start)

    def all_frames(self) -> Iterator[Frame]:
        """Yield the whole frames of the segment, also those behind damage."""
        start: int | None = self.first
        while start is not None:
            for frame in self.frames(start):
                yield frame
                start = frame.end
            start = self.next_frame(start)

    def frames_of(self, kinds: Collection[FrameKind]) -> Iterator[Frame]:
        """Yield the whole frames of these kinds. In a sealed segment no others are read."""
        offsets = self._frames.offsets(kinds)
        found = self.all_frames() if offsets is None else map(self._at, offsets)
        yield from (frame for frame in found if frame is not None and frame.kind in kinds)

    def end_of(self, offset: int) -> int | None:
        """Return where the frame ends that begins at this offset; None if its head is damaged."""
        return self._frames.end(offset)

    def _at(self, offset: int) -> Frame | None:
        end = self._deleted.get(offset)
        if end is not None:
            return gone_frame(offset, end)
        try:
            return self._frames.at(offset)
        except OSError as error:
            if error.errno != errno.EIO or not self.is_sealed or not self._can_be_read():
                raise
            return None  # a bad sector damages one frame, and must not hide those behind it

    def _can_be_read(self) -> bool:
        """Return True if the disk reads at least the beginning of the segment."""
        drop_cached(self.descriptor, 0, 1)
        try:
            return bool(read_all(self.descriptor, 0, 1))
        except OSError:
            return False

    def body(self, frame: Frame) -> bytes:
        """Return the body of a frame of this segment. Raises DamagedFrame if it is not what was written."""
        body = read_all(self.descriptor, frame.body_offset, frame.head.body_bytes)
        if not is_whole(frame, body):
            raise DamagedFrame("The body of a frame has another checksum than was written")
        return body

    def is_cut_off(self, start: int) -> bool:
        """Return True if the bytes from `start` on were certainly never flushed.

        They are then the beginning of a frame without its end, or space that was reserved and not written.
        """
        if self._frames.is_cut_off(start):
            return True
        return not self._frames.lists_from(start) and not any(self.between(start, self.size))

    def between(self, start: int, end: int) -> bytes:
        return read_all(self.descriptor, start, end - start)


def frame_at(descriptor: int, offset: int) -> Frame | None:
    """Return the frame that begins at this offset; None if its head, meta or kept header is not what was written.

    Its own head is read, also where the table of a sealed segment has a copy. Its body is read only in a segment of
    release 0.1. Raises Retriable for a segment of a later version.
    """
    salt, size = _salt(descriptor), os.fstat(descriptor).st_size
    frames = OldFrames(descriptor, size) if salt is None else UnsealedFrames(descriptor, size, salt, live=True)
    return frames.at(offset)


def is_whole(frame: Frame, body: bytes) -> bool:
    """Return True if these bytes are the body of this frame as it was written."""
    return len(body) == frame.head.body_bytes and zlib.crc32(body) == frame.head.body_crc


def _find_frames(descriptor: int) -> SegmentFrames:
    live = _is_live(descriptor)
    size = os.fstat(descriptor).st_size
    salt = _salt(descriptor)
    if salt is None:
        return OldFrames(descriptor, size)
    footer_at = size - FOOTER_BYTES
    sealed_at = decode_footer(read_all(descriptor, footer_at, FOOTER_BYTES)) if footer_at > FIRST_FRAME else None
    if sealed_at is not None and sealed_at < footer_at:  # an image may end with any bytes
        sealed = UnsealedFrames(descriptor, footer_at, salt, live=False).at(sealed_at)
        if sealed is not None and sealed.kind is FrameKind.SEALED and sealed.end == footer_at:
            table = decode_table(read_all(descriptor, sealed.body_offset, sealed.head.body_bytes))
            return SealedFrames(descriptor, sealed.offset, salt, table)
    return UnsealedFrames(descriptor, size, salt, live)


def _salt(descriptor: int) -> bytes | None:
    """Return the salt of a segment; None if it is one of release 0.1, or damaged as if it were."""
    beginning = read_all(descriptor, 0, FIRST_FRAME)
    # An image of release 0.1 may lie where the second head of a segment would be.
    return None if beginning.startswith(OLD_MAGIC) else decode_salt(beginning)


def _is_live(descriptor: int) -> bool:
    """Return True if the writer of a segment holds its lock. A writer that was killed holds none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False
