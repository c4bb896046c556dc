"""The report: Comprehensive 3D SR, TID 1500 Measurement Report (PS3.16)."""

import math
from collections.abc import Iterable
from typing import Any

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as SRCode

from dicom_node.objects.codes import MODALITIES, PRIVATE, RESEARCH_NOTICE, VOLUME, sr_code
from dicom_node.objects.common import ObjectContext, describe, device_uid, source_headers
from dicom_node.objects.outline import key_slice, outline
from inference.findings import Evaluation, Findings, Measurement, Segment
from inference.volume import Volume

SERIES_NUMBER = 9002
Has = sr.RelationshipTypeValues


def build_sr(findings: Findings, context: ObjectContext, seg: Dataset | None) -> Dataset:
    """The report of `findings`; `seg` is their Segmentation, None where nothing was found.

    Each segment gives a TID 1411 group that holds its values and refers to the SEG, and a TID 1410 group with the same
    tracking UID and its outline on the key slice, without values: viewers merge the two, and would show a value twice.
    """
    texts = _texts(findings, context)
    added = "".join(text for _, text in texts) + "".join(s.label + s.tracking_id for s in findings.segments)
    sources = [header for volume in _volumes(findings) for header in source_headers(volume, added)]
    report = sr.MeasurementReport(
        observation_context=_observer(findings, context),
        procedure_reported=sr_code(findings.procedure_reported),
        imaging_measurements=_groups(findings, context, seg),
        title=codes.DCM.ImagingMeasurementReport,
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            SRCode("en-US", "RFC5646", "English (United States)")
        ),
    )
    content = report[0].ContentSequence
    body = content.pop()  # the measurements follow the texts and the image library
    for name, text in texts:
        content.append(sr.TextContentItem(name, text, Has.CONTAINS))
    content.append(_image_library(findings))
    content.append(body)
    document = sr.Comprehensive3DSR(
        evidence=[*sources, seg] if seg is not None else sources,
        content=report[0],
        series_instance_uid=context.uid("SR series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=context.uid("SR instance"),
        instance_number=context.revision,
        manufacturer=findings.algorithm.manufacturer[:64],
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    document.ManufacturerModelName = findings.algorithm.name[:64]
    document.SoftwareVersions = findings.algorithm.version[:64]
    document.DeviceSerialNumber = findings.algorithm.weights_sha256[:16]
    if findings.research:
        document.ContentQualification = "RESEARCH"
    if context.predecessors:
        document.PredecessorDocumentsSequence = _predecessors(findings, context)
    describe(document, findings, context, "SR")
    return document


def _volumes(findings: Findings) -> list[Volume]:
    """The source and the other inputs, each series once."""
    volumes = {v.series_instance_uid: v for v in (*findings.inputs, findings.source)}
    return [findings.source, *(v for uid, v in volumes.items() if uid != findings.source.series_instance_uid)]


def _texts(findings: Findings, context: ObjectContext) -> list[tuple[SRCode, str]]:
    """The sentences at the head of the report, in reading order."""
    texts = [(codes.DCM.Comment, RESEARCH_NOTICE)] if findings.research else []
    if not findings.segments:
        texts.append((codes.DCM.Comment, f"No finding: {findings.title} ran on these images and segmented nothing."))
    texts += [(codes.DCM.Comment, note) for note in findings.notes]
    texts.append((PRIVATE["training-data"], findings.algorithm.training_data))
    texts += [
        (PRIVATE["supersedes"], f"Revision {context.revision} replaces the report {p.sop_instance_uid}")
        for p in context.predecessors
    ]
    return [(name, text) for name, text in texts if text]


def _observer(findings: Findings, context: ObjectContext) -> Any:
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            codes.DCM.Device,
            sr.DeviceObserverIdentifyingAttributes(
                uid=device_uid(findings.algorithm),
                name=context.device_name,
                manufacturer_name=findings.algorithm.manufacturer,
                model_name=findings.algorithm.name,
                serial_number=findings.algorithm.weights_sha256[:16],
            ),
        )
    )


def _image_library(findings: Findings) -> Any:
    """TID 1600, one group per series, the modality stated once (highdicom's own refuses Enhanced sources)."""
    library = sr.ContainerContentItem(codes.DCM.ImageLibrary, relationship_type=Has.CONTAINS, template_id="1600")
    library.ContentSequence = sr.ContentSequence()
    for volume in _volumes(findings):
        group = sr.ContainerContentItem(codes.DCM.ImageLibraryGroup, relationship_type=Has.CONTAINS)
        group.ContentSequence = sr.ContentSequence()
        if volume.modality in MODALITIES:
            group.ContentSequence.append(
                sr.CodeContentItem(codes.DCM.Modality, MODALITIES[volume.modality], Has.HAS_ACQ_CONTEXT)
            )
        for sop_class, uid in dict.fromkeys((f.sop_class_uid, f.sop_instance_uid) for f in volume.frames):
            image = sr.ImageContentItem(codes.SCT.Source, sop_class, uid, relationship_type=Has.CONTAINS)
            group.ContentSequence.append(image)
        library.ContentSequence.append(group)
    return library


