"""Where the node leans on the internals of pynetdicom, all in one place (PS3.8).

As acceptor, pynetdicom negotiates associations and serves every DIMSE service but one: C-STORE runs through
`data_path`. One thread owns an association from the first byte to the last. pynetdicom's own second thread,
its state machine and its queues are never started: what its services say is sent at once by whoever says it, and what
they wait for is read by the thread that waits.
"""

import logging
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

from pynetdicom import AE, Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import (
    A_ABORT_RQ,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    P_DATA_TF,
)
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT, A_RELEASE, P_DATA
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicom_node.dimse import data_path
from dicom_node.dimse.association import Proposal, Rejection, Service
from dicom_node.dimse.data_path import (
    C_CANCEL_RQ,
    C_STORE_RQ,
    LARGEST_PDU_BYTES,
    RESPONSE,
    AssociationOver,
    Command,
    Lost,
    MessageReader,
    Released,
    StoreRequest,
    TimedOut,
    Violation,
    Wire,
    encode_abort,
    encode_store_response,
)
from dicom_node.dimse.pynetdicom_setup import QuietAssociation
from dicom_node.dimse.status import AbortReason, RejectReason
from dicom_node.runtime.logs import fields, unexpected
from storage.records.evidence import AssociationEnd

log = logging.getLogger(__name__)

ACCEPTOR = "acceptor"
POLL_SECONDS = 0.001  # between looks at pynetdicom's queue of what to send, as requestor
WAITING_CONNECTIONS = 128  # the kernel's queue while all threads are busy
LARGEST_REQUEST_BYTES = 2**19  # an A-ASSOCIATE-RQ with 128 presentation contexts has some 50,000
LARGEST_MESSAGE_BYTES = 16 * 2**20  # of a service other than C-STORE
LAST_WORD_SECONDS = 1.0  # for the peer to read our last PDU and close
A_ABORT_OF_USER = b"\x07\0\0\0\0\x04\0\0\0\0"  # PS3.8 9.3.8

Handler = tuple[Any, Callable[[Any], Any]]  # an event of pynetdicom.evt and what answers it


# -- as requestor ------------------------------------------------------------------------------------------------------


class RequestedAssociation(QuietAssociation):
    """An association that we request of a peer. What the peer asks of us waits among its responses, for the one thread
    that reads them; pynetdicom would answer an N-EVENT-REPORT in a thread of its own.
    """

    def _serve_request(self, msg: Any, context_id: int) -> None:
        self.dimse.msg_queue.put((context_id, msg))


class DeadlineSocket(AssociationSocket):
    """Reads and writes whole PDUs or fails within `timeout` seconds, however slowly the peer trickles."""

    _is_connected: bool

    def __init__(self, assoc: Association, timeout: float, **kwargs: Any) -> None:
        super().__init__(assoc, **kwargs)
        self._timeout = timeout
        self.opening = b""  # the first bytes of the peer: none when it did not answer at all
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
            readable, _, _ = select.select([self.socket], [], [], POLL_SECONDS)
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # transport connection closed (PS3.8 table 9-10)
            return False
        return bool(readable)

    def close(self) -> None:
        connected = self._is_connected
        super().close()
        # Else the thread that asked would take a rejection that came at once for a connection that never was.
        self._is_connected = connected

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
                if hasattr(socket, "TCP_QUICKACK"):  # spares peers that leave Nagle's algorithm on a wait for our ACK
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


# -- as acceptor -------------------------------------------------------------------------------------------------------


class _Provider(DULServiceProvider):
    """The upper layer service without a thread of its own, which is never started: primitives become PDUs at once."""

    def send_pdu(self, primitive: Any) -> None:
        cast(AcceptedAssociation, self.assoc).send(_encode(primitive))


class _Messages(DIMSEServiceProvider):
    """Lets a service that asked the peer something (an N-EVENT-REPORT, say) read the answer itself."""

    def get_msg(self, block: bool = False) -> Any:
        return cast(AcceptedAssociation, self.assoc).response() if block else (None, None)


def _encode(primitive: Any) -> bytes:
    """The PDU of a service primitive (PS3.8 9.3)."""
    match primitive:
        case P_DATA():
            pdu = P_DATA_TF(primitive)
        case A_ASSOCIATE() if primitive.result == 0x00:
            pdu = A_ASSOCIATE_AC(primitive)
        case A_ASSOCIATE():
            pdu = A_ASSOCIATE_RJ(primitive)
        case A_RELEASE() if primitive.result is None:
            pdu = A_RELEASE_RQ(primitive)
        case A_RELEASE():
            pdu = A_RELEASE_RP(primitive)
        case A_ABORT() | A_P_ABORT():
            pdu = A_ABORT_RQ(primitive)
        case _:
            raise TypeError(f"no PDU for {type(primitive).__name__}")
    return cast(bytes, pdu.encode())


