"""Key Object Selection (PS3.3 A.35.4): the rejection note that withdraws objects (IHE RAD TF, IOCM)."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dicom_node.objects.common import ObjectContext
from dicom_node.objects.no_result import header

REJECTION_SERIES_NUMBER = 9014
Rejected = tuple[str, str, str]  # SOP class, SOP instance, series


def build_rejection(source: Path, objects: Sequence[Rejected], context: ObjectContext) -> Dataset:
    """`source` is any stored instance of the study: patient and study are those of it."""
    ds = header(source)
    rejected = []
    for sop_class_uid, sop_instance_uid, series_instance_uid in objects:
        one = deepcopy(ds)
        one.SOPClassUID, one.SOPInstanceUID, one.SeriesInstanceUID = (
            sop_class_uid,
            sop_instance_uid,
            series_instance_uid,
        )
        rejected.append(one)
    note = KeyObjectSelectionDocument(
        evidence=rejected,
        content=KeyObjectSelection(codes.DCM.RejectedForQualityReasons, rejected),
        series_instance_uid=context.uid("rejection series"),
        series_number=REJECTION_SERIES_NUMBER,
        sop_instance_uid=context.uid("rejection instance"),
        instance_number=context.revision,
        manufacturer="dicom-node",
    )
    note.SeriesDescription = "Withdrawn AI result"
    return note
