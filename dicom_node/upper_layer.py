"""What the node changes about pynetdicom's transport and associations (PS3.8), in one place.

pynetdicom reads without a deadline, so that a peer which stops in the middle of a PDU holds a thread for ever; it
leaves Nagle's algorithm on; it answers C-STORE only for SOP classes it knows; and its own log lines may quote
datasets. Everything here leans on the internals of the one version that pyproject.toml pins.
"""

import logging
import queue
import select
import socket
import socketserver
import struct
import threading
import time
from contextlib import suppress
from typing import Any, Protocol, cast

from pynetdicom import AE, Association, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.transport import AssociationServer, AssociationSocket, RequestHandler

from dicom_node.logs import fields

log = logging.getLogger(__name__)

MAXIMUM_PDU_BYTES = 131072  # what we announce: the most that DCMTK sends
LARGEST_PDU_BYTES = 4 * 2**20  # what we read, since not every peer keeps to what we announce
POLL_SECONDS = 0.001  # between looks at pynetdicom's queue of what to send
ESTABLISHED_POLL_SECONDS = 0.01  # the same while only answers to an echo, or an abort, can be in it
LOOK_SECONDS = 0.1  # between looks for an association that has timed out
WAITING_CONNECTIONS = 128  # the kernel's queue while all threads are busy


def silence_pynetdicom() -> None:
    """Keeps pynetdicom's own lines out of the logs whatever their level: they quote requests, and errors on datasets.

    The node says the same in its own words, without attributes of the patient.
    """
    logging.getLogger("pynetdicom").propagate = False


class DeadlineSocket(AssociationSocket):
    """Reads and writes whole PDUs or fails within `timeout` seconds, however slowly the peer trickles."""

    def __init__(self, assoc: Association, timeout: float, **kwargs: Any) -> None:
        super().__init__(assoc, **kwargs)
        self._timeout = timeout
        self.opening = b""  # the first bytes of the peer, which say whether it speaks DICOM
        assoc.dul._run_loop_delay = 0  # `ready` waits instead, and wakes when something comes
        if self.socket is not None:
            self._configure(self.socket)

    @property
    def ready(self) -> bool:
        """Whether there is something to read. Waits a moment for it, which is how pynetdicom's thread can rest."""
        if self.socket is None or not self._is_connected:
            time.sleep(POLL_SECONDS)
            return False
        try:
            established = self.assoc.is_acceptor and self.assoc.dul.state_machine.current_state == "Sta6"
            wait = ESTABLISHED_POLL_SECONDS if established else POLL_SECONDS
            readable, _, _ = select.select([self.socket], [], [], wait)
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # transport connection closed (PS3.8 table 9-10)
            return False
        return bool(readable)

    def connect(self, primitive: Any) -> None:
        super().connect(primitive)
        if self.socket is not None:
            self._configure(self.socket)

    def recv(self, nr_bytes: int) -> bytearray:
        """Up to `nr_bytes`; fewer when the peer closes. OSError ends the association, as in the base class."""
        if nr_bytes > LARGEST_PDU_BYTES:
            raise OSError(f"a PDU of {nr_bytes} bytes is refused")
        connection = cast(socket.socket, self.socket)
        buffer = bytearray(nr_bytes)
        view = memoryview(buffer)
        deadline = time.monotonic() + self._timeout
        filled = 0
        try:
            while filled < nr_bytes:
                _acknowledge_at_once(connection)
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
        # A response waits for nothing: with Nagle's algorithm each one would wait for the peer's delayed ACK.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _acknowledge_at_once(connection: socket.socket) -> None:
    """Spares senders that leave Nagle's algorithm on the wait for a delayed ACK. Linux forgets it, so for each read."""
    if hasattr(socket, "TCP_QUICKACK"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class Service(Protocol):
    """What an Acceptor needs to know about the node. Called in the association's own thread."""

    def requested(self, assoc: "AcceptedAssociation") -> None:
        """An A-ASSOCIATE-RQ is here: admit it by setting the supported contexts, or reject it."""

    def store(self, assoc: "AcceptedAssociation", request: C_STORE, transfer_syntax_uid: str) -> tuple[int, str]:
        """Status and error comment (may be empty) of one C-STORE request."""

    def ended(self, assoc: "AcceptedAssociation") -> None:
        """The connection is over, in whatever way. Called exactly once for each connection."""


class QuietAssociation(Association):
    """Binds only the intervention events: the others would describe every message to pynetdicom's log."""

    def _bind_defaults(self) -> None:
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))


