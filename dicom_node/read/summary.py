"""The answer to "what became of this study?" in a few lines, and below it one line for each thing passed over.

No line holds a UID: series have the names that the scanner shows, and earlier studies are named by the days between.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dicom_node.read.deliveries import ListedDelivery
from dicom_node.read.explanation import Explanation
from dicom_node.read.jobs import purpose
from dicom_node.read.series_names import SeriesNames, name_series
from storage.records.jobs import Job, JobKind, JobState, of_side
from storage.records.routing import ApplicationDecision, RecognisedSeries, RoutingDecision, TimePointDecision
from storage.records.studies import StudyState

MOST_LINES = 5  # of an answer


@dataclass(frozen=True)
class Summary:
    """The `answer` in at most MOST_LINES lines, and what was `passed_over`, one line each.

    `names` are the names of the series, for pages that show more of the study.
    """

    answer: tuple[str, ...]
    passed_over: tuple[str, ...]
    names: SeriesNames


@dataclass(frozen=True)
class _Verdict:
    """The decision about an application, and its inputs where it applies."""

    applies: bool
    text: str
    inputs: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        return "; ".join([self.text, *self.inputs])


def summarise(explanation: Explanation) -> Summary:
    """Return the summary of one study. Names of series that routing did not keep are read from headers."""
    names = name_series(explanation.detail, explanation.routing)
    answer = [_completion(explanation, names)]
    below: list[str] = []
    routing = explanation.routing
    if routing is not None and routing.applications:
        verdicts = [_verdict(application, explanation, names) for application in routing.applications]
        lines, below = _fitted(sorted(verdicts, key=lambda verdict: not verdict.applies), MOST_LINES - len(answer))
        answer += lines
    elif explanation.detail.study.state in (StudyState.ROUTED, StudyState.IGNORED):
        answer.append(names.put_into(explanation.detail.study.reason))
    else:
        answer += ["Not routed yet"] if explanation.detail.study.state is StudyState.COMPLETE else []
        if started := _started_early(explanation):
            answer.append(started)
    if routing is not None:
        below += filter(None, map(reporting_line, routing.applications))
        below += _series_passed_over(routing, names)
        below += _earlier_passed_over(routing, names)
    below += [
        f"{job.title}, job {job.id} {job.state}: {names.put_into(why)}"
        for job, why in _jobs_beside_analyses(explanation)
    ]
    below += map(delivery_line, (*explanation.not_delivered, *explanation.not_confirmed))
    return Summary(tuple(answer), tuple(below), names)


def reporting_line(decision: ApplicationDecision) -> str:
    """Return a line on the report that an application gives no result; empty if it applies or nothing is known."""
    if decision.applies or decision.meant is None:
        return ""
    if decision.reported is not None:
        meant = f", because it is meant for the study: {decision.meant_because}" if decision.meant else ""
        return f"{decision.title}: once the study is over, a report says that there is no result{meant}"
    meant = "meant for the study" if decision.meant else "not meant for the study"
    return f"{decision.title}: no report says that there is no result; it is {meant}: {decision.meant_because}"


def trial_lines(explanation: Explanation, file: str) -> list[str]:
    """Return what the configuration in `file` would decide; empty if none was tried."""
    trial = explanation.trial
    if trial is None:
        return []
    names = name_series(explanation.detail, trial)
    lines = [f"Tried with {file}, on the images that are here; nothing is run or sent:"]
    for decision in trial.applications:
        if decision.applies:
            inputs = () if decision.bound is None else decision.bound.inputs.items()
            fed = "; ".join(f"{key}: {names.of(uid)}" for key, uid in inputs)
            lines.append(f"  {decision.title} would run; {fed}; it is meant for the study: {decision.meant_because}")
        else:
            lines.append(f"  {decision.title} would not run: {names.put_into(decision.reason)}")
            lines.append(f"  {reporting_line(decision)}")
    return lines if trial.applications else [*lines, "  no application is configured"]


def delivery_line(delivery: ListedDelivery) -> str:
    """Return a line on a delivery that did not arrive or is not confirmed."""
    head = f"{delivery.kind} of job {delivery.job_id} → {delivery.destination}: {delivery.state}"
    return f"{head}{resent_note(delivery)}  {delivery.reason}".rstrip()


def resent_note(delivery: ListedDelivery) -> str:
    """Return a note that a delivery is sent again; an empty text if it is not."""
    return "  sent again: it was accepted and not committed" if delivery.resends else ""


def _completion(explanation: Explanation, names: SeriesNames) -> str:
    study, waiting = explanation.detail.study, explanation.waiting
    if waiting is not None:
        latest = f"until {waiting.until:%H:%M:%S} UTC at the latest, if nothing else comes"
        return f"Waits: {names.put_into(waiting.reason)}; {latest}"
    if study.state is StudyState.RECEIVING:
        return "Receiving: nothing is waited for any more, and the scheduler will find the study complete"
    decided = [event for event in explanation.completion if event.revision == study.revision]
    for event in reversed(decided):
        if event.data:  # an order to route again has none
            return f"Complete because of {event.data['evidence']}: {names.put_into(event.text)}"
    return f"Complete because: {names.put_into(decided[-1].text if decided else study.reason)}"


def _verdict(decision: ApplicationDecision, explanation: Explanation, names: SeriesNames) -> _Verdict:
    name = decision.title
    if decision.bound is None and not decision.applies:
        return _Verdict(False, f"{name} was not run because {names.put_into(decision.reason)}")
    if not decision.applies:
        return _Verdict(False, f"{name} does not apply because {_why_not(decision, names)}")
    recognised = {} if explanation.routing is None else {s.series_instance_uid: s for s in explanation.routing.series}
    inputs = () if decision.bound is None else decision.bound.inputs.items()
    fed = tuple(
        f"{key}: {names.described(recognised[uid]) if uid in recognised else names.of(uid)}" for key, uid in inputs
    )
    text = (
        f"{name} applies{_compared(decision)}{_outcome(decision.application, decision.side, explanation.detail.jobs)}"
    )
    return _Verdict(True, text, fed)


def _why_not(decision: ApplicationDecision, names: SeriesNames) -> str:
    if not decision.lacking:
        return names.put_into(decision.reason)
    return "; ".join(f"no series fits input {key!r} ({decision.wanted[key]})" for key in decision.lacking)


def _compared(decision: ApplicationDecision) -> str:
    taken = [point for point in decision.earlier if point.time_point]
    if not taken:
        return ""
    days = " and ".join("?" if point.days is None else str(point.days) for point in taken)
    return f", compared with {len(taken)} earlier stud{'y' if len(taken) == 1 else 'ies'} ({days} days before)"


def _outcome(application: str, side: str, jobs: Sequence[Job]) -> str:
    """Return the outcome of the latest analysis of the application and side, which is the one that stands."""
    own = [job for job in jobs if (job.application, job.side) == (application, side) and job.kind is JobKind.ANALYSIS]
    if not own:
        return ""
    job = own[-1]
    failed = job.state in (JobState.FAILED, JobState.RETRYING) and job.reason
    return f", job {job.id} {job.state}" + (f" ({job.reason})" if failed else "")


def _started_early(explanation: Explanation) -> str:
    """Return a line with the applications that did not wait for the rest of the study; an empty text if all did."""
    study = explanation.detail.study
    jobs = [job for job in explanation.detail.jobs if job.revision == study.revision and job.kind is JobKind.ANALYSIS]
    started = "; ".join(
        f"{of_side(name, side)}{_outcome(name, side, jobs)}"
        for name, side in dict.fromkeys((job.application, job.side) for job in jobs)
    )
    return f"Started before the study is complete: {started}" if started else ""


def _fitted(verdicts: Sequence[_Verdict], most: int) -> tuple[list[str], list[str]]:
    """Return at most `most` lines on the verdicts, with inputs if there is room, and the lines that did not fit."""
    if sum(1 + len(verdict.inputs) for verdict in verdicts) <= most:
        return [line for verdict in verdicts for line in (verdict.text, *(f"  {fed}" for fed in verdict.inputs))], []
    if len(verdicts) <= most:
        return [verdict.line for verdict in verdicts], []
    shown, rest = verdicts[: most - 1], verdicts[most - 1 :]
    applying = sum(verdict.applies for verdict in rest)
    more = (
        f"and {len(rest)} more applications, of which {applying or 'none'} appl{'y' if applying > 1 else 'ies'}; below"
    )
    return [*(verdict.line for verdict in shown), more], [verdict.line for verdict in rest]


def _series_passed_over(routing: RoutingDecision, names: SeriesNames) -> Iterator[str]:
    """Return a line for each series that feeds no input: its kind, or the reason why a lacking input refused it."""
    used = {uid for a in routing.applications if a.applies and a.bound for uid in a.bound.inputs.values()}
    for series in routing.series:
        if series.series_instance_uid not in used:
            why = names.put_into(_why_passed_over(series, routing))
            yield f"passed over: {names.described(series)}: {why}"


def _why_passed_over(series: RecognisedSeries, routing: RoutingDecision) -> str:
    decisions = [
        (application, decision)
        for application in routing.applications
        if application.bound is not None
        for decision in application.bound.decisions
        if decision.series_instance_uid == series.series_instance_uid and not decision.taken
    ]
    for application, decision in decisions:
        if decision.input in application.lacking:
            return decision.reason
    for application, decision in decisions:
        if series.kind in re.split(", | or ", application.wanted.get(decision.input, "")):
            return decision.reason  # it is what the input takes: something else kept it away
    return f"{series.kind} ({'; '.join(series.reasons)})"


def _earlier_passed_over(routing: RoutingDecision, names: SeriesNames) -> Iterator[str]:
    for application in routing.applications:
        for point in application.earlier:
            if not point.time_point:
                yield f"passed over: {_earlier(point)}, for {application.application}: {names.put_into(point.reason)}"


def _earlier(point: TimePointDecision) -> str:
    return "another study of the patient" if point.days is None else f"the study {point.days} days before"


def _jobs_beside_analyses(explanation: Explanation) -> Iterator[tuple[Job, str]]:
    for job in explanation.detail.jobs:
        if why := purpose(job):
            yield job, why
