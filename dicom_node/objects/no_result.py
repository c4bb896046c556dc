"""The report of no result, an Enhanced SR. It exists because silence would read as a normal finding."""

from collections.abc import Sequence
from typing import Any

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dicom_node.objects.base.anatomy import anatomy_of, procedures_reported
from dicom_node.objects.base.codes import PRIVATE, REASONS, RESEARCH_NOTICE
from dicom_node.objects.base.context import ObjectContext, equipment
from dicom_node.objects.base.description import describe_result
from dicom_node.objects.base.series_numbers import NO_RESULT_SERIES
from dicom_node.objects.base.source_headers import source_header
from dicom_node.objects.report import content
from inference.contract.findings import NoResult, NotComputed
from storage.blobs import Blob

KIND = "No AI result"


def build_no_result(result: NoResult, sources: Sequence[Blob], context: ObjectContext) -> Dataset:
    """Build the small report that says of each application why there is no result.

    `sources` are the instances that were looked at, at least one. The report follows TID 1500, and has no coordinates.
    Its title is a code of our own: viewers open a report titled Imaging Measurement Report as drawings on images, and
    show a blank page where it has none, but they show a report of any other title as text.
    """
    headers = [source_header(blob) for blob in sources]
    anatomy = anatomy_of([(None, headers)], context.side)
    procedures = procedures_reported(headers, str(headers[0].get("Modality")), anatomy)
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=content.device_observer(result.algorithm, context)
        ),
        procedure_reported=procedures,
        imaging_measurements=[_statement(one, context) for one in result.applications],
        title=PRIVATE["no-result"],
        language_of_content_item_and_descendants=content.language(),
    )
    items = report[0].ContentSequence
    body = items.pop()
    comments = [RESEARCH_NOTICE] if result.research else []
    for one in result.applications:
        comments.append(f"No AI result: {one.title} was not computed. This says nothing of the patient.")
        comments.append(one.explanation)
    items.extend(content.text_items((codes.DCM.Comment, comment) for comment in comments))
    items.append(body)
    document = sr.EnhancedSR(
        evidence=headers,
        content=report[0],
        series_instance_uid=context.uid("no-result series"),
        series_number=context.series_number(NO_RESULT_SERIES),
        sop_instance_uid=context.uid("no-result instance"),
        instance_number=context.revision,
        **equipment(result.algorithm, context),
        is_complete=True,
        is_final=False,
        is_verified=False,
        performed_procedure_codes=procedures,
    )
    if result.research:
        document.ContentQualification = "RESEARCH"
    if context.predecessors:
        study = str(headers[0].StudyInstanceUID)
        document.PredecessorDocumentsSequence = content.references(study, context.predecessors)
    content.name_coding_scheme(document)
    describe_result(document, result, sources[0], context, KIND)
    return document


def _statement(result: NotComputed, context: ObjectContext) -> Any:
    """Return the statement that no algorithm succeeded, and the reason (TID 1501)."""
    failed = codes.DCM.NoAlgorithmsSucceededWithoutFindings
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=context.uid(f"no-result {result.title}"), identifier=result.title
        ),
        algorithm_id=content.algorithm_identification(result.algorithm) if result.algorithm else None,
        qualitative_evaluations=[
            sr.QualitativeEvaluation(codes.DCM.CADProcessingAndFindingsSummary, failed),
            sr.QualitativeEvaluation(PRIVATE["why-no-result"], REASONS[result.why]),
        ],
    )
