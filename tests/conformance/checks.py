"""What no validator sees: identity across objects, units, references, geometry, and the words a reader must see.

Each check is a generator of sentences, one for each defect. `defects` runs those that apply to an object.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as SRCode
from pydicom.uid import ParametricMapStorage, SegmentationStorage

from dicom_node.objects.base.codes import RESEARCH_NOTICE, sr_code
from dicom_node.objects.reading.report import MeasurementGroup, MeasurementReport, read_report
from inference.volumes.planes import Plane, functional, planes_of
from storage.errors import InputRefused

PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName",
)  # fmt: skip
LONGEST = {"StudyID": 16}  # characters, PS3.5 6.2: what scanners and anonymisers make longer is left out
DATES = ("PatientBirthDate", "StudyDate")  # which some anonymisers fill with other text
ABBREVIATED_SERIES_DATA = ("SeriesNumber", "SeriesDescription", "Modality", "SeriesDate", "SeriesTime")
# name what need not be here: earlier results, the order, and the scanner's own records of the study, which are copied
ELSEWHERE = (
    "PredecessorDocumentsSequence", "ReferencedStudySequence", "ReferencedPerformedProcedureStepSequence",
    "ReferencedRequestSequence", "RequestAttributesSequence",
)  # fmt: skip
OF_STRUCTURES = ("ReferencedFrameOfReferenceSequence", "StructureSetROISequence")  # of an RT Structure Set
POSITION = 0.01  # mm
DIRECTION = 1e-4
LENGTH, AREA, VOLUME = {"mm", "cm"}, {"mm2", "cm2"}, {"mm3", "cm3", "mL", "ml"}
RATIO = {"1", "%", "{0:1}", "{ratio}"}
# Which units (UCUM) a quantity may have; a quantity that the node writes and that is not here is a defect.
UNITS = {
    codes.SCT.Volume: VOLUME,
    codes.SCT.Area: AREA,
    codes.SCT.LongAxis: LENGTH,
    codes.SCT.ShortAxis: LENGTH,
    codes.SCT.Diameter: LENGTH,
    codes.SCT.Length: LENGTH,
    SRCode("L0JK", "IBSI", "Maximum 3D Diameter"): LENGTH,
    codes.DCM.Distance: LENGTH,
    codes.DCM.ApparentDiffusionCoefficient: {"um2/s", "mm2/s", "10-6.mm2/s"},
    codes.DCM.T1: {"ms", "s"},
    codes.DCM.T2: {"ms", "s"},
    codes.DCM.T2Star: {"ms", "s"},
    codes.DCM.FatFraction: RATIO,
    codes.DCM.Probability: RATIO,
}


@dataclass(frozen=True, eq=False)
class Study:
    """What there is: the source images, as headers, and the result objects; both by SOP Instance UID."""

    sources: Mapping[str, Dataset]
    objects: Mapping[str, Dataset] = field(default_factory=dict)

    @classmethod
    def of(cls, paths: Sequence[Path], objects: Sequence[Dataset]) -> "Study":
        headers = [dcmread(path, stop_before_pixels=True) for path in paths]
        for header in headers:
            header.decode()
        return cls({str(h.SOPInstanceUID): h for h in headers}, {str(o.SOPInstanceUID): o for o in objects})

    def find(self, uid: str) -> Dataset | None:
        return self.sources.get(uid) or self.objects.get(uid)

    @cached_property
    def planes(self) -> Mapping[tuple[str, int | None], Sequence[Plane]]:
        """The planes of the sources, by instance and frame number; several where slices are tiled into one image."""
        found: dict[tuple[str, int | None], list[Plane]] = {}
        for plane in (plane for header in self.sources.values() for plane in planes_of(header)):
            found.setdefault((plane.sop_instance_uid, plane.frame_number), []).append(plane)
        return found

    def plane(self, image: Dataset, place: NDArray[np.float64]) -> Plane | None:
        """The plane that an item refers to, of several the one nearest to `place`, (3,) LPS mm; None for none."""
        number = image.get("ReferencedFrameNumber")
        planes = self.planes.get((str(image.ReferencedSOPInstanceUID), None if number is None else int(number)), ())
        return min(planes, key=lambda plane: abs(float((place - plane.position) @ plane.normal)), default=None)


Check = Callable[[Dataset, Study], Iterator[str]]


def defects(ds: Dataset, study: Study) -> list[str]:
    """Everything that is wrong with a result object of `study`, in sentences; none of an object that is right."""
    return [f"{check.__name__}: {defect}" for check in CHECKS for defect in check(ds, study)]


def patient_and_study(ds: Dataset, study: Study) -> Iterator[str]:
    source = next(iter(study.sources.values()))
    for keyword in PATIENT_AND_STUDY:
        expected = str(source.get(keyword) or "")
        if len(expected) > LONGEST.get(keyword, len(expected)):
            expected = ""
        if keyword in DATES and not re.fullmatch(r"\d{8}", expected):
            expected = ""
        if str(ds.get(keyword) or "") != expected:
            yield f"{keyword} differs from the source's"


def own_series(ds: Dataset, study: Study) -> Iterator[str]:
    """No other object is in the series, but the forms of one report, of which an archive gets one."""
    others = [o for uid, o in (*study.sources.items(), *study.objects.items()) if uid != ds.SOPInstanceUID]
    if any(o.SeriesInstanceUID == ds.SeriesInstanceUID and {o.Modality, ds.Modality} != {"SR"} for o in others):
        yield "the series holds other instances, too"
    for keyword in ABBREVIATED_SERIES_DATA:
        if not ds.get(keyword):
            yield f"{keyword} is missing"


def research_notice(ds: Dataset, study: Study) -> Iterator[str]:
    """In what lists of series show, in what is read first, and in the attribute for it, where the IOD has one.

    A rejection note is no result.
    """
    if is_rejection(ds):
        return
    if not str(ds.get("SeriesDescription", "")).endswith(RESEARCH_NOTICE):
        yield "SeriesDescription does not end with the notice"
    if ds.Modality == "SR":
        texts = [
            str(i.TextValue) for i in ds.ContentSequence if (i.ValueType, i.RelationshipType) == ("TEXT", "CONTAINS")
        ]
        if not texts or texts[0] != RESEARCH_NOTICE:
            yield "the first text of the report is not the notice"
    if ds.Modality == "KO":
        described = _named(ds, codes.DCM.KeyObjectDescription)
        if not described or not described[0].TextValue.startswith(RESEARCH_NOTICE):
            yield "the description of the selection does not begin with the notice"
    if (ds.Modality == "SR" or ds.SOPClassUID == ParametricMapStorage) and (
        ds.get("ContentQualification") != "RESEARCH"
    ):
        yield "ContentQualification is not RESEARCH"


def equipment(ds: Dataset, study: Study) -> Iterator[str]:
    """IHE AIR: who computed it, by a UID that changes with the weights."""
    items = ds.get("ContributingEquipmentSequence") or []
    if not any(i.get("DeviceUID") and i.get("SoftwareVersions") for i in items):
        yield "no contributing equipment has a Device UID and versions"


def references(ds: Dataset, study: Study) -> Iterator[str]:
    """Every instance that is named anywhere exists and is of the class that is named."""
    for path, item in _items(ds):
        uid = item.get("ReferencedSOPInstanceUID")
        if uid is None or path.startswith(ELSEWHERE):
            continue
        if "RTReferencedSeriesSequence" in item:  # PS3.3 C.8.8.5: a study
            if uid != ds.StudyInstanceUID:
                yield f"{path}: {uid} is another study"
            continue
        found = study.find(str(uid))
        if found is None:
            yield f"{path}: there is no instance {uid}"
        elif found.SOPClassUID != item.get("ReferencedSOPClassUID"):
            yield f"{path}: instance {uid} is of class {found.SOPClassUID.name}"


def frame_of_reference(ds: Dataset, study: Study) -> Iterator[str]:
    """That of a source. Where the sources have none, the result has one of its own: its IOD asks for it."""
    declared = ds.get("FrameOfReferenceUID")
    known = {s.FrameOfReferenceUID for s in study.sources.values() if s.get("FrameOfReferenceUID")}
    if declared is not None and known and declared not in known:
        yield "no source has this Frame of Reference UID"
    for path, item in _items(ds):
        named = item.get("FrameOfReferenceUID") or item.get("ReferencedFrameOfReferenceUID")
        if path.startswith(OF_STRUCTURES) and named not in (None, declared):
            yield f"{path}: not the frame of reference of the object"


def geometry(ds: Dataset, study: Study) -> Iterator[str]:
    """A frame that derives from a source plane lies where that plane lies, pixel by pixel."""
    if not ds.get("PerFrameFunctionalGroupsSequence"):
        return
    try:
        planes = list(planes_of(ds))
    except InputRefused as error:
        yield str(error)
        return
    for frame, plane in enumerate(planes):
        derivation = functional(ds, frame, "DerivationImageSequence")
        items = derivation.get("SourceImageSequence") if derivation is not None else None
        if not items:
            yield f"frame {frame + 1} does not say which image it derives from"
            continue
        source = study.plane(items[0], plane.position)
        if source is None:
            yield f"frame {frame + 1} derives from a plane that does not exist"
            continue
        yield from (f"frame {frame + 1} and its source differ in {what}" for what in _differences(plane, source))


def contours(ds: Dataset, study: Study) -> Iterator[str]:
    """Every contour of an RT Structure Set is closed by its reader, and lies in the plane of the image it names."""
    for roi in ds.get("ROIContourSequence") or []:
        for k, contour in enumerate(roi.ContourSequence, 1):
            where = f"contour {k} of ROI {roi.ReferencedROINumber}"
            image = contour.ContourImageSequence[0]
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            if len(points) != contour.NumberOfContourPoints:
                yield f"{where} has {len(points)} points, not {contour.NumberOfContourPoints}"
            plane = study.plane(image, points[0])
            if plane is None:
                yield f"{where} is drawn on a plane that does not exist"
                continue
            normal = np.cross(plane.row_direction, plane.column_direction)
            if np.abs((points - plane.position) @ normal).max() > POSITION:
                yield f"{where} leaves the plane of its image"


def _differences(one: Plane, other: Plane) -> Iterator[str]:
    if (one.rows, one.columns) != (other.rows, other.columns):
        yield "rows and columns"
    if np.abs(one.position - other.position).max() > POSITION:
        yield "position"
    if (
        max(
            np.abs(one.row_direction - other.row_direction).max(),
            np.abs(one.column_direction - other.column_direction).max(),
        )
        > DIRECTION
    ):
        yield "orientation"
    if np.abs(np.subtract(one.spacing, other.spacing)).max() > DIRECTION:
        yield "pixel spacing"


def tracked_segments(ds: Dataset, study: Study) -> Iterator[str]:
    if ds.Modality != "SEG":
        return
    segments = [s for s in ds.SegmentSequence if s.SegmentedPropertyTypeCodeSequence[0].CodeValue != "125040"]
    for segment in segments:
        if not segment.get("TrackingUID") or not segment.get("TrackingID"):
            yield f"segment {segment.SegmentNumber} has no tracking UID or ID"
    uids = [segment.get("TrackingUID") for segment in segments]
    if len(set(uids)) < len(uids):
        yield "two segments have the same tracking UID"


def tracked_groups(ds: Dataset, study: Study) -> Iterator[str]:
    """A group and the segment it refers to are the same finding, and no segment goes unreported."""
    report = _report(ds)
    if report is None:
        return
    reported: set[tuple[str, int]] = set()
    for k, group in enumerate(report.groups, 1):
        if not group.tracking_uid or not group.tracking_id:
            yield f"group {k} has no tracking UID or ID"
        for reference in group.segments:
            seg = study.objects.get(reference.sop_instance_uid)
            if seg is None:
                continue  # said by `references`
            tracked = {int(s.SegmentNumber): str(s.get("TrackingUID")) for s in seg.SegmentSequence}
            for number in reference.segment_numbers:
                reported.add((reference.sop_instance_uid, number))
                if tracked.get(number) != group.tracking_uid:
                    yield f"group {k} has another tracking UID than segment {number}"
    if any(group.segments for group in report.groups):
        named = {uid for uid, _ in reported}
        for uid in named & set(study.objects):
            for segment in study.objects[uid].SegmentSequence:
                if (uid, int(segment.SegmentNumber)) not in reported:
                    yield f"segment {segment.SegmentNumber} is in no group"


def values_once(ds: Dataset, study: Study) -> Iterator[str]:
    """Viewers merge the groups of one tracking UID: a value that is in two of them is shown twice."""
    report = _report(ds)
    if report is None:
        return
    seen: set[tuple[object, ...]] = set()
    for group in report.groups:
        for m in group.measurements:
            key = (group.tracking_uid, m.name, m.derivation, m.method)
            if key in seen:
                yield f"{m.name.meaning} is given twice of {group.tracking_id}"
            seen.add(key)


def units(ds: Dataset, study: Study) -> Iterator[str]:
    for m in (m for group in _groups(ds) for m in group.measurements):
        if m.value is None:
            if m.missing is None:
                yield f"{m.name.meaning} has neither a value nor a reason"
            continue
        allowed = UNITS.get(sr_code(m.name))
        if allowed is None:
            yield f"no units are known of {m.name.meaning} ({m.name.value}, {m.name.scheme})"
        elif m.unit is None or m.unit.scheme != "UCUM" or m.unit.value not in allowed:
            yield f"{m.name.meaning} is given in {m.unit.value if m.unit else 'no unit'}"


def evidence(ds: Dataset, study: Study) -> Iterator[str]:
    """What the content names is in the evidence (PS3.3 C.17.2.3), and in the study and series it is in."""
    if ds.Modality not in ("SR", "KO"):
        return
    listed: set[str] = set()
    named: set[str] = set()
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for evidence_study in ds.get(keyword) or []:
            for series in evidence_study.ReferencedSeriesSequence:
                for item in series.ReferencedSOPSequence:
                    uid = str(item.ReferencedSOPInstanceUID)
                    listed.add(uid)
                    found = study.find(uid)
                    if found is not None and (found.StudyInstanceUID, found.SeriesInstanceUID) != (
                        evidence_study.StudyInstanceUID, series.SeriesInstanceUID,
                    ):  # fmt: skip
                        yield f"instance {uid} is listed in another series than its own"
    for path, item in _items(ds):
        uid = str(item.get("ReferencedSOPInstanceUID") or "")
        if uid and path.startswith("ContentSequence"):
            named.add(uid)
            if uid not in listed:
                yield f"{path}: instance {uid} is not in the evidence"
    if is_rejection(ds):  # IHE RAD IOCM: an archive takes away all that the evidence names
        yield from (f"instance {uid} is withdrawn, but not named" for uid in sorted(listed - named))


def drawn_regions(ds: Dataset, study: Study) -> Iterator[str]:
    for group in _groups(ds):
        for region in group.regions:
            source = study.sources.get(region.image.sop_instance_uid) if region.image else None
            if region.image is None or source is None:
                continue
            if region.points.min() < 0 or np.any(region.points.max(axis=0) > (source.Columns, source.Rows)):
                yield f"a region of {group.tracking_id} leaves its image"
            if region.graphic_type == "POLYLINE" and not np.array_equal(region.points[0], region.points[-1]):
                yield f"a region of {group.tracking_id} is not closed"
            if int(source.get("NumberOfFrames") or 1) > 1 and not region.image.frame_numbers:
                yield f"a region of {group.tracking_id} does not say which frame it is drawn on"


def report_refers_to_segmentation(ds: Dataset, study: Study) -> Iterator[str]:
    """A report beside a segmentation refers to it, or draws every finding on the images."""
    report = _report(ds)
    if report is None or not any(o.SOPClassUID == SegmentationStorage for o in study.objects.values()):
        return
    for uid in {g.tracking_uid for g in report.groups if g.finding is not None}:
        of_finding = [g for g in report.groups if g.tracking_uid == uid]
        if not any(g.segments or g.regions for g in of_finding):
            yield f"finding {of_finding[0].tracking_id} is neither segmented nor drawn"


CHECKS: list[Check] = [
    patient_and_study,
    own_series,
    research_notice,
    equipment,
    references,
    frame_of_reference,
    geometry,
    contours,
    tracked_segments,
    tracked_groups,
    values_once,
    units,
    evidence,
    drawn_regions,
    report_refers_to_segmentation,
]


def is_measurement_report(ds: Dataset) -> bool:
    """Of TID 1500, whatever its title."""
    template = ds.get("ContentTemplateSequence")
    return bool(ds.Modality == "SR" and template and template[0].TemplateIdentifier == "1500")


def is_rejection(ds: Dataset) -> bool:
    return bool(
        ds.Modality == "KO" and ds.ConceptNameCodeSequence[0].CodeValue == codes.DCM.RejectedForQualityReasons.value
    )


def _named(ds: Dataset, name: SRCode) -> list[Dataset]:
    """Content items of the first level with this concept name."""
    return [
        i for i in ds.ContentSequence
        if "ConceptNameCodeSequence" in i and i.ConceptNameCodeSequence[0].CodeValue == name.value
    ]  # fmt: skip


def _report(ds: Dataset) -> MeasurementReport | None:
    return read_report(ds) if is_measurement_report(ds) else None


def _groups(ds: Dataset) -> tuple[MeasurementGroup, ...]:
    report = _report(ds)
    return report.groups if report else ()


def _items(ds: Dataset, path: str = "") -> Iterator[tuple[str, Dataset]]:
    """All sequence items, each with where it is."""
    for element in ds:
        if element.VR == "SQ":
            for k, item in enumerate(element.value, 1):
                where = f"{path}{'.' if path else ''}{element.keyword}[{k}]"
                yield where, item
                yield from _items(item, where)
