"""The encodings of elements (PS3.5 chapter 7): transfer syntaxes, byte order, heads of elements, and VRs."""

import struct
from dataclasses import dataclass

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

# A private transfer syntax of GE: implicit VR little endian, except for the words of the pixel data.
GE_PRIVATE_IMPLICIT = "1.2.840.113619.5.2"
JPIP_REFERENCED_DEFLATE = "1.2.840.10008.1.2.4.95"
JPIP_HTJ2K_REFERENCED_DEFLATE = "1.2.840.10008.1.2.4.205"

IMPLICIT = frozenset({str(ImplicitVRLittleEndian), GE_PRIVATE_IMPLICIT})
DEFLATED = frozenset({str(DeflatedExplicitVRLittleEndian), JPIP_REFERENCED_DEFLATE, JPIP_HTJ2K_REFERENCED_DEFLATE})
BIG_ENDIAN = frozenset({str(ExplicitVRBigEndian)})

SHORT_VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()  # a length of 16 bits (PS3.5 7.1.2)
)
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # two bytes reserved, a length of 32 bits

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # Float, Double Float, and integers

LITTLE_LONG = struct.Struct("<L")
UNKNOWN_HEAD = struct.Struct("<HH2sHL")  # group, element, VR, reserved, length


@dataclass(frozen=True, eq=False)
class ByteOrder:
    """The structures of elements in one byte order.

    Tags and VRs are compared as the numbers that these structures read, because that is quicker. In little endian the
    group is the lower half of a tag.
    """

    little: bool
    head: struct.Struct  # tag, VR, length of 16 bits
    long: struct.Struct  # a length of 32 bits
    short_vrs: frozenset[int]
    long_vrs: frozenset[int]
    un: int
    sq: int

    def key(self, tag: int) -> int:
        """Return the number that `head` reads for a tag, and the tag for such a number."""
        return tag >> 16 | (tag & 0xFFFF) << 16 if self.little else tag


def _byte_order(little: bool) -> ByteOrder:
    def numbers(vrs: frozenset[bytes]) -> frozenset[int]:
        return frozenset(int.from_bytes(vr, "little" if little else "big") for vr in vrs)

    sign = "<" if little else ">"
    (un,), (sq,) = numbers(frozenset({b"UN"})), numbers(frozenset({b"SQ"}))
    head, long = struct.Struct(f"{sign}LHH"), struct.Struct(f"{sign}L")
    return ByteOrder(little, head, long, numbers(SHORT_VRS), numbers(LONG_VRS), un, sq)


LITTLE, BIG = _byte_order(True), _byte_order(False)


def value_of(element: bytes, implicit: bool) -> bytes:
    """Return the value of an encoded element, in either byte order."""
    return element[12:] if not implicit and element[4:6] in LONG_VRS else element[8:]


class MoreNeeded(Exception):
    """More bytes are needed to read an element."""


class StructureLost(Exception):
    """The structure of the dataset is lost, from the element of this tag on."""

    def __init__(self, tag: int) -> None:
        super().__init__()
        self.tag = tag
