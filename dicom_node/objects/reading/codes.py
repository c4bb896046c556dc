"""Codes that are read from objects, as `inference.contract.findings.Code`."""

from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as SRCode

from inference.contract.findings import Code


def code_of(item: Dataset) -> Code:
    """Return the code of a sequence item (PS3.3 table 8.8-1). Long and URN codes have attributes of their own."""
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue") or ""
    return Code(str(value), str(item.get("CodingSchemeDesignator") or ""), str(item.get("CodeMeaning") or ""))


def first_code(ds: Dataset, keyword: str) -> Code | None:
    sequence: Sequence[Dataset] = ds.get(keyword) or []
    return code_of(sequence[0]) if sequence else None


def same(one: Code | None, other: SRCode) -> bool:
    """Return True if two codes mean the same concept.

    Their texts may differ, and SNOMED's older identifiers (SRT) equal the newer ones (SCT).
    """
    return one is not None and bool(SRCode(one.value, one.scheme, one.meaning) == other)
