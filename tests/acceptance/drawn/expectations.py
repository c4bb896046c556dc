"""The outcome that must come of a drawn study, stated before it is sent."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from dicom_node.objects.reading.report import MeasurementReport, read_report
from inference.contract.findings import Code

Detail = Mapping[str, Any]
"""A study as `dicom-node study UID --json` prints it."""

Reports = Sequence[Dataset]
"""The reports of a study that its destination holds."""


class Outcome(StrEnum):
    """The kinds of outcomes."""

    RESULT = "result"
    REFUSAL = "refusal"
    WAIT = "wait"


@dataclass(frozen=True)
class Number:
    """A number that the report of an application must state: the mean or the only value of a quantity."""

    quantity: Code
    value: float
    tolerance: float
    derivation: Code | None = None


@dataclass(frozen=True)
class Expected:
    """The outcome of one application for one study.

    `words` is a pattern that the stated reason of a refusal or of a wait must match, or, for a result, a sentence of
    its report. `absent` are quantities that the report must not state. `patient_id` is whose report it must be.
    """

    outcome: Outcome
    application: str
    patient_id: str = ""
    numbers: tuple[Number, ...] = ()
    absent: tuple[Code, ...] = ()
    words: str = ""
    tracking: str = ""


def mistakes(expected: Expected, detail: Detail, reports: Reports, waits_for: str) -> list[str]:
    """Return what is wrong with a study that has come to rest. `waits_for` is the reason why it is not complete."""
    done = [
        job
        for job in detail["jobs"]
        if job["application"] == expected.application and job["kind"] == "ANALYSIS" and job["state"] == "SUCCEEDED"
    ]
    match expected.outcome:
        case Outcome.RESULT:
            return _result_mistakes(expected, done, reports)
        case Outcome.REFUSAL:
            told = " ".join([detail["reason"], *(f"{j['reason']} {j['detail']}" for j in detail["jobs"])])
            return [*(["a result came"] if done else []), *_unsaid(expected.words, told)]
        case Outcome.WAIT:
            return [*(["a result came"] if done else []), *_unsaid(expected.words, waits_for)]


def _unsaid(words: str, told: str) -> list[str]:
    return [] if re.search(words, told) else [f"{words!r} is not said, but {told!r}"]


def _result_mistakes(expected: Expected, done: Sequence[Mapping[str, Any]], reports: Reports) -> list[str]:
    of_job = [r for r in reports if done and r.get("SeriesDescription") and _is_of(r, expected)]
    if not done or not of_job:
        return ["no result came"]
    report = max(of_job, key=lambda r: (str(r.ContentDate), str(r.ContentTime)))
    found = []
    if str(report.PatientID) != expected.patient_id:
        found.append("the report is another patient's")
    if expected.words:
        found += _unsaid(expected.words, " ".join(str(e.value) for e in report.iterall() if e.keyword == "TextValue"))
    read = read_report(report)
    for number in expected.numbers:
        value = measured(read, expected.tracking, number.quantity, number.derivation)
        if value is None or abs(value - number.value) > number.tolerance:
            found.append(f"{number.quantity.meaning} is {value}, not {number.value:.4g} ± {number.tolerance:.2g}")
    for quantity in expected.absent:
        if (value := measured(read, expected.tracking, quantity, None)) is not None:
            found.append(f"{quantity.meaning} is {value}, where none may be stated")
    return found


def _is_of(report: Dataset, expected: Expected) -> bool:
    """Return True if the report has a group of measurements of the application's finding."""
    return any(group.tracking_id == expected.tracking for group in read_report(report).groups)


def measured(report: MeasurementReport, tracking: str, quantity: Code, derivation: Code | None) -> float | None:
    """Return the value of a quantity of the finding; the first one without a `derivation`, or None."""
    found = (
        one.value
        for group in report.groups
        for one in group.measurements
        if group.tracking_id == tracking
        and one.name.value == quantity.value
        and (derivation is None or (one.derivation is not None and one.derivation.value == derivation.value))
    )
    return next(found, None)


def read_reports(folder: Path) -> list[Dataset]:
    """Return the reports below the folder of a study at a destination of kind "folder"."""
    found = [dcmread(path) for path in sorted(folder.rglob("*.dcm"))]
    return [ds for ds in found if ds.Modality == "SR"]
