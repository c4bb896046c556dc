"""Coded concepts of the result objects.

Whatever a public dictionary has is taken from it by name. `PRIVATE` is the table of the rest, published in
docs/codes.md; a number that looks like SNOMED but is not would be a defect, so none is written here by hand.
"""

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as SRCode

from inference.findings import Code, WhyNoResult

RESEARCH_NOTICE = "RESEARCH - not for diagnosis"
SCHEME = "99DCMNODE"

PRIVATE = {
    value: SRCode(value, SCHEME, meaning)
    for value, meaning in {
        "training-data": "Training data of the algorithm",
        "supersedes": "Superseded result",
        "no-finding": "AI result without findings",
        "no-result": "No AI result",
        "why-no-result": "Reason for no AI result",
        WhyNoResult.INPUT_MISSING.value: "No series of the study fits the algorithm",
        WhyNoResult.POOR_QUALITY.value: "Image quality is too poor for the algorithm",
        WhyNoResult.OUT_OF_DISTRIBUTION.value: "Images show what the algorithm has not learned",
        WhyNoResult.UNUSABLE_IMAGES.value: "Images do not make a volume",
        WhyNoResult.FAILURE.value: "Analysis failed",
    }.items()
}

MODALITIES = {
    "MR": codes.DCM.MagneticResonance,
    "CT": codes.DCM.ComputedTomography,
    "PT": codes.DCM.PositronEmissionTomography,
}
LATERALITIES = {"L": codes.SCT.Left, "R": codes.SCT.Right}

VOLUME = codes.SCT.Volume


def sr_code(code: Code) -> SRCode:
    """A finding's code as pydicom and highdicom want it. Raises ValueError for an unpublished one of our own scheme."""
    if code.scheme == SCHEME and code.value not in PRIVATE:
        raise ValueError(f"({code.value}, {SCHEME}) is not in the published table docs/codes.md")
    return SRCode(code.value, code.scheme, code.meaning)
