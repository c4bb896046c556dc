"""PDUs (PS3.8 9.3) and command sets (PS3.7 6.3, 9.3.1) as bytes, and the ways in which an association ends."""

import struct
from dataclasses import dataclass

from dicom_node.dimse.status import AbortReason

MAXIMUM_PDU_BYTES = 131072  # announced to peers: the most that DCMTK sends
LARGEST_PDU_BYTES = 4 * 2**20  # accepted from peers, because not every one keeps to what is announced

PDU = struct.Struct(">BxL")  # type and length (PS3.8 9.3.1)
FRAGMENT = struct.Struct(">LBB")  # length, presentation context, message control header (PS3.8 9.3.5.1, E.2)
ASSOCIATE_REQUEST, P_DATA_TF, A_RELEASE_RQ, A_ABORT = 0x01, 0x04, 0x05, 0x07
PDU_TYPES = range(0x01, 0x08)
COMMAND, LAST = 0x01, 0x02  # bits of the message control header; the others are never checked (PS3.8 E.2)
C_STORE_RQ, C_CANCEL_RQ = 0x0001, 0x0FFF
RESPONSE = 0x8000  # this bit of the Command Field tells responses from requests
NO_DATASET = 0x0101

RELEASE_RESPONSE = b"\x06\0\0\0\0\x04\0\0\0\0"  # PS3.8 9.3.7
ABORT_BY_USER = b"\x07\0\0\0\0\x04\0\0\0\0"  # PS3.8 9.3.8


class AssociationOver(Exception):
    """The association is over. The message is for the log and quotes nothing that the peer sent."""


class Released(AssociationOver):
    """The peer requested the release between two messages (PS3.8 9.3.6)."""


class Lost(AssociationOver):
    """The peer or this node aborted the association or closed the connection."""


class TimedOut(Lost):
    """The peer was silent or too slow; the connection still stands."""


class Violation(AssociationOver):
    """The peer broke the protocol; the answer is an A-ABORT by the service provider."""

    def __init__(self, reason: AbortReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Command:
    """A command set (PS3.7 6.3.1), whole in `encoded`; its UIDs are read for C-STORE alone."""

    context_id: int
    field: int
    message_id: int | None
    has_dataset: bool
    sop_class_uid: str
    sop_instance_uid: str
    encoded: bytes


@dataclass(frozen=True)
class StoreRequest:
    """A C-STORE request before its dataset: the UIDs of its command and of its presentation context."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str  # of the context
    abstract_syntax_uid: str  # of the context


_ELEMENT = struct.Struct("<HHL")
_US = struct.Struct("<H")
_EMPTY = b""


def decode_command(context_id: int, encoded: bytes) -> Command:
    """Decode a command set, which is always implicit VR little endian (PS3.7 6.3.1). Raise Violation."""
    values: dict[int, bytes] = {}
    position, size = 0, len(encoded)
    while position < size:
        if position + 8 > size:
            raise Violation(AbortReason.INVALID_PARAMETER, "a command set is cut off")
        group, element, length = _ELEMENT.unpack_from(encoded, position)
        position += 8
        if group or position + length > size:
            raise Violation(AbortReason.INVALID_PARAMETER, "a command set is damaged")
        values[element] = encoded[position : position + length]
        position += length
    field, dataset_type = _number(values, 0x0100), _number(values, 0x0800)
    if field is None or dataset_type is None:
        raise Violation(AbortReason.INVALID_PARAMETER, "a command set has no Command Field, or no Data Set Type")
    return Command(
        context_id=context_id,
        field=field,
        message_id=_number(values, 0x0110),
        has_dataset=dataset_type != NO_DATASET,
        sop_class_uid=_text(values.get(0x0002, _EMPTY)),
        sop_instance_uid=_text(values.get(0x1000, _EMPTY)),
        encoded=encoded,
    )


def _number(values: dict[int, bytes], element: int) -> int | None:
    value = values.get(element, _EMPTY)
    return int(_US.unpack(value)[0]) if len(value) == 2 else None


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace").strip(" \0")


def encode_store_response(
    context_id: int, message_id: int, sop_class_uid: str, sop_instance_uid: str, status: int, comment: str
) -> bytes:
    """Encode a P-DATA-TF PDU (PS3.8 9.3.5) with one C-STORE-RSP command (PS3.7 9.3.1.2)."""
    elements = _command_element(0x0002, _even(sop_class_uid, b"\0"))
    elements += _command_element(0x0100, _US.pack(C_STORE_RQ | RESPONSE))
    elements += _command_element(0x0120, _US.pack(message_id))
    elements += _command_element(0x0800, _US.pack(NO_DATASET))
    elements += _command_element(0x0900, _US.pack(status))
    if comment:
        elements += _command_element(0x0902, _even(comment, b" "))
    elements += _command_element(0x1000, _even(sop_instance_uid, b"\0"))
    command = _command_element(0x0000, struct.pack("<L", len(elements))) + elements
    fragment = FRAGMENT.pack(len(command) + 2, context_id, COMMAND | LAST) + command
    return PDU.pack(P_DATA_TF, len(fragment)) + fragment


def encode_abort(reason: AbortReason) -> bytes:
    """Encode an A-ABORT PDU by the service provider (PS3.8 9.3.8)."""
    return PDU.pack(A_ABORT, 4) + bytes((0, 0, 0x02, reason))


def _command_element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0x0000, element, len(value)) + value


def _even(text: str, padding: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    return value + padding * (len(value) % 2)
