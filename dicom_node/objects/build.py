"""Findings to result objects, in the order of delivery: a report follows what it refers to."""

from pydicom.dataset import Dataset

from dicom_node.objects.common import ObjectContext, Predecessor
from dicom_node.objects.seg import build_seg
from dicom_node.objects.sr import build_sr
from inference.findings import Findings

__all__ = ["ObjectContext", "Predecessor", "build_objects"]


def build_objects(findings: Findings, context: ObjectContext) -> list[tuple[str, Dataset]]:
    """(kind, dataset) in delivery order. Findings without segments give a report alone: silence reads as normal."""
    seg = build_seg(findings, context) if findings.segments else None
    report = ("SR", build_sr(findings, context, seg))
    return [("SEG", seg), report] if seg is not None else [report]
