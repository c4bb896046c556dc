"""Every decision about a study as a tree, with UIDs, and every series against every input."""

from rich.text import Text
from rich.tree import Tree

from dicom_node.demo.tables import state_text
from dicom_node.read.explanation import Explanation
from dicom_node.read.jobs import purpose
from dicom_node.read.summary import resent_note
from storage.records.completion import Completion, CompletionNumbers
from storage.records.jobs import SIDE_NAMES
from storage.records.routing import InputDecision, InputDecisions, RecognisedSeries, RoutingDecision, TimePointDecision


def explanation_tree(explanation: Explanation) -> Tree:
    """Return the tree: why the study is complete or waits, the kind of each series, and each input's decisions."""
    study = explanation.detail.study
    tree = Tree(f"[bold]Study[/] {study.study_instance_uid}  revision {study.revision}")
    tree.add(Text.assemble(("State: ", "bold"), state_text(study.state), f"  {study.reason}"))
    _add_priority(tree, explanation)
    _add_completion(tree, explanation)
    if explanation.routing is None:
        tree.add("Not routed yet")
        return tree
    _add_routing(tree, explanation.routing)
    for job in explanation.detail.jobs:
        if why := purpose(job):
            head = (f"Job {job.id}, {job.title}: ", "bold")
            tree.add(Text.assemble(head, state_text(job.state), f"  {why}"))
    for delivery in (*explanation.not_delivered, *explanation.not_confirmed):
        head = (f"{delivery.kind} of job {delivery.job_id} → {delivery.destination}: ", "bold")
        tree.add(Text.assemble(head, state_text(delivery.state), f"{resent_note(delivery)}  {delivery.reason}"))
    return tree


def _add_priority(tree: Tree, explanation: Explanation) -> None:
    study, jobs = explanation.detail.study, explanation.detail.jobs
    if study.priority or any(job.priority for job in jobs):
        listed = "".join(f", job {job.id} {job.priority}" for job in jobs)
        tree.add(Text.assemble(("Priority: ", "bold"), f"study {study.priority}{listed}"))


def _add_completion(tree: Tree, explanation: Explanation) -> None:
    if waiting := explanation.waiting:
        node = tree.add(Text.assemble(("Waits: ", "bold"), waiting.reason))
        latest = f"until {waiting.until:%H:%M:%S} UTC at the latest, if nothing else comes"
        node.add(Text(f"{latest}; then by {waiting.evidence}"))
        _add_counts(node, waiting.numbers)
    for event in explanation.asked:
        tree.add(Text.assemble(("Asked: ", "bold"), event.text))
    for event in explanation.early:
        tree.add(Text.assemble(("Early: ", "bold"), event.text))
    for event in explanation.completion:
        node = tree.add(Text.assemble(("Complete: ", "bold"), event.text))
        if event.data:
            completion = Completion.from_json(event.text, event.data)
            waited = f"{completion.waited_seconds:g} s"
            node.add(Text(f"evidence: {completion.evidence}, after {waited}, revision {event.revision}"))
            _add_counts(node, completion.numbers)


def _add_counts(node: Tree, numbers: CompletionNumbers) -> None:
    """Add the numbers behind a decision on completeness."""
    feeding = ", ".join(f"{count} {end}" for end, count in vars(numbers.associations).items() if count)
    node.add(Text(f"associations: {feeding or 'none known'}"))
    if steps := numbers.procedure_steps:
        counted = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in vars(steps).items() if count)
        node.add(Text(f"procedure steps: {counted}"))
    if source := numbers.source:
        own = f", {source.own_results} of them results of this node" if source.own_results else ""
        node.add(Text(f"{source.name}: {source.problem or f'{source.count} instances{own}'}"))
    for s in numbers.series:
        node.add(Text(f"series {s.series_instance_uid}: {s.says or f'{s.images} images'} ({s.evidence})"))


def _add_routing(tree: Tree, routing: RoutingDecision) -> None:
    series = tree.add("[bold]Series[/]")
    for s in routing.series:
        _add_series(series, s)
    applications = tree.add("[bold]Applications[/]")
    for application in routing.applications:
        verdict = "applies" if application.applies else "does not apply"
        node = applications.add(Text(f"{application.title}: {verdict}. {application.reason}"))
        if application.meant is not None:
            node.add(Text(f"{'meant' if application.meant else 'not meant'}: {application.meant_because}"))
        if application.bound is not None:
            _add_decisions(node, application.bound, dict(application.wanted))
        for point in application.earlier:
            below = node.add(Text(_time_point(point)))
            if point.bound is not None:
                _add_decisions(below, point.bound, {})


def _add_series(tree: Tree, s: RecognisedSeries) -> None:
    side = f"{SIDE_NAMES[s.laterality]} side" if s.laterality else ""
    known = [s.modality, s.kind, s.body_part, side, s.plane, s.dimension, f"{s.slices} slices"]
    node = tree.add(Text(f"{s.series_instance_uid}: {', '.join(filter(None, known))} (confidence {s.confidence})"))
    for reason in s.reasons:
        node.add(Text(reason))


def _add_decisions(node: Tree, bound: InputDecisions, wanted: dict[str, str]) -> None:
    """Add for each input the series that it accepts, the series that feeds it, and the reasons against all others."""
    by_input: dict[str, list[InputDecision]] = {}
    for decision in bound.decisions:
        by_input.setdefault(decision.input, []).append(decision)
    for name, decisions in by_input.items():
        decisions.sort(key=lambda decision: not decision.taken)
        fed = f"series {decisions[0].series_instance_uid}" if decisions[0].taken else "no series"
        takes = f" (takes {wanted[name]})" if name in wanted else ""
        below = node.add(Text(f"input {name}: {fed}{takes}"))
        for d in decisions:
            below.add(Text(f"{d.series_instance_uid} {'taken' if d.taken else 'not taken'}: {d.reason}"))


def _time_point(point: TimePointDecision) -> str:
    when = "" if point.days is None else f", {point.days} days before"
    mark = f"taken as time point {point.time_point}" if point.time_point else "not taken"
    return f"earlier study {point.study_instance_uid}{when}: {mark}: {point.reason}"
