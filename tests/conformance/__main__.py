"""`python -m tests.conformance [name ...]`: a table object × validator over all series, or those whose name is given.

Ends with 1 where anything but a known false positive was found, with 2 where a validator or the test data are missing.
"""

import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
from rich.console import Console

from tests.conformance.cases import CASES
from tests.conformance.judges import JUDGES
from tests.conformance.makers import make
from tests.conformance.trial import Verdict, table, try_all
from tests.conftest import REPOSITORY

console = Console(width=200)


def main(names: list[str]) -> int:
    test_data = Path(os.environ.get("DICOM_NODE_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not test_data.is_dir():
        console.print("The test images are not here: set DICOM_NODE_TEST_DATA to their folder")
        return 2
    chosen = [case for case in CASES if not names or any(name.lower() in case.name.lower() for name in names)]
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory() as folder:
        for n, case in enumerate(chosen):
            console.print(f"{case.name} ...", highlight=False)
            try:
                verdicts += try_all(make(case, test_data), Path(folder) / str(n), JUDGES)
            except pytest.skip.Exception as missing:
                console.print(f"[red]{missing}[/]")
                return 2
    console.print(table(verdicts, JUDGES))
    objects = {(verdict.case, verdict.kind) for verdict in verdicts}
    console.print(
        f"{len(objects)} objects of {len(chosen)} series before {len(JUDGES)} judges: {len(verdicts)} verdicts,"
        f" {sum(not v.errors for v in verdicts)} without an error that counts"
    )
    reasons = {known: None for verdict in verdicts for _, known in verdict.known}
    for known in reasons:
        console.print(f"known, no error: {known.judge} says {known.pattern!r}: {known.reason}", highlight=False)
    failed = [verdict for verdict in verdicts if verdict.errors]
    for verdict in failed:
        for error in verdict.errors:
            console.print(
                f"{verdict.case}, {verdict.kind}, {verdict.judge}: {error}", style="red", highlight=False, markup=False
            )
    return 1 if failed else 0


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # libraries on the test data's oddities
    warnings.simplefilter("ignore")
    sys.exit(main(sys.argv[1:]))
