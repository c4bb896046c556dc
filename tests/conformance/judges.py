"""Who says whether an object is right, and what they are known to say wrongly."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.uid import ParametricMapStorage, SegmentationStorage

from dicom_node.objects.reading import read_report, read_segmentation
from inference.findings import Measurement
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
    """An error that is none: `judge` says what `pattern` matches, and why it is wrong.

    `where` tells the object apart where the words do not; it gets the position of the content item that is meant.
    """

    judge: str
    pattern: str
    reason: str
    where: Callable[[Dataset, str], bool] | None = None

    def covers(self, judge: str, error: str, ds: Dataset | None) -> bool:
        match = re.search(self.pattern, error) if judge == self.judge else None
        if match is None or self.where is None:
            return match is not None
        return ds is not None and self.where(ds, match["position"])


def _belongs_to_no_region(ds: Dataset, position: str) -> bool:
    """Whether the content item at `position`, "1.13.5" for example, is a group of TID 1501."""
    item = ds
    for n in position.split(".")[1:]:
        item = item.ContentSequence[int(n) - 1]
    template = item.get("ContentTemplateSequence")
    return bool(template and template[0].TemplateIdentifier == "1501")


COPIED = "copied as the scanner wrote it: all instances of a study have the same patient and study attributes"
KNOWN = [
    Known(
        "PixelMed",
        r"GeneralSeriesModule/Laterality/: : Missing conditional attribute",
        "type 2C: required of paired body parts only, which PixelMed cannot tell; it asks for it always",
    ),
    Known("PixelMed", r"Illegal character\(s\).*PN VR", "it reads names in UTF-8 as ASCII"),
    Known("PixelMed", r"GeneralStudyModule/StudyID/.*Length invalid", COPIED),
    Known("PixelMed", r"ProcedureCodeSequence/Item\[\d\]/CodingSchemeVersion", COPIED),
    Known("dciodvfy", r"\((0x0020,0x0010|0x0010,0x1010)\) .*Length invalid", COPIED),  # StudyID, PatientAge
    Known("dciodvfy", r"Dicom dataset contains invalid data values for Value Representations", "sums up other errors"),
    Known(
        "PixelMed SR",
        r"Template 1411 .*within (?P<position>[\d.]+):.*Missing conditional content item",
        "it takes a group of TID 1501, whose values belong to no region, for one of TID 1411 without its region",
        _belongs_to_no_region,
    ),
]


def _any(ds: Dataset) -> bool:
    return True


def _report(ds: Dataset) -> bool:
    return bool(ds.Modality == "SR")


def _segmentation(ds: Dataset) -> bool:
    return bool(ds.Modality == "SEG")


def _known_to_dcmqi(ds: Dataset) -> bool:
    return _segmentation(ds) and ds.SegmentationType != "LABELMAP"  # it takes all labels for one segment


def _document(ds: Dataset) -> bool:
    return ds.Modality in ("SR", "KO")


def _map(ds: Dataset) -> bool:
    return bool(ds.SOPClassUID == ParametricMapStorage)


def _binary(ds: Dataset) -> bool:
    return bool(ds.SOPClassUID == SegmentationStorage)


def _known_to_dciodvfy(ds: Dataset) -> bool:
    return ds.Modality != "SEG" or _binary(ds)  # it is older than Label Map Segmentation


def _dcmqi_segmentation(made: Made, path: Path, study: Study) -> list[str]:
    """The voxels of every segment, as another reader counts them."""
    files = validators.dcmqi_segments(path, path.with_suffix(".dcmqi"))
    found = {n: int(np.count_nonzero(nibabel.load(file).get_fdata())) for n, file in files.items()}
    wanted = {s.number: int(s.mask.sum()) for s in read_segmentation(made.dataset).segments}
    return [] if found == wanted else [f"voxels by segment: {found}, not {wanted}"]


def _dcmqi_report(made: Made, path: Path, study: Study) -> list[str]:
    """The values of every finding, as another reader has them."""
    groups = validators.dcmqi_measurements(path, path.parent)
    found = sorted(
        (g["TrackingUniqueIdentifier"], m["quantity"]["CodeValue"], float(m["value"]))
        for g in groups
        for m in g.get("measurementItems", [])
        if m["value"]  # none where it is missing
    )
    wanted = sorted(
        (g.tracking_uid, m.name.value, m.value)
        for g in read_report(made.dataset).groups
        for m in g.measurements
        if m.value is not None and g.finding is not None
    )
    missing = [w for w in wanted if not any(w[:2] == f[:2] and abs(w[2] - f[2]) <= 1e-4 * abs(w[2]) for f in found)]
    return [f"{name} of {uid} is not {value}" for uid, name, value in missing]


def _dcmqi_map(made: Made, path: Path, study: Study) -> list[str]:
    """Every value, as another reader has it."""
    assert made.findings is not None
    file, _ = validators.dcmqi_map(path, path.with_suffix(".dcmqi"))
    values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))
    wanted = made.findings.maps[0].values
    same = values.shape == wanted.shape and np.array_equal(values, wanted, equal_nan=True)
    return [] if same else ["the map has other values than its finding"]


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
                and name == measurement.name
                and (
                    value is None  # and so has no unit
                    if measurement.value is None
                    else unit == measurement.unit and value == pytest.approx(measurement.value, rel=1e-5)
                )
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
    Judge("dcmqi SEG", _known_to_dcmqi, _dcmqi_segmentation),
    Judge("dcmqi PM", _map, _dcmqi_map),
    Judge("dcmqi SR", is_measurement_report, _dcmqi_report),
    Judge("PixelMed", _binary, lambda made, path, study: validators.pixelmed_errors(path), slow=True),
    Judge("PixelMed SR", _report, lambda made, path, study: validators.pixelmed_report_errors(path), slow=True),
]
