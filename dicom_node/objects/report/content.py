"""Content items that the reports share (PS3.3 C.17.3), by the templates of PS3.16."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from highdicom import sr
from highdicom.sr import RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.sr.codedict import Collection, codes
from pydicom.sr.coding import Code as SRCode

from dicom_node.objects.base.codes import sr_code
from dicom_node.objects.base.context import NODE_NAME, ObjectContext, ResultReference, device_uid
from dicom_node.objects.report.units import check_unit
from inference.contract.concepts import SCHEME
from inference.contract.findings import Algorithm, Evaluation, Measurement, TimePoint


def language() -> Any:
    """Return the language of the report (TID 1204)."""
    return sr.LanguageOfContentItemAndDescendants(SRCode("en-US", "RFC5646", "English (United States)"))


def device_observer(algorithm: Algorithm | None, context: ObjectContext) -> Any:
    """Return the observer (TID 1002, 1004): the algorithm as this node runs it, or the node alone."""
    return sr.ObserverContext(
        codes.DCM.Device,
        sr.DeviceObserverIdentifyingAttributes(
            uid=device_uid(algorithm) if algorithm else context.node_uid,
            name=context.device_name,
            manufacturer_name=algorithm.manufacturer if algorithm else NODE_NAME,
            model_name=algorithm.name if algorithm else NODE_NAME,
            serial_number=algorithm.weights_sha256[:16] if algorithm else None,
        ),
    )


def algorithm_identification(algorithm: Algorithm) -> Any:
    """Return the identification of an algorithm (TID 4019)."""
    return sr.AlgorithmIdentification(
        name=algorithm.name,
        version=algorithm.version,
        manufacturer=algorithm.manufacturer,
        family=codes.DCM.ArtificialIntelligence,
    )


def time_point(point: TimePoint | None) -> Any:
    """Return the time point context (TID 1502); None if there is no time point.

    The context has a type if the label is a term of CID 6146. The order of the time point is told in words, because
    viewers would show the NUM of row 5 beside the outline, as if it were a measurement.
    """
    if point is None:
        return None
    types = {code.meaning.lower(): code for code in Collection("CID6146").concepts.values()}
    return sr.TimePointContext(
        time_point=point.label if point.order is None else f"{point.label} (time point {point.order})",
        time_point_type=types.get(point.label.lower()),
        subject_time_point_identifier=point.subject_identifier or None,
        protocol_time_point_identifier=point.protocol_identifier or None,
    )


def measurements(values: Iterable[Measurement]) -> list[Any]:
    """Return NUM items (TID 300, 1419).

    Raises ValueError for a unit that does not fit its quantity, and for a value that is not finite.
    """
    return [_measurement(one) for one in values]


def _measurement(one: Measurement) -> Any:
    check_unit(one)
    return sr.Measurement(
        name=sr_code(one.name),
        value=_decimal(one.value) if one.value is not None else 0.0,
        unit=sr_code(one.unit),
        qualifier=sr_code(one.missing) if one.missing else None,
        derivation=sr_code(one.derivation) if one.derivation else None,
    )


def without_missing_values(item: Dataset) -> None:
    """Remove the number from each NUM below `item` that says why its value is missing (PS3.3 C.18.1, CID 42).

    Call this for the finished document, because highdicom 0.28.2 cannot read a NUM without a measured value.
    """
    for child in item.get("ContentSequence", []):
        if "NumericValueQualifierCodeSequence" in child:
            child.MeasuredValueSequence = []
        without_missing_values(child)


def _decimal(value: float) -> float:
    """Round to six significant digits, which fit a DS (16 characters) and hide the rounding of floats."""
    if not math.isfinite(value):
        raise ValueError("a measurement is not a finite number; give None and why it is missing")
    return float(f"{value:.6g}")


def evaluations(values: Iterable[Evaluation]) -> list[Any]:
    """Return CODE items."""
    return [sr.QualitativeEvaluation(sr_code(one.name), sr_code(one.value)) for one in values]


def text_items(pairs: Iterable[tuple[SRCode, str]]) -> list[Any]:
    """Return TEXT items, without the empty ones."""
    return [sr.TextContentItem(name, text, RelationshipTypeValues.CONTAINS) for name, text in pairs if text]


def references(study_instance_uid: str, objects: Sequence[ResultReference]) -> list[Dataset]:
    """Return references to objects of one study, by series (Hierarchical SOP Instance Reference, PS3.3 C.17.2.1)."""
    series: dict[str, list[Dataset]] = {}
    for one in objects:
        reference = Dataset()
        reference.ReferencedSOPClassUID = one.sop_class_uid
        reference.ReferencedSOPInstanceUID = one.sop_instance_uid
        series.setdefault(one.series_instance_uid, []).append(reference)
    study = Dataset()
    study.StudyInstanceUID = study_instance_uid
    study.ReferencedSeriesSequence = []
    for uid, items in series.items():
        item = Dataset()
        item.SeriesInstanceUID = uid
        item.ReferencedSOPSequence = items
        study.ReferencedSeriesSequence.append(item)
    return [study]


def name_coding_scheme(ds: Dataset) -> None:
    """Set Coding Scheme Identification (PS3.3 C.12.1), which says who defines the node's own codes."""
    scheme = Dataset()
    scheme.CodingSchemeDesignator = SCHEME
    scheme.CodingSchemeName = "dicom-node, docs/codes.md"
    scheme.CodingSchemeResponsibleOrganization = NODE_NAME
    ds.CodingSchemeIdentificationSequence = [scheme]
