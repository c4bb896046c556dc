"""Coded concepts of the result objects.

A concept that a public dictionary has is taken from the dictionary by name. No public code is written here by hand,
because a wrong number would look as valid as a right one. `PRIVATE` is the table of all other concepts, published in
docs/codes.md.
"""

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as SRCode

from inference.contract.concepts import SCHEME
from inference.contract.findings import Code
from storage.errors import WhyNoResult

RESEARCH_WORD = "RESEARCH"
RESEARCH_NOTICE = f"{RESEARCH_WORD} - not for diagnosis"

PRIVATE = {
    value: SRCode(value, SCHEME, meaning)  # a value has at most 16 characters (PS3.5 6.2, SH)
    for value, meaning in {
        "input-series": "Input series",
        "fat-analysis": "Computation of the fat fraction from Dixon images",
        "training-data": "Training data of the algorithm",
        "supersedes": "Superseded result",
        "no-finding": "AI result without findings",
        "no-result": "No AI result",
        "why-no-result": "Reason for no AI result",
        "input-missing": "No series of the study fits the algorithm",
        "poor-quality": "Image quality is too poor for the algorithm",
        "not-learned": "Images show what the algorithm has not learned",
        "unusable-images": "Images do not make a volume",
        "failure": "Analysis failed",
        "nv-bundle": "Neurovascular bundle",
        "bone-distance": "Distance from bone",
        "fascia-depth": "Depth of the mass below the deep fascia",
        "necrosis-percent": "Part of the mass that is necrotic",
        "over-5-cm": "Largest diameter exceeds 5 cm",
        "predicted-class": "Predicted malignancy",
        "p-grade-1": "Probability of predicted grade 1 if malignant",
        "p-grade-2": "Probability of predicted grade 2 if malignant",
        "p-grade-3": "Probability of predicted grade 3 if malignant",
        "recist-sum": "Sum of the longest diameters of target lesions",
        "diameter-change": "Change of the sum of diameters from baseline",
        "nadir-change": "Change of the sum of diameters from nadir",
        "volume-change": "Change of volume from baseline",
        "adc-change": "Change of the mean ADC from baseline",
    }.items()
}

REASONS = {
    WhyNoResult.INPUT_MISSING: PRIVATE["input-missing"],
    WhyNoResult.POOR_QUALITY: PRIVATE["poor-quality"],
    WhyNoResult.OUT_OF_DISTRIBUTION: PRIVATE["not-learned"],
    WhyNoResult.UNUSABLE_IMAGES: PRIVATE["unusable-images"],
    WhyNoResult.FAILURE: PRIVATE["failure"],
}

MODALITIES = {
    "MR": codes.DCM.MagneticResonance,
    "CT": codes.DCM.ComputedTomography,
    "PT": codes.DCM.PositronEmissionTomography,
}
UNSPECIFIED = {  # PS3.16 CID 100: procedures of an unspecified body region
    "MR": codes.LN.MRIUnspecifiedBodyRegion,
    "CT": codes.LN.CTUnspecifiedBodyRegion,
    "PT": codes.LN.PETUnspecifiedBodyRegion,
}
IMAGED = {"MR": "MRI", "CT": "CT", "PT": "PET"}  # first word of the meaning of a procedure that we name ourselves
LATERALITIES = {"L": codes.SCT.Left, "R": codes.SCT.Right}


def sr_code(code: Code) -> SRCode:
    """Return a code of the findings as the class that pydicom and highdicom use.

    Raises ValueError for a code of the node's own scheme that is not published.
    """
    if code.scheme == SCHEME and code.value not in PRIVATE:
        raise ValueError(f"({code.value}, {SCHEME}) is not in the published table docs/codes.md")
    return SRCode(code.value, code.scheme, code.meaning)
