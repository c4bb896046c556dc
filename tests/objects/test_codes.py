"""The published table of private codes is the one in use."""

import re
from pathlib import Path

import pytest

from dicom_node.objects.base.codes import PRIVATE, REASONS, sr_code
from inference.contract.concepts import SCHEME
from inference.contract.findings import Code
from storage.errors import WhyNoResult

DOCUMENT = Path(__file__).parents[2] / "docs" / "codes.md"


def test_table_and_document_agree() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert rows == [(code.value, code.meaning) for code in PRIVATE.values()]
    assert {code.scheme_designator for code in PRIVATE.values()} == {SCHEME}
    assert max(len(code.value) for code in PRIVATE.values()) <= 16  # longer ones need an element that few readers know


def test_every_reason_has_its_code_and_no_other_private_code_passes() -> None:
    assert set(REASONS) == set(WhyNoResult)
    assert len(set(REASONS.values())) == len(WhyNoResult)
    with pytest.raises(ValueError, match="not in the published table"):
        sr_code(Code("invented", SCHEME, "Invented"))
