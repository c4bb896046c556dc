"""Private elements of four vendors, under the creators and the VRs that they document; the values are made up.

An element is written as its number, its VR, how many values it has if there are several, and `*` if it changes from
image to image: `15:FD3*`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from pydicom.dataelem import DataElement
from pydicom.tag import Tag


class Vendor(StrEnum):
    """The vendors, as Manufacturer names them."""

    SIEMENS = "SIEMENS"
    GE = "GE MEDICAL SYSTEMS"
    PHILIPS = "Philips Medical Systems"
    UIH = "UIH"


@dataclass(frozen=True)
class PrivateBlock:
    """The elements of one creator. `number` is the block that they lie in."""

    group: int
    number: int
    creator: str
    elements: str

    def tag(self, element: int) -> int:
        return self.group << 16 | self.number << 8 | element


@dataclass(frozen=True)
class _Spec:
    tag: int
    vr: str
    count: int
    varies: bool


BLOCKS: dict[Vendor, tuple[PrivateBlock, ...]] = {
    Vendor.SIEMENS: (
        PrivateBlock(0x0019, 0x10, "SIEMENS MR HEADER",
                     "08:CS 09:LO 0A:US 0B:DS 0F:SH 11:SH 12:SL3 13:SL3 14:IS3 15:FD3* 16:DS* 17:DS 18:IS 28:FD"),
        PrivateBlock(0x0029, 0x10, "SIEMENS CSA HEADER", "08:CS 09:LO 18:CS 19:LO"),
        PrivateBlock(0x0029, 0x11, "SIEMENS MEDCOM HEADER2", "60:LO"),
        PrivateBlock(0x0051, 0x10, "SIEMENS MR HEADER",
                     "08:CS 09:LO 0A:LO 0B:LO 0C:LO 0D:SH* 0E:LO 0F:LO 11:LO 12:SH 13:SH 15:SH 16:LO 17:SH 19:LO"),
    ),
    Vendor.GE: (
        PrivateBlock(0x0009, 0x10, "GEMS_IDEN_01", "01:LO 02:SH 04:SH 27:SL 30:SH 31:SH E3:UI E7:UL E9:SL"),
        PrivateBlock(0x0019, 0x10, "GEMS_ACQU_01",
                     "0F:DS 11:SS 12:SS 17:SS 18:DS* 19:DS 1A:DS 1B:LO 1E:DS 5A:FL 7D:DS 7E:SS 7F:DS 80:DS 81:SS 82:SS "
                     "84:DS 85:SS 86:SS 87:SS 88:DS 8A:SS 8B:SS 8D:DS 8F:SS 90:SS 91:SS 92:SS 93:DS 94:SS 95:SS 96:SS "
                     "97:SL 9B:SS 9C:LO 9D:DT 9E:LO 9F:SS A0:SS A1:DS A2:SL A4:SS A7:DS A8:DS A9:DS AA:DS AB:DS AC:DS "
                     "B0:DS B1:DS B2:DS B3:DS B4:DS B5:DS B6:DS B7:DS B8:DS B9:DS BA:DS BE:DS C0:SS C1:SS C2:SS C3:SS "
                     "C4:SS C5:SS C6:SS C7:SS C8:SS C9:SS CA:SS CB:SS CC:DS CD:SS CE:DS CF:SS D0:SH D1:SS D2:SS D3:SH "
                     "D5:SS D6:SS D7:SS D8:SS D9:DS DF:DS E2:DS F2:SS F9:DS"),
        PrivateBlock(0x0021, 0x10, "GEMS_RELA_01",
                     "03:SS 05:SH 07:SS 10:SS 18:SH 19:SS 20:SS 35:SS 36:SS 37:SS 4F:SS 50:SS 51:DS 52:DS 53:DS 54:DS "
                     "55:DS 56:SL 57:SL 58:SL 59:SL 5B:DS 5C:DS 5D:DS 5E:DS 5F:DS 81:DS 82:SS 83:DS 84:DS"),
        PrivateBlock(0x0025, 0x10, "GEMS_SERS_01", "06:SS 07:SL 10:SS 11:SS 14:SL 17:SL 18:SL 19:SL 1A:SH 1B:OB"),
        PrivateBlock(0x0027, 0x10, "GEMS_IMAG_01",
                     "06:SL 10:SS 1C:SL 1D:SS 30:SH 31:SS 32:SS 33:UL 35:SS 40:SH 41:FL* 42:FL* 43:FL* 44:FL* 45:FL* "
                     "46:FL* 47:FL* 48:FL* 49:FL* 4A:FL* 60:FL 61:FL 62:FL"),
        PrivateBlock(0x0029, 0x10, "GEMS_IMPS_01", "04:SL 05:DS 06:DS 07:SL 08:SH 09:SH 0A:SS 15:SL 16:SL 17:SL 18:SL"),
        PrivateBlock(0x0043, 0x10, "GEMS_PARM_01",
                     "01:SS 02:SS 03:SS 04:SS 05:SS 06:SS 07:SS 08:SS 09:SS 0A:SS 0B:SS 0C:DS 0D:DS 0E:DS 0F:DS 10:SS "
                     "1C:SS 1D:SS 1E:DS 20:DS 28:OB 29:OB 2A:OB 2C:SS 2D:SH 2E:SH 2F:SS 30:SS 31:DS2 32:SS 33:FL 34:IS "
                     "35:UL 36:UL 37:UL 38:FL24 60:IS8 61:UI 62:SH 6F:DS3 7D:SS 80:LO5 81:LO 82:LO4 83:DS2 84:LO 88:UI "
                     "89:LO3 8A:CS 90:LO3 95:LO 96:CS 97:LO8 98:UI 9A:IS"),
    ),
    Vendor.PHILIPS: (
        PrivateBlock(0x2001, 0x10, "Philips Imaging DD 001",
                     "01:FL 02:IS 06:CS 07:CS 08:IS 09:FL 0A:IS* 0B:CS 0C:CS 0E:CS 0F:SS 10:CS 11:FL 12:CS 13:IS 14:SL "
                     "15:SS 16:SS 17:SL 18:SL 19:CS 1A:FL3 1B:FL 1C:CS 1D:IS 1F:CS 20:LO 21:CS 22:FL 23:FL 24:CS 25:SH "
                     "60:SL 61:CS 62:CS 63:CS 67:CS 6E:SH 6F:FL 7B:IS 81:IS 82:IS 83:DS 84:IS 85:DS 87:SH 88:DS 89:DS"),
        PrivateBlock(0x2005, 0x10, "Philips MR Imaging DD 001",
                     "00:FL 01:FL 02:FL 04:CS 05:CS 06:CS 08:FL* 09:FL* 0A:FL* 0B:FL 0C:FL 0D:FL 0E:FL 0F:FL 10:FL "
                     "11:CS 12:CS 13:CS 14:CS 15:CS 16:CS 17:CS 19:CS 1A:SS 1B:CS 1C:CS 1D:SS 1E:SH 1F:SH 20:SL 21:SS "
                     "22:IS 23:SS 25:SS 26:CS 27:CS 28:CS 29:CS 2A:IS 2B:SS 2C:CS 2D:SS 2E:CS 2F:CS 30:FL2 31:CS 33:FL "
                     "34:CS 35:CS 36:CS 37:CS 38:CS 39:CS 3A:IS 3B:CS 3C:CS 3D:SS 3E:SL 5F:CS 60:IS 61:CS 63:SS 6E:CS "
                     "6F:CS 70:LO 74:DS 75:DS 76:DS 78:CS 79:DS 7A:DS 7B:IS 7E:DS"),
        PrivateBlock(0x2005, 0x11, "Philips MR Imaging DD 002", "32:SS 35:SS 37:PN 3C:IS 3D:IS"),
        PrivateBlock(0x2005, 0x14, "Philips MR Imaging DD 005", "03:FL 12:SS 13:SS 14:SS 15:SS 16:SS"),
    ),
    Vendor.UIH: (
        PrivateBlock(0x0019, 0x10, "UIH_MR_ACQUISITION", "01:LO 02:DS 03:DS 04:IS 05:SH 06:DS3 07:FD 08:CS 09:CS"),
        PrivateBlock(0x0061, 0x10, "UIH_MR_PATIENT_SETUP", "01:LO 02:CS 03:DS 04:FD3 05:SH 06:IS 07:DS 08:LO"),
        PrivateBlock(0x0065, 0x10, "Image Private Header",
                     "00:SH 01:CS 02:DS 03:DS 04:LO 05:CS 06:SH 07:FD 08:DS* 0B:LO 0C:DS 0D:US 0E:SH 0F:DS 10:UN 11:CS "
                     "12:DS 13:FD3* 14:FD3 15:FD3 16:DS 17:IS 18:IS 19:SH 1A:LO 1B:DS 1C:DS 1D:CS 1E:CS 1F:UL 20:UL"),
    ),
}  # fmt: skip
BULK_BYTES = 1500  # of an element with bytes: a packed protocol, a table


@cache
def _specs(block: PrivateBlock) -> tuple[_Spec, ...]:
    found = []
    for word in block.elements.split():
        number, _, rest = word.partition(":")
        rest, varies = rest.removesuffix("*"), rest.endswith("*")
        found.append(_Spec(block.tag(int(number, 16)), rest[:2], int(rest[2:] or 1), varies))
    return tuple(found)


def creators(vendor: Vendor) -> Iterator[DataElement]:
    for block in BLOCKS[vendor]:
        yield DataElement(Tag(block.group, block.number), "LO", block.creator)


def private_elements(vendor: Vendor, image: int, *, varying: bool) -> Iterator[DataElement]:
    """Either the elements that change from image to image, or those that a series shares."""
    for block in BLOCKS[vendor]:
        for spec in _specs(block):
            if spec.varies == varying:
                values = [_value(spec, n, image if varying else 0) for n in range(spec.count)]
                yield DataElement(Tag(spec.tag), spec.vr, values if spec.count > 1 else values[0])


def _value(spec: _Spec, n: int, image: int) -> object:
    element = spec.tag & 0xFF
    match spec.vr:
        case "DS" | "FL" | "FD":
            return element * 0.75 + n + image * 3.25
        case "IS" | "SS" | "US" | "SL" | "UL":
            return element + n + image
        case "OB" | "UN":
            return struct.pack("<I", spec.tag) * (BULK_BYTES // 4)
        case "UI":
            return f"1.2.826.0.1.3680043.8.498.7.{element}"
        case "DT":
            return "20260101120000"
        case "PN":
            return "Benchmark^Operator"
    return f"V{element} {image}" if spec.vr != "CS" else f"MODE_{element % 7}"
