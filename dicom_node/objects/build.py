"""The building of result objects from findings, in the order of delivery: a report follows the objects that it names.

Besides the objects that a destination asks for, stand-ins are built, to be sent if the destination refuses the former;
`dicom_node.deliver.stand_ins` chooses among them at delivery.
"""

import logging
from dataclasses import dataclass, replace
from importlib import import_module

from pydicom.dataset import Dataset

from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.base.dates import CLOCKS_DIFFER, is_older_than_images
from dicom_node.objects.base.parts import ResultParts
from dicom_node.objects.profiles import ObjectProfile
from dicom_node.objects.registry import OBJECT_TYPES, stands_for
from dicom_node.runtime.logs import fields
from inference.contract.findings import Findings
from storage.records.results import ObjectKind

NO_STRUCTURES = "There is no RT Structure Set: the images have no frame of reference."
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class BuiltObject:
    """An object of a result. `stands_for` names the kinds in whose place it may be sent, if any."""

    kind: ObjectKind
    dataset: Dataset
    stands_for: tuple[ObjectKind, ...] = ()


def build_objects(
    findings: Findings,
    context: ObjectContext,
    profile: ObjectProfile = ObjectProfile(),  # noqa: B008 - frozen
) -> list[BuiltObject]:
    """Build the objects that the profile asks for, and their stand-ins, in the order of delivery.

    Findings without segments have neither SEG nor RTSTRUCT nor KO. A destination that would get nothing gets a report,
    because no object at all would read as a normal result. The UIDs differ between profiles and between the forms of
    the report. If an RT Structure Set is asked for but the images have no frame of reference, none is built, and the
    report says so. It also says so if the result bears an earlier time than its images.
    """
    findings = _warned(findings, context)
    if ObjectKind.RTSTRUCT in profile.objects and findings.segments and not findings.source.frame_of_reference_uid:
        log.warning(NO_STRUCTURES, extra=fields("rtstruct_omitted", series=findings.source.series_instance_uid))
        findings = replace(findings, notes=(*findings.notes, NO_STRUCTURES))
    seeded = replace(context, uid_seed=context.uid_seed + profile.key)
    of_segments = {kind for kind, one in OBJECT_TYPES.items() if one.needs_segments}
    primaries = profile.objects if findings.segments else profile.objects - of_segments
    built = _build(findings, seeded, replace(profile, objects=primaries))
    if all(one.stands_for for one in built):
        return _build(findings, seeded, replace(profile, objects=frozenset({ObjectKind.SR})))
    return built


def _warned(findings: Findings, context: ObjectContext) -> Findings:
    """Add a note to the findings if their time is earlier than that of an image."""
    volumes = (findings.source, *findings.inputs)
    blobs = {frame.blob for volume in volumes for frame in (volume.frames[0], volume.frames[-1])}
    if not is_older_than_images(findings.started_at, blobs, context):
        return findings
    log.warning(CLOCKS_DIFFER, extra=fields("clocks_differ", study=findings.source.study_instance_uid))
    return replace(findings, notes=(*findings.notes, CLOCKS_DIFFER))


def _build(findings: Findings, context: ObjectContext, profile: ObjectProfile) -> list[BuiltObject]:
    parts, primaries = ResultParts(findings, context, profile, _create), profile.objects
    return [
        BuiltObject(kind, dataset, () if kind in primaries else stands_for(kind, primaries))
        for kind in OBJECT_TYPES
        if kind in primaries or stands_for(kind, primaries)
        for dataset in parts.build(kind)
    ]


def _create(kind: ObjectKind, parts: ResultParts) -> list[Dataset]:
    made: list[Dataset] = import_module(f"dicom_node.objects.{OBJECT_TYPES[kind].module}").create(kind, parts)
    return made
