"""Findings to result objects, in the order of delivery: a report follows what it refers to.

Beside what a destination is to get stand the objects that take its place where the destination does not take it; which
of them is sent, `dicom_node.objects.profiles` decides at delivery.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage, EnhancedSRStorage

from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.ko import build_ko
from dicom_node.objects.pm import build_pm
from dicom_node.objects.profiles import ObjectProfile, SegmentationForm, stands_for
from dicom_node.objects.rtstruct import build_rtstruct
from dicom_node.objects.sc import build_sc
from dicom_node.objects.seg import build_seg
from dicom_node.objects.sr import as_sop_class, build_sr
from dicom_node.runtime.logs import fields
from inference.contract.findings import Findings
from storage.records.results import ObjectKind

NO_STRUCTURES = "There is no RT Structure Set: the images have no frame of reference."
log = logging.getLogger(__name__)

_OF_SEGMENTS = frozenset({ObjectKind.SEG, ObjectKind.RTSTRUCT, ObjectKind.KO})


@dataclass(frozen=True, eq=False)
class Built:
    """An object of a result. `stands_for` names the kinds in whose place it may be sent; it is empty for what is to be
    sent itself.
    """

    kind: ObjectKind
    dataset: Dataset
    stands_for: tuple[ObjectKind, ...] = ()


def build_objects(
    findings: Findings,
    context: ObjectContext,
    profile: ObjectProfile = ObjectProfile(),  # noqa: B008 - frozen
) -> list[Built]:
    """What destinations of this profile get, and what may take its place, in the order of delivery.

    Findings without segments have neither SEG nor RTSTRUCT nor KO. A destination that would get nothing gets a report:
    silence reads as normal. The UIDs differ between profiles and between the forms of the report. Where an RT Structure
    Set is asked for and the images have no frame of reference, there is none, and the report says so.
    """
    if ObjectKind.RTSTRUCT in profile.objects and findings.segments and not findings.source.frame_of_reference_uid:
        log.warning(NO_STRUCTURES, extra=fields("build", series=findings.source.series_instance_uid))
        findings = replace(findings, notes=(*findings.notes, NO_STRUCTURES))
    seeded = replace(context, uid_seed=context.uid_seed + profile.key)
    primaries = profile.objects if findings.segments else profile.objects - _OF_SEGMENTS
    built = _build(findings, seeded, replace(profile, objects=primaries))
    if all(one.stands_for for one in built):
        return _build(findings, seeded, replace(profile, objects=frozenset({ObjectKind.SR})))
    return built


def _build(findings: Findings, context: ObjectContext, profile: ObjectProfile) -> list[Built]:
    result, primaries = _Result(findings, context, profile), profile.objects
    return [
        Built(kind, dataset, () if kind in primaries else stands_for(kind, primaries))
        for kind, build in _BUILDERS.items()
        if kind in primaries or stands_for(kind, primaries)
        for dataset in build(result)
    ]


class _Result:
    """Objects that others are made of: each built once, when it is asked for."""

    def __init__(self, findings: Findings, context: ObjectContext, profile: ObjectProfile) -> None:
        self.findings = findings
        self.context = context
        self.profile = profile

    @cached_property
    def seg(self) -> Dataset | None:
        wanted = ObjectKind.SEG in self.profile.objects and self.findings.segments
        return build_seg(self.findings, self.context, self.profile) if wanted else None

    @cached_property
    def report(self) -> Dataset | None:
        return build_sr(self.findings, self.context, self.seg) if ObjectKind.SR in self.profile.objects else None

    @cached_property
    def report_without_seg(self) -> Dataset | None:
        """None where the report refers to no SEG anyway."""
        return None if self.seg is None else build_sr(self.findings, self.variant(ObjectKind.SR_REGIONS), None)

    @property
    def binary_seg(self) -> Dataset | None:
        """For a destination that takes no label map; None where none was made."""
        if self.seg is None or self.seg.SegmentationType != SegmentationForm.LABELMAP:
            return None
        binary = replace(self.profile, segmentation=SegmentationForm.BINARY)
        return build_seg(self.findings, self.variant(ObjectKind.SEG_BINARY), binary)

    def variant(self, kind: ObjectKind) -> ObjectContext:
        return replace(self.context, uid_seed=f"{self.context.uid_seed}/{kind}")


def _present(*datasets: Dataset | None) -> list[Dataset]:
    return [dataset for dataset in datasets if dataset is not None]


def _form(
    kind: ObjectKind, sop_class_uid: str, of: Callable[[_Result], Dataset | None]
) -> Callable[[_Result], Iterable[Dataset]]:
    """The same report in another SOP class."""

    def build(result: _Result) -> Iterable[Dataset]:
        report = of(result)
        if report is None:
            return []
        own = result.variant(kind)
        return [as_sop_class(report, sop_class_uid, own.uid("SR series"), own.uid("SR instance"))]

    return build


# In the order of delivery.
_BUILDERS: Mapping[ObjectKind, Callable[[_Result], Iterable[Dataset]]] = {
    ObjectKind.SEG: lambda result: _present(result.seg),
    ObjectKind.SEG_BINARY: lambda result: _present(result.binary_seg),
    ObjectKind.PM: lambda result: [build_pm(result.findings, one, result.context) for one in result.findings.maps],
    ObjectKind.RTSTRUCT: lambda result: _present(build_rtstruct(result.findings, result.context)),
    ObjectKind.SC: lambda result: [build_sc(result.findings, result.context)],
    ObjectKind.SR: lambda result: _present(result.report),
    ObjectKind.SR_COMPREHENSIVE: _form(
        ObjectKind.SR_COMPREHENSIVE, ComprehensiveSRStorage, lambda result: result.report
    ),
    ObjectKind.SR_ENHANCED: _form(ObjectKind.SR_ENHANCED, EnhancedSRStorage, lambda result: result.report),
    ObjectKind.SR_REGIONS: lambda result: _present(result.report_without_seg),
    ObjectKind.SR_REGIONS_COMPREHENSIVE: _form(
        ObjectKind.SR_REGIONS_COMPREHENSIVE, ComprehensiveSRStorage, lambda result: result.report_without_seg
    ),
    ObjectKind.SR_REGIONS_ENHANCED: _form(
        ObjectKind.SR_REGIONS_ENHANCED, EnhancedSRStorage, lambda result: result.report_without_seg
    ),
    ObjectKind.KO: lambda result: [build_ko(result.findings, result.context, _present(result.seg, result.report))],
    ObjectKind.KO_IMAGES: lambda result: [build_ko(result.findings, result.variant(ObjectKind.KO_IMAGES), [])],
}
