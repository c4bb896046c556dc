"""Parts of pynetdicom's events that the handlers of the further services share."""

from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset

from dicom_node.dimse.status import DimseResponse, DimseStatus
from dicom_node.runtime.logs import printable

NOT_IN_THIS_ROLE = DimseResponse(DimseStatus.UNRECOGNIZED_OPERATION, "Not in the role that was negotiated")
UNREADABLE = DimseResponse(DimseStatus.PROCESSING_FAILURE, "The dataset cannot be read")


def context_of(event: Any) -> Any:
    """Return the presentation context of a request, with the roles that were negotiated for this node."""
    return next(c for c in event.assoc.accepted_contexts if c.context_id == event.context.context_id)


def calling_ae_title(event: Any) -> str:
    """Return the AE title of the peer, fit for a log line."""
    return printable(str(event.assoc.requestor.primitive.calling_ae_title))


def readable(read: Callable[[], Dataset]) -> Dataset | None:
    """Decode a whole dataset; return None when any of it cannot be read."""
    try:
        ds = read()
        for _ in ds.iterall():
            pass
    except Exception:  # pydicom raises many kinds, and their texts quote values
        return None
    return ds
