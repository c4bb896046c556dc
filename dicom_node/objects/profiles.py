"""What destinations take: the kinds of result objects, in which form each destination gets them, and what is sent in
place of those it does not take.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    KeyObjectSelectionDocumentStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    ParametricMapStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from storage.records.deliveries import Undelivered
from storage.records.results import ObjectKind


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
    objects: frozenset[ObjectKind] = frozenset({ObjectKind.SEG, ObjectKind.PM, ObjectKind.SR})
    withdraws_superseded: bool = False

    @property
    def key(self) -> str:
        """Tells profiles apart in UIDs; empty for the default one."""
        if self == ObjectProfile():
            return ""
        return f"{self.segmentation} {self.omits_empty_frames} {sorted(self.objects)} {self.withdraws_superseded}"


# Every SOP class the node writes: what a PACS is asked about.
WRITTEN = frozenset(
    {
        SegmentationStorage,
        "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation Storage, which pydicom 3.0.1 has no name for
        ParametricMapStorage,
        RTStructureSetStorage,
        SecondaryCaptureImageStorage,
        MultiFrameTrueColorSecondaryCaptureImageStorage,
        Comprehensive3DSRStorage,
        ComprehensiveSRStorage,
        EnhancedSRStorage,
        KeyObjectSelectionDocumentStorage,
    }
)

_WITHOUT_SEG = (ObjectKind.SR_REGIONS, ObjectKind.SR_REGIONS_COMPREHENSIVE, ObjectKind.SR_REGIONS_ENHANCED)

# What may be sent in the place of what: the best first.
_STAND_INS: Mapping[ObjectKind, tuple[ObjectKind, ...]] = {
    ObjectKind.SEG: (ObjectKind.SEG_BINARY, ObjectKind.RTSTRUCT, ObjectKind.SC),
    ObjectKind.SR: (ObjectKind.SR_COMPREHENSIVE, ObjectKind.SR_ENHANCED, *_WITHOUT_SEG, ObjectKind.SC),
    ObjectKind.KO: (ObjectKind.KO_IMAGES,),
}

_REFERS_TO: Mapping[ObjectKind, frozenset[ObjectKind]] = {
    ObjectKind.SR: frozenset({ObjectKind.SEG}),
    ObjectKind.SR_COMPREHENSIVE: frozenset({ObjectKind.SEG}),
    ObjectKind.SR_ENHANCED: frozenset({ObjectKind.SEG}),
    ObjectKind.KO: frozenset({ObjectKind.SEG, ObjectKind.SR}),
}


def stands_for(kind: ObjectKind, primaries: Collection[ObjectKind]) -> tuple[ObjectKind, ...]:
    """Return the kinds among `primaries` in whose place `kind` may be sent."""
    return tuple(primary for primary in ObjectKind if primary in primaries and kind in _STAND_INS.get(primary, ()))


@dataclass(frozen=True)
class Offer:
    """An object of a job that a destination may get. `arrived` says that it has it already."""

    id: int
    kind: ObjectKind
    stands_for: tuple[ObjectKind, ...] = ()  # empty for what is to be sent if the destination takes everything
    arrived: bool = False


@dataclass(frozen=True)
class Choice:
    """Of the objects of a job for one destination, by their ids: those to be sent, in order, and why no other is."""

    sent: tuple[int, ...]
    unsent: Mapping[int, Undelivered]


def choose(offers: Sequence[Offer], refusals: Mapping[int, str]) -> Choice:
    """What a destination gets that does not take the objects in `refusals`, which says why.

    `offers` come in the order of delivery. Each one that stands for nothing is sent, or the first of its stand-ins that
    is taken. A report that refers to a SEG is sent only where that SEG is, and a Key Object Selection only where all
    it names is; reports without a SEG are for where it is not sent.
    """
    primaries = [offer for offer in offers if not offer.stands_for]
    chosen: dict[int, Offer | None] = {}
    lacking: set[ObjectKind] = set()  # kinds to be sent that are not sent themselves
    for primary in primaries:
        stand_ins = [o for kind in _STAND_INS.get(primary.kind, ()) for o in offers if o.kind is kind]
        taken = (o for o in (primary, *stand_ins) if o.arrived or (o.id not in refusals and _fits(o.kind, lacking)))
        chosen[primary.id] = next(taken, None)
        if chosen[primary.id] is not primary:
            lacking.add(primary.kind)
    sent = {offer.id for offer in chosen.values() if offer is not None}
    unsent: dict[int, Undelivered] = {}
    for offer in offers:
        if offer.id not in sent:
            why = refusals.get(offer.id) or _why_unfit(offer.kind, lacking)
            wanted = [o for o in primaries if o is offer or o.kind in offer.stands_for]
            unsent[offer.id] = _unsent(why, {o.kind: chosen[o.id] for o in wanted})
    return Choice(tuple(offer.id for offer in offers if offer.id in sent), unsent)


def _fits(kind: ObjectKind, lacking: Collection[ObjectKind]) -> bool:
    if kind in _WITHOUT_SEG:
        return ObjectKind.SEG in lacking
    return not _REFERS_TO.get(kind, frozenset()).intersection(lacking)


def _why_unfit(kind: ObjectKind, lacking: Collection[ObjectKind]) -> str:
    missing = [other for other in ObjectKind if other in _REFERS_TO.get(kind, ()) and other in lacking]
    return f"it refers to {' and '.join(missing)}, which is not sent" if missing else "it is not needed"


def _unsent(why: str, instead: Mapping[ObjectKind, Offer | None]) -> Undelivered:
    """`instead` are the kinds that the unsent object was to serve, each with what is sent now."""
    substitutes = dict.fromkeys(offer.kind for kind, offer in instead.items() if offer and offer.kind is not kind)
    bare = [kind for kind, offer in instead.items() if offer is None]
    if bare:
        return Undelivered(f"{why}; nothing can be sent in place of {' and '.join(bare)}", replaced=False)
    return Undelivered(f"{why}; sent instead: {', '.join(substitutes)}" if substitutes else why, replaced=True)