class _WakingQueue(queue.Queue[Any]):
    """Tells the thread that waits for messages that there is something else to look at."""

    def __init__(self, messages: queue.Queue[Any]) -> None:
        super().__init__()
        self._messages = messages

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._messages.put((None, None))


class AcceptedAssociation(QuietAssociation):
    """An association that a peer requested of us."""

    def __init__(self, ae: AE, service: Service) -> None:
        super().__init__(ae, MODE_ACCEPTOR)
        self._service = service
        self.session: Any = None  # whatever the service keeps for this association
        self.dul.to_user_queue = _WakingQueue(self.dimse.msg_queue)
        self.bind(evt.EVT_REQUESTED, self._requested)
        self.bind(evt.EVT_CONN_CLOSE, self._closed)

    @property
    def opening(self) -> bytes:
        """The first bytes that came, empty when none did."""
        return cast(DeadlineSocket, self.dul.socket).opening

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        except Exception:
            log.exception("An association broke off unexpectedly", extra=fields("associate"))
        finally:
            self._server.forget(self)
            self._service.ended(self)

    def reject(self, result: int, source: int, diagnostic: int) -> None:
        """Answers A-ASSOCIATE-RJ (PS3.8 9.3.4) and waits until the peer has closed, or its time is over."""
        self.acse.send_reject(result, source, diagnostic)
        self.kill()

    def cut(self) -> None:
        """Closes the connection under whatever the association is doing. Its thread ends soon after."""
        connection = self.dul.socket.socket
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _requested(self, event: evt.Event) -> None:
        try:
            self._service.requested(self)
        except Exception:
            log.exception("An association request could not be judged", extra=fields("associate"))
            self.reject(0x02, 0x01, 0x01)

    def _closed(self, event: evt.Event) -> None:
        """Ends the wait for an association request, which pynetdicom keeps up after the connection is gone."""
        if self.requestor.primitive is None:
            self.dul.to_user_queue.put(None)

    def _serve_request(self, msg: Any, context_id: int) -> None:
        """C-STORE of any SOP class goes to the service; pynetdicom aborts on those it does not know."""
        if not isinstance(msg, C_STORE) or msg.MessageID is None:
            super()._serve_request(msg, context_id)
            return
        context = self._accepted_cx.get(context_id)
        if context is None:
            log.warning("A C-STORE came on a presentation context nobody accepted", extra=fields("associate"))
            self.abort()
            return
        status, comment = self._service.store(self, msg, str(context.transfer_syntax[0]))
        if self.is_established:
            # Straight to the socket: the way through pynetdicom's queues costs more than storing the instance.
            self.dul.socket.send(
                encode_store_response(
                    context_id,
                    msg.MessageID,
                    str(msg.AffectedSOPClassUID or ""),
                    str(msg.AffectedSOPInstanceUID or ""),
                    status,
                    comment,
                )
            )

    def _run_reactor(self) -> None:
        """Serves requests until the association ends. Waits for messages, where the base class polls for them."""
        while not self._kill:
            try:
                context_id, msg = self.dimse.msg_queue.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                context_id, msg = None, None
            if msg is not None:
                self._serve_request(msg, context_id)
            elif self.is_established and self.acse.is_release_requested():
                self.acse.send_release(is_response=True)
                self.is_released = True
                self.kill()
            elif self.acse.is_aborted() or not self.dul.is_alive():
                self.is_aborted = True
                self.kill()
            elif self.dul.idle_timer_expired():
                self.abort()


