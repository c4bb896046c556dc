"""The anatomy and the procedure of a result: body part, side and procedure, as the headers of its images state them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from highdicom._standard_utils import get_anatomic_region_map
from pydicom.config import RAISE
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as SRCode
from pydicom.valuerep import validate_value

from dicom_node.objects.base.codes import IMAGED, LATERALITIES, UNSPECIFIED
from dicom_node.objects.base.source_headers import is_one
from dicom_node.objects.base.value_lengths import LO_LENGTH, SH_LENGTH
from inference.contract.concepts import SCHEME
from inference.volumes.planes import functional, is_enhanced
from inference.volumes.volume import Volume

SIDES = ("FrameLaterality", "ImageLaterality", "Laterality")  # of a frame, an image, a series
SYNONYMS = {  # values that scanners write, and the terms of highdicom for them, which no narrower part is meant by
    "UPPERLEG": "THIGH", "LEG": "LOWERLIMB", "LEXTREMITY": "LOWERLIMB", "LOWEREXTREMITY": "LOWERLIMB",
    "ARM": "UPPERLIMB", "UEXTREMITY": "UPPERLIMB", "UPPEREXTREMITY": "UPPERLIMB", "CARDIAC": "HEART",
}  # fmt: skip
_LOWER_LIMB = (
    "ANKLE", "ANTTIBIALA", "CALCANEUS", "CALF", "CFA", "CFV", "FEMORALA", "FEMORALV", "FEMUR", "FIBULA", "FOOT",
    "GENICULARA", "GSV", "HIP", "KNEE", "LFEMORALA", "LOWERLEG", "PATELLA", "PERONEALA", "POPLITEALA",
    "POPLITEALFOSSA", "POPLITEALV", "POSTIBIALA", "PROFFEMA", "PROFFEMV", "RFEMORALA", "SAPHENOUSV", "SESAMOID", "SFA",
    "SFJ", "SFV", "THIGH", "TIBIA", "TIBIAFIBULA", "TOE",
)  # fmt: skip
_UPPER_LIMB = (
    "ANTECUBITALV", "AXILLA", "AXILLARYA", "AXILLARYV", "BRACHIALA", "BRACHIALV", "CEPHALICV", "ELBOW", "FINGER",
    "FOREARM", "HAND", "HUMERUS", "RADIALA", "RADIUS", "RADIUSULNA", "SHOULDER", "THUMB", "ULNA", "ULNARA", "UPPERARM",
    "WRIST",
)  # fmt: skip
PARTS = {  # of the body parts that contradict none of their parts; the whole body contradicts nothing
    "LOWERLIMB": _LOWER_LIMB,
    "UPPERLIMB": _UPPER_LIMB,
    "EXTREMITY": ("LOWERLIMB", "UPPERLIMB", *_LOWER_LIMB, *_UPPER_LIMB),
}


@dataclass(frozen=True)
class Anatomy:
    """The body part and the side that images show.

    `region` is a code of PS3.16 CID 4, None if it is unknown or the images contradict one another. `body_part` is
    BodyPartExamined, "" under the same conditions. `side` is "L", "R" or "". `paired` says if the region is one of a
    pair; it is None if that is not known.
    """

    region: SRCode | None = None
    body_part: str = ""
    side: str = ""
    paired: bool | None = None

    @property
    def laterality(self) -> SRCode | None:
        return LATERALITIES.get(self.side)

    def items(self) -> list[Dataset]:
        """Return the items of Anatomic Region Sequence, with the side as modifier (PS3.3 table 10-5)."""
        if self.region is None:
            return []
        item = code_item(self.region)
        if self.laterality is not None:
            item.AnatomicRegionModifierSequence = [code_item(self.laterality)]
        return [item]


def anatomy_of(headers: Sequence[tuple[Volume | None, Sequence[Dataset]]], side: str = "") -> Anatomy:
    """Return what the images of these volumes show. `side`, if it is known otherwise, counts more than the headers.

    A code counts more than the body part beside it, unless they are known to contradict one another. Images that state
    nothing contradict nothing.
    """
    places = [place for volume, some in headers for place in _places(volume, some)]
    known = _side(places, side)
    stated = [(_region(place), _body_part(place)) for place in places]
    named = [(region, part, _of_term(part)) for region, part in dict.fromkeys(stated)]
    regions = _specific(_distinct(code for region, _, of_term in named for code in (region, of_term) if code))
    unknown = {part for region, part, of_term in named if part and region is None and of_term is None}
    if len(regions) + len(unknown) > 1:
        return Anatomy(side=known)
    region = _current(regions[0]) if regions else None
    parts = {part for _, part, _ in named if part}
    paired = None
    if region is not None:
        parts = {part for _, part, of_term in named if of_term is not None and of_term == region} or parts
        paired = next((pair for code, pair in _regions().values() if code == region), None)
    return Anatomy(region, _valid(parts.pop()) if len(parts) == 1 else "", "" if paired is False else known, paired)


def procedures_reported(headers: Sequence[Dataset], modality: str, anatomy: Anatomy) -> list[SRCode]:
    """Return the codes of the procedure that a report is about (PS3.16 TID 1500).

    They are the codes of the request, else of the study. If the images have none, the code is made of modality and body
    part; only if no body part is known either, the code is the one of CID 100 for an unspecified region.
    """
    requested = [
        item
        for ds in headers
        for request in (*(ds.get("RequestAttributesSequence") or []), ds)
        for item in request.get("RequestedProcedureCodeSequence") or []
    ]
    performed = [item for ds in headers for item in ds.get("ProcedureCodeSequence") or []]
    for items in (requested, performed):
        if found := _distinct(code for item in items if (code := _code(item)) is not None):
            return found
    if anatomy.region is None or anatomy.region.scheme_designator != "SCT" or modality not in IMAGED:
        return [UNSPECIFIED.get(modality, codes.SCT.ImagingProcedure)]
    return [
        SRCode(
            f"{modality.lower()}-{anatomy.region.value}", SCHEME, f"{IMAGED[modality]} of {anatomy.region.meaning}"[:64]
        )
    ]


def code_item(code: SRCode) -> Dataset:
    """Return a code as an item of a code sequence (PS3.3 section 8)."""
    item = Dataset()
    if code.value.startswith(("urn:", "http:", "https:")):
        item.URNCodeValue = code.value
    elif len(code.value) > SH_LENGTH:
        item.LongCodeValue = code.value
    else:
        item.CodeValue = code.value
    item.CodingSchemeDesignator, item.CodeMeaning = code.scheme_designator, code.meaning[:LO_LENGTH]
    return item


def _places(volume: Volume | None, headers: Sequence[Dataset]) -> Iterable[list[Dataset]]:
    """Yield the items of each image or frame that may state what it shows, the more specific ones first."""
    by_uid = {str(ds.SOPInstanceUID): ds for ds in headers}
    frames = [] if volume is None else [(f.sop_instance_uid, f.frame_number) for f in volume.frames]
    for uid, number in frames or [(uid, None) for uid in by_uid]:
        ds = by_uid[uid]
        frame = None
        if is_enhanced(ds):
            frame = functional(ds, (number or 1) - 1, "FrameAnatomySequence")
        yield [ds] if frame is None else [frame, ds]


def _region(place: list[Dataset]) -> SRCode | None:
    for item in place:
        if found := item.get("AnatomicRegionSequence"):
            return _code(found[0])
    return None


def _body_part(place: list[Dataset]) -> str:
    return str(place[-1].get("BodyPartExamined") or "").strip().upper()


def _term(body_part: str) -> str:
    """Return the defined term of PS3.16 annex L that is meant; "" if there is none."""
    plain = "".join(character for character in body_part if character.isalnum())
    plain = SYNONYMS.get(plain, plain)
    return plain if plain in _regions() else ""


def _of_term(body_part: str) -> SRCode | None:
    term = _term(body_part)
    return _regions()[term][0] if term else None


def _current(code: SRCode) -> SRCode:
    """Return the code of SNOMED CT for a retired one of SNOMED RT, if the body parts of annex L have it."""
    return next((region for region, _ in _regions().values() if region == code), code)


def _specific(regions: list[SRCode]) -> list[SRCode]:
    """Return the regions without those of which another one is a part."""
    return [region for region in regions if not any(_is_part(other, region) for other in regions)]


def _is_part(region: SRCode, whole: SRCode) -> bool:
    if whole == _regions()["WHOLEBODY"][0]:
        return region != whole
    parts = next((parts for term, parts in PARTS.items() if _regions()[term][0] == whole), ())
    return any(_regions()[part][0] == region for part in parts)


def _valid(body_part: str) -> str:
    """Return the value if it is valid as a CS, else its defined term."""
    return body_part if is_one(lambda value: validate_value("CS", value, RAISE), body_part) else _term(body_part)


def _side(places: Sequence[list[Dataset]], known: str) -> str:
    """Return the side on which all images agree that name one."""
    if known:
        return known
    sides = {side for place in places if (side := _side_of(place))}
    return sides.pop() if len(sides) == 1 and sides <= LATERALITIES.keys() else ""


def _side_of(place: list[Dataset]) -> str:
    for item in place:
        for region in item.get("AnatomicRegionSequence") or []:
            for modifier in region.get("AnatomicRegionModifierSequence") or []:
                for side, code in LATERALITIES.items():
                    if _code(modifier) == code:
                        return side
    stated = (str(item.get(keyword) or "").strip().upper() for keyword in SIDES for item in place)
    return next((side for side in stated if side), "")


def _code(item: Dataset) -> SRCode | None:
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue")
    scheme = item.get("CodingSchemeDesignator")
    if not value or not scheme:
        return None
    return SRCode(str(value), str(scheme), str(item.get("CodeMeaning") or value), item.get("CodingSchemeVersion"))


def _distinct(found: Iterable[SRCode]) -> list[SRCode]:
    """Return the codes, each once. pydicom takes retired codes of SNOMED RT for equal to those of SNOMED CT."""
    distinct: list[SRCode] = []
    for code in found:
        if code not in distinct:
            distinct.append(code)
    return distinct


@cache
def _regions() -> dict[str, tuple[SRCode, bool]]:
    """Return the code of each defined term of PS3.16 annex L, and True if the region is one of a pair."""
    found: dict[str, tuple[Any, bool]] = get_anatomic_region_map()
    return {
        term: (SRCode(code.value, code.scheme_designator, code.meaning), pair) for term, (code, pair) in found.items()
    }
