"""The evidence that a study is complete, and the time it waits on each kind of evidence: pure decisions.

DICOM has no message that says "this was all". The evidence there is, the strongest first
(`storage.records.completion.Evidence` names each kind):

1. MPPS COMPLETED (PS3.4 annex F): every procedure step of the study has ended, and all instances they reference are
   here. A step that is IN PROGRESS keeps the study waiting up to the maximum age. DISCONTINUED steps count with what
   they reference. If all are discontinued, nothing says that the examination was done, so the quiet period decides.
2. The number of instances that the source PACS counts by C-FIND (Number of Study Related Instances, PS3.4 C.6.2.1) is
   the number here. Results of this node are left out on both sides.
3. The counts that the images declare are here, for every series (see `dicom_node.complete.inventory`).
4. Every series is a regular stack without a gap. A stack that was cut off at its end looks the same, so this evidence
   waits as long as 5 and only names what was seen. So do multi-frame instances, although each is whole by itself:
   scanners send one after another, some each over an association of its own.
5. Every association that fed the study was released, and the study is quiet.
6. The quiet period has passed with an association open, or after one was aborted.
7. The maximum age is reached.

A correction of the patient that has not reached every instance makes a study wait up to the maximum age, whatever the
evidence.

Evidence that something is missing makes a study wait for the quiet period, and is named when that has passed. Only MPPS
overrules it, because MPPS lists the very instances; 2 and 3 must not be contradicted. An aborted association always
makes the study wait longer, because the scanner will most likely try again.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from dicom_node.complete.inventory import Inventory, plural
from dicom_node.complete.rule import CompletionRule
from storage.records.completion import Evidence, StepNumbers
from storage.records.evidence import SourceAnswer, StudyEvidence
from storage.records.procedure_steps import ProcedureStepState

ABORTED_FACTOR = 2
"""Factor on the quiet period after an aborted association, and if a procedure step lists what is not here."""


@dataclass(frozen=True)
class Basis:
    """The evidence that would complete a study now, `seconds` after it became quiet.

    `says` are the findings in words, and `condition` describes what the study waits for. `seconds` is None if only the
    maximum age can complete the study.
    """

    evidence: Evidence
    says: tuple[str, ...]
    seconds: float | None
    condition: str


def strongest_evidence(study: StudyEvidence, inventory: Inventory, rule: CompletionRule) -> Basis:
    """Return the strongest evidence. `inventory` counts the images of the study as of the same moment."""
    steps = inventory.steps
    running = sum(state is ProcedureStepState.IN_PROGRESS for _, state in study.steps)
    if running:
        what = "while a procedure step is" if running == 1 else f"while {running} procedure steps are"
        return Basis(Evidence.MAXIMUM_AGE, _doubts(study, inventory, rule), None, f"{what} IN PROGRESS")
    if inventory.correction:
        return Basis(Evidence.MAXIMUM_AGE, _doubts(study, inventory, rule), None, f"while {inventory.correction}")
    if steps.completed and steps.referenced and not steps.missing:
        return _proven(study, rule, Evidence.PROCEDURE_STEP, _steps_text(steps))
    if doubts := _doubts(study, inventory, rule):
        return _doubted(study, rule, doubts, ABORTED_FACTOR if steps.missing else 1)
    answer = _fresh_answer(study, rule)
    if answer is not None and _expected(answer) == inventory.images:
        too = f"{answer.source} counts {plural(inventory.images, 'instance')} too"
        return _proven(study, rule, Evidence.SOURCE_COUNT, too)
    if inventory.says_declared and not _owes_answer(study, rule):
        return _proven(study, rule, Evidence.DECLARED, inventory.text)
    return _timed(study, inventory, rule)


def event_time(study: StudyEvidence, at: datetime) -> datetime:
    """Return the time of an event, but no later than the study was noticed in its present state.

    If an event is dated later, the clock that dated it was ahead, and the study must not wait until that time.
    """
    return at if study.noticed_at is None else min(at, study.noticed_at)


def settled_at(study: StudyEvidence, rule: CompletionRule) -> datetime:
    """Return the time from which the last instance counts as settled."""
    return event_time(study, study.last_received_at) + timedelta(seconds=rule.settled)


def _steps_text(steps: StepNumbers) -> str:
    ended = steps.completed + steps.discontinued
    what = "the procedure step is" if ended == 1 else f"{ended} procedure steps are"
    but = f" ({steps.discontinued} discontinued)" if steps.discontinued else ""
    return f"{what} completed{but} and all {plural(steps.referenced, 'instance')} listed are here"


def _proven(study: StudyEvidence, rule: CompletionRule, evidence: Evidence, says: str) -> Basis:
    if study.open_associations or study.aborted_associations:
        return Basis(evidence, (says,), rule.quiet, _condition(study, rule.quiet))
    return Basis(evidence, (says,), rule.settled, _condition(study, rule.settled))


def _doubted(study: StudyEvidence, rule: CompletionRule, doubts: tuple[str, ...], factor: int) -> Basis:
    only_aborted = study.aborted_associations and not study.open_associations
    seconds = rule.quiet * max(factor, ABORTED_FACTOR if only_aborted else 1)
    return Basis(Evidence.QUIET, doubts, seconds, _condition(study, seconds))


def _timed(study: StudyEvidence, inventory: Inventory, rule: CompletionRule) -> Basis:
    """Return the evidence of a study for which only the passing of time decides."""
    if study.open_associations:
        return Basis(Evidence.QUIET, (), rule.quiet, _condition(study, rule.quiet))
    if study.aborted_associations:
        seconds = rule.quiet * ABORTED_FACTOR
        return Basis(Evidence.QUIET, (), seconds, _condition(study, seconds))
    evidence = Evidence.RELEASED
    if inventory.says_regular:
        evidence = Evidence.DECLARED if inventory.says_declared else Evidence.GEOMETRY
    says = (inventory.text,) if inventory.text else tuple(s.text for s in inventory.series if s.untrue)
    return Basis(evidence, says, rule.released, _condition(study, rule.released))


def _condition(study: StudyEvidence, seconds: float) -> str:
    if study.open_associations:
        return f"quiet for {seconds:g} s with an association still open"
    if study.aborted_associations:
        return f"quiet for {seconds:g} s after an aborted association"
    return f"all associations released and quiet for {seconds:g} s"


def _doubts(study: StudyEvidence, inventory: Inventory, rule: CompletionRule) -> tuple[str, ...]:
    """Return the findings that speak against completeness."""
    steps = inventory.steps
    found = []
    if steps.missing:
        found.append(f"{steps.referenced - steps.missing} of {steps.referenced} instances that procedure steps list")
    if steps.discontinued and not (steps.completed or steps.in_progress):
        found.append("the procedure was discontinued")
    answer = _fresh_answer(study, rule)
    if answer is not None and (expected := _expected(answer)) is not None and expected > inventory.images:
        found.append(f"{inventory.images} of {expected} instances that {answer.source} counts")
    found += [f"{series.text} in series {series.series_instance_uid}" for series in inventory.short]
    return tuple(found)


def _fresh_answer(study: StudyEvidence, rule: CompletionRule) -> SourceAnswer | None:
    """Return the last answer of the source PACS if it was asked after everything here had come and settled."""
    if rule.source is None or not study.answers or study.answers[-1].since < settled_at(study, rule):
        return None
    return study.answers[-1]


def _owes_answer(study: StudyEvidence, rule: CompletionRule) -> bool:
    """Return True if the source PACS was not asked yet since the last instance.

    The count of the source is stronger evidence than a declared one. A study waits for it no longer than `released`
    seconds. A source that could not be reached counts as having answered.
    """
    return rule.source is not None and _fresh_answer(study, rule) is None


def _expected(answer: SourceAnswer) -> int | None:
    """Return the number of instances in the PACS that can have come here; None if the PACS gave no count.

    A PACS that is also a destination holds results of this node. They are left out, because nothing says when they come
    back, or whether they do.
    """
    return None if answer.count is None else answer.count - answer.own
