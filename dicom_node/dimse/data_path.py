"""The way of a C-STORE from the socket to whoever stores it: PDUs (PS3.8 9.3), fragments (PS3.8 annex E), commands
(PS3.7 6.3 and 9.3.1), all read and written by the one thread that owns the association.

Nothing here polls, queues, or knows pynetdicom; memory is bounded whatever lengths a peer claims.
"""

import mmap
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from dataclasses import dataclass

from dicom_node.dimse.status import AbortReason

MAXIMUM_PDU_BYTES = 131072  # what we announce: the most that DCMTK sends
LARGEST_PDU_BYTES = 4 * 2**20  # what we read, since not every peer keeps to what we announce
LARGEST_COMMAND_BYTES = 64 * 2**10
LARGE_BYTES = 8 * 2**20  # a dataset beyond this goes to disk while it arrives
CHUNK_BYTES = 2**20  # in such pieces
READ_BYTES = 64 * 2**10  # asked of the kernel at once, beside what goes to its place directly
MINIMUM_BYTES_PER_SECOND = 1024  # a peer that is slower within a message, for longer than the time-out, is gone
QUIET_SECONDS = 1.0  # after which an idle association gives its buffers back

PDU = struct.Struct(">BxL")  # type and length (PS3.8 9.3.1)
FRAGMENT = struct.Struct(">LBB")  # length, presentation context, message control header (PS3.8 9.3.5.1, E.2)
P_DATA_TF, A_RELEASE_RQ, A_ABORT = 0x04, 0x05, 0x07
PDU_TYPES = range(0x01, 0x08)
COMMAND, LAST = 0x01, 0x02  # bits of the message control header; the others are never checked (PS3.8 E.2)
C_STORE_RQ, C_CANCEL_RQ = 0x0001, 0x0FFF
RESPONSE = 0x8000  # this bit of the Command Field tells responses from requests
NO_DATASET = 0x0101

A_RELEASE_RP = b"\x06\0\0\0\0\x04\0\0\0\0"


class AssociationOver(Exception):
    """The association is over. The message is for the log and quotes nothing of what came."""


class Released(AssociationOver):
    """The peer asks for the release between two messages (PS3.8 9.3.6)."""


class Lost(AssociationOver):
    """The peer aborted, or closed the connection, or we did."""


class TimedOut(Lost):
    """The peer was silent, or too slow, but the connection stands."""


