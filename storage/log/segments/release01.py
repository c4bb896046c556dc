"""The frames of release 0.1, which a data directory of that release may still hold. They are read, and never written.

A segment of that release has no head and is never sealed. Its frame is

    magic "DNJ1", kind (u8), 3 bytes of zero, length of the meta (u32), length of the body (u64), CRC-32 of meta and
    body (u32), CRC-32 of all of this (u32), little endian; then the meta, JSON in UTF-8; then the body.
"""

import struct
import zlib
from collections.abc import Collection

from storage.log.segments.disk import read_all
from storage.log.segments.frames import Frame, FrameHead, FrameKind, decode_meta

OLD_MAGIC = b"DNJ1"
_HEAD = struct.Struct("<4sB3xIQI")
_CRC = struct.Struct("<I")
_HEAD_BYTES = _HEAD.size + _CRC.size


class OldFrames:
    """The frames of a segment of release 0.1. Each is read and checked with its body."""

    first = 0
    sealed = False

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self.size = size

    def at(self, offset: int) -> Frame | None:
        """Return the whole frame at this offset; None if there is none."""
        head, crc = self._head(offset)
        if head is None or self._end(head, offset) > self.size:
            return None
        content = read_all(self._descriptor, offset + _HEAD_BYTES, head.content_bytes)
        if zlib.crc32(content) != crc:
            return None
        meta = decode_meta(head.kind, content[: head.meta_bytes])
        if meta is None:
            return None
        head = head._replace(body_crc=zlib.crc32(content[head.meta_bytes :]))
        return Frame(head, offset, offset + _HEAD_BYTES + head.meta_bytes, meta, b"")

    def following(self, offset: int) -> int | None:
        """Return the offset of the first whole frame behind damage that begins here; None if it cannot be known.

        Nothing in this format tells a frame from bytes of an image that look like one. Therefore frames are not
        searched for; they are only found where a damaged frame with a right head ends.
        """
        while (head := self._head(offset)[0]) is not None:
            offset = self._end(head, offset)
            if self.at(offset) is not None:
                return offset
        return None

    def is_cut_off(self, offset: int) -> bool:
        """Return True if the frame that begins here has no end."""
        head, _ = self._head(offset)
        return self.size - offset < _HEAD_BYTES if head is None else self._end(head, offset) > self.size

    def lists_from(self, offset: int) -> bool:
        return False

    def offsets(self, kinds: Collection[FrameKind]) -> list[int] | None:
        return None

    def end(self, offset: int) -> int | None:
        head, _ = self._head(offset)
        return None if head is None else self._end(head, offset)

    def _head(self, offset: int) -> tuple[FrameHead | None, int]:
        encoded = read_all(self._descriptor, offset, _HEAD_BYTES)
        if len(encoded) < _HEAD_BYTES or encoded[_HEAD.size :] != _CRC.pack(zlib.crc32(encoded[: _HEAD.size])):
            return None, 0
        magic, kind, meta_bytes, body_bytes, crc = _HEAD.unpack_from(encoded)
        if magic != OLD_MAGIC:
            return None, 0
        return FrameHead(kind, meta_bytes, 0, body_bytes, 0, 0), crc

    def _end(self, head: FrameHead, offset: int) -> int:
        return offset + _HEAD_BYTES + head.content_bytes
