"""The report that there is no AI result: Comprehensive 3D SR with the coded and the readable reason."""

from collections.abc import Sequence
from pathlib import Path

from highdicom import sr
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as SRCode

from dicom_node.objects.codes import RESEARCH_NOTICE
from dicom_node.objects.common import SERIES_DESCRIPTION_LENGTH, TYPE_2, ObjectContext
from inference.findings import NoResult

SERIES_NUMBER = 9013
Has = sr.RelationshipTypeValues


def build_no_result(result: NoResult, sources: Sequence[Path], context: ObjectContext) -> Dataset:
    """`sources` are stored instances of the study that were looked at, at least one."""
    headers = [header(path) for path in sources]
    root = sr.ContainerContentItem(codes.DCM.ImagingMeasurementReport, template_id="1500")
    root.ContentSequence = sr.ContentSequence()
    root.ContentSequence.append(
        sr.CodeContentItem(
            codes.DCM.Finding,
            SRCode(result.why, "99DCMNODE", f"No AI result: {result.why.replace('-', ' ')}"),
            Has.CONTAINS,
        )
    )
    text = f"No AI result of {result.title}: {result.explanation}"
    root.ContentSequence.append(sr.TextContentItem(codes.DCM.Comment, text, Has.CONTAINS))
    report = sr.Comprehensive3DSR(
        evidence=headers,
        content=root,
        series_instance_uid=context.uid("no result series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=context.uid("no result instance"),
        instance_number=context.revision,
        manufacturer="dicom-node",
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    notice = f"{RESEARCH_NOTICE}: " if result.research else ""
    report.SeriesDescription = f"{notice}No AI result: {result.title}"[:SERIES_DESCRIPTION_LENGTH]
    if context.predecessors:
        report.PredecessorDocumentsSequence = [_predecessors(str(headers[0].StudyInstanceUID), context)]
    return report


def header(path: Path) -> Dataset:
    """Without pixels, its texts in UTF-8, absent type 2 attributes of patient and study empty."""
    ds = dcmread(path, stop_before_pixels=True)
    ds.decode()
    ds.SpecificCharacterSet = "ISO_IR 192"
    for keyword in TYPE_2:
        if keyword not in ds:
            setattr(ds, keyword, "")
    return ds


def _predecessors(study_instance_uid: str, context: ObjectContext) -> Dataset:
    study = Dataset()
    study.StudyInstanceUID = study_instance_uid
    study.ReferencedSeriesSequence = []
    for predecessor in context.predecessors:
        reference = Dataset()
        reference.ReferencedSOPClassUID = predecessor.sop_class_uid
        reference.ReferencedSOPInstanceUID = predecessor.sop_instance_uid
        series = Dataset()
        series.SeriesInstanceUID = predecessor.series_instance_uid
        series.ReferencedSOPSequence = [reference]
        study.ReferencedSeriesSequence.append(series)
    return study
