"""The frames of a segment: their kinds, and how the head of a frame is encoded, checked and decoded.

A frame is

    magic "DNF2", kind (u8), 3 bytes of zero, length of the meta (u32), length of the kept header (u32), length of the
    body (u64), CRC-32 of meta and kept header (u32), CRC-32 of the body (u32), keyed check of all of this (8 bytes),
    little endian; then the meta, JSON in UTF-8; then the kept header; then the body.

The keyed check is a BLAKE2b of the head and of its offset in the segment. Its key is the salt of the segment, which no
peer can know. Therefore no bytes of an image are ever taken for a frame, even if the image holds a copy of a segment.

The body of an instance is its Part 10 file as it will be filed. An instance that is too large for a frame has a file of
its own beside the segment (the file of frames); its frame names this file.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from hashlib import blake2b
from typing import Any, NamedTuple

from storage.log.files import BytesLike
from storage.log.segments.names import LARGE_NAME
from storage.records.instances import ContentHashes, Facts, ReceivedInstance
from storage.records.patients import PatientIdentity, Subject

MAGIC = b"DNF2"
CHECK_BYTES = 8
FIELDS = struct.Struct("<B3xIIQII")  # of a FrameHead
_OFFSET = struct.Struct("<Q")
HEAD_BYTES = len(MAGIC) + FIELDS.size + CHECK_BYTES


class FrameKind(IntEnum):
    """The kind of a frame, as its head stores it."""

    UNKNOWN = 0  # written by another version of this node
    STARTED = 1  # the receiver was started: associations that are still open have broken off
    ASSOCIATION = 2  # a peer opened an association
    INSTANCE = 3  # the body is the Part 10 file
    LARGE_INSTANCE = 4  # the meta names the file that is the Part 10 file
    ASSOCIATION_ENDED = 5  # an association was released or aborted
    REFUSED = 6  # instances of an association were refused: how many, by status
    SEALED = 7  # the body is the table of all frames before it

    # Frames of the log of the index role (`storage.log.index_log`).
    TAKEN = 64  # frames of a receiver were indexed
    OWN = 65  # UIDs of results of this node
    DELETION = 66  # instances are deleted: the body says where they lie
    DELETED = 67  # everything that a DELETION names is gone
    ROUTED = 68  # studies were routed

    GONE = 255  # is in no segment: a reader yields it for a frame that was deleted


class FrameHead(NamedTuple):
    """The fields of a frame's head, in their order."""

    kind: int  # a FrameKind, or a number of another version
    meta_bytes: int
    kept_bytes: int
    body_bytes: int
    meta_crc: int  # of meta and kept header
    body_crc: int

    @property
    def content_bytes(self) -> int:
        return self.meta_bytes + self.kept_bytes + self.body_bytes


@dataclass(frozen=True)
class Frame:
    """A frame whose meta and kept header were read and are right. `SegmentReader.body` reads its body.

    A frame of kind GONE has no content: whatever lies there was deleted.
    """

    head: FrameHead
    offset: int  # of the head in the segment
    body_offset: int
    meta: dict[str, Any] = field(repr=False)
    kept: bytes = field(repr=False)

    @property
    def kind(self) -> FrameKind:
        return FrameKind(self.head.kind) if self.head.kind in _KINDS else FrameKind.UNKNOWN

    @property
    def end(self) -> int:
        """Return the offset of the next frame."""
        return self.body_offset + self.head.body_bytes


_KINDS = frozenset(FrameKind)


def gone_frame(offset: int, end: int) -> Frame:
    """Return what stands for a frame that was deleted."""
    return Frame(FrameHead(FrameKind.GONE, 0, 0, 0, 0, 0), offset, end, {}, b"")


class NewFrame(NamedTuple):
    """A frame that has no place in a segment yet: its head, and the pieces of its content, none of which is copied."""

    head: FrameHead
    content: tuple[BytesLike, ...]


