"""RT Structure Set (PS3.3 A.19): every segment as planar contours on the source slices, for planning systems."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from dicom_node.objects.base.codes import RESEARCH_NOTICE, RESEARCH_WORD
from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.base.description import describe, distinguishing_words
from dicom_node.objects.base.new_object import new_object
from dicom_node.objects.base.parts import ResultParts
from dicom_node.objects.base.series_numbers import RTSTRUCT_SERIES
from dicom_node.objects.base.source_headers import slice_headers, source_headers
from dicom_node.objects.base.value_lengths import SH_LENGTH, short_names
from dicom_node.objects.drawing.outline import Polygon, contours
from inference.contract.findings import Code, Findings, Segment
from inference.volumes.geometry import Mask
from inference.volumes.planes import Plane, planes_of
from inference.volumes.volume import FrameReference, Volume
from storage.records.results import ObjectKind

STUDY_SOP_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management; retired, but PS3.3 C.8.8.5 asks for it
CONTOUR_DATA = Tag("ContourData")
TARGET_VOLUMES = ("GTV", "CTV", "PTV", "ITV")  # names that planning systems and people take for targets
GROSS_TUMOUR = frozenset(
    (code.value, code.scheme_designator)
    for code in (
        codes.SCT.Mass,
        codes.SCT.Neoplasm,
        codes.SCT.NeoplasmPrimary,
        codes.SCT.NeoplasmSecondary,
        codes.SCT.GrossTumorVolume,
    )
)


def create(kind: ObjectKind, parts: ResultParts) -> list[Dataset]:
    """Return the RT Structure Set, or nothing if the source has no frame of reference."""
    structures = build_rtstruct(parts.findings, parts.context, parts.profile.names_gtv)
    return [] if structures is None else [structures]


def build_rtstruct(findings: Findings, context: ObjectContext, names_gtv: bool = False) -> Dataset | None:
    """Build the RT Structure Set of `findings`, which must hold at least one segment.

    Returns None if the source has no FrameOfReferenceUID: contours then have no place (PS3.3 C.8.8.5), and the caller
    goes on without this object.

    An ROI has one CLOSED_PLANAR contour for each component of its mask on each slice, along the edges of the pixels, so
    that it encloses exactly the mask. Holes are cut out by the keyhole technique (PS3.3 C.8.8.6.3), because all readers
    understand it in the same way, while some take inner contours for holes and others fill them. An island in a hole
    has its own contour. Contours lie in the planes of the source images.

    An outlined tumour is of the type GTV only if `names_gtv`: the site has said that its planning system shall take it
    for one. Otherwise its type is empty, and a person decides.
    """
    source = findings.source
    if not source.frame_of_reference_uid:
        return None
    headers = source_headers(source)
    ds = new_object(headers[0], findings, context, "RTSTRUCT", RTStructureSetStorage, "RTSTRUCT", RTSTRUCT_SERIES)
    # With an explicit VR, the length of a DS has 16 bits (PS3.5 7.1.2): too short for a contour of 2,500 points.
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.OperatorsName = ""
    ds.FrameOfReferenceUID = source.frame_of_reference_uid
    ds.PositionReferenceIndicator = headers[0].get("PositionReferenceIndicator", "")
    ds.ApprovalStatus = "UNAPPROVED"
    ds.StructureSetLabel = _label(findings, context)
    ds.ReferencedFrameOfReferenceSequence = [_frame_of_reference(source)]
    planes = _planes(source, headers)
    numbered = list(
        zip(
            range(1, len(findings.segments) + 1),
            findings.segments,
            _names(findings.segments, context, names_gtv),
            strict=True,
        )
    )
    ds.StructureSetROISequence = [_roi(findings, number, segment, name) for number, segment, name in numbered]
    ds.ROIContourSequence = [_roi_contour(source, planes, number, segment) for number, segment, _ in numbered]
    ds.RTROIObservationsSequence = [
        _observation(number, segment, name, names_gtv) for number, segment, name in numbered
    ]
    describe(ds, findings, context, "RTSTRUCT")
    ds.StructureSetName = ds.SeriesDescription
    ds.StructureSetDescription = _description(findings, context)
    ds.StructureSetDate, ds.StructureSetTime = ds.SeriesDate, ds.SeriesTime
    return ds


def _names(segments: Sequence[Segment], context: ObjectContext, names_gtv: bool) -> list[str]:
    """Return names of at most SH_LENGTH characters, all distinct, which end with the side if there is one.

    Planning systems tell ROIs apart by their names, and many cut longer ones.
    """
    side = f" {context.side}" if context.side else ""
    return [
        name + side
        for name in short_names([_roi_label(segment, names_gtv) for segment in segments], SH_LENGTH - len(side))
    ]


def _label(findings: Findings, context: ObjectContext) -> str:
    """Return the label by which planning systems list structure sets, with side and edition."""
    mark = f"{RESEARCH_WORD} " if findings.research else ""
    words = distinguishing_words(findings.title, context).split()
    told = [context.side] * bool(context.side) + [f"r{context.edition}"] * (context.edition > 1)
    end = " ".join(["", *told])
    title = " ".join(words[: len(words) - len(told)])
    return mark + title[: SH_LENGTH - len(mark) - len(end)].strip() + end


def _description(findings: Findings, context: ObjectContext) -> str:
    replaces = f" Result r{context.edition} replaces the earlier ones." if context.edition > 1 else ""
    notice = f"{RESEARCH_NOTICE}. " if findings.research else ""
    return f"{notice}{findings.title}: outlined by {findings.algorithm.name}; no human reviewed it.{replaces}"


def _planes(source: Volume, headers: Sequence[Dataset]) -> list[Plane]:
    """Return the plane of each slice as the header of the slice gives it."""
    if source.frames[0].tile is not None:
        return [plane for header in slice_headers(source) for plane in planes_of(header)]
    planes = {(plane.sop_instance_uid, plane.frame_number): plane for header in headers for plane in planes_of(header)}
    return [planes[frame.sop_instance_uid, frame.frame_number] for frame in source.frames]


def _frame_of_reference(source: Volume) -> Dataset:
    """Return an item that names all images of the volume, in the study and series they belong to."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for frame in source.frames:
        found = numbers.setdefault((frame.sop_class_uid, frame.sop_instance_uid), [])
        if frame.frame_number is not None:
            found.append(frame.frame_number)
    series = Dataset()
    series.SeriesInstanceUID = source.series_instance_uid
    series.ContourImageSequence = [_image(*uids, sorted(found)) for uids, found in numbers.items()]
    study = Dataset()
    study.ReferencedSOPClassUID = STUDY_SOP_CLASS
    study.ReferencedSOPInstanceUID = source.study_instance_uid
    study.RTReferencedSeriesSequence = [series]
    item = Dataset()
    item.FrameOfReferenceUID = source.frame_of_reference_uid
    item.RTReferencedStudySequence = [study]
    return item


