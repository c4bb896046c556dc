"""The listener for connections, each of which becomes an association with a thread of its own."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pynetdicom import AE
from pynetdicom.transport import AddressInformation

from dicom_node.dimse.association import AcceptedAssociation
from dicom_node.dimse.service import AssociationService
from dicom_node.runtime.logs import fields, unexpected

log = logging.getLogger(__name__)

WAITING_CONNECTIONS = 128  # length of the kernel's queue

Handler = tuple[Any, Callable[[Any], Any]]  # an event of pynetdicom.evt and what answers it


class Acceptor:
    """A listener on a port that processes may share; the kernel spreads connections over them (SO_REUSEPORT)."""

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        service: AssociationService,
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
        self._connections: dict[AcceptedAssociation, None] = {}  # oldest first
        self._dismissed: set[AcceptedAssociation] = set()  # the ones among them that were cut to make room
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
        """The port that is bound."""
        return int(self._socket.getsockname()[1])

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def connections(self) -> list[AcceptedAssociation]:
        with self._lock:
            return list(self._connections)

    def close(self) -> None:
        """Stop listening. Open associations go on."""
        self._closed = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._thread.join()
        self._socket.close()

    def abort(self, seconds: float) -> int:
        """Abort the remaining associations and return their number; wait up to `seconds` for each step of it."""
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
                    log.error(
                        "The system could not accept a connection; the node goes on listening: %s",
                        error.strerror,
                        extra=fields("connection_failed"),
                    )
                    time.sleep(0.1)  # most likely there are no more file descriptors
                continue
            try:
                self._begin(connection, address)
            except Exception as error:
                extra = fields("connection_failed", host=address[0])
                log.error("A connection could not be served: %s", unexpected(error), extra=extra)
                connection.close()

    def _begin(self, connection: socket.socket, address: Any) -> None:
        """Start an association's thread, if the number of threads allows it."""
        if not self._make_room():
            log.warning(
                "Too many connections: the new one is closed", extra=fields("connection_refused", host=address[0])
            )
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
        except BaseException:  # most likely there are no more threads
            self.forget(assoc)
            assoc.connection.close()
            raise

    def _make_room(self) -> bool:
        """Return True if there is room for one more connection, or if one can be cut to make room.

        The oldest connection without an association gives way, so that silent peers cannot keep out others.
        """
        with self._lock:
            if len(self._connections) - len(self._dismissed) < self._maximum_connections:
                return True
            if len(self._connections) >= 2 * self._maximum_connections:  # the threads that were cut have not ended yet
                return False
            waiting = (a for a in self._connections if a.session is None and a not in self._dismissed)
            oldest = next(waiting, None)
            if oldest is None:
                return False
            self._dismissed.add(oldest)
        host = oldest.requestor.address_info.address
        log.warning(
            "Too many connections: the oldest silent one is closed", extra=fields("connection_dismissed", host=host)
        )
        oldest.cut()
        return True

    def forget(self, assoc: AcceptedAssociation) -> None:
        with self._lock:
            self._connections.pop(assoc, None)
            self._dismissed.discard(assoc)


class _Accepted(AcceptedAssociation):
    """An association that removes itself from its acceptor when it ends."""

    def __init__(self, acceptor: Acceptor, *args: Any) -> None:
        super().__init__(*args)
        self._acceptor = acceptor

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        finally:
            self._acceptor.forget(self)
