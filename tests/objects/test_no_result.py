"""The report of no AI result: from whatever a study holds, valid, and with its reason."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.objects.base.codes import REASONS
from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.no_result import build_no_result
from inference.contract.findings import Algorithm, NoResult, NotComputed
from storage.blobs import file_blobs
from storage.errors import WhyNoResult
from tests.objects.sources import write_oblique
from tests.objects.test_sr import all_items, evidence, items, save
from tests.validators import dciodvfy_errors, dsrdump_errors, pixelmed_report_errors

CONTEXT = ObjectContext("NODE", "seed")
ALGORITHM = Algorithm("TestNet", "1.0", "Test maker", "ab" * 32, "simulated phantoms")
STARTED = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize("algorithm", [ALGORITHM, None])
@pytest.mark.parametrize("why", list(WhyNoResult))
def test_it_says_why_in_code_and_words(tmp_path: Path, why: WhyNoResult, algorithm: Algorithm | None) -> None:
    paths = sorted(write_oblique(tmp_path / "mr", "Müller^Änne", "ISO_IR 100").iterdir())
    result = NoResult((NotComputed("Test mass", why, "The images show motion.", algorithm),), STARTED)
    path = save(build_no_result(result, file_blobs(paths), CONTEXT), tmp_path / "no-result.dcm")
    assert dciodvfy_errors(path) == []
    assert dsrdump_errors(path) == []
    report = dcmread(path)
    (reason,) = items(report, "Imaging Measurements", "Measurement Group", "Reason for no AI result")
    assert reason.ConceptCodeSequence[0].CodeValue == REASONS[why].value
    texts = [item.TextValue for item in items(report, "Comment")]
    assert texts[0] == "RESEARCH - not for diagnosis"
    assert texts[-1] == "The images show motion."
    assert evidence(report) == {str(dcmread(source).SOPInstanceUID) for source in paths}
    assert report.SeriesDescription == "Test mass No AI result, RESEARCH - not for diagnosis"
    assert {i.TextValue for i in all_items(report) if i.ValueType == "TEXT" and "TestNet" in i.TextValue} == (
        {"TestNet"} if algorithm else set()
    )


@pytest.mark.slow
def test_pixelmed_finds_the_template_kept(tmp_path: Path) -> None:
    """Its checks of TID 1500 begin below a title of CID 7021, so the title is one for them."""
    paths = sorted(write_oblique(tmp_path / "mr", "A^B", "ISO_IR 100").iterdir())
    result = NoResult((NotComputed("Test mass", WhyNoResult.FAILURE, "Broken.", ALGORITHM),), STARTED)
    report = build_no_result(result, file_blobs(paths), CONTEXT)
    assert pixelmed_report_errors(save(report, tmp_path / "titled.dcm"), "TID_1500") == []
    title = report.ConceptNameCodeSequence[0]
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "126000", "DCM", "Imaging Measurement Report"
    assert pixelmed_report_errors(save(report, tmp_path / "retitled.dcm"), "TID_1500") == []
