"""The way of a message from the socket: PDUs (PS3.8 9.3) and their fragments (PS3.8 annex E).

Only the thread that owns the association reads. Nothing here polls, queues, or depends on pynetdicom, and memory is
bounded whatever lengths a peer claims.
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

from dicom_node.dimse.pdu import (
    A_ABORT,
    A_RELEASE_RQ,
    COMMAND,
    FRAGMENT,
    LARGEST_PDU_BYTES,
    LAST,
    P_DATA_TF,
    PDU,
    PDU_TYPES,
    Command,
    Lost,
    Released,
    TimedOut,
    Violation,
    decode_command,
)
from dicom_node.dimse.status import AbortReason

LARGEST_COMMAND_BYTES = 64 * 2**10
LARGE_BYTES = 8 * 2**20  # a larger dataset goes to disk while it arrives
CHUNK_BYTES = 2**20  # size of the pieces in which it does
READ_BYTES = 64 * 2**10  # size of the read buffer; larger parts are read straight into their place
MINIMUM_BYTES_PER_SECOND = 1024  # a peer that is slower within a message for longer than the time-out is cut
QUIET_SECONDS = 1.0  # after which an idle association frees its buffers


class Connection:
    """A buffered connection on which every wait for the peer ends within a time-out.

    Only one thread may read; other threads may call `send`, `wake`, `stop` and `cut`.
    """

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        connection.setblocking(False)
        # With Nagle's algorithm each response would wait for the peer's delayed ACK.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._socket = connection
        self.timeout = timeout
        self._sending = threading.Lock()
        self._closing = threading.Lock()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopped = False
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(self._event, select.POLLIN)
        self._buffer = bytearray()  # bytes from _start to _end are read but not taken
        self._start = self._end = 0
        self._waited = 0.0  # seconds of waiting for the peer since the message began
        self._received = 0  # bytes of commands and datasets in that time; headers alone are no progress

    def begin(self) -> None:
        """Begin another message: reset the time for which the peer has let us wait."""
        self._waited, self._received = 0.0, 0

    def between_messages(self, quiet: Callable[[], object]) -> bool:
        """Wait for the next message. Return True if it begins, or False after `wake`; raise Lost if none comes in time.

        `quiet` is called after a moment of silence, so that the caller can free memory.
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
        """Read the bytes of a structure, and return its unpacked values."""
        size = structure.size
        while self._end - self._start < size:
            self._fill()
        values = structure.unpack_from(self._buffer, self._start)
        self._start += size
        return values

    def take_into(self, target: memoryview) -> None:
        """Fill `target` from the buffer, then straight from the socket; bytes that follow it go to the buffer."""
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
        """Append bytes to `target` until it has `size` bytes. If Lost is raised, it keeps the bytes read so far."""
        while len(target) < size:
            if self._start == self._end:
                if not self._look(max(0.0, deadline - time.monotonic())):
                    raise Lost("it did not ask for an association in time")
                self._fill()
            end = min(self._end, self._start + size - len(target))
            target += memoryview(self._buffer)[self._start : end]
            self._start = end

    def send(self, data: bytes, timeout: float | None = None) -> None:
        """Send all of `data`. Raise Lost when the peer is gone or does not read."""
        timeout = self.timeout if timeout is None else timeout
        if not self._sending.acquire(timeout=timeout):
            raise Lost("it does not read our answers")
        try:
            rest = memoryview(data)
            while rest:
                try:
                    rest = rest[self._socket.send(rest) :]
                except BlockingIOError:
                    writable = select.poll()
                    writable.register(self._socket, select.POLLOUT)
                    if not writable.poll(timeout * 1000):
                        raise Lost("it does not read our answers") from None
        except OSError:
            raise Lost("the connection broke") from None
        finally:
            self._sending.release()

    def wake(self) -> None:
        """Make `between_messages` return."""
        with self._closing:
            if self._event >= 0:
                os.eventfd_write(self._event, 1)

    def stop(self) -> None:
        """Make every wait for the peer raise Lost. Data that was sent before still reaches the peer."""
        self._stopped = True
        self.wake()

    def cut(self) -> None:
        """End all reading and writing at once."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def drain(self, seconds: float) -> None:
        """Wait until the peer has closed. With unread data a close would reset, and our last PDU would be lost."""
        deadline = time.monotonic() + seconds
        try:
            self._socket.shutdown(socket.SHUT_WR)
            readable = select.poll()
            readable.register(self._socket, select.POLLIN)
            while (left := deadline - time.monotonic()) > 0 and readable.poll(left * 1000):
                if not self._socket.recv(READ_BYTES):
                    return
        except OSError:
            return

    def close(self) -> None:
        self._socket.close()
        self._buffer = bytearray()
        self._start = self._end = 0
        with self._closing:
            event, self._event = self._event, -1
        if event >= 0:
            os.close(event)

    def _fill(self) -> None:
        """Read what is available into the buffer; wait for the first byte."""
        if not self._buffer:
            self._buffer = bytearray(READ_BYTES)
        rest = self._buffer[self._start : self._end]
        self._buffer[: len(rest)] = rest
        self._start, self._end = 0, len(rest)
        self._end += self._receive([memoryview(self._buffer)[self._end :]])

    def _receive(self, targets: list[memoryview | bytearray]) -> int:
        while True:
            try:
                count = self._socket.recvmsg_into(targets)[0]
            except BlockingIOError:
                self._wait()
                continue
            except OSError:
                raise Lost("the connection broke") from None
            if not count:
                raise Lost("the connection was closed")
            return count

    def _wait(self) -> None:
        """Wait until there is something to read, or raise TimedOut.

        For each message a peer has the time-out, and some more time for every byte that it delivers. So a peer that
        trickles bytes, or sends PDUs without content, cannot hold its place for ever.
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
        """Wait for something to read: return True when there is, False after `wake` alone, None after `seconds`."""
        # Senders that leave Nagle's algorithm on would wait for a delayed ACK. Linux forgets this option, so it is set
        # every time.
        with suppress(OSError):  # reading will tell that the connection broke
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        ready = self._poll.poll(seconds * 1000)
        if not ready:
            return None
        if len(ready) == 1 and ready[0][0] != self._event:
            return True
        os.eventfd_read(self._event)
        if self._stopped:
            raise Lost("this node ended it")
        return len(ready) > 1


