"""Reading the files of objects, for destinations that need more than their bytes."""

from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from storage.errors import Permanent
from storage.records.instances import UID

_IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def read_instance(path: Path, header_only: bool = False) -> Dataset:
    """Read one instance, and check that its UIDs can be part of a path. Raises Permanent if it cannot be sent."""
    try:
        ds = dcmread(path, stop_before_pixels=header_only, specific_tags=list(_IDENTIFIERS) if header_only else None)
        uids = [str(ds[keyword].value) for keyword in _IDENTIFIERS]
    except OSError as error:
        raise Permanent(f"{path.name} cannot be read: {error.strerror}") from None
    except Exception as error:
        raise Permanent(f"{path.name} is not a DICOM file that can be sent ({type(error).__name__})") from None
    if not all(map(UID.fullmatch, uids)):
        raise Permanent(f"{path.name}: a UID has other characters than digits and dots, or more than 64")
    return ds
