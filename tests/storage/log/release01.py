"""Segments as release 0.1 wrote them."""

import json
import struct
import zlib
from typing import Any

from storage.log.segments.frames import FrameKind, meta_of
from storage.records.instances import ReceivedInstance
from tests.storage.node import Sent


def old_frame(kind: FrameKind, meta: dict[str, Any], body: bytes = b"") -> bytes:
    encoded = json.dumps(meta, separators=(",", ":"), ensure_ascii=False).encode()
    head = struct.pack("<4sB3xIQI", b"DNJ1", kind, len(encoded), len(body), zlib.crc32(encoded + body))
    return head + struct.pack("<I", zlib.crc32(head)) + encoded + body


def old_segment(*sent: Sent) -> bytes:
    started = old_frame(FrameKind.STARTED, {"at": "2026-01-02T03:04:05+00:00"})
    return started + b"".join(old_frame(FrameKind.INSTANCE, old_meta(one.instance), one.file) for one in sent)


def old_meta(instance: ReceivedInstance) -> dict[str, Any]:
    """Return the meta of that release, with the patient in clear."""
    return meta_of(instance) | {"patient": instance.patient.to_json()}
