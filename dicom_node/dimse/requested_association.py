"""Associations that the node requests of a peer, and the socket under them."""

import select
import socket
import time
from typing import Any, cast

from pynetdicom import Association
from pynetdicom.transport import AssociationSocket

from dicom_node.dimse.pdu import LARGEST_PDU_BYTES
from dicom_node.dimse.pynetdicom_setup import QuietAssociation

POLL_SECONDS = 0.001  # between looks at pynetdicom's queue of what to send, as requestor


class RequestedAssociation(QuietAssociation):
    """An association whose reactor thread is never started: the thread that sends a request reads the response.

    A request of the peer stays in the same queue as its responses, until that thread reads it. pynetdicom would answer
    an N-EVENT-REPORT in a thread of its own.
    """

    def _serve_request(self, msg: Any, context_id: int) -> None:
        self.dimse.msg_queue.put((context_id, msg))


class DeadlineSocket(AssociationSocket):
    """A socket that reads or writes a whole PDU within `timeout` seconds, or fails, however slow the peer is."""

    _is_connected: bool

    def __init__(self, assoc: Association, timeout: float, **kwargs: Any) -> None:
        super().__init__(assoc, **kwargs)
        self._timeout = timeout
        self.opening = b""  # the peer's first bytes; none when it did not answer at all
        assoc.dul._run_loop_delay = 0  # `ready` waits instead, and returns when data arrives
        if self.socket is not None:
            self._configure(self.socket)

    @property
    def ready(self) -> bool:
        """True if there is something to read. The short wait for it lets pynetdicom's thread rest."""
        if self.socket is None or not self._is_connected:
            time.sleep(POLL_SECONDS)
            return False
        try:
            readable, _, _ = select.select([self.socket], [], [], POLL_SECONDS)
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # transport connection closed (PS3.8 table 9-10)
            return False
        return bool(readable)

    def close(self) -> None:
        connected = self._is_connected
        super().close()
        # Otherwise the requesting thread takes an immediate rejection for a connection that was never made.
        self._is_connected = connected

    def connect(self, primitive: Any) -> None:
        super().connect(primitive)
        if self.socket is not None:
            self._configure(self.socket)

    def recv(self, nr_bytes: int) -> bytearray:
        """Read `nr_bytes`, or fewer if the peer closes. An OSError ends the association, as in the base class."""
        if nr_bytes > LARGEST_PDU_BYTES:
            raise OSError(f"a PDU of {nr_bytes} bytes is refused")
        connection = cast(socket.socket, self.socket)
        buffer = bytearray(nr_bytes)
        view = memoryview(buffer)
        deadline = time.monotonic() + self._timeout
        filled = 0
        try:
            while filled < nr_bytes:
                if hasattr(socket, "TCP_QUICKACK"):  # else peers with Nagle's algorithm wait for our delayed ACK
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                read = connection.recv_into(view[filled:])
                if read == 0:
                    break
                filled += read
                if filled < nr_bytes and time.monotonic() > deadline:
                    raise TimeoutError
        finally:
            if not self.opening:
                self.opening = bytes(view[:filled])
        return buffer[:filled]

    def _configure(self, connection: socket.socket) -> None:
        connection.settimeout(self._timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
