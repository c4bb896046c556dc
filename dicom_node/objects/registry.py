"""The kinds of result objects. A further kind is a module in this folder and a line of OBJECT_TYPES.

Modules are named as text, because settings and dispatcher read this table and must not load what builds the objects.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

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

from storage.records.results import ObjectKind

LABEL_MAP_SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"  # pydicom 3.0.1 has no name for it


@dataclass(frozen=True)
class ObjectType:
    """A kind of result object.

    `module` is a module of this folder with `create(kind, parts)`, which returns the objects of the kind; it is None
    for a kind that is not made of findings. `sop_classes` are those that an object of the kind may have. A destination
    can ask for the kind by name if it is `requestable`; otherwise the kind exists to stand in for another. If it
    `needs_segments`, findings without segments have no such object. `stand_ins` are the kinds that may be sent in its
    place, the best first. An object is sent only together with all kinds that it `refers_to`. If it is `useful_without`
    another kind, it is sent only if that kind is not.
    """

    module: str | None
    sop_classes: tuple[str, ...]
    requestable: bool = False
    needs_segments: bool = False
    stand_ins: tuple[ObjectKind, ...] = ()
    refers_to: frozenset[ObjectKind] = frozenset()
    useful_without: ObjectKind | None = None


# In the order of delivery: a report follows what it refers to.
OBJECT_TYPES: Mapping[ObjectKind, ObjectType] = {
    ObjectKind.SEG: ObjectType(
        "seg",
        (SegmentationStorage, LABEL_MAP_SEGMENTATION_STORAGE),
        requestable=True,
        needs_segments=True,
        stand_ins=(ObjectKind.SEG_BINARY, ObjectKind.RTSTRUCT, ObjectKind.SC),
    ),
    ObjectKind.SEG_BINARY: ObjectType("seg", (SegmentationStorage,)),
    ObjectKind.PM: ObjectType("pm", (ParametricMapStorage,), requestable=True),
    ObjectKind.RTSTRUCT: ObjectType("rtstruct", (RTStructureSetStorage,), requestable=True, needs_segments=True),
    ObjectKind.SC: ObjectType(
        "sc", (SecondaryCaptureImageStorage, MultiFrameTrueColorSecondaryCaptureImageStorage), requestable=True
    ),
    ObjectKind.SR: ObjectType(
        "sr",
        (Comprehensive3DSRStorage,),
        requestable=True,
        stand_ins=(
            ObjectKind.SR_COMPREHENSIVE,
            ObjectKind.SR_ENHANCED,
            ObjectKind.SR_REGIONS,
            ObjectKind.SR_REGIONS_COMPREHENSIVE,
            ObjectKind.SR_REGIONS_ENHANCED,
            ObjectKind.SC,
        ),
        refers_to=frozenset({ObjectKind.SEG}),
    ),
    ObjectKind.SR_COMPREHENSIVE: ObjectType("sr", (ComprehensiveSRStorage,), refers_to=frozenset({ObjectKind.SEG})),
    ObjectKind.SR_ENHANCED: ObjectType("sr", (EnhancedSRStorage,), refers_to=frozenset({ObjectKind.SEG})),
    ObjectKind.SR_REGIONS: ObjectType("sr", (Comprehensive3DSRStorage,), useful_without=ObjectKind.SEG),
    ObjectKind.SR_REGIONS_COMPREHENSIVE: ObjectType("sr", (ComprehensiveSRStorage,), useful_without=ObjectKind.SEG),
    ObjectKind.SR_REGIONS_ENHANCED: ObjectType("sr", (EnhancedSRStorage,), useful_without=ObjectKind.SEG),
    ObjectKind.KO: ObjectType(
        "ko",
        (KeyObjectSelectionDocumentStorage,),
        requestable=True,
        needs_segments=True,
        stand_ins=(ObjectKind.KO_IMAGES,),
        refers_to=frozenset({ObjectKind.SEG, ObjectKind.SR}),
    ),
    ObjectKind.KO_IMAGES: ObjectType("ko", (KeyObjectSelectionDocumentStorage,)),
    ObjectKind.REJECTION: ObjectType(None, (KeyObjectSelectionDocumentStorage,)),
}
REQUESTABLE = tuple(kind for kind, one in OBJECT_TYPES.items() if one.requestable)
WRITTEN_SOP_CLASSES = frozenset(uid for one in OBJECT_TYPES.values() for uid in one.sop_classes)


def stands_for(kind: ObjectKind, primaries: Collection[ObjectKind]) -> tuple[ObjectKind, ...]:
    """Return the kinds among `primaries` in whose place `kind` may be sent."""
    return tuple(primary for primary, one in OBJECT_TYPES.items() if primary in primaries and kind in one.stand_ins)
