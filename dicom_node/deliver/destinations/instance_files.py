"""The reading of objects, for destinations that need more than their bytes."""

from pydicom.dataset import Dataset

from inference.headers.reading import read_header, read_object
from storage.blobs import Blob
from storage.errors import Permanent
from storage.records.instances import UID

_IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def read_instance(blob: Blob, header_only: bool = False) -> Dataset:
    """Read one instance, and check that its UIDs can be part of a path.

    Raises Permanent if it cannot be sent, and OSError if it cannot be read now.
    """
    try:
        ds = read_header(blob, _IDENTIFIERS) if header_only else read_object(blob)
        uids = [str(ds[keyword].value) for keyword in _IDENTIFIERS]
    except OSError:
        raise
    except Exception as error:
        raise Permanent(f"{blob} is not a DICOM file that can be sent ({type(error).__name__})") from None
    if not all(map(UID.fullmatch, uids)):
        raise Permanent(f"{blob}: a UID has other characters than digits and dots, or more than 64")
    return ds


def not_read(blob: Blob, error: OSError) -> str:
    """Return the reason why an object is not sent now."""
    return f"{blob} cannot be read: {error.strerror}"
