"""Records of result objects."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True)
class NewObject:
    """A result object whose file is already durable."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    kind: str  # one of `dicom_node.objects.build.Kind`
    path: Path
    destinations: tuple[str, ...]  # for which it was made
    stands_for: str = ""  # the kinds in whose place it may be sent, a space between them; "" for what is sent itself


@dataclass(frozen=True)
class ResultObject:
    id: int
    job_id: int
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    kind: str
    path: Path
    sequence: int  # order of delivery within its job, from 0
    created_at: datetime
    destinations: tuple[str, ...] = ()
    stands_for: str = ""
