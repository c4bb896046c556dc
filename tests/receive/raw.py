"""A peer made of bytes, for what no library would send, and for answers that no library interprets."""

import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.sop_class import MRImageStorage

from dicom_node.dimse.scu import Target

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
COMMAND, DATASET, LAST = 1, 0, 2
RELEASE = b"\x05\0\0\0\0\x04\0\0\0\0"

Role = tuple[str, bool, bool]  # SOP class, and whether the requestor wants to be SCU, SCP


def association_request(
    contexts: Sequence[tuple[str, Sequence[str]]] = ((MRImageStorage, (EXPLICIT,)),),
    calling: str = "MR1",
    called: str = "NODE",
    roles: Sequence[Role] = (),
) -> bytes:
    request = A_ASSOCIATE()
    request.application_context_name = "1.2.840.10008.3.1.1.1"
    request.calling_ae_title, request.called_ae_title = calling, called
    maximum, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    maximum.maximum_length_received, implementation.implementation_class_uid = 16384, "1.2.3.4"
    request.user_information = [maximum, implementation]
    for uid, scu, scp in roles:
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid, role.scu_role, role.scp_role = uid, scu, scp
        request.user_information.append(role)
    proposed = []
    for number, (abstract, transfer) in enumerate(contexts):
        context = build_context(abstract, list(transfer))
        context.context_id = 2 * number + 1
        proposed.append(context)
    request.presentation_context_definition_list = proposed
    return bytes(A_ASSOCIATE_RQ(request).encode())


def pdu(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(content)) + content


def fragment(control: int, data: bytes, context_id: int = 1) -> bytes:
    return struct.pack(">LBB", len(data) + 2, context_id, control) + data


def data(*fragments: bytes) -> bytes:
    return pdu(0x04, b"".join(fragments))


def command_set(**elements: int | str) -> bytes:
    """Of the elements named like e0100: numbers are US, texts UI."""
    encoded = b""
    for name, value in sorted(elements.items()):
        content = struct.pack("<H", value) if isinstance(value, int) else value.encode() + b"\0" * (len(value) % 2)
        encoded += struct.pack("<HHL", 0, int(name[1:], 16), len(content)) + content
    return struct.pack("<HHLL", 0, 0, 4, len(encoded)) + encoded


def store_command(sop_instance_uid: str, sop_class_uid: str = MRImageStorage, message_id: int = 1) -> bytes:
    return command_set(e0002=sop_class_uid, e0100=1, e0110=message_id, e0700=2, e0800=1, e1000=sop_instance_uid)


class RawPeer:
    """A connection. Entering it associates, unless `request` is empty."""

    def __init__(self, target: Target, request: bytes | None = None) -> None:
        self.socket = socket.create_connection((target.host, target.port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = association_request() if request is None else request
        self.accepted = A_ASSOCIATE_AC()

    def __enter__(self) -> Self:
        if self._request:
            self.send(self._request)
            kind, content = self.receive()
            assert kind == 0x02, (kind, content)
            self.accepted.decode(pdu(kind, content))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close()

    @property
    def roles(self) -> list[Role]:
        """The acceptor's answers to role selection."""
        primitive = self.accepted.to_primitive()
        return [
            (str(item.sop_class_uid), item.scu_role, item.scp_role)
            for item in primitive.user_information
            if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
        ]

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def receive(self) -> tuple[int, bytes]:
        """The next PDU: type and content; (0, b"") when the connection is over."""
        header = self._exactly(6)
        return (header[0], self._exactly(int.from_bytes(header[2:6], "big"))) if header else (0, b"")

    def status(self) -> int:
        """Of the response that comes next."""
        kind, content = self.receive()
        assert kind == 0x04, (kind, content)
        at = content.index(struct.pack("<HHL", 0, 0x0900, 2))
        return int.from_bytes(content[at + 8 : at + 10], "little")

    def abort_of(self) -> tuple[int, int]:
        """Source and reason of the A-ABORT that comes next (PS3.8 table 9-26); the connection ends after it."""
        kind, content = self.receive()
        assert kind == 0x07, (kind, content)
        assert self.receive() == (0, b"")
        return content[2], content[3]

    def _exactly(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            try:
                part = self.socket.recv(count - len(received))
            except ConnectionResetError:
                part = b""
            if not part:
                return b""
            received += part
        return received
