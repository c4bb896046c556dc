"""Every object of a case before every judge that it concerns."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError

from rich.table import Table

from tests.conformance.checks import Study
from tests.conformance.judges import KNOWN, Judge, Known
from tests.conformance.makers import Made, Results

AT_ONCE = 2  # validators: each of PixelMed's takes a core and gigabytes


@dataclass(frozen=True)
class Verdict:
    """What one judge says of one object: `errors` that count, and those that are known to be wrong."""

    case: str
    kind: str
    judge: str
    errors: tuple[str, ...]
    known: tuple[tuple[str, Known], ...] = ()

    @property
    def word(self) -> str:
        return f"[red]{len(self.errors)} errors[/]" if self.errors else "known" if self.known else "passed"


def try_all(results: Results, folder: Path, judges: Sequence[Judge]) -> list[Verdict]:
    """The verdicts on the objects of one case, whose files go into `folder`."""
    folder.mkdir(parents=True)
    study = Study.of(results.sources, [made.dataset for made in results.made])
    verdicts = [_verdict(results, "(not made)", "build", [refusal]) for refusal in results.refusals]
    tasks = []
    for n, made in enumerate(results.made):
        path = folder / f"{n:02}.dcm"
        made.dataset.save_as(path, enforce_file_format=True)
        tasks += [(made, path, judge) for judge in judges if judge.concerns(made.dataset)]

    def try_one(task: tuple[Made, Path, Judge]) -> Verdict:
        made, path, judge = task
        try:
            errors = judge.errors(made, path, study)
        except (AssertionError, CalledProcessError) as error:
            errors = [f"did not run to its end: {error}"]
        return _verdict(results, made.kind, judge.name, errors)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [*verdicts, *pool.map(try_one, tasks)]


def _verdict(results: Results, kind: str, judge: str, errors: Sequence[str]) -> Verdict:
    known = {error: k for error in errors for k in KNOWN if k.covers(judge, error)}
    return Verdict(results.case.name, kind, judge, tuple(e for e in errors if e not in known), tuple(known.items()))


def table(verdicts: Iterable[Verdict], judges: Sequence[Judge]) -> Table:
    """Object × validator; a dash where a validator does not know such objects."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for verdict in verdicts:
        rows.setdefault((verdict.case, verdict.kind), {})[verdict.judge] = verdict.word
    drawn = Table("series", "object", "build", *(judge.name for judge in judges))
    for (case, kind), words in rows.items():
        drawn.add_row(case, kind, words.get("build", "passed"), *(words.get(judge.name, "-") for judge in judges))
    return drawn
