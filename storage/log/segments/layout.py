"""The beginning and the end of a segment.

A segment begins with its head, twice, so that one bad block does not make all frames behind it unreadable:

    magic "DNS2", version (u32), salt (16 bytes), CRC-32 of this, at 0 and again at 4096; frames follow the second one

A segment that is sealed ends with the frame SEALED, whose body is the table of all whole frames before it, and with a
footer of a fixed size that says where this frame begins:

    for each frame its fields as in its head, and its offset (u64)
    magic "DNE2", offset of the frame SEALED (u64)

A segment is sealed if it ends with a footer, and this leads to a whole table that ends where the footer begins. Nothing
is appended to it any more. Any other segment may be sealed, instead of what a crash cut off at its end.
"""

import struct
import zlib

from storage.errors import Retriable
from storage.log.files import BytesLike
from storage.log.segments.frames import FIELDS, FrameHead, FrameKind, encode_head, new_frame

VERSION = 2
SALT_BYTES = 16
_MAGIC = b"DNS2"
_END_MAGIC = b"DNE2"
_HEAD = struct.Struct(f"<4sI{SALT_BYTES}s")
_CRC = struct.Struct("<I")
_SECOND_AT = 4096
FIRST_FRAME = _SECOND_AT + _HEAD.size + _CRC.size
_FOOTER = struct.Struct("<4sQ")
FOOTER_BYTES = _FOOTER.size
_ENTRY = struct.Struct(f"{FIELDS.format}Q")


def encode_segment_head(salt: bytes) -> bytes:
    """Return the bytes before the first frame."""
    head = _HEAD.pack(_MAGIC, VERSION, salt)
    head += _CRC.pack(zlib.crc32(head))
    return head.ljust(_SECOND_AT, b"\0") + head


def decode_salt(beginning: bytes) -> bytes | None:
    """Return the salt of the segment that begins with these bytes; None if both heads are damaged, or there is none.

    Raises Retriable for a segment of a later version, which this version must leave alone.
    """
    for at in (0, _SECOND_AT):
        head = beginning[at : at + _HEAD.size]
        check = beginning[at + _HEAD.size : at + _HEAD.size + _CRC.size]
        if not head.startswith(_MAGIC) or check != _CRC.pack(zlib.crc32(head)):
            continue
        _, version, salt = _HEAD.unpack(head)
        if version != VERSION:
            raise Retriable("A segment of a journal was written by a later version of this node")
        return bytes(salt)
    return None


class FrameTable:
    """The table of the frames of a segment, while it grows."""

    def __init__(self) -> None:
        self._entries = bytearray()

    def add(self, head: FrameHead, offset: int) -> None:
        self._entries += _ENTRY.pack(*head, offset)

    def seal(self, offset: int, salt: bytes) -> tuple[BytesLike, ...]:
        """Return the frame SEALED and the footer, which are to be written at this offset."""
        sealed = new_frame(FrameKind.SEALED, {}, [bytes(self._entries)])
        return (encode_head(sealed.head, offset, salt), *sealed.content, _FOOTER.pack(_END_MAGIC, offset))


def decode_table(body: bytes) -> dict[int, FrameHead]:
    """Return the heads of frames by their offsets, in the order of the segment."""
    return {offset: FrameHead(*fields) for *fields, offset in _ENTRY.iter_unpack(body)}


def decode_footer(encoded: bytes) -> int | None:
    """Return where the frame SEALED begins that is before this footer; None if these bytes are no footer."""
    if len(encoded) != FOOTER_BYTES or not encoded.startswith(_END_MAGIC):
        return None
    _, sealed_at = _FOOTER.unpack(encoded)
    return int(sealed_at)
