"""Measurement reports (PS3.16 TID 1500) of any writer, read back as groups of values.

Reading is strict about what a later comparison relies on (identity, numbers), and tolerant of everything else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as SRCode

from dicom_node.objects.reading.codes import code_of, first_code, same
from inference.contract.findings import Code, Evaluation
from inference.headers.reading import read_header
from storage.blobs import Blob
from storage.errors import InputRefused

# Concept names of PS3.16 that pydicom's dictionary lacks: TID 1410 row 3, TID 1502 row 1.
FINDING_CATEGORY = SRCode("276214006", "SCT", "Finding category")
TIME_POINT = SRCode("C2348792", "UMLS", "Time Point")
CONTAINERS = (codes.DCM.ImagingMeasurements, codes.DCM.DerivedImagingMeasurements)
NOT_EVALUATIONS = (
    codes.DCM.Finding,
    FINDING_CATEGORY,
    codes.SCT.FindingSite,
    codes.SCT.MeasurementMethod,
    codes.DCM.AlgorithmFamily,
)


@dataclass(frozen=True)
class ImageReference:
    """A reference to an image. `frame_numbers` count from 1; if it is empty, all frames are meant, or the only one."""

    sop_class_uid: str
    sop_instance_uid: str
    frame_numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class SegmentReference:
    """A reference to segments of a segmentation."""

    sop_class_uid: str
    sop_instance_uid: str
    segment_numbers: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Region:
    """A drawn region.

    `points` is (n, 2) for SCOORD: column and row on `image`, where pixel edges are integers. It is (n, 3) for SCOORD3D:
    LPS mm in the frame of reference, and `image` is None.
    """

    graphic_type: str
    points: NDArray[np.float64]
    image: ImageReference | None
    frame_of_reference_uid: str = ""


@dataclass(frozen=True)
class Measured:
    """A number as it was reported. `value` is None if there is none, and `missing` may say why (CID 42)."""

    name: Code
    value: float | None
    unit: Code | None
    derivation: Code | None = None
    method: Code | None = None
    missing: Code | None = None


@dataclass(frozen=True, eq=False)
class MeasurementGroup:
    """A measurement group: a finding, its place, and its values.

    One finding may have several groups, which then have the same tracking UID. `images` are all images to which the
    group refers, including the images on which its regions are drawn.
    """

    tracking_uid: str
    tracking_id: str
    finding: Code | None
    category: Code | None
    sites: tuple[Code, ...]
    time_point: str
    measurements: tuple[Measured, ...]
    evaluations: tuple[Evaluation, ...]
    segments: tuple[SegmentReference, ...]
    regions: tuple[Region, ...]
    images: tuple[ImageReference, ...]

    def measured(self, name: SRCode, derivation: SRCode | None = None) -> tuple[Measured, ...]:
        """Return the values of one quantity with this `derivation`, or with any if that is None.

        A quantity that is coded with SNOMED's older identifiers is found too.
        """
        return tuple(
            m
            for m in self.measurements
            if same(m.name, name) and (derivation is None or same(m.derivation, derivation))
        )


@dataclass(frozen=True, eq=False)
class MeasurementReport:
    """A measurement report. `content_date` is YYYYMMDD, `content_time` as it is written.

    `evidence` are (SOP Class UID, SOP Instance UID) of the instances that the report names as its evidence.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    title: Code
    procedures: tuple[Code, ...]
    content_date: str
    content_time: str
    groups: tuple[MeasurementGroup, ...]
    evidence: tuple[tuple[str, str], ...]


def read_report(source: Blob | Dataset) -> MeasurementReport:
    """Read the measurement groups of `source`, in order. Raises InputRefused if it is no measurement report."""
    ds = source if isinstance(source, Dataset) else read_header(source)
    title = first_code(ds, "ConceptNameCodeSequence")
    if ds.get("Modality") != "SR" or ds.get("ValueType") != "CONTAINER" or title is None:
        raise InputRefused(f"instance {ds.get('SOPInstanceUID', '?')} is no structured report")
    containers = [i for i in _children(ds) if any(same(_name(i), c) for c in CONTAINERS)]
    template = ds.get("ContentTemplateSequence")
    if not containers and not (template and template[0].get("TemplateIdentifier") == "1500"):
        raise InputRefused(f"report {ds.SOPInstanceUID} is no measurement report (TID 1500): {title.meaning}")
    groups = [g for c in containers for g in _children(c) if same(_name(g), codes.DCM.MeasurementGroup)]
    return MeasurementReport(
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        study_instance_uid=str(ds.StudyInstanceUID),
        title=title,
        procedures=_codes_named(ds, codes.DCM.ProcedureReported),
        content_date=str(ds.get("ContentDate") or ""),
        content_time=str(ds.get("ContentTime") or ""),
        groups=tuple(_group(g, f"report {ds.SOPInstanceUID}, group {k}") for k, g in enumerate(groups, 1)),
        evidence=tuple(_evidence(ds)),
    )


def _children(item: Dataset) -> Sequence[Dataset]:
    return item.get("ContentSequence") or []


def _name(item: Dataset) -> Code | None:
    return first_code(item, "ConceptNameCodeSequence")


