"""The node as a Storage Commitment Push Model SCU (PS3.4 annex J), on an association of its own."""

import time
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.dsutils import decode, encode

from dicom_node.dimse.commitment import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST_COMMITMENT,
    IncomingReport,
    read_incoming_report,
    reference_item,
)
from dicom_node.dimse.results import InstanceReference
from dicom_node.dimse.scu import Requestor, Target
from dicom_node.dimse.status import DimseResponse, DimseStatus
from dicom_node.errors import PeerRefused

LOOK_SECONDS = 0.1  # between looks for a message, while a report is awaited

_CONTEXT = (PUSH_MODEL, str(ImplicitVRLittleEndian))  # the transfer syntax that every peer has (PS3.5 10.1)


class CommitmentSCU(Requestor):
    """An association for one request, used as a context manager, in which the node is SCU (the default role).

    `hear` is called with every report that comes on the association, even before the response to the request. It
    returns the status of the answer.
    """

    def __init__(
        self, calling_ae_title: str, target: Target, timeout: float, hear: Callable[[IncomingReport], int]
    ) -> None:
        super().__init__(calling_ae_title, target, [_CONTEXT], timeout)
        self._hear = hear

    def request(self, transaction_uid: str, references: Sequence[InstanceReference]) -> None:
        """Send the N-ACTION (PS3.4 J.3.2).

        Raises PeerRefused if the peer offers no such service or does not take the request, and PeerUnavailable when no
        answer came.
        """
        context_id = self._accepted.get(_CONTEXT)
        if context_id is None:
            raise PeerRefused(f"{self._target} does not accept storage commitment")
        ds = Dataset()
        ds.TransactionUID = transaction_uid
        ds.ReferencedSOPSequence = Items([reference_item(r.sop_class_uid, r.sop_instance_uid) for r in references])
        request = N_ACTION()
        request.RequestedSOPClassUID = PUSH_MODEL
        request.RequestedSOPInstanceUID = PUSH_MODEL_INSTANCE
        request.ActionTypeID = REQUEST_COMMITMENT
        request.ActionInformation = BytesIO(encode(ds, is_implicit_vr=True, is_little_endian=True) or b"")
        status = int(self._exchange(request, context_id).Status)
        if status != DimseStatus.SUCCESS:
            raise PeerRefused(f"{self._target} refuses to commit: it answers 0x{status:04X}")

    def listen(self, waits: Callable[[], bool]) -> None:
        """Take reports as long as `waits` returns True and the peer keeps the association open."""
        assoc = self._assoc
        assert assoc is not None
        while waits():
            context_id, message = assoc.dimse.get_msg(block=False)
            if message is not None:
                self._answer(context_id, message)
            elif assoc.acse.is_release_requested():
                assoc.acse.send_release(is_response=True)
                assoc.is_released = True
                assoc.kill()
                return
            elif assoc.acse.is_aborted() or not assoc.dul.is_alive():
                assoc.is_aborted = True
                assoc.kill()
                return
            else:
                time.sleep(LOOK_SECONDS)

    def _response(self) -> Any:
        while True:
            assert self._assoc is not None
            context_id, message = self._assoc.dimse.get_msg(block=True)
            if not isinstance(message, N_EVENT_REPORT) or message.MessageID is None:
                return message
            self._answer(context_id, message)

    def _answer(self, context_id: int, message: Any) -> None:
        """Answer an N-EVENT-REPORT (PS3.7 10.1.1). Drops any other message, because nobody waits for it."""
        if not isinstance(message, N_EVENT_REPORT) or message.MessageID is None:
            return
        assert self._assoc is not None
        response = N_EVENT_REPORT()
        response.MessageIDBeingRespondedTo = message.MessageID
        response.AffectedSOPClassUID = message.AffectedSOPClassUID
        response.AffectedSOPInstanceUID = message.AffectedSOPInstanceUID
        response.EventTypeID = message.EventTypeID
        response.Status = self._status(message)
        self._assoc.dimse.send_msg(response, context_id)

    def _status(self, message: N_EVENT_REPORT) -> int:
        try:
            information = message.EventInformation or BytesIO()
            ds = decode(information, is_implicit_vr=True, is_little_endian=True)
            for _ in ds.iterall():
                pass
        except Exception:
            return int(DimseStatus.PROCESSING_FAILURE)
        report = read_incoming_report(message.EventTypeID, str(message.AffectedSOPInstanceUID or ""), ds)
        return int(report.status) if isinstance(report, DimseResponse) else self._hear(report)
