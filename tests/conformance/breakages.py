"""Ways in which an object can be wrong, each with who must notice it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

Objects = Mapping[str, Dataset]


@dataclass(frozen=True)
class Breakage:
    name: str
    apply: Callable[[Objects], None]
    judge: str
    complaint: str
    kinds: tuple[str, ...] = ("SEG", "SR")  # the objects that there are


def _group(report: Dataset, number: int = 0) -> Dataset:
    (container,) = [i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010"]
    group: Dataset = container.ContentSequence[number]
    return group


def _items(parent: Dataset, kind: str, code: str = "") -> list[Dataset]:
    of_kind = [i for i in parent.ContentSequence if i.ValueType == kind]
    return [i for i in of_kind if not code or i.ConceptNameCodeSequence[0].CodeValue == code]


def _remove(parent: Dataset, kind: str, code: str) -> None:
    unwanted = _items(parent, kind, code)
    parent.ContentSequence = [i for i in parent.ContentSequence if i not in unwanted]


def _regions(report: Dataset) -> list[Dataset]:
    (container,) = [i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010"]
    return [region for group in container.ContentSequence for region in _items(group, "SCOORD")]


def _value(report: Dataset, code: str) -> Dataset:
    (number,) = _items(_group(report), "NUM", code)
    value: Dataset = number.MeasuredValueSequence[0]
    return value


def _first_evidence(report: Dataset) -> Dataset:
    series: Dataset = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    return series


# --- SEG


def mirrored(objects: Objects) -> None:
    seg = objects["SEG"]
    seg.PixelData = np.packbits(seg.pixel_array[:, :, ::-1].ravel(), bitorder="little").tobytes()


def moved(objects: Objects) -> None:
    objects["SEG"].PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient[2] += 0.5


def other_spacing(objects: Objects) -> None:
    objects["SEG"].SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [1.25, 1.5]


def turned(objects: Objects) -> None:
    orientation = objects["SEG"].SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


def no_pixel_measures(objects: Objects) -> None:
    del objects["SEG"].SharedFunctionalGroupsSequence[0].PixelMeasuresSequence


def other_source(objects: Objects) -> None:
    frame = objects["SEG"].PerFrameFunctionalGroupsSequence[0]
    frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def other_frame_of_reference(objects: Objects) -> None:
    objects["SEG"].FrameOfReferenceUID = "1.2.3"


def untracked_segment(objects: Objects) -> None:
    del objects["SEG"].SegmentSequence[0].TrackingUID


def no_algorithm_name(objects: Objects) -> None:
    del objects["SEG"].SegmentSequence[0].SegmentAlgorithmName


def no_property_type(objects: Objects) -> None:
    del objects["SEG"].SegmentSequence[0].SegmentedPropertyTypeCodeSequence


# --- SR


def untracked_group(objects: Objects) -> None:
    _remove(_group(objects["SR"]), "UIDREF", "112040")


def other_tracking(objects: Objects) -> None:
    _items(_group(objects["SR"]), "UIDREF", "112040")[0].UID = "1.2.3"


def volume_in_mm(objects: Objects) -> None:
    _value(objects["SR"], "118565006").MeasurementUnitsCodeSequence[0].CodeValue = "mm"


def unknown_quantity(objects: Objects) -> None:
    _items(_group(objects["SR"]), "NUM")[0].ConceptNameCodeSequence[0].CodeValue = "1"


def other_value(objects: Objects) -> None:
    value = _value(objects["SR"], "118565006")
    value.NumericValue, value.FloatingPointValue = "1.5", 1.5


def value_twice(objects: Objects) -> None:
    group = _group(objects["SR"])
    group.ContentSequence.append(_items(group, "NUM")[0])


def unlisted_evidence(objects: Objects) -> None:
    del _first_evidence(objects["SR"]).ReferencedSOPSequence[:]


def no_evidence(objects: Objects) -> None:
    del objects["SR"].CurrentRequestedProcedureEvidenceSequence


def absent_instance(objects: Objects) -> None:
    _regions(objects["SR"])[0].ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def other_class(objects: Objects) -> None:
    reference = _regions(objects["SR"])[0].ContentSequence[0].ReferencedSOPSequence[0]
    reference.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"


def outside_image(objects: Objects) -> None:
    _regions(objects["SR"])[0].GraphicData[0] = 4000.0


def open_region(objects: Objects) -> None:
    region = _regions(objects["SR"])[0]
    region.GraphicData = list(region.GraphicData)[:-2]


def forbidden_relationship(objects: Objects) -> None:
    (image,) = _items(_group(objects["SR"]), "IMAGE", "121191")
    image.RelationshipType = "HAS PROPERTIES"


def no_completion_flag(objects: Objects) -> None:
    del objects["SR"].CompletionFlag


def no_notice_in_text(objects: Objects) -> None:
    report = objects["SR"]
    notice = next(i for i in report.ContentSequence if i.get("TextValue", "").startswith("RESEARCH"))
    notice.TextValue = "Results"


# --- other kinds


def other_map_value(objects: Objects) -> None:
    values = np.frombuffer(objects["PM"].FloatPixelData, "<f4").copy()
    values[-1] += 1
    objects["PM"].FloatPixelData = values.tobytes()


def map_moved(objects: Objects) -> None:
    for frame in objects["PM"].PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence[0].ImagePositionPatient[0] += 1


def contour_off_plane(objects: Objects) -> None:
    contour = objects["RTSTRUCT"].ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = [*contour.ContourData[:2], float(contour.ContourData[2]) + 0.5, *contour.ContourData[3:]]


def contour_left_out(objects: Objects) -> None:
    objects["RTSTRUCT"].ROIContourSequence[1].ContourSequence.pop()


def selection_without_notice(objects: Objects) -> None:
    (text,) = _items(objects["KO"], "TEXT", "113012")
    text.TextValue = "Key images"


def source_withdrawn(objects: Objects) -> None:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", "1.2.3"
    _first_evidence(objects["KO, rejection"]).ReferencedSOPSequence.append(reference)


# --- any


def other_patient(objects: Objects) -> None:
    objects["SR"].PatientID = "P-2"


def shared_series(objects: Objects) -> None:
    objects["SR"].SeriesInstanceUID = objects["SEG"].SeriesInstanceUID


def no_notice(objects: Objects) -> None:
    objects["SEG"].SeriesDescription = "Test mass SEG"


def no_device(objects: Objects) -> None:
    for item in objects["SEG"].ContributingEquipmentSequence:
        item.DeviceUID = ""


BREAKAGES = [
    Breakage("mirrored SEG", mirrored, "own checks", "segment 1 has other voxels"),
    Breakage("frame moved by 0.5 mm", moved, "own checks", "frame 1 and its source differ in position"),
    Breakage("rows and columns of spacing exchanged", other_spacing, "own checks", "differ in pixel spacing"),
    Breakage("oblique SEG said to be axial", turned, "own checks", "differ in orientation"),
    Breakage("SEG without pixel measures", no_pixel_measures, "own checks", "geometry: "),
    Breakage("SEG of an image that is not there", other_source, "own checks", "there is no instance 1.2.3"),
    Breakage("SEG in another frame of reference", other_frame_of_reference, "own checks", "frame_of_reference: "),
    Breakage("segment without tracking UID", untracked_segment, "own checks", "segment 1 has no tracking UID"),
    Breakage("segment without algorithm name", no_algorithm_name, "dciodvfy", "SegmentAlgorithmName"),
    Breakage("segment without type", no_property_type, "dciodvfy", "SegmentedPropertyTypeCodeSequence"),
    Breakage("group without tracking UID", untracked_group, "own checks", "group 1 has no tracking UID"),
    Breakage(
        "group and segment tracked differently", other_tracking, "own checks", "another tracking UID than segment"
    ),
    Breakage("volume in mm", volume_in_mm, "own checks", "Volume is given in mm"),
    Breakage("quantity of which no units are known", unknown_quantity, "own checks", "no units are known of"),
    Breakage("another value than was measured", other_value, "own checks", "Volume of the findings is not reported"),
    Breakage("a value in two groups", value_twice, "own checks", "is given twice"),
    Breakage("images not in the evidence", unlisted_evidence, "own checks", "is not in the evidence"),
    Breakage("no evidence at all", no_evidence, "dciodvfy", "CurrentRequestedProcedureEvidenceSequence"),
    Breakage("drawn on an image that is not there", absent_instance, "own checks", "there is no instance 1.2.3"),
    Breakage("image named as CT", other_class, "own checks", "is of class MR Image Storage"),
    Breakage("drawn beside the image", outside_image, "own checks", "leaves its image"),
    Breakage("outline not closed", open_region, "own checks", "is not closed"),
    Breakage("relationship that is not allowed", forbidden_relationship, "dsrdump", "E: "),
    Breakage("no completion flag", no_completion_flag, "dciodvfy", "CompletionFlag"),
    Breakage("report without the notice", no_notice_in_text, "own checks", "first text of the report"),
    Breakage("another value in a map", other_map_value, "own checks", "ADC has other values", ("PM",)),
    Breakage("map moved by 1 mm", map_moved, "dcmqi PM", "lies elsewhere", ("PM",)),
    Breakage("contour beside its plane", contour_off_plane, "own checks", "leaves the plane", ("RTSTRUCT",)),
    Breakage("contour left out", contour_left_out, "plastimatch", "voxels by segment", ("RTSTRUCT",)),
    Breakage("selection without the notice", selection_without_notice, "own checks", "description of", ("KO",)),
    Breakage("note that withdraws an image", source_withdrawn, "own checks", "is withdrawn, but", ("KO, rejection",)),
    Breakage("another patient", other_patient, "own checks", "PatientID differs"),
    Breakage("two objects in a series", shared_series, "own checks", "the series holds other instances"),
    Breakage("series without the notice", no_notice, "own checks", "SeriesDescription does not end"),
    Breakage("no device UID", no_device, "own checks", "Device UID"),
]