def encode_store_response(
    context_id: int, message_id: int, sop_class_uid: str, sop_instance_uid: str, status: int, comment: str
) -> bytes:
    """A P-DATA-TF PDU (PS3.8 9.3.5) with one C-STORE-RSP command (PS3.7 9.3.1.2), implicit VR little endian."""
    elements = _command_element(0x0002, _even(sop_class_uid, b"\0"))
    elements += _command_element(0x0100, struct.pack("<H", 0x8001))  # Command Field: C-STORE-RSP
    elements += _command_element(0x0120, struct.pack("<H", message_id))
    elements += _command_element(0x0800, struct.pack("<H", 0x0101))  # Command Data Set Type: none
    elements += _command_element(0x0900, struct.pack("<H", status))
    if comment:
        elements += _command_element(0x0902, _even(comment, b" "))
    elements += _command_element(0x1000, _even(sop_instance_uid, b"\0"))
    command = _command_element(0x0000, struct.pack("<I", len(elements))) + elements
    # PDV: length, presentation context, and "a command, its last fragment" (PS3.8 E.2)
    pdv = struct.pack(">IBB", len(command) + 2, context_id, 0x03) + command
    return struct.pack(">BBI", 0x04, 0, len(pdv)) + pdv


def _command_element(element: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0x0000, element, len(value)) + value


def _even(text: str, padding: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    return value + padding * (len(value) % 2)


class _Handler(RequestHandler):
    """Makes an AcceptedAssociation of a connection."""

    def _create_association(self) -> Association:
        server = cast(Acceptor, self.server)
        assoc = AcceptedAssociation(self.ae, server.service)
        assoc._server = server
        assoc.name = f"AcceptorThread-{self.client_address[0]}:{self.client_address[1]}"
        assoc.set_socket(DeadlineSocket(assoc, server.network_timeout, client_socket=self.request))
        assoc.acceptor.maximum_length = MAXIMUM_PDU_BYTES
        assoc.acceptor.ae_title = server.ae_title
        assoc.acceptor.address_info = self.local
        assoc.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        assoc.acceptor.implementation_version_name = self.ae.implementation_version_name
        assoc.requestor.address_info = self.remote
        for event, handler in server._handlers.items():
            if event.is_intervention:
                assoc.bind(event, *handler)
        server.remember(assoc)
        return assoc


class Acceptor(AssociationServer):
    """Listens on a port that several processes may share: the kernel spreads connections over them (SO_REUSEPORT)."""

    request_queue_size = WAITING_CONNECTIONS

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        service: Service,
        *,
        network_timeout: float,
        maximum_connections: int,
        handlers: list[Any],
    ) -> None:
        self.service = service
        self.network_timeout = network_timeout
        self._maximum_connections = maximum_connections
        self._connections: set[AcceptedAssociation] = set()
        self._lock = threading.Lock()
        super().__init__(ae, address, ae.ae_title, [], evt_handlers=handlers, request_handler=_Handler)

    @property
    def connections(self) -> list[AcceptedAssociation]:
        with self._lock:
            return list(self._connections)

    def remember(self, assoc: AcceptedAssociation) -> None:
        with self._lock:
            self._connections.add(assoc)

    def forget(self, assoc: AcceptedAssociation) -> None:
        with self._lock:
            self._connections.discard(assoc)

    def server_bind(self) -> None:
        assert self.socket is not None
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Bounds the threads: a connection costs two, before anything is known about the peer."""
        with self._lock:
            full = len(self._connections) >= self._maximum_connections
        if full:
            log.warning("Too many connections: a new one is closed", extra=fields("accept", host=client_address[0]))
        return not full

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.exception("A connection could not be served", extra=fields("accept", host=client_address[0]))

    def close(self) -> None:
        """Stops listening; associations go on."""
        socketserver.BaseServer.shutdown(self)
        with suppress(OSError):
            self.server_close()

    def _bind_defaults(self) -> None:
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))
