"""Coded concepts of the result objects.

Whatever a public dictionary has is taken from it by name. `PRIVATE` is the published table of the rest (coding scheme
99DCMNODE); a number that looks like SNOMED but is not would be a defect, so none is written here by hand.
"""

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as SRCode

from inference.findings import Code

RESEARCH_NOTICE = "RESEARCH - not for diagnosis"

PRIVATE = {
    "training-data": SRCode("training-data", "99DCMNODE", "Training data of the algorithm"),
    "supersedes": SRCode("supersedes", "99DCMNODE", "Superseded result"),
}

MODALITIES = {
    "MR": codes.DCM.MagneticResonance,
    "CT": codes.DCM.ComputedTomography,
    "PT": codes.DCM.PositronEmissionTomography,
}

VOLUME = codes.SCT.Volume


def sr_code(code: Code) -> SRCode:
    """A finding's code as pydicom and highdicom want it."""
    return SRCode(code.value, code.scheme, code.meaning)
