"""A minimal association requestor on a plain socket: what it takes to measure one, or to hold fifty."""

import socket
import struct
import time

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT, EXPLICIT, JPEG_LS = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.80"
TIMEOUT_SECONDS = 20.0


def request(called: str, calling: str = "BENCH") -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 9.3.2) for verification and MR images."""
    contexts = b"".join(
        _item(0x20, struct.pack("B3x", number) + _item(0x30, abstract.encode()) + b"".join(
            _item(0x40, syntax.encode()) for syntax in syntaxes
        ))
        for number, abstract, syntaxes in (
            (1, VERIFICATION, (IMPLICIT,)),
            (3, MR_IMAGE_STORAGE, (EXPLICIT, IMPLICIT)),
            (5, MR_IMAGE_STORAGE, (JPEG_LS,)),
        )
    )  # fmt: skip
    user = _item(0x50, _item(0x51, struct.pack(">I", 16384)) + _item(0x52, b"2.25.73"))
    titles = called.encode().ljust(16) + calling.encode().ljust(16)
    body = struct.pack(">HH", 1, 0) + titles + bytes(32) + _item(0x10, APPLICATION_CONTEXT.encode()) + contexts + user
    return struct.pack(">BxI", 0x01, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


class Association:
    """Raises OSError when it is not accepted. `setup_seconds` is from the connection to the A-ASSOCIATE-AC."""

    def __init__(self, host: str, port: int, ae_title: str) -> None:
        start = time.perf_counter()
        self._socket = socket.create_connection((host, port), timeout=TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._socket.sendall(request(ae_title))
            kind, _ = self._pdu()
            if kind != 0x02:
                raise ConnectionError(f"the association is not accepted: PDU type {kind:#x}")
        except OSError:
            self._socket.close()
            raise
        self.setup_seconds = time.perf_counter() - start

    def echo(self) -> None:
        """One C-ECHO (PS3.7 9.3.5)."""
        elements = _element(0x0002, VERIFICATION.encode() + b"\0")
        elements += _element(0x0100, struct.pack("<H", 0x0030))
        elements += _element(0x0110, struct.pack("<H", 1))
        elements += _element(0x0800, struct.pack("<H", 0x0101))
        command = _element(0x0000, struct.pack("<I", len(elements))) + elements
        pdv = struct.pack(">IBB", len(command) + 2, 1, 0x03) + command
        self._socket.sendall(struct.pack(">BxI", 0x04, len(pdv)) + pdv)
        kind, _ = self._pdu()
        if kind != 0x04:
            raise ConnectionError(f"no answer to an echo: PDU type {kind:#x}")

    def release(self) -> None:
        self._socket.sendall(struct.pack(">BxII", 0x05, 4, 0))
        kind, _ = self._pdu()
        self._socket.close()
        if kind != 0x06:
            raise ConnectionError(f"no A-RELEASE-RP: PDU type {kind:#x}")

    def _pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._exactly(6))
        return kind, self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        content = b""
        while len(content) < length:
            part = self._socket.recv(length - len(content))
            if not part:
                raise ConnectionError("the peer closed the connection")
            content += part
        return content


def _element(element: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0x0000, element, len(value)) + value


def echo(host: str, port: int, ae_title: str) -> bool:
    """Return True if somebody there answers."""
    try:
        association = Association(host, port, ae_title)
        association.echo()
        association.release()
    except OSError:
        return False
    return True
