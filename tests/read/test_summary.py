"""The answer about a study: five lines at most, in the scanner's names, for every way a study can end."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from pydicom import dcmread
from rich.console import Console

from dicom_node.demo.study_page import study_page, summary_lines
from dicom_node.read.explanation import Explanation
from dicom_node.read.series_names import UNNAMED
from dicom_node.read.study import StudyDetail
from dicom_node.read.summary import MOST_LINES, Summary, summarise
from storage.blobs import FileBlob
from storage.errors import WhyNoResult
from storage.records.completion import Evidence, Waiting
from storage.records.instances import Instance
from storage.records.jobs import Job, JobState, NoResultDetail, WithoutResult
from storage.records.routing import (
    ApplicationDecision,
    InputDecision,
    InputDecisions,
    RecognisedSeries,
    RoutingDecision,
    TimePointDecision,
)
from storage.records.studies import Event, Stage, Study, StudyState
from tests.acceptance.studies import write_ball_study

STUDY = "1.2.826.0.1.3680043.8.498.1"
NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
T1W, T2W, DWI = (f"{STUDY}.{n}" for n in (1, 2, 3))
WANTED = {"t1w": "MR, T1w, at least 8 slices", "dwi": "MR, DWI, at least 3 slices"}
UID = re.compile(r"\d+(\.\d+){3,}")


def instance(series: str, path: Path = Path("/nowhere.dcm")) -> Instance:
    return Instance(
        f"{series}.1", "1.2.840.10008.5.1.4.1.1.4", series, STUDY, "1.2", "MR", FileBlob(path, 1, ""), NOW, 1
    )


def detail(state: StudyState = StudyState.ROUTED, jobs: Sequence[Job] = (), reason: str = "") -> StudyDetail:
    study = Study(STUDY, state, 1, reason, 3, NOW, NOW)
    complete = Event(NOW, STUDY, 1, Stage.COMPLETE, "3 instances; 2 of 2 declared images in series " + T1W)
    timeline = () if state is StudyState.RECEIVING else (complete,)
    return StudyDetail(study, tuple(map(instance, (T1W, T2W, DWI))), (), tuple(jobs), (), (), (), timeline)


def job(number: int, application: str, state: JobState, reason: str = "") -> Job:
    return Job(number, STUDY, 1, application, {}, "", state, 1, reason, NOW, NOW, None, None, None)


def recognised(uid: str, number: int | None, description: str, kind: str) -> RecognisedSeries:
    return RecognisedSeries(uid, "MR", kind, "THIGH", "axial", "2D", 36, 0.9, ("spin echo",), number, description)


SERIES = (
    recognised(T1W, 3, "T1 TSE tra", "T1w"),
    recognised(T2W, 4, "T2 TSE tra", "T2w"),
    recognised(DWI, 5, "DWI", "DWI"),
)


def applies(name: str, earlier: Sequence[TimePointDecision] = (), **inputs: str) -> ApplicationDecision:
    decisions = [
        InputDecision(key, s.series_instance_uid, uid == s.series_instance_uid, f"is {s.kind}, not {key}")
        for key, uid in inputs.items()
        for s in SERIES
    ]
    bound = InputDecisions(inputs, tuple(decisions))
    return ApplicationDecision(name, True, "", bound, WANTED, tuple(earlier))


def lacks(name: str, key: str) -> ApplicationDecision:
    told = tuple(InputDecision(key, s.series_instance_uid, False, f"is {s.kind}, not ADC") for s in SERIES)
    reason = f"no series fits input {key!r} (MR, ADC): " + "; ".join(f"series {d.series_instance_uid} x" for d in told)
    return ApplicationDecision(name, False, reason, InputDecisions({}, told), {key: "MR, ADC"}, lacking=(key,))


def answer(explanation: Explanation) -> Summary:
    summary = summarise(explanation)
    assert 1 <= len(summary.answer) <= MOST_LINES
    assert [line for line in (*summary.answer, *summary.passed_over) if UID.search(line)] == []
    assert not any("\n" in line for line in (*summary.answer, *summary.passed_over))
    return summary


def text_of(explanation: Explanation, everything: bool = False) -> str:
    console = Console(width=300, record=True, file=StringIO())
    console.print(study_page(explanation.detail, summarise(explanation), everything))
    return console.export_text()


def test_each_input_has_a_line_where_there_is_room() -> None:
    routing = RoutingDecision(SERIES, (applies("sarcoma", t1w=T1W, dwi=DWI),))
    summary = answer(Explanation(detail(jobs=[job(1, "sarcoma", JobState.SUCCEEDED)]), routing))
    assert summary.answer == (
        "Complete because: 3 instances; 2 of 2 declared images in series 3 'T1 TSE tra'",
        "sarcoma applies, job 1 SUCCEEDED",
        "  t1w: 3 'T1 TSE tra', axial, 36 slices",
        "  dwi: 5 'DWI', axial, 36 slices",
    )
    assert summary.passed_over == ("passed over: 4 'T2 TSE tra', axial, 36 slices: T2w (spin echo)",)


def test_the_evidence_is_named_also_after_an_order_to_route_again() -> None:
    kept = detail()
    by_age = Event(NOW, STUDY, 1, Stage.COMPLETE, "3 instances", data={"evidence": "maximum age"})
    again = Event(NOW, STUDY, 1, Stage.COMPLETE, "to be routed again, as asked by the operator")
    earlier = Event(NOW, STUDY, 0, Stage.COMPLETE, "2 instances", data={"evidence": "MPPS"})
    summary = answer(Explanation(replace(kept, timeline=(earlier, by_age, again))))
    assert summary.answer[0] == "Complete because of maximum age: 3 instances"


def test_two_applications_share_the_lines() -> None:
    routing = RoutingDecision(SERIES, (applies("sarcoma", t1w=T1W, dwi=DWI), applies("brain", t1w=T1W, dwi=DWI)))
    failed = job(2, "brain", JobState.FAILED, "one slice is missing")
    summary = answer(Explanation(detail(jobs=[job(1, "sarcoma", JobState.RUNNING), failed]), routing))
    fed = "t1w: 3 'T1 TSE tra', axial, 36 slices; dwi: 5 'DWI', axial, 36 slices"
    assert summary.answer[1:] == (
        f"sarcoma applies, job 1 RUNNING; {fed}",
        f"brain applies, job 2 FAILED (one slice is missing); {fed}",
    )


def test_the_ignored_study_says_what_lacks_and_why_no_series_is_taken() -> None:
    routing = RoutingDecision(SERIES[:2], (lacks("sarcoma", "adc"), ApplicationDecision("knee", False, "it is broken")))
    why = f"no series fits input 'adc': series {T1W} is T1w, not ADC"
    told = NoResultDetail((WithoutResult("sarcoma", WhyNoResult.INPUT_MISSING, why),))
    report = replace(job(1, "sarcoma", JobState.QUEUED), kind=told.kind, detail=told)
    summary = answer(Explanation(detail(StudyState.IGNORED, [report]), routing))
    assert summary.answer[1:] == (
        "sarcoma does not apply because no series fits input 'adc' (MR, ADC)",
        "knee was not run because it is broken",
    )
    assert summary.passed_over == (
        "passed over: 3 'T1 TSE tra', axial, 36 slices: is T1w, not ADC",
        "passed over: 4 'T2 TSE tra', axial, 36 slices: is T2w, not ADC",
        "sarcoma, job 1 QUEUED: no AI result (input-missing): no series fits input 'adc': "
        "series 3 'T1 TSE tra' is T1w, not ADC",
    )


def test_a_better_series_is_named_to_the_one_passed_over() -> None:
    decision = applies("sarcoma", t1w=T1W)
    second = recognised(f"{STUDY}.4", 6, "T1 again", "T1w")
    why = InputDecision("t1w", f"{STUDY}.4", False, f"fits, but series {T1W} fits better (T1w): it has more slices")
    assert decision.bound is not None
    bound = replace(decision.bound, decisions=(*decision.bound.decisions, why))
    summary = answer(Explanation(detail(), RoutingDecision((*SERIES, second), (replace(decision, bound=bound),))))
    assert summary.passed_over[-1] == (
        f"passed over: {UNNAMED}, axial, 36 slices: fits, but series 3 'T1 TSE tra' fits better (T1w): "
        "it has more slices"
    )  # no instance of it is here any more


def test_earlier_studies_are_told_by_their_distance() -> None:
    taken = TimePointDecision("1.2.3.4.1", 59, 1, "")
    not_taken = TimePointDecision("1.2.3.4.2", 20, None, "no series fits input 't1w': series 1.2.3.4.2.1 is T2w")
    unordered = TimePointDecision("1.2.3.4.3", None, None, "the dates do not say which one is earlier")
    routing = RoutingDecision(SERIES, (applies("sarcoma", [taken, not_taken, unordered], t1w=T1W),))
    summary = answer(Explanation(detail(), routing))
    assert summary.answer[1] == "sarcoma applies, compared with 1 earlier study (59 days before)"
    assert summary.passed_over[-2:] == (
        "passed over: the study 20 days before, for sarcoma: no series fits input 't1w': another series is T2w",
        "passed over: another study of the patient, for sarcoma: the dates do not say which one is earlier",
    )


def test_many_applications_fit_into_five_lines() -> None:
    decisions = [lacks("a", "adc"), *(applies(f"b{n}", t1w=T1W, dwi=DWI) for n in range(4)), lacks("c", "adc")]
    summary = answer(Explanation(detail(), RoutingDecision(SERIES, tuple(decisions))))
    assert [line.split(maxsplit=1)[0] for line in summary.answer] == ["Complete", "b0", "b1", "b2", "and"]
    assert summary.answer[-1] == "and 3 more applications, of which 1 applies; below"
    assert [line.split(maxsplit=1)[0] for line in summary.passed_over[:3]] == ["b3", "a", "c"]


@pytest.mark.parametrize(
    ("state", "reason", "routing", "told"),
    [
        (StudyState.IGNORED, "nothing applies: no application is configured", RoutingDecision(SERIES),
         ["nothing applies: no application is configured"]),
        (StudyState.IGNORED, "its routing failed (OSError), see the log", RoutingDecision(),
         ["its routing failed (OSError), see the log"]),
        (StudyState.ROUTED, "applies: sarcoma", None, ["applies: sarcoma"]),
        (StudyState.COMPLETE, "", None, ["Not routed yet"]),
    ],
)  # fmt: skip
def test_a_study_without_anything(
    state: StudyState, reason: str, routing: RoutingDecision | None, told: list[str]
) -> None:
    summary = answer(Explanation(detail(state, reason=reason), routing))
    assert list(summary.answer[1:]) == told


def test_a_study_without_any_row_of_its_own() -> None:
    bare = replace(detail(reason="complete"), instances=(), timeline=())
    assert answer(Explanation(bare)).answer == ("Complete because: complete", "complete")
    assert "none" in text_of(Explanation(bare))


def test_a_study_that_arrives_says_what_it_waits_for() -> None:
    reason = f"2 instances so far; 2 of 3 declared images in series {T1W}; complete once quiet for 30 s"
    waiting = Waiting(NOW + timedelta(seconds=30), Evidence.QUIET, reason)
    summary = answer(Explanation(detail(StudyState.RECEIVING), None, waiting))
    assert summary.answer == (
        f"Waits: 2 instances so far; 2 of 3 declared images in series {UNNAMED}; complete once quiet for 30 s; "
        "until 12:00:30 UTC at the latest, if nothing else comes",
    )
    early = detail(StudyState.RECEIVING, [job(1, "sarcoma", JobState.RUNNING), job(2, "brain", JobState.QUEUED)])
    started = "Started before the study is complete: sarcoma, job 1 RUNNING; brain, job 2 QUEUED"
    assert answer(Explanation(early, None, waiting)).answer == (*summary.answer, started)
    (line,) = answer(Explanation(detail(StudyState.RECEIVING))).answer
    assert line.startswith("Receiving: nothing is waited for any more")


def test_names_that_routing_did_not_keep_come_from_the_headers(tmp_path: Path) -> None:
    path = write_ball_study(tmp_path).paths[0]
    held = replace(detail(), instances=(instance(T1W, path),))
    unnamed = (recognised(T1W, None, "", "T1w"),)
    for routing in (None, RoutingDecision(unnamed, (applies("sarcoma", t1w=T1W),))):
        assert "1 'T1 TSE axial'" in answer(Explanation(held, routing)).answer[0]
    ds = dcmread(path)
    del ds.SeriesNumber, ds.SeriesDescription
    ds.save_as(path)
    assert UNNAMED in answer(Explanation(held)).answer[0]


def test_a_description_cannot_command_the_terminal() -> None:
    hostile = recognised(T1W, 3, 'a "b" [bold red]c[/]\x1b[31md\x1b]0;e\x07', "T1w")
    explanation = Explanation(detail(), RoutingDecision((hostile,), (applies("sarcoma", t1w=T1W),)))
    summary = answer(explanation)
    assert summary.answer[2] == """  t1w: 3 'a "b" [bold red]c[/]\\x1b[31md\\x1b]0;e\\x07', axial, 36 slices"""
    output = StringIO()
    Console(width=300, file=output).print(summary_lines(explanation.detail, summary))
    assert "[bold red]c[/]" in output.getvalue()
    assert "\x1b" not in output.getvalue()


def test_uids_are_shown_on_demand_alone() -> None:
    explanation = Explanation(detail(), RoutingDecision(SERIES, (applies("sarcoma", t1w=T1W),)))
    assert UID.search(text_of(explanation)) is None
    assert STUDY in text_of(explanation, everything=True)
