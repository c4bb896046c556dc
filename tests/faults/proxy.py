"""A proxy that writes down what passes: the streams, and the datasets of the C-STOREs in them.

Senders re-encode what they read, so the file that was sent is no measure of the bytes that came.
"""

import select
import socket
import struct
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.faults.wire import (
    ASSOCIATE_AC,
    C_STORE_RQ,
    COMMAND,
    LAST,
    P_DATA,
    accepted_contexts,
    command_values,
    pdvs,
    split_pdus,
)

PIECE = 65536


@dataclass(frozen=True)
class Stored:
    """One C-STORE request as it passed."""

    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset: bytes = field(repr=False)


@dataclass
class Session:
    """One connection: all that either side said."""

    request: bytearray = field(default_factory=bytearray)
    response: bytearray = field(default_factory=bytearray)

    def stores(self) -> list[Stored]:
        (accept,) = [p for p in split_pdus(bytes(self.response)) if p[0] == ASSOCIATE_AC] or [b""]
        syntaxes = accepted_contexts(accept[6:]) if accept else {}
        found: list[Stored] = []
        command, dataset = b"", bytearray()
        for pdu in split_pdus(bytes(self.request)):
            if pdu[0] != P_DATA:
                continue
            for pdv in pdvs(pdu[6:]):
                if pdv.control & COMMAND:
                    command += pdv.fragment
                    continue
                dataset += pdv.fragment
                if pdv.control & LAST:
                    values = command_values(command)
                    if struct.unpack("<H", values[0x0100]) == (C_STORE_RQ,):
                        uid = values[0x1000].rstrip(b"\0 ").decode()
                        found.append(Stored(uid, syntaxes[pdv.context_id], bytes(dataset)))
                    command, dataset = b"", bytearray()
        return found


class Proxy:
    """Listens on a port of its own on the loopback interface. A context manager."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sessions: list[Session] = []
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(10)
        for thread in self._threads:
            thread.join(10)

    def stores(self) -> list[Stored]:
        return [stored for session in self.sessions for stored in session.stores()]

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            session = Session()
            self.sessions.append(session)
            thread = threading.Thread(target=self._pass, args=(client, session), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _pass(self, client: socket.socket, session: Session) -> None:
        with client, socket.create_connection(self._target, timeout=30) as server:
            for connection in (client, server):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pairs = {client: (server, session.request), server: (client, session.response)}
            while pairs:
                readable, _, _ = select.select(list(pairs), [], [], 60)
                if not readable:
                    return
                for source in readable:
                    other, record = pairs[source]
                    try:
                        part = source.recv(PIECE)
                        record += part
                        if part:
                            other.sendall(part)
                            continue
                        other.shutdown(socket.SHUT_WR)
                    except OSError:
                        return
                    del pairs[source]
