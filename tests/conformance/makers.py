"""Every object that the node can write, of one case."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from dicom_node.objects.base.context import ObjectContext, ResultReference
from dicom_node.objects.build import build_objects
from dicom_node.objects.ko import build_rejection
from dicom_node.objects.no_result import build_no_result
from dicom_node.objects.profiles import ObjectProfile, SegmentationForm
from inference.contract.findings import Findings, NoResult, NotComputed
from storage.blobs import FileBlob, file_blobs
from storage.errors import InputRefused, WhyNoResult
from storage.records.results import ObjectKind
from tests.conformance.cases import Case, rich_findings


@dataclass(frozen=True, eq=False)
class Made:
    """A result object; `findings` are what it holds, where it holds any."""

    kind: str
    dataset: Dataset
    findings: Findings | None = None


@dataclass(frozen=True, eq=False)
class Results:
    """The objects of one case, and why some could not be made."""

    case: Case
    sources: list[Path]
    made: list[Made]
    refusals: list[str] = field(default_factory=list)


# Everything a destination can ask for, with what stands in for it.
EVERYTHING = ObjectProfile(
    objects=frozenset({ObjectKind.SEG, ObjectKind.PM, ObjectKind.RTSTRUCT, ObjectKind.SC, ObjectKind.SR, ObjectKind.KO})
)


def results(findings: Findings, context: ObjectContext) -> list[Made]:
    return [Made(built.kind, built.dataset, findings) for built in build_objects(findings, context, EVERYTHING)]


def nothing_found(findings: Findings, context: ObjectContext) -> list[Made]:
    """The report of an analysis that segmented nothing."""
    nothing = replace(findings, segments=(), measurements=(), maps=())
    return [
        replace(made, kind=f"{made.kind}, no finding")
        for made in results(nothing, replace(context, uid_seed=f"{context.uid_seed}, nothing"))
    ]


def other_segmentations(findings: Findings, context: ObjectContext) -> list[Made]:
    """FRACTIONAL, of probabilities, and LABELMAP, of segments that do not overlap."""
    one, two = findings.segments
    apart = (one, replace(two, mask=two.mask & ~one.mask))
    fractions = tuple(replace(s, probability=np.where(s.mask, 0.8, 0.2).astype(np.float32)) for s in findings.segments)
    made = []
    for form, segments in ((SegmentationForm.FRACTIONAL, fractions), (SegmentationForm.LABELMAP, apart)):
        found = replace(findings, segments=segments)
        profile = ObjectProfile(segmentation=form, objects=frozenset({ObjectKind.SEG}))
        (seg,) = [b.dataset for b in build_objects(found, context, profile) if not b.stands_for]
        made.append(Made(f"SEG, {form}", seg, found))
    return made


def no_result(error: InputRefused, sources: list[Path], context: ObjectContext) -> list[Made]:
    refused = NotComputed("Test mass", WhyNoResult.UNUSABLE_IMAGES, str(error))
    result = NoResult((refused,), datetime(2026, 11, 23, 12, 0, tzinfo=UTC))
    return [Made("SR, no result", build_no_result(result, file_blobs(sources), context))]


def rejection(made: list[Made], sources: list[Path], context: ObjectContext) -> list[Made]:
    """The note that withdraws everything that was made.

    But the label map: dcmtk 3.6.7 is older than these, and reads no document that refers to one.
    """
    withdrawn = [
        ResultReference(one.dataset.SOPClassUID, one.dataset.SOPInstanceUID, one.dataset.SeriesInstanceUID)
        for one in made
        if one.dataset.get("SegmentationType") != "LABELMAP"
    ]
    return [Made("KO, rejection", build_rejection(FileBlob(sources[0]), withdrawn, context))]


# What is made of findings, of images that are refused, and of what was made. A new builder is a line here.
FROM_FINDINGS: list[Callable[[Findings, ObjectContext], list[Made]]] = [results, nothing_found, other_segmentations]
FROM_REFUSALS: list[Callable[[InputRefused, list[Path], ObjectContext], list[Made]]] = [no_result]
FROM_OBJECTS: list[Callable[[list[Made], list[Path], ObjectContext], list[Made]]] = [rejection]


def make(case: Case, test_data: Path) -> Results:
    """Everything of one case, in order of delivery."""
    paths = case.paths(test_data)
    context = ObjectContext("NODE", f"conformance {case.name}")
    done = Results(case, paths, [])
    try:
        found = rich_findings(case.read(file_blobs(paths)))
    except InputRefused as error:
        makers = [partial(refused, error, paths) for refused in FROM_REFUSALS]
    else:
        makers = [partial(maker, found) for maker in FROM_FINDINGS]
    makers += [partial(maker, done.made, paths) for maker in FROM_OBJECTS]
    for build in makers:
        try:
            done.made.extend(build(context))
        except Exception as error:
            done.refusals.append(f"{type(error).__name__}: {error}")
    return done
