"""Objects of a few real series before the validators that take seconds; and broken ones, which must not pass.

`make conformance` has every series and every validator.
"""

import copy
from dataclasses import replace
from pathlib import Path

import pytest

from dicom_node.objects.base.context import ObjectContext
from inference.volumes.reading import read_volume
from storage.blobs import file_blobs
from tests.conformance.breakages import BREAKAGES, Breakage
from tests.conformance.cases import CASES, Case, rich_findings
from tests.conformance.judges import JUDGES
from tests.conformance.makers import Results, make, rejection, results
from tests.conformance.trial import Verdict, try_all
from tests.objects.sources import write_oblique

FAST = [judge for judge in JUDGES if not judge.slow]
FEW = ("Siemens Enhanced", "GE classic")


def complaints(verdicts: list[Verdict]) -> list[str]:
    return [f"{v.kind}, {v.judge}: {error}" for v in verdicts for error in v.errors]


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith(FEW)], ids=lambda case: case.name)
def test_objects_of_real_series_are_valid(test_data: Path, tmp_path: Path, case: Case) -> None:
    assert complaints(try_all(make(case, test_data), tmp_path / "objects", FAST)) == []


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = write_oblique(tmp_path_factory.mktemp("oblique"), "Müller^Änne", "ISO_IR 192")
    paths = sorted(folder.iterdir())
    found = rich_findings(read_volume(file_blobs(paths)))
    context = ObjectContext("NODE", "negative controls")
    made = results(found, context)
    return Results(CASES[0], paths, made + rejection(made, paths, context))


def test_unbroken_objects_pass(sound: Results, tmp_path: Path) -> None:
    verdicts = try_all(sound, tmp_path / "objects", FAST)
    assert {v.judge for v in verdicts} == {judge.name for judge in FAST}
    assert complaints(verdicts) == []


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name)
def test_broken_objects_do_not_pass(sound: Results, tmp_path: Path, breakage: Breakage) -> None:
    """Each is noticed by the judge that is there for it, in the words that say what is wrong."""
    made = [replace(one, dataset=copy.deepcopy(one.dataset)) for one in sound.made if one.kind in breakage.kinds]
    breakage.apply({one.kind: one.dataset for one in made})
    (judge,) = [judge for judge in JUDGES if judge.name == breakage.judge]
    found = complaints(try_all(replace(sound, made=made), tmp_path / "objects", [judge]))
    assert any(breakage.complaint in line for line in found), found
