"""Image library of a report (PS3.16 TID 1600): the images that were used, and how they were acquired."""

from collections.abc import Sequence
from typing import Any

from highdicom import sr
from highdicom.sr import RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as SRCode
from pydicom.valuerep import DA, TM

from dicom_node.objects.base.anatomy import anatomy_of
from dicom_node.objects.base.codes import MODALITIES
from dicom_node.objects.base.source_headers import is_one
from inference.volumes.planes import functional, is_enhanced, number
from inference.volumes.volume import Volume

_CONTAINS, _HAS_ACQ_CONTEXT = RelationshipTypeValues.CONTAINS, RelationshipTypeValues.HAS_ACQ_CONTEXT
PIXELS = SRCode("{pixels}", "UCUM", "Pixels")
COSINE = SRCode("{-1:1}", "UCUM", "{-1:1}")
ORIENTATION = (
    codes.DCM.ImageOrientationPatientRowX, codes.DCM.ImageOrientationPatientRowY,
    codes.DCM.ImageOrientationPatientRowZ, codes.DCM.ImageOrientationPatientColumnX,
    codes.DCM.ImageOrientationPatientColumnY, codes.DCM.ImageOrientationPatientColumnZ,
)  # fmt: skip


def image_library(volumes: Sequence[tuple[Volume, Sequence[Dataset]]], side: str = "") -> Any:
    """Build an image library with one group for each volume, whose headers are one for each instance, in slice order.

    A group states once what its images have in common (TID 1602, 1604, 1606). An image states its acquisition time if
    the images of its group differ in it. Positions are left out, because three numbers for each of 300 slices would be
    more than the rest of the report. `side` is as in `anatomy_of`.
    """
    library = sr.ContainerContentItem(codes.DCM.ImageLibrary, relationship_type=_CONTAINS, template_id="1600")
    library.ContentSequence = sr.ContentSequence([_group(volume, headers, side) for volume, headers in volumes])
    return library


def _group(volume: Volume, headers: Sequence[Dataset], side: str) -> Any:
    group = sr.ContainerContentItem(codes.DCM.ImageLibraryGroup, relationship_type=_CONTAINS)
    times = [_acquisition_time(ds) for ds in headers]
    group.ContentSequence = sr.ContentSequence(_facts(volume, headers, side))
    if times[0] is not None and len(set(times)) == 1:
        group.ContentSequence.append(_time(times[0]))
    for ds, time in zip(headers, times, strict=True):
        image = sr.ImageContentItem(codes.SCT.Source, ds.SOPClassUID, ds.SOPInstanceUID, relationship_type=_CONTAINS)
        if time is not None and len(set(times)) > 1:
            image.ContentSequence = sr.ContentSequence([_time(time)])
        group.ContentSequence.append(image)
    return group


def _facts(volume: Volume, headers: Sequence[Dataset], side: str) -> list[Any]:
    """Return the rows of TID 1602, then 1604 and 1606, without facts that are unknown or differ between images."""
    between, rows, columns = volume.geometry.spacing
    _, height, width = volume.geometry.shape
    axes = volume.geometry.affine[:3, [2, 1]].T  # along a row, down a column
    directions = [float(v) for axis, length in zip(axes, (columns, rows), strict=True) for v in axis / length]
    facts: list[Any] = []
    if volume.modality in MODALITIES:
        facts.append(_code(codes.DCM.Modality, MODALITIES[volume.modality]))
    anatomy = anatomy_of([(volume, headers)], side)
    if anatomy.region is not None and anatomy.region in codes.cid4031:  # the group of TID 1602, which has no brain
        facts.append(_code(codes.DCM.TargetRegion, anatomy.region))
    if anatomy.laterality is not None:
        facts.append(_code(codes.DCM.ImageLaterality, anatomy.laterality))
    if date := _common(headers, "StudyDate"):
        facts.append(sr.DateContentItem(codes.DCM.StudyDate, date, _HAS_ACQ_CONTEXT))
    if time := _common(headers, "StudyTime"):
        facts.append(sr.TimeContentItem(codes.DCM.StudyTime, time, _HAS_ACQ_CONTEXT))
    if acquired := _acquisition_date(headers):
        facts.append(sr.DateContentItem(codes.DCM.AcquisitionDate, acquired, _HAS_ACQ_CONTEXT))
    if volume.frame_of_reference_uid:
        facts.append(
            sr.UIDRefContentItem(codes.DCM.FrameOfReferenceUID, volume.frame_of_reference_uid, _HAS_ACQ_CONTEXT)
        )
    facts += [
        _number(codes.DCM.PixelDataRows, height, PIXELS),
        _number(codes.DCM.PixelDataColumns, width, PIXELS),
        _number(codes.DCM.HorizontalPixelSpacing, columns),
        _number(codes.DCM.VerticalPixelSpacing, rows),
        _number(codes.DCM.SpacingBetweenSlices, between),
    ]
    if (thickness := _slice_thickness(headers)) is not None:
        facts.append(_number(codes.DCM.SliceThickness, thickness))
    facts += [_number(name, value, COSINE) for name, value in zip(ORIENTATION, directions, strict=True)]
    sequence = _common(headers, "PulseSequenceName") or _common(headers, "SequenceName")
    if volume.modality == "MR" and sequence:
        facts.append(sr.TextContentItem(codes.DCM.PulseSequenceName, sequence, _HAS_ACQ_CONTEXT))
    return facts


def _code(name: SRCode, value: SRCode) -> Any:
    return sr.CodeContentItem(name, value, _HAS_ACQ_CONTEXT)


def _number(name: SRCode, value: float, unit: SRCode = codes.UCUM.Millimeter) -> Any:
    return sr.NumContentItem(name, float(f"{value:.6g}"), unit, relationship_type=_HAS_ACQ_CONTEXT)


def _time(time: str) -> Any:
    return sr.TimeContentItem(codes.DCM.AcquisitionTime, time, _HAS_ACQ_CONTEXT)


def _common(headers: Sequence[Dataset], keyword: str) -> str:
    """Return the value that all headers have, as text; empty if they differ or have none."""
    values = {str(ds.get(keyword) or "") for ds in headers}
    return values.pop() if len(values) == 1 else ""


def _acquisition_time(ds: Dataset) -> str | None:
    """Return the time as HHMMSS.FFFFFF. Enhanced objects have date and time in one attribute."""
    time = str(ds.get("AcquisitionTime") or "") or _date_time(ds)[8:]
    return time if time and is_one(TM, time) else None


def _acquisition_date(headers: Sequence[Dataset]) -> str | None:
    dates = {str(ds.get("AcquisitionDate") or "") or _date_time(ds)[:8] for ds in headers}
    date = dates.pop() if len(dates) == 1 else ""
    return date if date and is_one(DA, date) else None


def _date_time(ds: Dataset) -> str:
    """Return AcquisitionDateTime without the offset from UTC."""
    return str(ds.get("AcquisitionDateTime") or "").split("+")[0].split("-")[0]


def _slice_thickness(headers: Sequence[Dataset]) -> float | None:
    """Return the thickness in mm; None if it is unknown, or differs."""
    found = set()
    for ds in headers:
        measures = functional(ds, 0, "PixelMeasuresSequence") if is_enhanced(ds) else ds
        found.add(number(measures.get("SliceThickness")) if measures is not None else None)
    return found.pop() if len(found) == 1 else None
