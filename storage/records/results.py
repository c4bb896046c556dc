"""Records of result objects."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from storage.blobs import Blob, FileBlob


class ObjectKind(StrEnum):
    """The kinds of result objects, in the order of delivery. A value has at most 16 characters."""

    SEG = "SEG"  # Segmentation
    SEG_BINARY = "SEG-BINARY"  # the same in BINARY form, where a label map was asked for
    PM = "PM"  # Parametric Map
    RTSTRUCT = "RTSTRUCT"  # RT Structure Set
    SC = "SC"  # Secondary Capture: key images with the outline and the numbers
    SR = "SR"  # Comprehensive 3D SR
    SR_COMPREHENSIVE = "SR-COMPREHENSIVE"  # the same report as Comprehensive SR
    SR_ENHANCED = "SR-ENHANCED"  # the same report as Enhanced SR
    SR_REGIONS = "SR-REGIONS"  # Comprehensive 3D SR that draws its regions on the images and refers to no SEG
    SR_REGIONS_COMPREHENSIVE = "SR-REGIONS-COMP"  # the report of SR_REGIONS as Comprehensive SR
    SR_REGIONS_ENHANCED = "SR-REGIONS-ENH"  # the report of SR_REGIONS as Enhanced SR
    KO = "KO"  # Key Object Selection "Of Interest": key images, SEG and SR
    KO_IMAGES = "KO-IMAGES"  # the same, of the key images alone
    REJECTION = "REJECTION"  # Key Object Selection that withdraws earlier objects (IHE IOCM); never withdrawn itself

    @property
    def is_report(self) -> bool:
        return self.value.startswith("SR")


@dataclass(frozen=True)
class NewObject:
    """A result object whose file is already durable."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    kind: ObjectKind
    blob: FileBlob
    destinations: tuple[str, ...]  # for which it was made
    stands_for: tuple[ObjectKind, ...] = ()  # the kinds in whose place it may be sent; empty for what is sent itself


@dataclass(frozen=True)
class ResultObject:
    """A result object with its row."""

    id: int
    job_id: int
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    kind: ObjectKind
    blob: Blob
    sequence: int  # order of delivery within its job, from 0
    created_at: datetime
    destinations: tuple[str, ...] = ()
    stands_for: tuple[ObjectKind, ...] = ()
