"""Serving through pynetdicom's public interface alone, for a version whose internals the node does not know.

The same policy and the same journal, but a tenth of the speed: see `dicom_node.dimse.upper_layer`.
"""

import logging
import re
import socket
import threading
from collections.abc import Sequence
from socketserver import BaseServer
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, Association, build_context, evt, register_uid
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import Verification, uid_to_service_class
from pynetdicom.transport import ThreadedAssociationServer

from dicom_node.dimse.association import Proposal, Refusal, Service
from dicom_node.dimse.data_path import LARGE_BYTES, StoreRequest, StoreResponse
from dicom_node.dimse.upper_layer import Handler
from dicom_node.runtime.logs import fields, unexpected
from storage.records.evidence import AssociationEnd

log = logging.getLogger(__name__)

MAXIMUM_REGISTERED = 1000  # SOP classes unknown to pynetdicom, which keeps them for ever


class _SharedServer(ThreadedAssociationServer):
    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()


class StockAcceptor:
    """A `dicom_node.dimse.upper_layer.Listener`."""

    def __init__(self, ae: AE, address: tuple[str, int], service: Service, *, handlers: Sequence[Handler] = ()) -> None:
        self._service = service
        self._sessions: dict[Association, Any] = {}
        self._registered: set[str] = set()
        self._lock = threading.Lock()
        self._server = ae.make_server(
            address,
            contexts=[build_context(Verification)],  # for each association its own replace it
            evt_handlers=[
                (evt.EVT_REQUESTED, self._requested),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_RELEASED, self._released),
                (evt.EVT_ABORTED, self._aborted),
                *handlers,
            ],
            server_class=_SharedServer,
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="accept", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        BaseServer.shutdown(self._server)  # pynetdicom's own looks for the server where only `start_server` puts it
        self._server.server_close()
        self._thread.join()

    def abort(self, seconds: float) -> int:
        with self._lock:
            remaining = list(self._sessions)
        for assoc in remaining:
            assoc.abort()
        for assoc in remaining:
            assoc.join(timeout=seconds)
            self._end(assoc, AssociationEnd.ABORTED, "this node aborted it")
        return len(remaining)

    def _requested(self, event: evt.Event) -> None:
        self._forget_dead()
        assoc, primitive = event.assoc, event.assoc.requestor.primitive
        try:
            answer = self._service.admit(
                Proposal(
                    calling_ae_title=primitive.calling_ae_title,
                    called_ae_title=primitive.called_ae_title,
                    host=assoc.requestor.address,
                    contexts=primitive.presentation_context_definition_list,
                )
            )
        except Exception as error:
            log.error("An association request could not be judged: %s", unexpected(error), extra=fields("associate"))
            answer = Refusal(0x02, 0x01, 0x01, "of an unexpected failure")
        if isinstance(answer, Refusal):
            assoc.acse.send_reject(answer.result, answer.source, answer.diagnostic)
            assoc.kill()
            return
        assoc.session = answer.session
        with self._lock:
            self._sessions[assoc] = answer.session
            contexts = [c for c in answer.contexts if self._is_served(str(c.abstract_syntax))]
        assoc.acceptor.maximum_length = answer.maximum_pdu_bytes
        assoc.acceptor.supported_contexts = contexts

    def _is_served(self, sop_class_uid: str) -> bool:
        """Makes pynetdicom serve a storage class it does not know, within limits."""
        if uid_to_service_class(sop_class_uid) is not ServiceClass:
            return True
        if len(self._registered) >= MAXIMUM_REGISTERED:
            return False
        register_uid(sop_class_uid, "Stored_" + re.sub(r"\W", "_", sop_class_uid), StorageServiceClass)
        self._registered.add(sop_class_uid)
        return True

    def _store(self, event: evt.Event) -> Dataset:
        session = event.assoc.session
        request = StoreRequest(
            sop_class_uid=str(event.request.AffectedSOPClassUID or ""),
            sop_instance_uid=str(event.request.AffectedSOPInstanceUID or ""),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            abstract_syntax_uid=str(event.context.abstract_syntax),
        )
        dataset = event.request.DataSet.getbuffer() if event.request.DataSet is not None else memoryview(b"")
        if len(dataset) > LARGE_BYTES:
            response = self._service.begin_large(session, request, dataset).finish()
        else:
            response = self._service.store(session, request, dataset)
        return _answer(response)

    def _released(self, event: evt.Event) -> None:
        self._end(event.assoc, AssociationEnd.RELEASED, "")

    def _aborted(self, event: evt.Event) -> None:
        self._end(event.assoc, AssociationEnd.ABORTED, "aborted, lost or idle")

    def _end(self, assoc: Association, end: AssociationEnd, reason: str) -> None:
        with self._lock:
            session = self._sessions.pop(assoc, None)
        if session is not None:
            self._service.ended(session, end, reason)

    def _forget_dead(self) -> None:
        """Some associations end without an event."""
        with self._lock:
            dead = [assoc for assoc in self._sessions if not assoc.is_alive()]
        for assoc in dead:
            self._end(assoc, AssociationEnd.ABORTED, "the connection broke")


def _answer(response: StoreResponse) -> Dataset:
    ds = Dataset()
    ds.Status = response.status
    if response.comment:
        ds.ErrorComment = response.comment
    return ds
