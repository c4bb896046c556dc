"""Codes of anatomic regions as defined terms of Body Part Examined (PS3.16 annex L).

Scanners use several terms for one region, so a code may stand for several. SNOMED CT codes are those of today; the
SNOMED RT codes of older images mean the same.
"""

from pydicom.dataset import Dataset

from inference.headers.attributes import values

_SNOMED = frozenset({"SCT", "SRT", "SNM3", "99SDM"})
_TERMS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("818981001", "113345001", "T-D4000"): ("ABDOMEN",),
    ("818982008", "416949008", "R-FAB57"): ("ABDOMENPELVIS",),
    ("70258002", "344001", "T-15750"): ("ANKLE",),
    ("53120007", "T-D8000"): ("UPPERLIMB", "UEXTREMITY", "ARM"),
    ("40983000", "T-D8200"): ("UPPERARM", "ARM"),
    ("12738006", "T-A0100"): ("BRAIN",),
    ("76752008", "T-04000"): ("BREAST",),
    ("46862004", "T-D2600"): ("BUTTOCK",),
    ("80144004", "T-12770"): ("CALCANEUS",),
    ("53840002", "T-D9440"): ("CALF",),
    ("122494005", "T-11501"): ("CSPINE",),
    ("51185008", "816094009", "43799004", "T-D3000"): ("CHEST",),
    ("51299004", "T-12310"): ("CLAVICLE",),
    ("76248009", "16953009", "T-15430", "T-D8300"): ("ELBOW",),
    ("66019005", "T-D0300"): ("EXTREMITY",),
    ("71341001", "T-12710"): ("FEMUR",),
    ("87342007", "T-12750"): ("FIBULA",),
    ("7569003", "T-D8800"): ("FINGER",),
    ("56459004", "T-D9700"): ("FOOT",),
    ("14975008", "T-D8500"): ("FOREARM",),
    ("85562004", "T-D8700"): ("HAND",),
    ("69536005", "T-D1100"): ("HEAD",),
    ("774007", "T-D1000"): ("HEADNECK",),
    ("80891009", "T-32000"): ("HEART",),
    ("24136001", "29836001", "T-15710", "T-D2500"): ("HIP",),
    ("85050009", "T-12410"): ("HUMERUS",),
    ("64033007", "T-71000"): ("KIDNEY",),
    ("72696002", "49076000", "T-D9200", "T-15720"): ("KNEE",),
    ("30021000", "T-D9400"): ("LOWERLEG", "LEG"),
    ("10200004", "T-62000"): ("LIVER",),
    ("61685007", "T-D9000"): ("LOWERLIMB", "LEXTREMITY", "LEG"),
    ("122496007", "T-11503"): ("LSPINE",),
    ("45048000", "T-D1600"): ("NECK",),
    ("64234005", "T-12730"): ("PATELLA",),
    ("12921003", "816092008", "T-D6000"): ("PELVIS",),
    ("41216001", "T-92000", "T-9200B"): ("PROSTATE",),
    ("79601000", "T-12280"): ("SCAPULA",),
    ("16982005", "85537004", "T-D2220", "T-15410"): ("SHOULDER",),
    ("421060004", "T-D0146"): ("SPINE",),
    ("68367000", "T-D9100"): ("THIGH", "UPPERLEG"),
    ("122495006", "T-11502"): ("TSPINE",),
    ("76505004", "T-D8810"): ("THUMB",),
    ("12611008", "T-12740"): ("TIBIA",),
    ("29707007", "T-D9800"): ("TOE",),
    ("38266002", "T-D0010"): ("WHOLEBODY",),
    ("8205005", "74670003", "T-15460", "T-D8600"): ("WRIST",),
}
_BY_CODE = {code: terms for codes, terms in _TERMS.items() for code in codes}


def body_parts_of(ds: Dataset) -> frozenset[str]:
    """Return the body parts that an image names, in capitals; empty if it names none.

    They are in Body Part Examined, and in Anatomic Region Sequence of the image or of its frames (PS3.3 C.7.6.16.2.8).
    """
    named = (str(value).strip().upper() for value in values(ds.get("BodyPartExamined")))
    codes = list(values(ds.get("AnatomicRegionSequence")))
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in values(ds.get(keyword)):
            for anatomy in values(group.get("FrameAnatomySequence")):
                codes += values(anatomy.get("AnatomicRegionSequence"))
    coded = (
        term
        for code in codes
        if str(code.get("CodingSchemeDesignator", "")).strip() in _SNOMED
        for term in _BY_CODE.get(str(code.get("CodeValue", "")).strip(), ())
    )
    return frozenset(filter(None, (*named, *coded)))
