"""The frames of a journal: their kinds, and how a frame is encoded and decoded.

A frame is

    magic "DNJ1", kind (u8), 3 bytes of zero, length of the meta (u32), length of the body (u64), CRC-32 of meta and
    body (u32), CRC-32 of all of this (u32), little endian; then the meta, JSON in UTF-8; then the body.

The body of an instance is its Part 10 file as it will be filed. An instance that is too large for a frame has a file of
its own beside the segment (the file of frames); its frame names this file.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from storage.log.files import BytesLike
from storage.records.instances import Facts, ReceivedInstance
from storage.records.patients import PatientIdentity

MAGIC = b"DNJ1"
_HEAD = struct.Struct("<4sB3xIQI")
_CRC = struct.Struct("<I")
HEAD_BYTES = _HEAD.size + _CRC.size


class FrameKind(IntEnum):
    """The kind of a frame, as its head stores it."""

    UNKNOWN = 0  # written by another version of this node
    STARTED = 1  # the receiver was started: associations that are still open have broken off
    ASSOCIATION = 2  # a peer opened an association
    INSTANCE = 3  # the body is the Part 10 file
    LARGE_INSTANCE = 4  # the meta names the file that is the Part 10 file
    ASSOCIATION_ENDED = 5  # an association was released or aborted
    REFUSED = 6  # instances of an association were refused: how many, by status


@dataclass(frozen=True)
class Frame:
    """A whole frame of a segment."""

    kind: FrameKind
    meta: dict[str, Any]
    body: bytes
    end: int  # where the next frame begins


@dataclass(frozen=True)
class FrameHead:
    """The head of a frame, after its checksum was found to be right."""

    kind: FrameKind
    meta_bytes: int
    body_bytes: int
    crc: int  # of meta and body

    @property
    def content_bytes(self) -> int:
        return self.meta_bytes + self.body_bytes


def encode_frame(kind: FrameKind, meta: dict[str, Any], parts: Sequence[BytesLike]) -> tuple[BytesLike, ...]:
    """Return the pieces of a frame whose body is the concatenation of `parts`, none of which is copied."""
    encoded = json.dumps(meta, separators=(",", ":"), ensure_ascii=False).encode()
    crc = zlib.crc32(encoded)
    for part in parts:
        crc = zlib.crc32(part, crc)
    head = _HEAD.pack(MAGIC, kind, len(encoded), sum(len(part) for part in parts), crc)
    return (head, _CRC.pack(zlib.crc32(head)), encoded, *parts)


def decode_head(head: bytes) -> FrameHead | None:
    """Return the head at the beginning of these bytes; None if they begin with none."""
    if len(head) < HEAD_BYTES or _CRC.unpack_from(head, _HEAD.size)[0] != zlib.crc32(head[: _HEAD.size]):
        return None
    magic, kind, meta_bytes, body_bytes, crc = _HEAD.unpack_from(head)
    if magic != MAGIC:
        return None
    known = FrameKind(kind) if kind in FrameKind._value2member_map_ else FrameKind.UNKNOWN
    return FrameHead(known, meta_bytes, body_bytes, crc)


def decode_content(head: FrameHead, content: bytes, end: int) -> Frame | None:
    """Return the frame of this head and content, which ends at `end`; None if the content is damaged."""
    if zlib.crc32(content) != head.crc:
        return None
    meta = json.loads(content[: head.meta_bytes])
    return Frame(head.kind, meta, content[head.meta_bytes :], end)


def instance_of(meta: dict[str, Any]) -> ReceivedInstance:
    """Return the instance that the meta of an INSTANCE or LARGE_INSTANCE frame describes."""
    return ReceivedInstance(
        **{key: meta[key] for key in _PLAIN_FIELDS},
        received_at=datetime.fromisoformat(meta["received_at"]),
        facts=Facts.from_json(meta["facts"]),
        patient=PatientIdentity.from_json(meta.get("patient", {})),  # journals of earlier versions have none
    )


def meta_of(instance: ReceivedInstance) -> dict[str, Any]:
    """Return the meta of an instance's frame, from which `instance_of` restores the instance."""
    return {key: getattr(instance, key) for key in _PLAIN_FIELDS} | {
        "received_at": instance.received_at.isoformat(),
        "facts": instance.facts.to_json(),
        "patient": instance.patient.to_json(),
    }


_PLAIN_FIELDS = tuple(set(ReceivedInstance.__dataclass_fields__) - {"received_at", "facts", "patient"})
