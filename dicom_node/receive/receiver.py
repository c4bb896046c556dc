"""The `receive` role: one process that listens, alone or with others on the same port."""

import logging
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pynetdicom import AE, evt

from dicom_node.dimse.pynetdicom_setup import silence_pynetdicom
from dicom_node.dimse.upper_layer import Acceptor, Handler
from dicom_node.receive.storage import ReceivePolicy, SopClass, StorageService
from dicom_node.runtime.logs import fields
from storage.errors import Permanent
from storage.log.journal import Journal

log = logging.getLogger(__name__)

# Connections that have not been admitted yet may outnumber associations by this factor before new ones are closed.
CONNECTIONS_PER_ASSOCIATION = 4
UNLIMITED = 2**31
GRACE_SECONDS = 5.0
ABORT_SECONDS = 1.0  # for the peer to hear of it


def ensure_port_is_free(host: str, port: int) -> None:
    """Raises Permanent when something listens there. Receivers share a port, so binding would not fail by itself."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier life may linger
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Permanent(
                f"port {port} on {host} cannot be used ({error.strerror}); stop what listens there, or set receive.port"
            ) from None


@dataclass(frozen=True)
class DimseService:
    """A service beyond C-ECHO and C-STORE that the receiver offers: its SOP classes, and the handlers of pynetdicom's
    events that serve them, such as (evt.EVT_N_ACTION, function).

    A handler finds the association's session as `event.assoc.session`. `event.assoc.post` has something done between
    two later messages.
    """

    sop_classes: tuple[SopClass, ...]
    handlers: tuple[Handler, ...]


class Receiver:
    """`start` binds and listens, `stop` closes; `run` waits between the two. `name` is unique among receivers."""

    def __init__(
        self, policy: ReceivePolicy, journal: Journal, name: str, services: Sequence[DimseService] = ()
    ) -> None:
        self._policy = policy
        self._journal = journal
        self._services = services
        self._service = StorageService(policy, journal, name, [c for s in services for c in s.sop_classes])
        self._listener: Acceptor | None = None

    @property
    def port(self) -> int:
        """The port that is bound; the policy's, unless that is 0."""
        return self._listener.port if self._listener is not None else self._policy.port

    def start(self) -> None:
        """Opens the journal and listens. Raises StorageFull or Retriable when the journal cannot be opened."""
        silence_pynetdicom()
        self._journal.open()
        policy = self._policy
        self._listener = self._listen()
        log.info(
            "Listening as %s on %s:%d; %s",
            policy.ae_title,
            policy.host,
            self.port,
            f"{len(policy.peers)} configured peers are admitted" if policy.peers else "every peer is admitted",
            extra=fields("receive"),
        )

    def run(self, stop: threading.Event) -> None:
        """Receives until `stop` is set, then lets associations finish for a moment."""
        if self._listener is None:
            self.start()
        while not stop.wait(1.0):
            if self._listener is not None and not self._listener.is_alive:
                raise RuntimeError("the listening thread ended")
        self.stop()

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """Stops listening, waits up to `grace` seconds for associations to end, and aborts those that remain."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        listener.close()
        deadline = time.monotonic() + grace
        while self._service.established and time.monotonic() < deadline:
            time.sleep(0.05)
        remaining = listener.abort(ABORT_SECONDS)
        self._journal.close()
        log.info("Stopped listening; %d connections were cut", remaining, extra=fields("receive"))

    def _listen(self) -> Acceptor:
        policy = self._policy
        ae = AE(ae_title=policy.ae_title)
        ae.acse_timeout = policy.request_timeout
        ae.dimse_timeout = policy.network_timeout
        ae.network_timeout = policy.network_timeout
        connections = policy.maximum_associations * CONNECTIONS_PER_ASSOCIATION
        handlers: list[Handler] = [(evt.EVT_C_ECHO, self._echoed)]
        handlers += [handler for service in self._services for handler in service.handlers]
        # pynetdicom counts threads, those of connections that are being closed among them; the Acceptor counts better.
        ae.maximum_associations = UNLIMITED
        return Acceptor(
            ae,
            (policy.host, policy.port),
            self._service,
            network_timeout=policy.network_timeout,
            maximum_connections=connections,
            handlers=handlers,
        )

    def _echoed(self, event: Any) -> int:
        return self._service.echoed(event.assoc.session)
