"""The service that takes reports on storage commitment that this node requested (PS3.4 J.3.3).

A report is kept and answered with Success whatever its content; the confirmer (`dicom_node.deliver.confirmer`) acts on
it later. A transaction UID that is not ours is answered as an invalid argument.
"""

from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt

from dicom_node.dimse.commitment import IncomingReport, keep_incoming_report, read_incoming_report
from dicom_node.receive.events import NOT_IN_THIS_ROLE, UNREADABLE, calling_ae_title, context_of, readable
from storage.tables.confirmations import Confirmations


class ConfirmationService:
    """A service for associations that peers open to the receiver and in which they are SCP (PS3.7 D.3.3.4)."""

    def __init__(self, confirmations: Confirmations) -> None:
        self._confirmations = confirmations

    def handlers(self) -> list[tuple[Any, Callable[[Any], Any]]]:
        """Return the handler of N-EVENT-REPORT for pynetdicom."""
        return [(evt.EVT_N_EVENT_REPORT, self._on_report)]

    def _on_report(self, event: Any) -> tuple[Dataset, None]:
        if not context_of(event).as_scu:
            return NOT_IN_THIS_ROLE.dataset(), None
        ds = readable(lambda: event.event_information)
        if ds is None:
            return UNREADABLE.dataset(), None
        response = read_incoming_report(event.event_type, str(event.request.AffectedSOPInstanceUID or ""), ds)
        if isinstance(response, IncomingReport):
            response = keep_incoming_report(self._confirmations, response, calling_ae_title(event))
        return response.dataset(), None
