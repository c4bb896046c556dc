"""Structured Report: the findings as a Comprehensive 3D SR, TID 1500 Measurement Report (PS3.16)."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from highdicom import sr
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import Collection, codes
from pydicom.sr.coding import Code as SRCode
from pydicom.uid import UID, ComprehensiveSRStorage, EnhancedSRStorage

from dicom_node.objects.base.anatomy import Anatomy, procedures_reported
from dicom_node.objects.base.codes import PRIVATE, RESEARCH_NOTICE, sr_code
from dicom_node.objects.base.context import ObjectContext, equipment
from dicom_node.objects.base.description import anatomy_of_findings, describe
from dicom_node.objects.base.parts import ResultParts
from dicom_node.objects.base.series_numbers import SR_SERIES
from dicom_node.objects.base.source_headers import sharing, source_headers
from dicom_node.objects.drawing.outline import key_slice, outline, outline_of, parts_of
from dicom_node.objects.report import content
from dicom_node.objects.report.image_library import image_library
from inference.contract.concepts import ANATOMICAL
from inference.contract.findings import Findings, Segment
from inference.volumes.volume import Volume
from storage.records.results import ObjectKind

_FORMS = {  # the report that each form is a copy of, and its SOP class
    ObjectKind.SR_COMPREHENSIVE: (ObjectKind.SR, ComprehensiveSRStorage),
    ObjectKind.SR_ENHANCED: (ObjectKind.SR, EnhancedSRStorage),
    ObjectKind.SR_REGIONS_COMPREHENSIVE: (ObjectKind.SR_REGIONS, ComprehensiveSRStorage),
    ObjectKind.SR_REGIONS_ENHANCED: (ObjectKind.SR_REGIONS, EnhancedSRStorage),
}
MOST_REGIONS = 1000  # in a report that draws its segments on the images, shared evenly among them: some 2 MB


def create(kind: ObjectKind, parts: ResultParts) -> list[Dataset]:
    """Return the report in the form of `kind`. The forms that draw regions exist only beside one that refers to a SEG.

    A form in another SOP class is a copy of the original report.
    """
    seg = parts.requested(ObjectKind.SEG)
    if kind is ObjectKind.SR:
        return [build_sr(parts.findings, parts.context, seg)]
    if kind is ObjectKind.SR_REGIONS:
        return [] if seg is None else [build_sr(parts.findings, parts.variant(kind), None)]
    original, sop_class_uid = _FORMS[kind]
    own = parts.variant(kind)
    return [
        as_sop_class(report, sop_class_uid, own.uid("SR series"), own.uid("SR instance"))
        for report in parts.build(original)
    ]


def build_sr(findings: Findings, context: ObjectContext, seg: Dataset | None) -> Dataset:
    """Build the report of `findings`.

    With `seg`, their Segmentation, each segment has a TID 1411 group that holds its values and refers to the SEG. It
    also has TID 1410 groups with the same tracking UID and its outlines, the key slice first. These hold no values,
    because viewers merge the groups and would show a value twice. Without `seg`, each segment has one TID 1411 group
    that holds its values and its outlines on the images, and nothing refers to a SEG.

    A report without segments has a title of our own: viewers open an Imaging Measurement Report as drawings on images,
    and show a blank page where it has none, but they show a report of any other title as text.

    Raises ValueError for a unit that does not fit its quantity, and for a number that is not finite.
    """
    volumes = [(volume, source_headers(volume)) for volume in _volumes(findings)]
    sources = [header for _, headers in volumes for header in headers]
    anatomy = anatomy_of_findings(findings, context)
    groups, notes = _groups(findings, context, seg, anatomy)
    procedures = procedures_reported(source_headers(findings.source), findings.source.modality, anatomy)
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=content.device_observer(findings.algorithm, context)
        ),
        procedure_reported=procedures,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport if findings.segments else PRIVATE["no-finding"],
        language_of_content_item_and_descendants=content.language(),
    )
    items = report[0].ContentSequence
    body = items.pop()  # the measurements follow the texts and the image library
    items.extend(content.text_items(_texts(findings, context, notes)))
    items.append(image_library(volumes, context.side))
    items.append(body)
    document = sr.Comprehensive3DSR(
        evidence=[*sources, seg] if seg is not None else sources,
        content=report[0],
        series_instance_uid=context.uid("SR series"),
        series_number=context.series_number(SR_SERIES),
        sop_instance_uid=context.uid("SR instance"),
        instance_number=context.revision,
        **equipment(findings.algorithm, context),
        is_complete=True,
        is_final=False,
        is_verified=False,
        performed_procedure_codes=procedures,
    )
    if findings.research:
        document.ContentQualification = "RESEARCH"
    if context.predecessors:
        study = findings.source.study_instance_uid
        document.PredecessorDocumentsSequence = content.references(study, context.predecessors)
    content.without_missing_values(document)
    content.name_coding_scheme(document)
    describe(document, findings, context, "SR")
    return document


def as_sop_class(report: Dataset, sop_class_uid: str, series_instance_uid: str, sop_instance_uid: str) -> Dataset:
    """Copy a report as Comprehensive SR (PS3.3 A.35.3) or Enhanced SR (A.35.2), in a series of its own.

    Both allow every content item of `build_sr` and `build_no_result`, because these hold neither SCOORD3D nor
    references within the document.
    """
    copy = sharing(report)
    copy.add_new("SOPClassUID", "UI", sop_class_uid)
    copy.add_new("SeriesInstanceUID", "UI", series_instance_uid)
    copy.add_new("SOPInstanceUID", "UI", sop_instance_uid)
    copy.file_meta = deepcopy(report.file_meta)
    copy.file_meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    copy.file_meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    return copy


def _volumes(findings: Findings) -> list[Volume]:
    """Return the source and the other inputs, each once. A series may hold several volumes."""
    volumes = {volume.frames: volume for volume in (findings.source, *findings.inputs)}
    return list(volumes.values())


def _texts(findings: Findings, context: ObjectContext, notes: Sequence[str]) -> list[tuple[SRCode, str]]:
    """Return the sentences at the head of the report, in reading order."""
    comments = [RESEARCH_NOTICE] if findings.research else []
    if not findings.segments:
        comments.append(f"No finding: {findings.title} ran on these images and segmented nothing.")
    comments += [*findings.notes, *notes]
    return [
        *((codes.DCM.Comment, comment) for comment in comments),
        *((PRIVATE["input-series"], name) for name in findings.input_series),
        (PRIVATE["training-data"], findings.algorithm.training_data),
        *(
            (PRIVATE["supersedes"], f"Result r{context.edition} replaces the report {p.sop_instance_uid}")
            for p in context.predecessors
        ),
    ]


def _groups(
    findings: Findings, context: ObjectContext, seg: Dataset | None, anatomy: Anatomy
) -> tuple[list[Any], list[str]]:
    """Return the measurement groups, and notes for the reader on how they are drawn."""
    groups: list[Any] = []
    notes: list[str] = []
    if seg is not None:
        groups += [_referring(findings, seg, number, s, anatomy) for number, s in enumerate(findings.segments, 1)]
        groups += [_planar(findings, s, k, anatomy) for s in findings.segments for k in _drawn_slices(findings, s)]
    else:
        for segment in findings.segments:
            regions, left_out = _regions(findings, segment)
            groups.append(_volumetric(findings, segment, anatomy, referenced_regions=regions))
            if left_out:
                notes.append(
                    f"{segment.label}: its {left_out} smallest parts are not outlined; they are in its values."
                )
    if findings.measurements or findings.evaluations or not groups:
        groups.append(_whole_study(findings, context))
    return groups, notes


def _referring(findings: Findings, seg: Dataset, number: int, segment: Segment, anatomy: Anatomy) -> Any:
    """Return a TID 1411 group that refers to a segment of the SEG."""
    return _volumetric(
        findings,
        segment,
        anatomy,
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=number,
            source_series=sr.SourceSeriesForSegmentation(findings.source.series_instance_uid),
        ),
    )


def _volumetric(findings: Findings, segment: Segment, anatomy: Anatomy, **where: Any) -> Any:
    """Return a TID 1411 group with the values of a segment."""
    volume = (codes.SCT.Volume.value, codes.SCT.Volume.scheme_designator)
    measured = {(one.name.value, one.name.scheme) for one in segment.measurements}
    group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        method=codes.DCM.SumOfSegmentedVoxelMethodForVolume if measured == {volume} else None,
        measurements=content.measurements(segment.measurements),
        qualitative_evaluations=content.evaluations(segment.evaluations),
        time_point_context=content.time_point(findings.time_point),
        **where,
        **_identity(findings, segment, anatomy),
    )
    for item in group[0].ContentSequence:
        # highdicom 0.28.2 writes CONTAINS here; TID 1419 row 1 says HAS CONCEPT MOD
        if item.ConceptNameCodeSequence[0].CodeValue == codes.SCT.MeasurementMethod.value:
            item.RelationshipType = "HAS CONCEPT MOD"
    return group


def _regions(findings: Findings, segment: Segment) -> tuple[list[Any], int]:
    """Return the parts of the segment in all slices, and the number of small parts left out because of MOST_REGIONS.

    The largest part of the key slice comes first, because some viewers draw no other.
    """
    slices = np.flatnonzero(segment.mask.any(axis=(1, 2)))
    parts = [(int(k), part) for k in slices for part in parts_of(segment.mask[k])]
    share = max(1, MOST_REGIONS // len(findings.segments))
    largest = sorted(parts, key=lambda one: -one[1].size)[:share]
    key = key_slice(segment.mask)
    ordered = sorted(largest, key=lambda one: (one[0] != key, one[0]))
    return [_region(findings, k, outline_of(part)) for k, part in ordered], len(parts) - len(largest)


def _drawn_slices(findings: Findings, segment: Segment) -> list[int]:
    """Return the key slice, and also the first and the last slice if the segment is the only one.

    If a report has a single image region, PixelMed takes all its groups for TID 1410, even one that refers to a SEG.
    """
    slices = np.flatnonzero(segment.mask.any(axis=(1, 2)))
    extent = [int(slices[0]), int(slices[-1])] if len(findings.segments) == 1 else []
    return list(dict.fromkeys([key_slice(segment.mask), *extent]))


def _planar(findings: Findings, segment: Segment, k: int, anatomy: Anatomy) -> Any:
    """Return a TID 1410 group: the finding as it is drawn on slice `k`."""
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=_region(findings, k, outline(segment.mask[k])), **_identity(findings, segment, anatomy)
    )


def _region(findings: Findings, k: int, polygon: NDArray[np.float64]) -> Any:
    """Return the region inside `polygon`, (n, 2) closed (column, row), on slice `k` of the source."""
    frame = findings.source.frames[k]
    corner = np.array((frame.tile or (0, 0))[::-1])
    return sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=polygon + corner,
        source_image=sr.SourceImageForRegion(
            frame.sop_class_uid, frame.sop_instance_uid, [frame.frame_number] if frame.frame_number else None
        ),
    )


def _whole_study(findings: Findings, context: ObjectContext) -> Any:
    """Return a TID 1501 group with the results that belong to no region, or the statement that nothing was found.

    If there are segments, its region (row 10c) is the whole image that shows the largest one. OHIF 3.13.2 draws nothing
    of a report in which a group has no region, and PixelMed takes such a group for a TID 1411 that lacks one.
    """
    evaluations = content.evaluations(findings.evaluations)
    if not findings.segments:
        nothing = codes.DCM.AllAlgorithmsSucceededWithoutFindings
        evaluations.insert(0, sr.QualitativeEvaluation(codes.DCM.CADProcessingAndFindingsSummary, nothing))
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=context.uid("whole study"), identifier=findings.title),
        algorithm_id=content.algorithm_identification(findings.algorithm),
        time_point_context=content.time_point(findings.time_point),
        measurements=content.measurements(findings.measurements),
        qualitative_evaluations=evaluations,
    )
    if findings.segments:
        largest = max(findings.segments, key=lambda segment: int(segment.mask.sum()))
        _, rows, columns = findings.source.array.shape
        image = np.array([(0, 0), (columns, 0), (columns, rows), (0, rows), (0, 0)], float)
        group[0].ContentSequence.append(_region(findings, key_slice(largest.mask), image))
    return group


def _identity(findings: Findings, segment: Segment, anatomy: Anatomy) -> dict[str, Any]:
    """Return the arguments that all groups of a segment have in common."""
    return {
        "tracking_identifier": sr.TrackingIdentifier(uid=segment.tracking_uid, identifier=segment.tracking_id),
        "finding_type": sr_code(segment.type),
        "finding_category": sr_code(segment.category),
        "algorithm_id": content.algorithm_identification(findings.algorithm),
        "finding_sites": _finding_sites(segment, anatomy),
    }


def _finding_sites(segment: Segment, anatomy: Anatomy) -> list[Any] | None:
    """Return the site of a segment (TID 1411, row 8): its region, or else the structure itself, or what images show.

    The site has the modifier of the segment, or else the side of the images.
    """
    modifier = None if segment.modifier is None else sr_code(segment.modifier)
    site = anatomy.region if segment.anatomic_region is None else sr_code(segment.anatomic_region)
    if segment.anatomic_region is None and modifier is not None and segment.category == ANATOMICAL:
        site = sr_code(segment.type)
    if site is None:
        return None
    if modifier is None:
        return [sr.FindingSite(site, laterality=anatomy.laterality)]
    if modifier in Collection("CID244").concepts.values():
        return [sr.FindingSite(site, laterality=modifier)]
    return [sr.FindingSite(site, topographical_modifier=modifier)]
