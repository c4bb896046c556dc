"""The `receive` role: one process that listens, alone or with others on the same port."""

import logging
import socket
import threading
import time
from typing import Any

from pynetdicom import AE, evt

from dicom_node.logs import fields
from dicom_node.scp import ReceivePolicy, StorageService, Store
from dicom_node.upper_layer import MAXIMUM_PDU_BYTES, Acceptor, silence_pynetdicom
from storage.errors import Permanent

log = logging.getLogger(__name__)

# Connections that have not been admitted yet may outnumber associations by this factor before new ones are closed.
CONNECTIONS_PER_ASSOCIATION = 4
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


class Receiver:
    """`start` binds and listens, `stop` closes; `run` waits between the two. `name` is unique on its port."""

    def __init__(self, policy: ReceivePolicy, store: Store, name: str) -> None:
        self._policy = policy
        self._store = store
        self._name = name
        self._service = StorageService(policy, store, name)
        self._acceptor: Acceptor | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that is bound; the policy's, unless that is 0."""
        return int(self._acceptor.server_address[1]) if self._acceptor is not None else self._policy.port

    def start(self) -> None:
        """Listens. Associations an earlier life of this receiver left open are noted as aborted first."""
        silence_pynetdicom()
        self._store.abort_stale_associations(self._name)
        policy = self._policy
        ae = AE(ae_title=policy.ae_title)
        ae.acse_timeout = policy.request_timeout
        ae.dimse_timeout = policy.network_timeout
        ae.network_timeout = policy.network_timeout
        ae.maximum_pdu_size = MAXIMUM_PDU_BYTES
        connections = policy.maximum_associations * CONNECTIONS_PER_ASSOCIATION
        ae.maximum_associations = connections  # pynetdicom counts connections; the policy is ours to apply
        self._acceptor = Acceptor(
            ae,
            (policy.host, policy.port),
            self._service,
            network_timeout=policy.network_timeout,
            maximum_connections=connections,
            handlers=[(evt.EVT_C_ECHO, self._echoed)],
        )
        self._thread = threading.Thread(target=self._acceptor.serve_forever, args=(0.1,), name="accept", daemon=True)
        self._thread.start()
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
        if self._acceptor is None:
            self.start()
        while not stop.wait(1.0):
            if self._thread is not None and not self._thread.is_alive():
                raise RuntimeError("the listening thread ended")
        self.stop()

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """Stops listening, waits up to `grace` seconds for associations to end, and aborts those that remain."""
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is None:
            return
        acceptor.close()
        deadline = time.monotonic() + grace
        while self._service.established and time.monotonic() < deadline:
            time.sleep(0.05)
        remaining = acceptor.connections
        for assoc in remaining:
            if assoc.is_established:
                assoc.abort(block=False)
        deadline = time.monotonic() + ABORT_SECONDS
        for assoc in remaining:
            if assoc.is_established:
                assoc.join(timeout=max(0.0, deadline - time.monotonic()))
            assoc.cut()
        for assoc in remaining:
            assoc.join(timeout=ABORT_SECONDS)
        if self._thread is not None:
            self._thread.join()
        log.info("Stopped listening; %d connections were cut", len(remaining), extra=fields("receive"))

    def _echoed(self, event: Any) -> int:
        return self._service.echoed(event.assoc)