class MessageReader:
    """A reader of one message after another. `contexts` are the IDs of the accepted presentation contexts."""

    def __init__(self, connection: Connection, contexts: Container[int]) -> None:
        self._connection = connection
        self._contexts = contexts
        self._pdu = 0  # remaining bytes of the current P-DATA-TF
        self._body: mmap.mmap | None = None  # gathers a dataset; the kernel gives memory only for used pages
        self._filled = 0

    def between_messages(self) -> bool:
        """Wait as `Connection.between_messages` does."""
        self._connection.begin()
        return bool(self._pdu) or self._connection.between_messages(self._give_back)

    def command(self) -> Command:
        """Read the next command set. Raise Released, Lost or Violation."""
        encoded = bytearray()
        context_id: int | None = None
        while True:
            context_id, control, length = self._fragment(context_id, first=not encoded)
            if not control & COMMAND:
                raise Violation(AbortReason.UNEXPECTED_PARAMETER, "a dataset came where a command belongs")
            if len(encoded) + length > LARGEST_COMMAND_BYTES:
                raise Violation(AbortReason.INVALID_PARAMETER, "a command set is too long")
            part = bytearray(length)
            self._connection.take_into(memoryview(part))
            encoded += part
            if control & LAST:
                return decode_command(context_id, bytes(encoded))

    def dataset(self, context_id: int) -> tuple[memoryview, bool]:
        """Read the dataset of the message, or its beginning; return it and True if it is complete.

        `rest` reads the remaining bytes. The returned bytes are valid until the next call of any method.
        """
        complete = self._collect(context_id, LARGE_BYTES)
        return self._collected(), complete

    def rest(self, context_id: int) -> Iterator[memoryview]:
        """Yield the rest of a dataset in pieces, each valid until the next one."""
        complete = False
        while not complete:
            complete = self._collect(context_id, CHUNK_BYTES)
            yield self._collected()

    def _collect(self, context_id: int, limit: int) -> bool:
        """Gather fragments up to the last one, or up to `limit` bytes; return True if the last one was read."""
        if self._body is None:
            self._body = mmap.mmap(-1, LARGE_BYTES + LARGEST_PDU_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        body = memoryview(self._body)
        self._filled = 0
        while self._filled < limit:
            _, control, length = self._fragment(context_id)
            if control & COMMAND:
                raise Violation(AbortReason.UNEXPECTED_PARAMETER, "a command came in the middle of a dataset")
            self._connection.take_into(body[self._filled : self._filled + length])
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
        """Read the header of the next fragment: presentation context, control header and length of its bytes."""
        while not self._pdu:
            self._open(first)
        if self._pdu < FRAGMENT.size:
            raise Violation(AbortReason.INVALID_PARAMETER, "a PDU ends within a fragment's header")
        length, context, control = self._connection.take(FRAGMENT)
        if length < 2 or length + 4 > self._pdu:
            raise Violation(AbortReason.INVALID_PARAMETER, "a fragment is longer than its PDU, or too short")
        if context not in self._contexts:
            raise Violation(AbortReason.INVALID_PARAMETER, "a message uses a presentation context nobody accepted")
        if context_id is not None and context != context_id:
            raise Violation(AbortReason.UNEXPECTED_PARAMETER, "a message changes its presentation context")
        self._pdu -= length + 4
        return context, control, length - 2

    def _open(self, first: bool) -> None:
        """Read the header of the next PDU; raise Released, Lost or Violation unless it carries data (PS3.8 9.2)."""
        kind, length = self._connection.take(PDU)
        if kind == P_DATA_TF:
            if not FRAGMENT.size <= length <= LARGEST_PDU_BYTES:
                raise Violation(AbortReason.INVALID_PARAMETER, f"a PDU of {length} bytes is refused")
            self._pdu = length
        elif kind == A_ABORT:
            raise Lost("the peer aborted it")
        elif kind == A_RELEASE_RQ and first:
            if length != 4:
                raise Violation(AbortReason.INVALID_PARAMETER, "a release request has the wrong length")
            self._connection.skip(length)
            raise Released("the peer released it")
        elif kind in PDU_TYPES:
            raise Violation(AbortReason.UNEXPECTED_PDU, f"a PDU of type {kind} has no place here")
        else:
            raise Violation(AbortReason.UNRECOGNIZED_PDU, f"there is no PDU of type {kind}")