class AcceptedAssociation(QuietAssociation):
    """An association that a peer requested of us, and its thread."""

    def __init__(self, ae: AE, service: Service, connection: socket.socket, timeout: float) -> None:
        super().__init__(ae, ACCEPTOR)
        self.is_released = self._sent_abort = False
        self.dul = _Provider(self)
        self.dimse = _Messages(self)
        self.wire = Wire(connection, timeout)
        self.session: Any = None  # what the service keeps for this association, once it is admitted
        self._service = service
        self._reader = MessageReader(self.wire, ())
        self._posted: deque[Callable[[AcceptedAssociation], object]] = deque()
        self._broken: AssociationOver | None = None  # how the association ended while a service waited for a response
        self._opening = bytearray()
        self._is_paused = True  # there is no reactor that services would have to pause

    # -- for other threads --

    def post(self, task: Callable[["AcceptedAssociation"], object]) -> None:
        """Has the association's thread do something between two messages: send an N-EVENT-REPORT, for example.

        It is not done if the association ends before.
        """
        self._posted.append(task)
        self.wire.wake()

    def cut(self) -> None:
        """Ends the connection under whatever the association is doing. Its thread ends soon after."""
        self.wire.cut()

    def send(self, data: bytes) -> None:
        """Raises Lost."""
        self.wire.send(data)

    def _abort_blocking(self, block: bool = True) -> None:
        """A-ABORT of the service user, from any thread. The association's own notices, and closes the connection."""
        if self._sent_abort or self.is_released:
            return
        self._sent_abort = self.is_aborted = True
        self.is_established = False
        with suppress(Lost):
            self.wire.send(A_ABORT_OF_USER, LAST_WORD_SECONDS)
        self.wire.stop()

    # -- the association's own thread --

    def run_reactor(self) -> None:
        reason = ""
        try:
            reason = self._live()
        except Exception as error:
            log.error("An association broke off unexpectedly: %s", unexpected(error), extra=fields("associate"))
            self.abort()
            reason = "of an unexpected failure"
        finally:
            self.kill()
            self._note_end(reason)
            self.wire.drain(LAST_WORD_SECONDS)
            self.wire.close()
            self._reader = MessageReader(self.wire, ())  # its buffer must not wait for the garbage collector

    def _live(self) -> str:
        """From the request to the end; why it ended, unless the peer released it."""
        try:
            self._negotiate()
            while self.is_established:
                if self._reader.between_messages():
                    self._serve(self._reader.command())
                while self._posted and self.is_established:
                    self._posted.popleft()(self)
                if self._broken is not None:
                    raise self._broken
            return "this node aborted it"
        except Released:
            self.is_released = True
            with suppress(Lost):
                self.send(data_path.A_RELEASE_RP)
            return ""
        except Violation as violation:
            self.is_aborted = True
            if not self._sent_abort:
                with suppress(Lost):
                    self.send(encode_abort(violation.reason))
            return str(violation)
        except Lost as lost:
            self.is_aborted = True
            if isinstance(lost, TimedOut) and not self._sent_abort:
                with suppress(Lost):
                    self.wire.send(encode_abort(AbortReason.NOT_SPECIFIED), LAST_WORD_SECONDS)
            return "this node aborted it" if self._sent_abort else str(lost)

    def _note_end(self, reason: str) -> None:
        if self.session is not None:
            end = AssociationEnd.RELEASED if self.is_released else AssociationEnd.ABORTED
            self._service.ended(self.session, end, reason)
        elif not self.is_rejected:
            self._service.failed(self.requestor.address_info.address, bytes(self._opening[:16]))

    # -- negotiation (PS3.8 9.2, states 2 and 3) --

    def _negotiate(self) -> None:
        primitive = self._request()
        self.requestor.primitive = primitive
        answer = self._service.admit(
            Proposal(
                calling_ae_title=primitive.calling_ae_title,
                called_ae_title=primitive.called_ae_title,
                host=self.requestor.address_info.address,
                contexts=primitive.presentation_context_definition_list,
            )
        )
        if isinstance(answer, Rejection):
            self.acse.send_reject(*answer.reason.value)
            return
        self.session = answer.session
        self.acceptor.maximum_length = answer.maximum_pdu_bytes
        self.acceptor.supported_contexts = answer.contexts
        self.acse.negotiate_association()
        self._reader = MessageReader(self.wire, self._accepted_cx)

    def _request(self) -> A_ASSOCIATE:
        """The A-ASSOCIATE-RQ, all of which must be here within the ACSE time-out."""
        deadline = time.monotonic() + self.acse_timeout
        self.wire.take_until(self._opening, data_path.PDU.size, deadline)
        kind, length = data_path.PDU.unpack(self._opening)
        if kind != 0x01:
            known = kind in data_path.PDU_TYPES
            raise Violation(AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNIZED_PDU, "no request came")
        if length > LARGEST_REQUEST_BYTES:
            raise Violation(AbortReason.INVALID_PARAMETER, "the association request is too long")
        self.wire.take_until(self._opening, data_path.PDU.size + length, deadline)
        pdu = A_ASSOCIATE_RQ()
        try:
            pdu.decode(bytes(self._opening))
            primitive = pdu.to_primitive()
        except Exception:
            raise Violation(AbortReason.INVALID_PARAMETER, "the association request is unreadable") from None
        if not pdu.protocol_version & 0x0001:
            self.requestor.primitive = primitive
            self.acse.send_reject(*RejectReason.PROTOCOL_VERSION_NOT_SUPPORTED.value)
            raise Lost("the association request has another protocol version")
        del self._opening[16:]  # more is not needed to explain a failure
        return primitive

    # -- messages --

    def _serve(self, command: Command) -> None:
        if command.field == C_STORE_RQ:
            self._store(command)
        elif command.field & RESPONSE or command.field == C_CANCEL_RQ:
            self._message(command)  # nobody waits for it any more: dropped
        else:
            self._serve_request(self._message(command), command.context_id)
            self._is_paused = True  # which serving a request undoes

    def _store(self, command: Command) -> None:
        """A C-STORE of any SOP class (PS3.7 9.1.1); pynetdicom would abort on those it does not know."""
        if command.message_id is None:
            raise Violation(AbortReason.INVALID_PARAMETER, "a C-STORE request has no Message ID")
        context = self._accepted_cx[command.context_id]
        request = StoreRequest(
            command.sop_class_uid,
            command.sop_instance_uid,
            str(context.transfer_syntax[0]),
            str(context.abstract_syntax),
        )
        dataset, complete = memoryview(b""), True
        if command.has_dataset:
            dataset, complete = self._reader.dataset(command.context_id)
        if complete:
            response = self._service.store(self.session, request, dataset)
        else:
            large = self._service.begin_large(self.session, request, dataset)
            try:
                for part in self._reader.rest(command.context_id):
                    large.write(part)
            except BaseException:
                large.discard()
                raise
            response = large.finish()
        if self.is_established:
            self.send(
                encode_store_response(
                    command.context_id,
                    command.message_id,
                    command.sop_class_uid,
                    command.sop_instance_uid,
                    response.status,
                    response.error_comment,
                )
            )

    def _message(self, command: Command) -> Any:
        """The rest of a message that is not a C-STORE, as a primitive of pynetdicom (PS3.7 9.1, 10.1)."""
        primitive = P_DATA()
        primitive.presentation_data_value_list = [[command.context_id, b"\x03" + command.encoded]]
        if command.has_dataset:
            dataset = bytearray()
            part, complete = self._reader.dataset(command.context_id)
            dataset += part
            if not complete:
                for part in self._reader.rest(command.context_id):
                    dataset += part
                    if len(dataset) > LARGEST_MESSAGE_BYTES:
                        raise Violation(AbortReason.NOT_SPECIFIED, "a message is too long")
            primitive.presentation_data_value_list.append([command.context_id, b"\x02" + bytes(dataset)])
        message = DIMSEMessage()
        try:
            message.decode_msg(primitive)
            return message.message_to_primitive()
        except Exception:
            raise Violation(AbortReason.INVALID_PARAMETER, "a command set cannot be read") from None

    def response(self) -> tuple[Any, Any]:
        """The peer's answer to what a service has asked it, as (presentation context, primitive); requests that come
        before are served. (None, None) when the association ends instead.
        """
        try:
            while self.is_established:
                if self._reader.between_messages():
                    command = self._reader.command()
                    if command.field & RESPONSE:
                        return command.context_id, self._message(command)
                    self._serve(command)
        except AssociationOver as ended:
            self._broken = ended
            self.is_established = False
        return None, None


