"""Associations that peers request of the node, built upon internals of pynetdicom (PS3.8).

pynetdicom negotiates associations and serves every DIMSE service but one: C-STORE runs through `messages`. One thread
owns an association from the first byte to the last. pynetdicom's own second thread, its state machine and its queues
are never started: the thread that sends a message writes it at once, and the thread that waits for a message reads it.
"""

import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from pynetdicom import AE
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

from dicom_node.dimse.messages import Connection, MessageReader
from dicom_node.dimse.pdu import (
    ABORT_BY_USER,
    ASSOCIATE_REQUEST,
    C_CANCEL_RQ,
    C_STORE_RQ,
    PDU,
    PDU_TYPES,
    RELEASE_RESPONSE,
    RESPONSE,
    AssociationOver,
    Command,
    Lost,
    Released,
    StoreRequest,
    TimedOut,
    Violation,
    encode_abort,
    encode_store_response,
)
from dicom_node.dimse.pynetdicom_setup import QuietAssociation
from dicom_node.dimse.service import AssociationService, Proposal, Rejection
from dicom_node.dimse.status import AbortReason, RejectReason
from dicom_node.runtime.logs import fields, unexpected
from storage.records.evidence import AssociationEnd

log = logging.getLogger(__name__)

ACCEPTOR = "acceptor"
LARGEST_REQUEST_BYTES = 2**19  # an A-ASSOCIATE-RQ with 128 presentation contexts has some 50,000
LARGEST_MESSAGE_BYTES = 16 * 2**20  # of a service other than C-STORE
LAST_WORD_SECONDS = 1.0  # given to the peer to read our last PDU and close


class _Provider(DULServiceProvider):
    """An upper layer service whose own thread is never started: primitives become PDUs at once."""

    def send_pdu(self, primitive: Any) -> None:
        cast(AcceptedAssociation, self.assoc).send(_encode(primitive))


class _Messages(DIMSEServiceProvider):
    """A DIMSE provider in which the service that sent a request reads the peer's answer itself."""

    def get_msg(self, block: bool = False) -> Any:
        return cast(AcceptedAssociation, self.assoc).response() if block else (None, None)


def _encode(primitive: Any) -> bytes:
    """Encode the PDU of a service primitive (PS3.8 9.3)."""
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
    """An association that a peer requested of the node, with the thread that owns it."""

    def __init__(self, ae: AE, service: AssociationService, connection: socket.socket, timeout: float) -> None:
        super().__init__(ae, ACCEPTOR)
        self.is_released = self._sent_abort = False
        self.dul = _Provider(self)
        self.dimse = _Messages(self)
        self.connection = Connection(connection, timeout)
        self.session: Any = None  # what the service keeps for this association, once it is admitted
        self._service = service
        self._reader = MessageReader(self.connection, ())
        self._posted: deque[Callable[[AcceptedAssociation], object]] = deque()
        self._broken: AssociationOver | None = None  # how the association ended while a service waited for a response
        self._opening = bytearray()
        self._is_paused = True  # there is no reactor that services would have to pause

    # -- for other threads --

    def post(self, task: Callable[["AcceptedAssociation"], object]) -> None:
        """Have the association's thread run `task` between two messages, to send an N-EVENT-REPORT for example.

        The task is dropped if the association ends before it could run.
        """
        self._posted.append(task)
        self.connection.wake()

    def cut(self) -> None:
        """End the connection at once. The thread of the association ends soon after."""
        self.connection.cut()

    def send(self, data: bytes) -> None:
        """Send encoded PDUs. Raise Lost when the peer is gone or does not read."""
        self.connection.send(data)

    def _abort_blocking(self, block: bool = True) -> None:
        """Send an A-ABORT by the service user, from any thread; the association's own thread then closes."""
        if self._sent_abort or self.is_released:
            return
        self._sent_abort = self.is_aborted = True
        self.is_established = False
        with suppress(Lost):
            self.connection.send(ABORT_BY_USER, LAST_WORD_SECONDS)
        self.connection.stop()

    # -- the association's own thread --

    def run_reactor(self) -> None:
        reason = ""
        try:
            reason = self._live()
        except Exception as error:
            log.error("An association broke off: %s", unexpected(error), extra=fields("association_failed"))
            self.abort()
            reason = "of an unexpected failure"
        finally:
            self.kill()
            self._note_end(reason)
            self.connection.drain(LAST_WORD_SECONDS)
            self.connection.close()
            self._reader = MessageReader(self.connection, ())  # its buffer must not wait for the garbage collector

    def _live(self) -> str:
        """Serve the association to its end, and return the reason of the end; an empty text if the peer released it."""
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
                self.send(RELEASE_RESPONSE)
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
                    self.connection.send(encode_abort(AbortReason.NOT_SPECIFIED), LAST_WORD_SECONDS)
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
        self._reader = MessageReader(self.connection, self._accepted_cx)

    def _request(self) -> A_ASSOCIATE:
        """Read the A-ASSOCIATE-RQ, which must arrive completely within the ACSE time-out."""
        deadline = time.monotonic() + self.acse_timeout
        self.connection.take_until(self._opening, PDU.size, deadline)
        kind, length = PDU.unpack(self._opening)
        if kind != ASSOCIATE_REQUEST:
            known = kind in PDU_TYPES
            raise Violation(AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNIZED_PDU, "no request came")
        if length > LARGEST_REQUEST_BYTES:
            raise Violation(AbortReason.INVALID_PARAMETER, "the association request is too long")
        self.connection.take_until(self._opening, PDU.size + length, deadline)
        request = A_ASSOCIATE_RQ()
        try:
            request.decode(bytes(self._opening))
            primitive = request.to_primitive()
        except Exception:
            raise Violation(AbortReason.INVALID_PARAMETER, "the association request is unreadable") from None
        if not request.protocol_version & 0x0001:
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
            self._message(command)  # an answer that comes too late is dropped here
        else:
            self._serve_request(self._message(command), command.context_id)
            self._is_paused = True  # serving a request has reset it

    def _store(self, command: Command) -> None:
        """Serve a C-STORE of any SOP class (PS3.7 9.1.1); pynetdicom would abort on classes it does not know."""
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
        """Read the rest of a message that is not a C-STORE, as a primitive of pynetdicom (PS3.7 9.1, 10.1)."""
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
        """Read the peer's answer to a request of ours, and return its presentation context ID and its primitive.

        Requests that arrive before it are served. Returns (None, None) if the association ends before the answer.
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