class Violation(AssociationOver):
    """What came is not what the standard allows here; the answer is an A-ABORT of the service provider."""

    def __init__(self, reason: AbortReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Command:
    """One command set (PS3.7 6.3.1), of which only a C-STORE needs more than `field`. `encoded` is all of it."""

    context_id: int
    field: int
    message_id: int | None
    has_dataset: bool
    sop_class_uid: str
    sop_instance_uid: str
    encoded: bytes


@dataclass(frozen=True)
class StoreRequest:
    """What is known of one C-STORE before its dataset: what its command says, and the presentation context it uses."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str  # of the context
    abstract_syntax_uid: str  # of the context


# -- the socket --------------------------------------------------------------------------------------------------------


class Wire:
    """A connection that is read through a buffer, and never waits longer for its peer than it should.

    Reading belongs to one thread; `send`, `wake`, `stop` and `cut` may be called by others.
    """

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        connection.setblocking(False)
        # A response waits for nothing: with Nagle's algorithm each one would wait for the peer's delayed ACK.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.connection = connection
        self.timeout = timeout
        self._sending = threading.Lock()
        self._closing = threading.Lock()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopped = False
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(self._event, select.POLLIN)
        self._buffer = bytearray()  # read but not taken: from _start to _end
        self._start = self._end = 0
        self._waited = 0.0  # for the peer, since the message began
        self._received = 0  # bytes of commands and datasets in the same time: headers alone are no progress

    def begin(self) -> None:
        """Counts anew how long the peer lets us wait: another message begins."""
        self._waited, self._received = 0.0, 0

    def between_messages(self, quiet: Callable[[], object]) -> bool:
        """Waits for the next message: True when it is here, False after `wake`. Raises Lost when none comes in time.

        `quiet` is called when the peer has been silent for a moment, to give memory back.
        """
        if self._start < self._end:
            return True
        moment = min(QUIET_SECONDS, self.timeout)
        ready = self._look(moment)
        if ready is None and self.timeout > moment:
            self._buffer = bytearray()
            quiet()
            ready = self._look(self.timeout - moment)
        if ready is None:
            raise TimedOut("it was idle for too long")
        return ready

    def take(self, structure: struct.Struct) -> tuple[int, ...]:
        """The next few bytes, unpacked."""
        size = structure.size
        while self._end - self._start < size:
            self._fill()
        values = structure.unpack_from(self._buffer, self._start)
        self._start += size
        return values

    def take_into(self, target: memoryview) -> None:
        """Fills `target`: from the buffer, then straight from the socket, with what lies behind it into the buffer."""
        size = len(target)
        filled = min(size, self._end - self._start)
        target[:filled] = memoryview(self._buffer)[self._start : self._start + filled]
        self._start += filled
        self._received += filled
        while filled < size:
            self._start = self._end = 0
            if not self._buffer:
                self._buffer = bytearray(READ_BYTES)
            count = self._receive([target[filled:], self._buffer])
            self._end = max(0, count - (size - filled))
            filled += count - self._end
            self._received += count - self._end

    def skip(self, size: int) -> None:
        self.take_into(memoryview(bytearray(size)))

    def take_until(self, target: bytearray, size: int, deadline: float) -> None:
        """Appends bytes to `target` until it has `size`; what came is in it even when Lost is raised."""
        while len(target) < size:
            if self._start == self._end:
                if not self._look(max(0.0, deadline - time.monotonic())):
                    raise Lost("it did not ask for an association in time")
                self._fill()
            end = min(self._end, self._start + size - len(target))
            target += memoryview(self._buffer)[self._start : end]
            self._start = end

    def send(self, data: bytes, timeout: float | None = None) -> None:
        """Sends all of it. Raises Lost when the peer is gone, or does not read."""
        timeout = self.timeout if timeout is None else timeout
        if not self._sending.acquire(timeout=timeout):
            raise Lost("it does not read our answers")
        try:
            rest = memoryview(data)
            while rest:
                try:
                    rest = rest[self.connection.send(rest) :]
                except BlockingIOError:
                    writable = select.poll()
                    writable.register(self.connection, select.POLLOUT)
                    if not writable.poll(timeout * 1000):
                        raise Lost("it does not read our answers") from None
        except OSError:
            raise Lost("the connection broke") from None
        finally:
            self._sending.release()

    def wake(self) -> None:
        """Makes `between_messages` return."""
        with self._closing:
            if self._event >= 0:
                os.eventfd_write(self._event, 1)

    def stop(self) -> None:
        """Makes whatever waits for the peer raise Lost. What was said last still reaches the peer."""
        self._stopped = True
        self.wake()

    def cut(self) -> None:
        """Ends whatever reading or writing is going on."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def drain(self, seconds: float) -> None:
        """Waits until the peer has closed, so that it reads what we said last; closing on unread data would reset."""
        deadline = time.monotonic() + seconds
        try:
            self.connection.shutdown(socket.SHUT_WR)
            readable = select.poll()
            readable.register(self.connection, select.POLLIN)
            while (left := deadline - time.monotonic()) > 0 and readable.poll(left * 1000):
                if not self.connection.recv(READ_BYTES):
                    return
        except OSError:
            return

    def close(self) -> None:
        self.connection.close()
        self._buffer = bytearray()
        self._start = self._end = 0
        with self._closing:
            event, self._event = self._event, -1
        if event >= 0:
            os.close(event)

    def _fill(self) -> None:
        """Reads what there is into the buffer; waits for the first byte."""
        if not self._buffer:
            self._buffer = bytearray(READ_BYTES)
        rest = self._buffer[self._start : self._end]
        self._buffer[: len(rest)] = rest
        self._start, self._end = 0, len(rest)
        self._end += self._receive([memoryview(self._buffer)[self._end :]])

    def _receive(self, targets: list[memoryview | bytearray]) -> int:
        while True:
            try:
                count = self.connection.recvmsg_into(targets)[0]
            except BlockingIOError:
                self._wait()
                continue
            except OSError:
                raise Lost("the connection broke") from None
            if not count:
                raise Lost("the connection was closed")
            return count

    def _wait(self) -> None:
        """Until there is something to read. A peer has the time-out, and more for what it has delivered already: one
        byte every second, or PDUs without content, hold no place for ever.
        """
        while True:
            allowed = min(self.timeout, self.timeout + self._received / MINIMUM_BYTES_PER_SECOND - self._waited)
            start = time.monotonic()
            ready = self._look(allowed) if allowed > 0 else None
            self._waited += time.monotonic() - start
            if ready is None:
                raise TimedOut("it stopped, or was too slow, in the middle of a message")
            if ready:
                return

    def _look(self, seconds: float) -> bool | None:
        """Waits for something to read: True when there is, False when only `wake` was called, None after `seconds`."""
        # Spares senders that leave Nagle's algorithm on the wait for a delayed ACK. Linux forgets it: each time anew.
        with suppress(OSError):  # what happened to the connection is told by reading
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        ready = self._poll.poll(seconds * 1000)
        if not ready:
            return None
        if len(ready) == 1 and ready[0][0] != self._event:
            return True
        os.eventfd_read(self._event)
        if self._stopped:
            raise Lost("this node ended it")
        return len(ready) > 1


# -- messages ----------------------------------------------------------------------------------------------------------


class MessageReader:
    """Takes PDUs and fragments apart, one message after another. `contexts` are the accepted presentation contexts."""

    def __init__(self, wire: Wire, contexts: Container[int]) -> None:
        self._wire = wire
        self._contexts = contexts
        self._pdu = 0  # bytes of the current P-DATA-TF that were not taken yet
        self._body: mmap.mmap | None = None  # where a dataset is gathered: memory is taken only as far as it is used
        self._filled = 0

    def between_messages(self) -> bool:
        """As `Wire.between_messages`."""
        self._wire.begin()
        return bool(self._pdu) or self._wire.between_messages(self._give_back)

    def command(self) -> Command:
        """The next command set. Raises Released, Lost, Violation."""
        encoded = bytearray()
        context_id: int | None = None
        while True:
            context_id, control, length = self._fragment(context_id, first=not encoded)
            if not control & COMMAND:
                raise Violation(AbortReason.UNEXPECTED_PARAMETER, "a dataset came where a command belongs")
            if len(encoded) + length > LARGEST_COMMAND_BYTES:
                raise Violation(AbortReason.INVALID_PARAMETER, "a command set is too long")
            part = bytearray(length)
            self._wire.take_into(memoryview(part))
            encoded += part
            if control & LAST:
                return decode_command(context_id, bytes(encoded))

    def dataset(self, context_id: int) -> tuple[memoryview, bool]:
        """The dataset of the message, or its beginning, and whether it is all; `rest` reads on. Valid until the next
        call of any method.
        """
        complete = self._collect(context_id, LARGE_BYTES)
        return self._collected(), complete

    def rest(self, context_id: int) -> Iterator[memoryview]:
        """What follows the beginning, in pieces, each valid until the next one."""
        complete = False
        while not complete:
            complete = self._collect(context_id, CHUNK_BYTES)
            yield self._collected()

    def _collect(self, context_id: int, limit: int) -> bool:
        """Gathers fragments until the last one, or until there are `limit` bytes or more."""
        if self._body is None:
            self._body = mmap.mmap(-1, LARGE_BYTES + LARGEST_PDU_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        body = memoryview(self._body)
        self._filled = 0
        while self._filled < limit:
            _, control, length = self._fragment(context_id)
            if control & COMMAND:
                raise Violation(AbortReason.UNEXPECTED_PARAMETER, "a command came in the middle of a dataset")
            self._wire.take_into(body[self._filled : self._filled + length])
            self._filled += length
            if control & LAST:
                return True
        return False

    def _give_back(self) -> None:
        if self._body is not None:
            self._body.madvise(mmap.MADV_DONTNEED)

    def _collected(self) -> memoryview:
        assert self._body is not None
        return memoryview(self._body)[: self._filled]

    def _fragment(self, context_id: int | None, first: bool = False) -> tuple[int, int, int]:
        """Presentation context, control header and length of the next fragment; its bytes are next on the wire."""
        while not self._pdu:
            self._open(first)
        if self._pdu < FRAGMENT.size:
            raise Violation(AbortReason.INVALID_PARAMETER, "a PDU ends within a fragment's header")
        length, context, control = self._wire.take(FRAGMENT)
        if length < 2 or length + 4 > self._pdu:
            raise Violation(AbortReason.INVALID_PARAMETER, "a fragment is longer than its PDU, or too short")
        if context not in self._contexts:
            raise Violation(AbortReason.INVALID_PARAMETER, "a message uses a presentation context nobody accepted")
        if context_id is not None and context != context_id:
            raise Violation(AbortReason.UNEXPECTED_PARAMETER, "a message changes its presentation context")
        self._pdu -= length + 4
        return context, control, length - 2

    def _open(self, first: bool) -> None:
        """The header of the next PDU, which carries data unless the association ends (PS3.8 9.2, state 6)."""
        kind, length = self._wire.take(PDU)
        if kind == P_DATA_TF:
            if not FRAGMENT.size <= length <= LARGEST_PDU_BYTES:
                raise Violation(AbortReason.INVALID_PARAMETER, f"a PDU of {length} bytes is refused")
            self._pdu = length
        elif kind == A_ABORT:
            raise Lost("the peer aborted it")
        elif kind == A_RELEASE_RQ and first:
            if length != 4:
                raise Violation(AbortReason.INVALID_PARAMETER, "a release request has the wrong length")
            self._wire.skip(length)
            raise Released("the peer released it")
        elif kind in PDU_TYPES:
            raise Violation(AbortReason.UNEXPECTED_PDU, f"a PDU of type {kind} has no place here")
        else:
            raise Violation(AbortReason.UNRECOGNIZED_PDU, f"there is no PDU of type {kind}")


# -- commands ----------------------------------------------------------------------------------------------------------

_ELEMENT = struct.Struct("<HHL")
_US = struct.Struct("<H")
_EMPTY = b""


def decode_command(context_id: int, encoded: bytes) -> Command:
    """Reads a command set, which is always implicit VR little endian (PS3.7 6.3.1). Raises Violation."""
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
    """A P-DATA-TF PDU (PS3.8 9.3.5) with one C-STORE-RSP command (PS3.7 9.3.1.2), implicit VR little endian."""
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
    """An A-ABORT PDU of the service provider (PS3.8 9.3.8)."""
    return PDU.pack(A_ABORT, 4) + bytes((0, 0, 0x02, reason))


def _command_element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0x0000, element, len(value)) + value


def _even(text: str, padding: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    return value + padding * (len(value) % 2)
