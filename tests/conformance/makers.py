"""Every object that the node can write, of one case."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_node.objects.build import ObjectContext, build_objects
from dicom_node.profiles import Kind, ObjectProfile
from inference.findings import Findings
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


def results(findings: Findings, context: ObjectContext) -> list[Made]:
    return [Made(built.kind, built.dataset, findings) for built in build_objects(findings, context, EVERYTHING)]


def nothing_found(findings: Findings, context: ObjectContext) -> list[Made]:
    """The report of an analysis that segmented nothing."""
    nothing = replace(findings, segments=(), measurements=())
    return [
        replace(made, kind=f"{made.kind}, no finding")
        for made in results(nothing, replace(context, uid_seed=f"{context.uid_seed}, nothing"))
    ]


# What is made of findings, and of images that are refused. A new builder is a line here.
FROM_FINDINGS: list[Callable[[Findings, ObjectContext], list[Made]]] = [results, nothing_found]
FROM_REFUSALS: list[Callable[[InputRefused, list[Path], ObjectContext], list[Made]]] = []


def make(case: Case, test_data: Path) -> Results:
    """Everything of one case, in order of delivery."""
    paths = case.paths(test_data)
    context = ObjectContext("NODE", f"conformance {case.name}")
    done = Results(case, paths, [])
    try:
        found = rich_findings(case.read(paths))
    except InputRefused as error:
        for refused in FROM_REFUSALS:
            done.made.extend(refused(error, paths, context))
        if not FROM_REFUSALS:
            done.refusals.append(str(error))
        return done
    for maker in FROM_FINDINGS:
        try:
            done.made.extend(maker(found, context))
        except Exception as error:
            done.refusals.append(f"{type(error).__name__}: {error}")
    return done
