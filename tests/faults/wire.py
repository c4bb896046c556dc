"""The upper layer and C-STORE by hand (PS3.7, PS3.8): a sender that knows what was acknowledged.

Nothing here comes from the node or from pynetdicom, so that a mistake of theirs cannot hide itself.
"""

import hashlib
import random
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
C_STORE_RQ, C_STORE_RSP, C_ECHO_RQ, C_ECHO_RSP = 0x0001, 0x8001, 0x0030, 0x8030
NO_DATASET, DATASET = 0x0101, 0x0001
COMMAND, LAST = 0x01, 0x02  # bits of the message control header (PS3.8 E.2)

TIMEOUT_SECONDS = 30.0
UID_ROOT = "2.25"

Context = tuple[int, str, Sequence[str]]  # ID, abstract syntax, transfer syntaxes
CONTEXTS: tuple[Context, ...] = ((1, VERIFICATION, (IMPLICIT,)), (3, MR_IMAGE_STORAGE, (EXPLICIT,)))


# -- encoding ----------------------------------------------------------------------------------------------------------


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(body)) + body


def associate_rq(called: str, calling: str, contexts: Sequence[Context] = CONTEXTS, maximum: int = 16384) -> bytes:
    items = b"".join(
        _item(
            0x20,
            struct.pack("B3x", number)
            + _item(0x30, abstract.encode())
            + b"".join(_item(0x40, syntax.encode()) for syntax in syntaxes),
        )
        for number, abstract, syntaxes in contexts
    )
    user = _item(0x50, _item(0x51, struct.pack(">I", maximum)) + _item(0x52, b"2.25.7") + _item(0x55, b"FAULTS"))
    titles = called.encode().ljust(16) + calling.encode().ljust(16)
    application = _item(0x10, APPLICATION_CONTEXT.encode())
    return pdu(ASSOCIATE_RQ, struct.pack(">HH", 1, 0) + titles + bytes(32) + application + items + user)


def release_rq() -> bytes:
    return pdu(RELEASE_RQ, bytes(4))


def abort() -> bytes:
    return pdu(ABORT, bytes(4))


def p_data(context_id: int, control: int, fragment: bytes) -> bytes:
    return pdu(P_DATA, struct.pack(">IBB", len(fragment) + 2, context_id, control) + fragment)


def echo_rq(message_id: int = 1, context_id: int = 1) -> bytes:
    command = command_set(
        (0x0002, _uid(VERIFICATION)), (0x0100, _us(C_ECHO_RQ)), (0x0110, _us(message_id)), (0x0800, _us(NO_DATASET))
    )
    return p_data(context_id, COMMAND | LAST, command)


def store_rq_command(sop_class_uid: str, sop_instance_uid: str, message_id: int) -> bytes:
    return command_set(
        (0x0002, _uid(sop_class_uid)),
        (0x0100, _us(C_STORE_RQ)),
        (0x0110, _us(message_id)),
        (0x0700, _us(0)),
        (0x0800, _us(DATASET)),
        (0x1000, _uid(sop_instance_uid)),
    )


def store_rq(instance: "Instance", message_id: int = 1, context_id: int = 3, fragment: int = 16000) -> list[bytes]:
    """The PDUs of one C-STORE request: a command, and the dataset in fragments of so many bytes."""
    pdus = [
        p_data(
            context_id, COMMAND | LAST, store_rq_command(instance.sop_class_uid, instance.sop_instance_uid, message_id)
        )
    ]
    dataset = instance.dataset
    for start in range(0, max(1, len(dataset)), fragment):
        last = LAST if start + fragment >= len(dataset) else 0
        pdus.append(p_data(context_id, last, dataset[start : start + fragment]))
    return pdus


def command_set(*elements: tuple[int, bytes]) -> bytes:
    encoded = b"".join(struct.pack("<HHI", 0, element, len(value)) + value for element, value in elements)
    return struct.pack("<HHII", 0, 0, 4, len(encoded)) + encoded


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _us(value: int) -> bytes:
    return struct.pack("<H", value)


def _uid(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)


# -- decoding ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PDV:
    context_id: int
    control: int
    fragment: bytes


def pdvs(body: bytes) -> Iterator[PDV]:
    """The presentation data values of a P-DATA-TF (PS3.8 9.3.5)."""
    at = 0
    while at < len(body):
        length, context_id, control = struct.unpack_from(">IBB", body, at)
        yield PDV(context_id, control, body[at + 6 : at + 4 + length])
        at += 4 + length


def command_values(command: bytes) -> dict[int, bytes]:
    """The elements of a command set, by element number."""
    values, at = {}, 0
    while at < len(command):
        _, element, length = struct.unpack_from("<HHI", command, at)
        values[element] = command[at + 8 : at + 8 + length]
        at += 8 + length
    return values


def accepted_contexts(body: bytes) -> dict[int, str]:
    """The accepted contexts of an A-ASSOCIATE-AC, and their transfer syntaxes (PS3.8 9.3.3)."""
    found, at = {}, 68
    while at < len(body):
        kind, length = struct.unpack_from(">BxH", body, at)
        if kind == 0x21 and body[at + 6] == 0:
            (size,) = struct.unpack_from(">H", body, at + 10)
            found[body[at + 4]] = body[at + 12 : at + 12 + size].rstrip(b"\0").decode()
        at += 4 + length
    return found


