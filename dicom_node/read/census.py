"""The census that `dicom-node fsck` takes of all stored instances."""

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """A kind of fault, and the way to repair it."""

    NOT_INDEXED = "file without a row"  # --repair gives it one
    MISSING = "row without its file"  # --repair, where a journal has them again; else the sender must send it again
    DAMAGED = "file differs from what was received"  # repaired in the same way
    JOURNAL = "journal damaged"  # the bytes stay where they are; what is readable is filed
    UNFILED = "instance that cannot be filed"


@dataclass(frozen=True)
class FoundFault:
    """A fault that was found. `path` says where in the data directory, and holds no attribute of a patient."""

    fault: Fault
    path: str
    study_instance_uid: str = ""
    sop_instance_uid: str = ""


@dataclass(frozen=True)
class Census:
    """The number of instances in each place, and every problem found."""

    instances: int
    waiting: int  # instances in journals that are still to be filed
    quarantined: int
    problems: tuple[FoundFault, ...]