def _image(sop_class_uid: str, sop_instance_uid: str, frame_numbers: list[int]) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    if frame_numbers:
        item.ReferencedFrameNumber = frame_numbers
    return item


def _roi(findings: Findings, number: int, segment: Segment, name: str) -> Dataset:
    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = findings.source.frame_of_reference_uid
    item.ROIName = name
    item.ROIVolume = f"{np.count_nonzero(segment.mask) * findings.source.geometry.voxel_volume / 1000:.6g}"  # cm3
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = f"{findings.algorithm.name} {findings.algorithm.version}"[:64]
    return item


def _roi_contour(source: Volume, planes: Sequence[Plane], number: int, segment: Segment) -> Dataset:
    item = Dataset()
    item.ROIDisplayColor = list(segment.color)
    item.ReferencedROINumber = number
    item.ContourSequence = [
        _contour(source.frames[k], planes[k], n, polygon) for n, (k, polygon) in enumerate(_polygons(segment.mask), 1)
    ]
    return item


def _polygons(mask: Mask) -> Iterator[tuple[int, Polygon]]:
    for k in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        for polygon in contours(mask[k]):
            yield k, polygon


def _contour(frame: FrameReference, plane: Plane, number: int, polygon: Polygon) -> Dataset:
    # A reader connects the last point to the first (PS3.3 C.8.8.6.1). The polygon is cut so that this edge runs along a
    # row, because plastimatch 1.9.4 drops the last point of a contour whose ends have the same x and y.
    points = _to_lps(plane, polygon[1:])
    item = Dataset()
    item.ContourNumber = number
    item.ContourImageSequence = [
        _image(frame.sop_class_uid, frame.sop_instance_uid, [] if frame.frame_number is None else [frame.frame_number])
    ]
    item.ContourGeometricType = "CLOSED_PLANAR"
    item.NumberOfContourPoints = len(points)
    item[CONTOUR_DATA] = _decimals(points)
    return item


def _decimals(points: NDArray[np.float64]) -> RawDataElement:
    """Encode Contour Data as bytes, with a precision of 0.1 um.

    pydicom takes ten times as long for hundreds of thousands of decimal strings.
    """
    value = "\\".join([f"{number:.4f}" for number in points.ravel().tolist()]).encode()
    value += b" " * (len(value) % 2)
    return RawDataElement(CONTOUR_DATA, "DS", len(value), value, 0, True, True)


def _to_lps(plane: Plane, polygon: Polygon) -> NDArray[np.float64]:
    """Convert (n, 2) (column, row), where pixel edges are integers, to (n, 3) LPS mm."""
    columns, rows = (polygon - 0.5).T * np.array([[plane.spacing[1]], [plane.spacing[0]]])
    return plane.position + np.outer(columns, plane.row_direction) + np.outer(rows, plane.column_direction)


def _roi_label(segment: Segment, names_gtv: bool) -> str:
    """Return the label of a segment; that of a target volume only where the site has said so."""
    is_target = segment.label.upper().startswith(TARGET_VOLUMES)
    return segment.type.meaning if is_target and not names_gtv else segment.label


def _observation(number: int, segment: Segment, name: str, names_gtv: bool) -> Dataset:
    item = Dataset()
    item.ObservationNumber = number
    item.ReferencedROINumber = number
    item.ROIObservationLabel = name
    item.RTROIIdentificationCodeSequence = [_code(segment.type)]
    item.RTROIInterpretedType = _interpreted_type(segment, names_gtv)
    item.ROIInterpreter = ""
    return item


def _interpreted_type(segment: Segment, names_gtv: bool) -> str:
    """Return the RT ROI Interpreted Type (PS3.3 C.8.8.8.1); empty if the segment's codes do not decide it.

    It is never AVOIDANCE or CONTROL, which steer the dose.
    """
    if (segment.type.value, segment.type.scheme) in GROSS_TUMOUR:
        return "GTV" if names_gtv else ""
    return "ORGAN" if segment.category.value == codes.SCT.AnatomicalStructure.value else ""


def _code(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning[:64]
    return item
