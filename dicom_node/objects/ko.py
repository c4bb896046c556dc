"""Key Object Selection documents (PS3.3 A.35.4, PS3.16 TID 2010): objects of interest, and rejected objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from highdicom import sr
from highdicom.ko import KeyObjectSelectionDocument
from highdicom.sr import RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as SRCode
from pydicom.uid import RTStructureSetStorage

from dicom_node.objects.base.codes import RESEARCH_NOTICE
from dicom_node.objects.base.context import NODE_NAME, ObjectContext, ResultReference
from dicom_node.objects.base.description import describe, describe_origin
from dicom_node.objects.base.parts import ResultParts
from dicom_node.objects.base.series_numbers import KO_SERIES, REJECTION_SERIES
from dicom_node.objects.base.source_headers import source_header
from dicom_node.objects.drawing.outline import key_slice
from dicom_node.objects.report import content
from inference.contract.findings import Algorithm, Findings
from storage.blobs import Blob
from storage.records.results import ObjectKind

NOT_IMAGES = ("1.2.840.10008.5.1.4.1.1.88.", RTStructureSetStorage)  # SR and KO documents, RT Structure Sets


@dataclass(frozen=True)
class _Reference:
    """A reference to an object of the study, or to one of its frames, counted from 1."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    frame_number: int | None = None


def create(kind: ObjectKind, parts: ResultParts) -> list[Dataset]:
    """Return the selection "Of Interest": key images, SEG and SR, or the key images alone."""
    if kind is ObjectKind.KO_IMAGES:
        return [build_ko(parts.findings, parts.variant(kind), [])]
    results = (parts.requested(ObjectKind.SEG), parts.requested(ObjectKind.SR))
    return [build_ko(parts.findings, parts.context, [ds for ds in results if ds is not None])]


def build_ko(findings: Findings, context: ObjectContext, objects: Sequence[Dataset]) -> Dataset:
    """Build the selection "Of Interest": the key image of each segment, in their order, then `objects`, the results.

    Raises ValueError if there is neither a segment nor an object.
    """
    keys = dict.fromkeys(findings.source.frames[key_slice(segment.mask)] for segment in findings.segments)
    series = findings.source.series_instance_uid
    notice = f"{RESEARCH_NOTICE}. " if findings.research else ""
    ko = _document(
        source_header(findings.source.frames[0].blob),
        codes.DCM.OfInterest,
        f"{notice}Key images and results of {findings.title}.",
        [
            *(_Reference(key.sop_class_uid, key.sop_instance_uid, series, key.frame_number) for key in keys),
            *(_Reference(ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID) for ds in objects),
        ],
        findings.algorithm,
        context,
        "KO",
        KO_SERIES,
    )
    describe(ko, findings, context, "KO")
    return ko


def build_rejection(source: Blob, objects: Sequence[ResultReference], context: ObjectContext) -> Dataset:
    """Build the rejection note (IHE RAD IOCM, title 113001) that withdraws `objects`, results of one study.

    `source` is any stored instance of the study. The evidence names only the withdrawn objects, because an archive
    hides every object that the evidence names. Raises ValueError if `objects` is empty.
    """
    ko = _document(
        source_header(source),
        codes.DCM.RejectedForQualityReasons,
        "Withdrawn AI results: replaced by a later result, or withdrawn by the site. Do not use them.",
        [_Reference(one.sop_class_uid, one.sop_instance_uid, one.series_instance_uid) for one in objects],
        None,
        context,
        "rejection",
        REJECTION_SERIES,
    )
    ko.SeriesDescription = "Withdrawn AI results"
    describe_origin(ko, None, datetime.now().astimezone(), source, context)
    return ko


def _document(
    header: Dataset,
    title: SRCode,
    description: str,
    references: Sequence[_Reference],
    algorithm: Algorithm | None,
    context: ObjectContext,
    role: str,
    series_number: int,
) -> Dataset:
    if not references:
        raise ValueError("a selection refers to at least one object")
    root = sr.ContainerContentItem(title, template_id="2010")
    root.ContentSequence = sr.ContentSequence(
        [
            *content.language(),
            *content.device_observer(algorithm, context),
            sr.TextContentItem(codes.DCM.KeyObjectDescription, description, RelationshipTypeValues.CONTAINS),
            *(_item(reference) for reference in references),
        ]
    )
    ko = KeyObjectSelectionDocument(
        evidence=[header, *(_stub(reference, header.StudyInstanceUID) for reference in references)],
        content=sr.ContentSequence([root], is_root=True),
        series_instance_uid=context.uid(f"{role} series"),
        series_number=context.series_number(series_number),
        sop_instance_uid=context.uid(f"{role} instance"),
        instance_number=context.revision,
        manufacturer=algorithm.manufacturer[:64] if algorithm else NODE_NAME,
    )
    for item in ko.ContentSequence:
        if item.ValueType in ("IMAGE", "COMPOSITE"):
            del item.ConceptNameCodeSequence  # TID 2010 rows 7 and 8 have none; highdicom 0.28.2 asks for one
    ko.copy_patient_and_study_information(header)
    distinct = {one.sop_instance_uid: one for one in references}.values()
    ko.CurrentRequestedProcedureEvidenceSequence = content.references(
        header.StudyInstanceUID,
        [ResultReference(one.sop_class_uid, one.sop_instance_uid, one.series_instance_uid) for one in distinct],
    )
    return ko


def _item(reference: _Reference) -> sr.ContentItem:
    if reference.sop_class_uid.startswith(NOT_IMAGES):
        return sr.CompositeContentItem(
            codes.SCT.Source, reference.sop_class_uid, reference.sop_instance_uid, RelationshipTypeValues.CONTAINS
        )
    return sr.ImageContentItem(
        codes.SCT.Source,
        reference.sop_class_uid,
        reference.sop_instance_uid,
        referenced_frame_numbers=reference.frame_number,
        relationship_type=RelationshipTypeValues.CONTAINS,
    )


def _stub(reference: _Reference, study_instance_uid: str) -> Dataset:
    """Return the attributes of a referenced object that highdicom needs."""
    stub = Dataset()
    stub.SOPClassUID = reference.sop_class_uid
    stub.SOPInstanceUID = reference.sop_instance_uid
    stub.StudyInstanceUID = study_instance_uid
    stub.SeriesInstanceUID = reference.series_instance_uid
    return stub
