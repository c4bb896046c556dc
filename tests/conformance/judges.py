"""Who says whether an object is right, and what they are known to say wrongly."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from highdicom.sr import CodedConcept
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    Comprehensive3DSRStorage,
    EnhancedSRStorage,
    ParametricMapStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

from dicom_node.objects.base.series_numbers import NO_RESULT_SERIES
from dicom_node.objects.reading.report import read_report
from dicom_node.objects.reading.segmentation import read_segmentation
from inference.contract.findings import Measurement
from storage.errors import InputRefused
from tests import validators
from tests.conformance.checks import Study, defects, is_measurement_report
from tests.conformance.makers import Made


@dataclass(frozen=True)
class Judge:
    """`errors` gets the object, its file and its study, and may write into the folder of the file."""

    name: str
    concerns: Callable[[Dataset], bool]
    errors: Callable[[Made, Path, Study], list[str]]
    slow: bool = False


@dataclass(frozen=True)
class Known:
    """An error that is none: `judge` says what `pattern` matches, and why it is wrong."""

    judge: str
    pattern: str
    reason: str

    def covers(self, judge: str, error: str) -> bool:
        return judge == self.judge and re.search(self.pattern, error) is not None


COPIED = "copied as the scanner wrote it: all instances of a study have the same patient and study attributes"
KNOWN = [
    Known(
        "PixelMed",
        r"GeneralSeriesModule/Laterality/: : Missing conditional attribute",
        "type 2C: required of paired body parts only, which PixelMed cannot tell; it asks for it always",
    ),
    Known(
        "PixelMed SR",
        r'"Procedure reported"\): Code .* not found in context group 100',
        "a baseline context group (BCID) in TID 1500: codes of the order and of the study are allowed, and say more",
    ),
    Known("PixelMed", r"ProcedureCodeSequence/Item\[\d\]/CodingSchemeVersion", COPIED),
]


def _any(ds: Dataset) -> bool:
    return True


def _segmentation(ds: Dataset) -> bool:
    return bool(ds.Modality == "SEG")


def _segmentation_storage(ds: Dataset) -> bool:
    return bool(ds.SOPClassUID == SegmentationStorage)


def _document(ds: Dataset) -> bool:
    return bool(ds.Modality in ("SR", "KO"))


def _template(ds: Dataset) -> bool:
    """Documents whose content PixelMed is asked about: the other forms of a report have the very same."""
    return ds.Modality == "KO" or ds.SOPClassUID == Comprehensive3DSRStorage or _no_result(ds)


def _no_result(ds: Dataset) -> bool:
    return bool(ds.SOPClassUID == EnhancedSRStorage and ds.SeriesNumber % 100 == NO_RESULT_SERIES)


def _map(ds: Dataset) -> bool:
    return bool(ds.SOPClassUID == ParametricMapStorage)


def _structures_on_single_frames(ds: Dataset) -> bool:
    """plastimatch reads no Enhanced images."""
    if ds.SOPClassUID != RTStructureSetStorage:
        return False
    image = ds.ROIContourSequence[0].ContourSequence[0].ContourImageSequence[0]
    return "ReferencedFrameNumber" not in image


def _known_to_dciodvfy(ds: Dataset) -> bool:
    return ds.Modality != "SEG" or _segmentation_storage(ds)  # it is older than Label Map Segmentation


def _dcmqi_segmentation(made: Made, path: Path, study: Study) -> list[str]:
    """The voxels of every segment, as another reader counts them; of a fraction those of one half and more."""
    files = validators.dcmqi_segments(path, path.with_suffix(".dcmqi"))
    images = {n: nibabel.load(file).get_fdata() for n, file in files.items()}
    if made.dataset.SegmentationType == "LABELMAP":  # all in one file
        (labels,) = images.values()
        images = {int(label): labels == label for label in np.unique(labels) if label}
    found = {n: int(np.count_nonzero(image >= image.max() / 2)) for n, image in images.items()}
    wanted = {s.number: int(s.mask.sum()) for s in read_segmentation(made.dataset).segments}
    return [] if found == wanted else [f"voxels by segment: {found}, not {wanted}"]


def _dcmqi_map(made: Made, path: Path, study: Study) -> list[str]:
    """The value of every voxel and its place, as another reader has them."""
    assert made.findings is not None
    file, meta = validators.dcmqi_map(path, path.with_suffix(".dcmqi"))
    image = SimpleITK.ReadImage(str(file))
    (one,), geometry = made.findings.maps, made.findings.source.geometry
    found = []
    if not np.array_equal(SimpleITK.GetArrayFromImage(image), one.values, equal_nan=True):
        found.append("other values")
    for index in ([0, 0, 0], [n - 1 for n in one.values.shape]):
        lps = geometry.to_lps(np.array([index], float))[0]
        if np.abs(np.subtract(image.TransformPhysicalPointToContinuousIndex(lps.tolist()), index[::-1])).max() > 0.01:
            found.append(f"voxel {index} lies elsewhere")
    if meta["MeasurementUnitsCode"]["CodeValue"] != one.unit.value:
        found.append(f"unit {meta['MeasurementUnitsCode']}")
    return found


def _plastimatch(made: Made, path: Path, study: Study) -> list[str]:
    """The voxels of every segment, as plastimatch rasterises the contours on the images. It reads no tiled ones."""
    assert made.findings is not None
    if made.findings.source.frames[0].tile is not None:
        return []
    images = path.with_suffix(".images")
    images.mkdir()
    for frame in made.findings.source.frames:
        (images / f"{frame.sop_instance_uid}.dcm").symlink_to(frame.blob.path.resolve())
    files = validators.plastimatch_masks(path, images, path.with_suffix(".masks"))
    found = {name: int(np.count_nonzero(nibabel.load(file).get_fdata())) for name, file in files.items()}
    wanted = {s.label: int(s.mask.sum()) for s in made.findings.segments}
    return [] if found == wanted else [f"voxels by segment: {found}, not {wanted}"]


def _pixelmed_report(made: Made, path: Path, study: Study) -> list[str]:
    """Its checks of TID 1500 begin below a title of CID 7021: a report with a title of our own gets one for them."""
    if is_measurement_report(made.dataset):
        ds = dcmread(path)
        title = codes.DCM.ImagingMeasurementReport
        ds.ConceptNameCodeSequence = [CodedConcept(title.value, title.scheme_designator, title.meaning)]
        path = path.with_suffix(".titled.dcm")
        ds.save_as(path)
    return validators.pixelmed_report_errors(path)


def _dcmqi_report(made: Made, path: Path, study: Study) -> list[str]:
    """The values of every finding, as another reader has them."""
    groups = validators.dcmqi_measurements(path, path.parent)
    found = sorted(
        (g["TrackingUniqueIdentifier"], m["quantity"]["CodeValue"], float(m["value"]))
        for g in groups
        for m in g.get("measurementItems", [])
        if m["value"]
    )
    wanted = sorted(
        (g.tracking_uid, m.name.value, m.value)
        for g in read_report(made.dataset).groups
        for m in g.measurements
        if m.value is not None and g.finding is not None
    )
    missing = [w for w in wanted if not any(w[:2] == f[:2] and abs(w[2] - f[2]) <= 1e-4 * abs(w[2]) for f in found)]
    return [f"{name} of {uid} is not {value}" for uid, name, value in missing]


def _own(made: Made, path: Path, study: Study) -> list[str]:
    return defects(made.dataset, study) + _differs_from_findings(made)


def _differs_from_findings(made: Made) -> list[str]:
    """The object says what was found: the same voxels, the same values."""
    ds, findings = made.dataset, made.findings
    found: list[str] = []
    if findings is None:
        return found
    if _segmentation(ds):
        try:
            masks = {s.number: s.mask for s in read_segmentation(ds, findings.source.geometry).segments}
        except InputRefused as error:
            return [str(error)]
        for number, segment in enumerate(findings.segments, 1):
            if number not in masks or not np.array_equal(masks[number], segment.mask):
                found.append(f"segment {number} has other voxels than its finding")
    if _map(ds):
        (one,) = findings.maps
        if not np.array_equal(np.frombuffer(ds.FloatPixelData, "<f4"), one.values.ravel(), equal_nan=True):
            found.append(f"{one.label} has other values than its finding")
    if is_measurement_report(ds):
        groups = read_report(ds).groups
        values = [(g.tracking_uid, m.name, m.unit, m.value) for g in groups for m in g.measurements]
        wanted: list[tuple[str | None, Measurement]] = [
            (s.tracking_uid, m) for s in findings.segments for m in s.measurements
        ]
        wanted += [(None, m) for m in findings.measurements]
        for uid, measurement in wanted:
            if not any(
                uid in (None, group)
                and (name, value and unit) == (measurement.name, measurement.value and measurement.unit)
                and value == (None if measurement.value is None else pytest.approx(measurement.value, rel=1e-5))
                for group, name, unit, value in values
            ):
                found.append(f"{measurement.name.meaning} of the findings is not reported")
    return found


# A new validator is a line here.
JUDGES = [
    Judge("own checks", _any, _own),
    Judge("dciodvfy", _known_to_dciodvfy, lambda made, path, study: validators.dciodvfy_errors(path)),
    Judge("dcmdump", _any, lambda made, path, study: validators.dcmdump_errors(path)),
    Judge("dsrdump", _document, lambda made, path, study: validators.dsrdump_errors(path)),
    Judge("dcmqi SEG", _segmentation, _dcmqi_segmentation),
    Judge("dcmqi PM", _map, _dcmqi_map),
    Judge("plastimatch", _structures_on_single_frames, _plastimatch),
    Judge("dcmqi SR", is_measurement_report, _dcmqi_report),
    Judge("PixelMed", _segmentation_storage, lambda made, path, study: validators.pixelmed_errors(path), slow=True),
    Judge("PixelMed SR", _template, _pixelmed_report, slow=True),
]