def _groups(findings: Findings, context: ObjectContext, seg: Dataset | None) -> list[Any]:
    groups: list[Any] = []
    if seg is not None:
        groups += [_volumetric(findings, seg, number, s) for number, s in enumerate(findings.segments, 1)]
        groups += [_planar(findings, s) for s in findings.segments]
    if findings.measurements or findings.evaluations or not groups:
        groups.append(_whole_study(findings, context))
    return groups


def _volumetric(findings: Findings, seg: Dataset, number: int, segment: Segment) -> Any:
    """TID 1411."""
    only_volumes = bool(segment.measurements) and all(
        (m.name.value, m.name.scheme) == (VOLUME.value, VOLUME.scheme_designator) for m in segment.measurements
    )
    group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=number,
            source_series=sr.SourceSeriesForSegmentation(findings.source.series_instance_uid),
        ),
        method=codes.DCM.SumOfSegmentedVoxelMethodForVolume if only_volumes else None,
        measurements=_measurements(segment.measurements),
        qualitative_evaluations=_evaluations(segment.evaluations),
        **_identity(findings, segment),
    )
    for item in group[0].ContentSequence:
        # highdicom 0.28.2 writes CONTAINS here; TID 1419 row 1 says HAS CONCEPT MOD
        if item.ConceptNameCodeSequence[0].CodeValue == codes.SCT.MeasurementMethod.value:
            item.RelationshipType = "HAS CONCEPT MOD"
    return group


def _planar(findings: Findings, segment: Segment) -> Any:
    """TID 1410: where viewers draw the finding."""
    k = key_slice(segment.mask)
    frame = findings.source.frames[k]
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=sr.ImageRegion(
            graphic_type=sr.GraphicTypeValues.POLYLINE,
            graphic_data=outline(segment.mask[k]),
            source_image=sr.SourceImageForRegion(
                frame.sop_class_uid, frame.sop_instance_uid, [frame.frame_number] if frame.frame_number else None
            ),
        ),
        **_identity(findings, segment),
    )


def _whole_study(findings: Findings, context: ObjectContext) -> Any:
    """TID 1501: results that belong to no region, and the plain statement that nothing was found."""
    evaluations = _evaluations(findings.evaluations)
    if not findings.segments:
        nothing = codes.DCM.AllAlgorithmsSucceededWithoutFindings
        evaluations.insert(0, sr.QualitativeEvaluation(codes.DCM.CADProcessingAndFindingsSummary, nothing))
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=context.uid("whole study"), identifier=findings.title),
        algorithm_id=_algorithm(findings),
        measurements=_measurements(findings.measurements),
        qualitative_evaluations=evaluations,
    )


def _identity(findings: Findings, segment: Segment) -> dict[str, Any]:
    """What both groups of a segment say alike."""
    return {
        "tracking_identifier": sr.TrackingIdentifier(uid=segment.tracking_uid, identifier=segment.tracking_id),
        "finding_type": sr_code(segment.type),
        "finding_category": sr_code(segment.category),
        "algorithm_id": _algorithm(findings),
        "finding_sites": [sr.FindingSite(sr_code(segment.anatomic_region))] if segment.anatomic_region else None,
    }


def _algorithm(findings: Findings) -> Any:
    """TID 4019."""
    a = findings.algorithm
    return sr.AlgorithmIdentification(name=a.name, version=a.version, manufacturer=a.manufacturer)


def _measurements(measurements: Iterable[Measurement]) -> list[Any]:
    return [
        sr.Measurement(
            name=sr_code(m.name),
            value=_decimal(m.value),
            unit=sr_code(m.unit),
            derivation=sr_code(m.derivation) if m.derivation else None,
        )
        for m in measurements
        if m.value is not None
    ]


def _evaluations(evaluations: Iterable[Evaluation]) -> list[Any]:
    return [sr.QualitativeEvaluation(sr_code(e.name), sr_code(e.value)) for e in evaluations]


def _decimal(value: float) -> float:
    """Six significant digits: fits a DS (16 characters) and carries no float noise."""
    if not math.isfinite(value):
        raise ValueError("a measurement is not a finite number; leave it out and say why in the notes")
    return float(f"{value:.6g}")


def _predecessors(findings: Findings, context: ObjectContext) -> list[Dataset]:
    """PS3.3 C.17.2, Predecessor Documents Sequence; all of this study."""
    series: dict[str, list[Dataset]] = {}
    for predecessor in context.predecessors:
        reference = Dataset()
        reference.ReferencedSOPClassUID = predecessor.sop_class_uid
        reference.ReferencedSOPInstanceUID = predecessor.sop_instance_uid
        series.setdefault(predecessor.series_instance_uid, []).append(reference)
    study = Dataset()
    study.StudyInstanceUID = findings.source.study_instance_uid
    study.ReferencedSeriesSequence = []
    for uid, references in series.items():
        item = Dataset()
        item.SeriesInstanceUID = uid
        item.ReferencedSOPSequence = references
        study.ReferencedSeriesSequence.append(item)
    return [study]
