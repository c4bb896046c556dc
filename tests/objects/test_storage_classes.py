"""Reports on images of every storage class that a receiver accepts: current, retired and private."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.no_result import build_no_result
from inference.contract.findings import NoResult, NotComputed
from storage.blobs import file_blobs
from storage.errors import WhyNoResult
from tests.objects.sources import write_oblique
from tests.objects.test_sr import evidence, save
from tests.validators import dciodvfy_errors


@pytest.mark.parametrize(
    "sop_class_uid",
    [
        "1.2.840.10008.5.1.4.1.1.5",  # Nuclear Medicine Image Storage (Retired)
        "1.2.840.10008.5.1.4.1.1.12.3",  # X-Ray Angiographic Bi-Plane Image Storage (Retired)
        "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR Image Storage
        "1.3.46.670589.11.0.0.12.1",  # private: Philips
        "1.2.840.10008.5.1.4.1.1.66",  # Raw Data Storage
    ],
)
def test_a_report_names_images_of_any_class(tmp_path: Path, sop_class_uid: str) -> None:
    paths = sorted(write_oblique(tmp_path / "mr", "A^B", "ISO_IR 100").iterdir())
    for path in paths:
        ds = dcmread(path)
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class_uid
        ds.save_as(path)
    result = NoResult(
        (
            NotComputed("Test mass", WhyNoResult.INPUT_MISSING, "No series fits."),
            NotComputed("Knee", WhyNoResult.FAILURE, "It broke off."),
        ),
        datetime(2026, 11, 23, 12, 0, tzinfo=UTC),
    )
    path = save(build_no_result(result, file_blobs(paths), ObjectContext("NODE", "seed")), tmp_path / "no-result.dcm")
    assert dciodvfy_errors(path) == []
    assert evidence(dcmread(path)) == {str(dcmread(source).SOPInstanceUID) for source in paths}
