"""The profile of a destination: the kinds and forms of the result objects that it gets."""

from dataclasses import dataclass
from enum import StrEnum

from storage.records.results import ObjectKind


class SegmentationForm(StrEnum):
    """Segmentation Type (PS3.3 C.8.20.2)."""

    BINARY = "BINARY"
    FRACTIONAL = "FRACTIONAL"
    LABELMAP = "LABELMAP"


@dataclass(frozen=True)
class ObjectProfile:
    """The objects that a destination is configured to get. Destinations with the same profile get the very same ones.

    `objects` holds kinds of `registry.REQUESTABLE`. `omits_empty_frames` leaves slices without any segment out of the
    SEG. `withdraws_superseded` asks for a rejection note with each result that supersedes another. `names_gtv` makes
    an outlined tumour a GTV in the RT Structure Set.
    """

    segmentation: SegmentationForm = SegmentationForm.BINARY
    omits_empty_frames: bool = True
    objects: frozenset[ObjectKind] = frozenset({ObjectKind.SEG, ObjectKind.PM, ObjectKind.SR})
    withdraws_superseded: bool = False
    names_gtv: bool = False

    @property
    def key(self) -> str:
        """A text that distinguishes profiles in UIDs; empty for the default profile."""
        if self == ObjectProfile():
            return ""
        told = (self.omits_empty_frames, sorted(self.objects), self.withdraws_superseded, self.names_gtv)
        return " ".join(map(str, (self.segmentation, *told)))
