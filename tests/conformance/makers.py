"""Every object that the node can write, of one case."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_node.objects.build import ObjectContext, build_objects
from dicom_node.objects.ko import Rejected, build_rejection
from dicom_node.objects.no_result import build_no_result
from dicom_node.profiles import Kind, ObjectProfile, SegmentationForm
from inference.findings import Findings, NoResult, WhyNoResult
from storage.errors import InputRefused
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
EVERYTHING = ObjectProfile(objects=frozenset({Kind.SEG, Kind.PM, Kind.RTSTRUCT, Kind.SC, Kind.SR, Kind.KO}))


_SEG = frozenset({Kind.SEG})
SEGMENTATIONS = {
    "SEG, fractional": ObjectProfile(SegmentationForm.FRACTIONAL, objects=_SEG),
    "SEG, label map": ObjectProfile(SegmentationForm.LABELMAP, objects=_SEG),
    "SEG, every frame": ObjectProfile(omits_empty_frames=False, objects=_SEG),
}


def results(findings: Findings, context: ObjectContext) -> list[Made]:
    return [Made(built.kind, built.dataset, findings) for built in build_objects(findings, context, EVERYTHING)]


def nothing_found(findings: Findings, context: ObjectContext) -> list[Made]:
    """The report of an analysis that segmented nothing."""
    nothing = replace(findings, segments=(), measurements=())
    return [
        replace(made, kind=f"{made.kind}, no finding")
        for made in results(nothing, replace(context, uid_seed=f"{context.uid_seed}, nothing"))
    ]


def segmentations(findings: Findings, context: ObjectContext) -> list[Made]:
    """Every form that a destination can ask for. Segments of a label map do not overlap."""
    one, two = findings.segments
    apart = replace(findings, segments=(one, replace(two, mask=two.mask & ~one.mask)))
    made = []
    for name, profile in SEGMENTATIONS.items():
        seg, *_ = build_objects(apart, context, profile)  # what stands for it follows
        made.append(Made(name, seg.dataset, apart))
    return made


def no_result(paths: list[Path], context: ObjectContext) -> list[Made]:
    result = NoResult("Test mass", WhyNoResult.POOR_QUALITY, "The images show motion.", datetime.now(UTC))
    return [Made("SR, no result", build_no_result(result, paths, context))]


def rejection(paths: list[Path], made: list[Made], context: ObjectContext) -> Made:
    """What withdraws some of the objects."""
    withdrawn = [
        Rejected(ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID)
        for ds in (one.dataset for one in made if one.kind in (Kind.SEG, Kind.SR))
    ]
    return Made("KO, rejection", build_rejection(paths[0], withdrawn, context))


# What is made of findings. A new builder is a line here.
FROM_FINDINGS: list[Callable[[Findings, ObjectContext], list[Made]]] = [results, nothing_found, segmentations]


def make(case: Case, test_data: Path) -> Results:
    """Everything of one case, in order of delivery."""
    paths = case.paths(test_data)
    context = ObjectContext("NODE", f"conformance {case.name}")
    done = Results(case, paths, [])
    try:
        found = rich_findings(case.read(paths))
    except InputRefused:
        done.made.extend(no_result(paths, context))
        return done
    for maker in FROM_FINDINGS:
        try:
            done.made.extend(maker(found, context))
        except Exception as error:
            done.refusals.append(f"{type(error).__name__}: {error}")
    done.made.extend(no_result(paths, context))
    if done.made[0].kind == Kind.SEG:
        done.made.append(rejection(paths, done.made, context))
    return done
