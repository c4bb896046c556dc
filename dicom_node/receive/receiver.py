"""The `receive` role: a process that listens, alone or with others on the same port."""

import logging
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pynetdicom import AE, evt

from dicom_node.dimse.acceptor import Acceptor, Handler
from dicom_node.dimse.pynetdicom_setup import silence_pynetdicom
from dicom_node.receive.policy import ReceivePolicy
from dicom_node.receive.presentation_contexts import SopClass
from dicom_node.receive.storage import StorageService
from dicom_node.runtime.logs import fields
from storage.errors import Permanent
from storage.log.journal import Journal
from storage.log.patient_key import PatientKey

log = logging.getLogger(__name__)

# Connections that have not been admitted yet may outnumber associations by this factor before new ones are closed.
CONNECTIONS_PER_ASSOCIATION = 4
UNLIMITED = 2**31
GRACE_SECONDS = 5.0  # given to associations to end by themselves
ABORT_SECONDS = 1.0  # given to a peer to read the A-ABORT


def ensure_port_is_free(host: str, port: int) -> None:
    """Raise Permanent if something listens on the port. Receivers share a port, so binding it would not fail."""
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
    """A service beyond C-ECHO and C-STORE that the receiver offers: its SOP classes, and the handlers that serve them.

    A handler belongs to an event of pynetdicom, as in (evt.EVT_N_ACTION, function). It finds the association's session
    as `event.assoc.session`; `event.assoc.post` runs a task between two later messages.
    """

    sop_classes: tuple[SopClass, ...]
    handlers: tuple[Handler, ...]


class Receiver:
    """A receiving process: `start` opens the port, `run` waits, `stop` closes. `name` is unique among receivers."""

    def __init__(
        self,
        policy: ReceivePolicy,
        journal: Journal,
        key: PatientKey,
        name: str,
        services: Sequence[DimseService] = (),
    ) -> None:
        self._policy = policy
        self._journal = journal
        self._services = services
        self._service = StorageService(policy, journal, key, name, [c for s in services for c in s.sop_classes])
        self._listener: Acceptor | None = None

    @property
    def port(self) -> int:
        """The port that is bound: the policy's port, or any free port if that is 0."""
        return self._listener.port if self._listener is not None else self._policy.port

    def start(self) -> None:
        """Open the journal and listen. Raise StorageFull or Retriable when the journal cannot be opened."""
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
            extra=fields("receiver_started"),
        )

    def run(self, stop: threading.Event) -> None:
        """Receive until `stop` is set, then give associations a moment to finish."""
        if self._listener is None:
            self.start()
        while not stop.wait(1.0):
            if self._listener is not None and not self._listener.is_alive:
                raise RuntimeError("the listening thread ended")
        self.stop()

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """Stop listening, wait up to `grace` seconds for associations to end, and abort the remaining ones."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        listener.close()
        deadline = time.monotonic() + grace
        while self._service.established and time.monotonic() < deadline:
            time.sleep(0.05)
        remaining = listener.abort(ABORT_SECONDS)
        self._journal.close()
        log.info("Stopped listening; %d connections were cut", remaining, extra=fields("receiver_stopped"))

    def _listen(self) -> Acceptor:
        policy = self._policy
        ae = AE(ae_title=policy.ae_title)
        ae.acse_timeout = policy.request_timeout
        ae.dimse_timeout = policy.network_timeout
        ae.network_timeout = policy.network_timeout
        connections = policy.maximum_associations * CONNECTIONS_PER_ASSOCIATION
        handlers: list[Handler] = [(evt.EVT_C_ECHO, self._echoed)]
        handlers += [handler for service in self._services for handler in service.handlers]
        # pynetdicom also counts the threads of connections that are being closed; the Acceptor counts better.
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
