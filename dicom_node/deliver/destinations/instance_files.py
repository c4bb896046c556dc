"""Reading the files of objects, for destinations that need more than their bytes."""

from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from storage.errors import Permanent
from storage.records.instances import UID

_IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def read_instance(path: Path, header_only: bool = False) -> Dataset:
    """Read one instance, and check that its UIDs can be part of a path.

    Raises Permanent if it cannot be sent, and OSError if it cannot be read now.
    """
    try:
        ds = dcmread(path, stop_before_pixels=header_only, specific_tags=list(_IDENTIFIERS) if header_only else None)
        uids = [str(ds[keyword].value) for keyword in _IDENTIFIERS]
    except OSError:
        raise
    except Exception as error:
        raise Permanent(f"{path.name} is not a DICOM file that can be sent ({type(error).__name__})") from None
    if not all(map(UID.fullmatch, uids)):
        raise Permanent(f"{path.name}: a UID has other characters than digits and dots, or more than 64")
    return ds


def not_read(path: Path, error: OSError) -> str:
    """Return the reason why a file is not sent now."""
    return f"{path.name} cannot be read: {error.strerror}"