_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def new_frame(kind: FrameKind, meta: dict[str, Any], body: Sequence[BytesLike] = (), kept: bytes = b"") -> NewFrame:
    """Return the frame whose body is the concatenation of the pieces `body`."""
    encoded = _to_json(meta).encode()
    body_bytes = body_crc = 0
    for part in body:
        body_bytes += len(part)
        body_crc = zlib.crc32(part, body_crc)
    meta_crc = zlib.crc32(kept, zlib.crc32(encoded))
    return NewFrame(FrameHead(kind, len(encoded), len(kept), body_bytes, meta_crc, body_crc), (encoded, kept, *body))


def keyed_check(fields: bytes, offset: int, salt: bytes) -> bytes:
    """Return the check of fields at this offset of the segment that has this salt."""
    return blake2b(fields + _OFFSET.pack(offset), digest_size=CHECK_BYTES, key=salt).digest()


def encode_head(head: FrameHead, offset: int, salt: bytes) -> bytes:
    """Return the head of a frame at this offset of the segment that has this salt."""
    fields = MAGIC + FIELDS.pack(*head)
    return fields + keyed_check(fields, offset, salt)


def decode_head(encoded: bytes, offset: int, salt: bytes) -> FrameHead | None:
    """Return the head that these bytes are, read at this offset; None if they are none."""
    fields = encoded[:-CHECK_BYTES]
    if len(encoded) != HEAD_BYTES or not encoded.startswith(MAGIC):
        return None
    if keyed_check(fields, offset, salt) != encoded[-CHECK_BYTES:]:
        return None
    return FrameHead(*FIELDS.unpack_from(fields, len(MAGIC)))


def decode_meta(kind: int, encoded: bytes) -> dict[str, Any] | None:
    """Return the meta of a frame; None if it is damaged.

    A meta that names a file of any other form than that of a large instance counts as damaged. So no name ever leads to
    another folder.
    """
    try:
        meta: dict[str, Any] = json.loads(encoded)
    except ValueError:
        return None
    if kind == FrameKind.LARGE_INSTANCE and not LARGE_NAME.fullmatch(str(meta.get("file"))):
        return None
    return meta


def instance_of(meta: dict[str, Any]) -> ReceivedInstance:
    """Return the instance that the meta of an INSTANCE or LARGE_INSTANCE frame describes."""
    return ReceivedInstance(
        **{key: meta[key] for key in _PLAIN_FIELDS},
        received_at=datetime.fromisoformat(meta["received_at"]),
        facts=Facts.from_json(meta["facts"]),
        subject=_subject_of(meta["subject"]) if "subject" in meta else None,
        hashes=ContentHashes(**meta["hashes"]) if "hashes" in meta else None,
        patient=PatientIdentity.from_json(meta.get("patient", {})),  # of release 0.1 alone
    )


def meta_of(instance: ReceivedInstance) -> dict[str, Any]:
    """Return the meta of an instance's frame, from which `instance_of` restores the instance.

    What identifies its patient is in there as keyed hashes alone. `patient`, which is in clear, is left out.
    """
    meta = {key: getattr(instance, key) for key in _PLAIN_FIELDS}
    meta["received_at"] = instance.received_at.isoformat()
    meta["facts"] = instance.facts.to_json()
    if instance.subject is not None:
        meta["subject"] = {"key": instance.subject.key, **instance.subject.hashes.to_json()}
    if instance.hashes is not None:
        meta["hashes"] = {"pixels": instance.hashes.pixels, "rest": instance.hashes.rest}
    return meta


def _subject_of(plain: dict[str, Any]) -> Subject:
    return Subject(plain["key"], PatientIdentity.from_json(plain))


_OTHER_FIELDS = {"received_at", "facts", "subject", "hashes", "patient"}
_PLAIN_FIELDS = tuple(key for key in ReceivedInstance.__dataclass_fields__ if key not in _OTHER_FIELDS)
