"""What destinations take: the kinds of result objects, and in which form each destination gets them."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Kinds of result objects; `storage` keeps them as text of at most 16 characters."""

    SEG = "SEG"  # Segmentation
    PM = "PM"  # Parametric Map
    RTSTRUCT = "RTSTRUCT"  # RT Structure Set
    SC = "SC"  # Secondary Capture: key images with the outline and the numbers
    SR = "SR"  # Comprehensive 3D SR
    SR_COMPREHENSIVE = "SR-COMPREHENSIVE"  # the same report as Comprehensive SR
    SR_ENHANCED = "SR-ENHANCED"  # the same report as Enhanced SR
    SR_REGIONS = "SR-REGIONS"  # Comprehensive 3D SR that draws its regions on the images and refers to no SEG
    SR_REGIONS_COMPREHENSIVE = "SR-REGIONS-COMP"
    SR_REGIONS_ENHANCED = "SR-REGIONS-ENH"
    KO = "KO"  # Key Object Selection "Of Interest"
    REJECTION = "REJECTION"  # Key Object Selection that withdraws earlier objects (IHE IOCM)


class SegmentationForm(StrEnum):
    """Segmentation Type (PS3.3 C.8.20.2)."""

    BINARY = "BINARY"
    FRACTIONAL = "FRACTIONAL"
    LABELMAP = "LABELMAP"


@dataclass(frozen=True)
class ObjectProfile:
    """What a destination is configured to get. Destinations with the same profile get the very same objects.

    `objects` may hold SEG, PM, RTSTRUCT, SC, SR and KO. `omits_empty_frames` leaves slices without any segment out of
    the SEG. `withdraws_superseded` asks for a rejection note with each result that supersedes another.
    """

    segmentation: SegmentationForm = SegmentationForm.BINARY
    omits_empty_frames: bool = True
    objects: frozenset[Kind] = frozenset({Kind.SEG, Kind.PM, Kind.SR})
    withdraws_superseded: bool = False

    @property
    def key(self) -> str:
        """Tells profiles apart in UIDs; empty for the default one."""
        if self == ObjectProfile():
            return ""
        return f"{self.segmentation} {self.omits_empty_frames} {sorted(self.objects)} {self.withdraws_superseded}"
