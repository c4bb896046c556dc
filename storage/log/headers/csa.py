"""The CSA header of Siemens, trimmed to a few of its tags. `inference/headers/csa.py` describes and reads it."""

import struct
from collections.abc import Collection

_SIGNATURE = b"SV10"
_COUNT = struct.Struct("<4s4sI4s")  # signature, filling, number of tags, filling
_TAG = struct.Struct("<64s12xI4x")  # name, number of items
_ITEM = struct.Struct("<4xI8x")  # length


def trim_csa(block: bytes, names: Collection[bytes]) -> bytes:
    """Return a CSA header with only those of its tags that have one of these names; empty if it cannot be read."""
    if not block.startswith(_SIGNATURE):
        return b""
    found: dict[bytes, bytes] = {}
    try:
        signature, filling, count, end = _COUNT.unpack_from(block)
        at = _COUNT.size
        for _ in range(count):  # also behind the last of `names`, because damage there makes the block unreadable
            start = at
            name, items = _TAG.unpack_from(block, at)
            at += _TAG.size
            for _ in range(items):
                (length,) = _ITEM.unpack_from(block, at)
                at += _ITEM.size + -(-length // 4) * 4
            if at > len(block):
                return b""
            if (name := name.split(b"\0", 1)[0].strip()) in names:
                found[name] = block[start:at]
    except struct.error:
        return b""
    return b"".join((_COUNT.pack(signature, filling, len(found), end), *found.values()))