# -- listening ---------------------------------------------------------------------------------------------------------


class Acceptor:
    """Listens on a port that several processes may share: the kernel spreads connections over them (SO_REUSEPORT)."""

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        service: Service,
        *,
        network_timeout: float,
        maximum_connections: int,
        handlers: Sequence[Handler],
    ) -> None:
        self._ae = ae
        self._service = service
        self._network_timeout = network_timeout
        self._maximum_connections = maximum_connections
        self._handlers = handlers
        self._connections: dict[AcceptedAssociation, None] = {}  # the oldest first
        self._dismissed: set[AcceptedAssociation] = set()  # those of them that were cut, to make room
        self._lock = threading.Lock()
        self._closed = False
        self._socket = socket.create_server(
            address,
            family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET,
            backlog=WAITING_CONNECTIONS,
            reuse_port=True,
        )
        self._thread = threading.Thread(target=self._accept, name="accept", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def connections(self) -> list[AcceptedAssociation]:
        with self._lock:
            return list(self._connections)

    def close(self) -> None:
        self._closed = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._thread.join()
        self._socket.close()

    def abort(self, seconds: float) -> int:
        remaining = self.connections
        for assoc in remaining:
            if assoc.is_established:
                assoc.abort(block=False)
        deadline = time.monotonic() + seconds
        for assoc in remaining:
            if assoc.is_aborted:
                assoc.join(timeout=max(0.0, deadline - time.monotonic()))
            assoc.cut()
        for assoc in remaining:
            assoc.join(timeout=seconds)
        return len(remaining)

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, address = self._socket.accept()
            except OSError as error:
                if not self._closed:
                    log.error("A connection could not be accepted: %s", error.strerror, extra=fields("accept"))
                    time.sleep(0.1)  # out of file descriptors, most likely
                continue
            try:
                self._begin(connection, address)
            except Exception as error:
                extra = fields("accept", host=address[0])
                log.error("A connection could not be served: %s", unexpected(error), extra=extra)
                connection.close()

    def _begin(self, connection: socket.socket, address: Any) -> None:
        """Bounds the threads: a connection costs one, before anything is known about the peer."""
        if not self._make_room():
            log.warning("Too many connections: a new one is closed", extra=fields("accept", host=address[0]))
            connection.close()
            return
        ae = self._ae
        assoc = _Accepted(self, ae, self._service, connection, self._network_timeout)
        assoc.name = f"association {address[0]}:{address[1]}"
        assoc.acceptor.ae_title = ae.ae_title
        assoc.acceptor.address_info = AddressInformation.from_tuple(connection.getsockname())
        assoc.acceptor.implementation_class_uid = ae.implementation_class_uid
        assoc.acceptor.implementation_version_name = ae.implementation_version_name
        assoc.requestor.address_info = AddressInformation.from_tuple(address)
        for event, handler in self._handlers:
            assoc.bind(event, handler)
        with self._lock:
            self._connections[assoc] = None
        try:
            assoc.start()
        except BaseException:  # there are no more threads, most likely
            self.forget(assoc)
            assoc.wire.close()
            raise

    def _make_room(self) -> bool:
        """Whether there is room for one more connection. The oldest one that has no association yet gives way: those
        that say nothing must not keep out those that have something to say.
        """
        with self._lock:
            if len(self._connections) - len(self._dismissed) < self._maximum_connections:
                return True
            if len(self._connections) >= 2 * self._maximum_connections:  # those that were cut have not ended yet
                return False
            waiting = (a for a in self._connections if a.session is None and a not in self._dismissed)
            oldest = next(waiting, None)
            if oldest is None:
                return False
            self._dismissed.add(oldest)
        host = oldest.requestor.address_info.address
        log.warning("Too many connections: the oldest silent one is closed", extra=fields("accept", host=host))
        oldest.cut()
        return True

    def forget(self, assoc: AcceptedAssociation) -> None:
        with self._lock:
            self._connections.pop(assoc, None)
            self._dismissed.discard(assoc)


class _Accepted(AcceptedAssociation):
    """One of an Acceptor's."""

    def __init__(self, acceptor: Acceptor, *args: Any) -> None:
        super().__init__(*args)
        self._acceptor = acceptor

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        finally:
            self._acceptor.forget(self)
