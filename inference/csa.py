"""The CSA header: a private block in which Siemens keeps attributes by name, values as text.

Two layouts are found. The later one begins with SV10 and four bytes; then, in either, come the number of tags and four
bytes. A tag has 84 bytes: its name (64), the number of values, VR, data type, the number of items and four bytes more.
An item has 16 bytes, of which one of the first two numbers is a length, and so many bytes of text, padded to a multiple
of four. All numbers have 32 bits, little endian.
"""

import struct
from collections.abc import Collection

TAG = struct.Struct("<64si4siii")
ITEM = struct.Struct("<4i")
LATER = b"SV10"


def read_csa(block: bytes, names: Collection[str]) -> dict[str, list[str]]:
    """The values of the tags called `names`; a tag that is not there is left out.

    The block comes from outside: every length is held against what is left of it, so that it is read in one pass or
    refused. Raises ValueError for a block that does not hold what it announces.
    """
    later = block[:4] == LATER
    found: dict[str, list[str]] = {}
    try:
        at = 8 if later else 0
        (tags,) = struct.unpack_from("<I", block, at)
        at += 8
        surplus: int | None = None  # of the earlier layout's lengths: the first tag's number of items
        for _ in range(tags):
            name, multiplicity, _, _, items, _ = TAG.unpack_from(block, at)
            at += TAG.size
            surplus = items if surplus is None else surplus
            texts = []
            for _ in range(items):
                numbers = ITEM.unpack_from(block, at)
                at += ITEM.size
                length = numbers[1] if later else numbers[0] - surplus
                if not 0 <= length <= len(block) - at:
                    raise ValueError("a value of the CSA header is longer than the header")
                texts.append(_text(block[at : at + length]))
                at += -(-length // 4) * 4
            if (text := _text(name)) in names:
                found[text] = texts[: multiplicity or None]
    except struct.error:
        raise ValueError("the CSA header ends before its last tag") from None
    return found


def _text(value: bytes) -> str:
    return value.split(b"\0", 1)[0].decode("latin-1").strip()
