"""The CSA header: a private block in which Siemens keeps attributes by name, with their values as text.

It begins with SV10 and four bytes, followed by the number of tags and four bytes. A tag has 84 bytes: its name (64),
the number of values, VR, data type, the number of items and four bytes more. An item has 16 bytes, the second four of
which are its length, followed by that many bytes of text, padded to a multiple of four. Numbers have 32 bits, little
endian. Scanners before 2004 used another layout, without SV10.
"""

import struct
from collections.abc import Collection

TAG = struct.Struct("<64si4siii")
ITEM = struct.Struct("<4i")
SIGNATURE = b"SV10"


def read_csa(block: bytes, names: Collection[str]) -> dict[str, list[str]]:
    """Return the values of the tags with these `names`. Tags that the block does not hold are left out.

    The block comes from outside the node, so every length is compared with the bytes that remain: the block is read in
    one pass or refused. Raises ValueError for a block that is shorter than its lengths say.
    """
    if not block.startswith(SIGNATURE):
        raise ValueError("no CSA header begins so")
    found: dict[str, list[str]] = {}
    try:
        (tags,) = struct.unpack_from("<I", block, 8)
        at = 16
        for _ in range(tags):
            name, number, _, _, items, _ = TAG.unpack_from(block, at)
            at += TAG.size
            texts = []
            for _ in range(items):
                _, length, _, _ = ITEM.unpack_from(block, at)
                at += ITEM.size
                if not 0 <= length <= len(block) - at:
                    raise ValueError("a value of the CSA header is longer than the header")
                texts.append(_text(block[at : at + length]))
                at += -(-length // 4) * 4
            if (text := _text(name)) in names:
                found[text] = texts[: number or None]
    except struct.error:
        raise ValueError("the CSA header ends before its last tag") from None
    return found


def _text(value: bytes) -> str:
    return value.split(b"\0", 1)[0].decode("latin-1").strip()