def _codes_named(item: Dataset, name: SRCode) -> tuple[Code, ...]:
    found = [i for i in _children(item) if i.get("ValueType") == "CODE" and same(_name(i), name)]
    return tuple(code_of(i.ConceptCodeSequence[0]) for i in found if i.get("ConceptCodeSequence"))


def _text_named(item: Dataset, name: SRCode) -> str:
    for i in _children(item):
        if i.get("ValueType") in ("TEXT", "UIDREF") and same(_name(i), name):
            return str(i.get("TextValue") or i.get("UID") or "")
    return ""


def _group(group: Dataset, where: str) -> MeasurementGroup:
    finding = _codes_named(group, codes.DCM.Finding)
    category = _codes_named(group, FINDING_CATEGORY)
    items = list(_children(group))
    return MeasurementGroup(
        tracking_uid=_text_named(group, codes.DCM.TrackingUniqueIdentifier),
        tracking_id=_text_named(group, codes.DCM.TrackingIdentifier),
        finding=finding[0] if finding else None,
        category=category[0] if category else None,
        sites=_codes_named(group, codes.SCT.FindingSite),
        time_point=_text_named(group, TIME_POINT),
        measurements=tuple(_measured(i, where) for i in items if i.get("ValueType") == "NUM"),
        evaluations=tuple(_evaluations(items)),
        segments=tuple(_segments(items)),
        regions=tuple(_regions(items)),
        images=tuple(_images(items)),
    )


def _measured(item: Dataset, where: str) -> Measured:
    name = _name(item)
    if name is None:
        raise InputRefused(f"{where}: a number has no name")
    derivation, method = _codes_named(item, codes.DCM.Derivation), _codes_named(item, codes.SCT.MeasurementMethod)
    values: Sequence[Dataset] = item.get("MeasuredValueSequence") or []
    try:
        value = _value(values[0]) if values else None
    except (TypeError, ValueError):
        raise InputRefused(f"{where}: {name.meaning} is not a number") from None
    return Measured(
        name=name,
        value=value,
        unit=first_code(values[0], "MeasurementUnitsCodeSequence") if values else None,
        derivation=derivation[0] if derivation else None,
        method=method[0] if method else None,
        missing=first_code(item, "NumericValueQualifierCodeSequence"),
    )


def _value(measured: Dataset) -> float | None:
    """Return Floating Point Value if present, else Numeric Value, which is cut to 16 characters (PS3.3 C.18.1)."""
    number = measured.get("FloatingPointValue")
    if number is None:
        number = measured.get("NumericValue")
    return None if number is None or number == "" else float(number)


def _evaluations(items: Sequence[Dataset]) -> Iterator[Evaluation]:
    for item in items:
        name = _name(item)
        if item.get("ValueType") != "CODE" or item.get("RelationshipType") != "CONTAINS" or name is None:
            continue
        if item.get("ConceptCodeSequence") and not any(same(name, other) for other in NOT_EVALUATIONS):
            yield Evaluation(name, code_of(item.ConceptCodeSequence[0]))


def _segments(items: Sequence[Dataset]) -> Iterator[SegmentReference]:
    for reference in _references(items):
        numbers = _integers(reference.get("ReferencedSegmentNumber"))
        if numbers:
            yield SegmentReference(
                str(reference.ReferencedSOPClassUID), str(reference.ReferencedSOPInstanceUID), numbers
            )


def _images(items: Sequence[Dataset]) -> Iterator[ImageReference]:
    found = [_image(r) for r in _references(items) if not _integers(r.get("ReferencedSegmentNumber"))]
    found += [_image(r) for i in items if i.get("ValueType") == "SCOORD" for r in _references(_children(i))]
    yield from dict.fromkeys(found)


def _references(items: Sequence[Dataset]) -> Iterator[Dataset]:
    for item in items:
        if item.get("ValueType") == "IMAGE":
            yield from item.get("ReferencedSOPSequence") or []


def _image(reference: Dataset) -> ImageReference:
    return ImageReference(
        str(reference.ReferencedSOPClassUID),
        str(reference.ReferencedSOPInstanceUID),
        _integers(reference.get("ReferencedFrameNumber")),
    )


def _regions(items: Sequence[Dataset]) -> Iterator[Region]:
    for item in items:
        kind = item.get("ValueType")
        if kind not in ("SCOORD", "SCOORD3D"):
            continue
        points = np.array(item.get("GraphicData") or [], float).reshape(-1, 2 if kind == "SCOORD" else 3)
        images = [_image(r) for r in _references(_children(item))]
        yield Region(
            graphic_type=str(item.get("GraphicType") or ""),
            points=points,
            image=images[0] if images else None,
            frame_of_reference_uid=str(item.get("ReferencedFrameOfReferenceUID") or ""),
        )


def _evidence(ds: Dataset) -> Iterator[tuple[str, str]]:
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in ds.get(keyword) or []:
            for series in study.get("ReferencedSeriesSequence") or []:
                for reference in series.get("ReferencedSOPSequence") or []:
                    yield str(reference.ReferencedSOPClassUID), str(reference.ReferencedSOPInstanceUID)


def _integers(value: object) -> tuple[int, ...]:
    if value is None or value == "":
        return ()
    return (
        tuple(int(v) for v in value)
        if isinstance(value, Sequence) and not isinstance(value, str)
        else (int(str(value)),)
    )