def split_pdus(stream: bytes) -> list[bytes]:
    """The whole PDUs of a stream."""
    found, at = [], 0
    while at + 6 <= len(stream):
        (length,) = struct.unpack_from(">I", stream, at + 2)
        found.append(stream[at : at + 6 + length])
        at += 6 + length
    return found


def part10_dataset(content: bytes) -> bytes:
    """What follows the file meta information, whose first element is its length (PS3.10 7.1)."""
    assert content[128:132] == b"DICM"
    assert content[132:140] == b"\x02\x00\x00\x00UL\x04\x00"
    (length,) = struct.unpack_from("<I", content, 140)
    return content[144 + length :]


# -- instances ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instance:
    """An MR image in explicit VR little endian, or any other dataset."""

    sop_instance_uid: str
    dataset: bytes = field(repr=False)
    sop_class_uid: str = MR_IMAGE_STORAGE
    study_instance_uid: str = ""
    series_instance_uid: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.dataset).hexdigest()


def new_uid(generator: random.Random) -> str:
    return f"{UID_ROOT}.{generator.getrandbits(120) | 1 << 119}"


def make_instance(generator: random.Random, size: int, study: str = "", series: str = "") -> Instance:
    """About `size` bytes. The pixels are different in each: equal ones would be stored as one."""
    uid = new_uid(generator)
    study, series = study or new_uid(generator), series or new_uid(generator)
    pixels = generator.randbytes(max(2, size - size % 2))
    elements = [
        (0x0008, 0x0016, b"UI", _uid(MR_IMAGE_STORAGE)),
        (0x0008, 0x0018, b"UI", _uid(uid)),
        (0x0008, 0x0060, b"CS", b"MR"),
        (0x0010, 0x0010, b"PN", b"FAULTS^TEST "),
        (0x0010, 0x0020, b"LO", b"FAULTS"),
        (0x0020, 0x000D, b"UI", _uid(study)),
        (0x0020, 0x000E, b"UI", _uid(series)),
        (0x0028, 0x0010, b"US", _us(1)),
        (0x0028, 0x0011, b"US", _us(min(65535, len(pixels) // 2))),
        (0x0028, 0x0100, b"US", _us(16)),
    ]
    encoded = b"".join(struct.pack("<HH2sH", g, e, vr, len(value)) + value for g, e, vr, value in elements)
    encoded += struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OW", len(pixels)) + pixels
    return Instance(uid, encoded, study_instance_uid=study, series_instance_uid=series)


# -- the sender --------------------------------------------------------------------------------------------------------


class Refused(ConnectionError):
    """The association was rejected or aborted; the message says with what."""


class Sender:
    """One association, as a context manager. Every failure of the connection is an OSError.

    `acknowledged` holds what the node answered Success for, and nothing else.
    """

    def __init__(
        self,
        host: str,
        port: int,
        called: str = "DICOM_NODE",
        calling: str = "FAULTS",
        contexts: Sequence[Context] = CONTEXTS,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self.acknowledged: dict[str, Instance] = {}
        self._message_id = 0
        self.socket = socket.create_connection((host, port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.socket.sendall(associate_rq(called, calling, contexts))
            kind, body = self.read_pdu()
            if kind != ASSOCIATE_AC:
                raise Refused(f"PDU type {kind}: {body.hex()}")
            self.contexts = accepted_contexts(body)
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                self.release()
        finally:
            self.socket.close()

    def store(self, instance: Instance, fragment: int = 16000) -> int:
        """The status of the response (PS3.4 B.2.3)."""
        self._message_id = self._message_id % 65535 + 1
        self.socket.sendall(b"".join(store_rq(instance, self._message_id, 3, fragment)))
        status = self.read_status(C_STORE_RSP)
        if status == 0:
            self.acknowledged[instance.sop_instance_uid] = instance
        return status

    def echo(self) -> int:
        self._message_id = self._message_id % 65535 + 1
        self.socket.sendall(echo_rq(self._message_id))
        return self.read_status(C_ECHO_RSP)

    def release(self) -> None:
        self.socket.sendall(release_rq())
        kind, _ = self.read_pdu()
        if kind != RELEASE_RP:
            raise Refused(f"PDU type {kind} in answer to a release")

    def read_status(self, field_expected: int) -> int:
        kind, body = self.read_pdu()
        if kind != P_DATA:
            raise Refused(f"PDU type {kind} in place of a response: {body.hex()}")
        values = command_values(b"".join(p.fragment for p in pdvs(body)))
        (command_field,) = struct.unpack("<H", values[0x0100])
        (message_id,) = struct.unpack("<H", values[0x0120])
        assert (command_field, message_id) == (field_expected, self._message_id)
        (status,) = struct.unpack("<H", values[0x0900])
        return int(status)

    def read_pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._exactly(6))
        return kind, self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        content = b""
        while len(content) < length:
            part = self.socket.recv(length - len(content))
            if not part:
                raise ConnectionError("the node closed the connection")
            content += part
        return content
