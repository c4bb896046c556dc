"""When a study is complete: pure decisions over the evidence storage has gathered.

DICOM has no message that says "this was all". What there is, the strongest first (`Evidence`):

1. MPPS COMPLETED (PS3.4 annex F): every procedure step of the study ended, and all instances they reference are here.
   A step that is IN PROGRESS keeps the study waiting up to the maximum age. DISCONTINUED steps count with what they
   reference, but where all are discontinued nobody says that the examination was done, so the timer decides.
2. The number of instances the source PACS counts by C-FIND (Number of Study Related Instances, PS3.4 C.6.2.1) is the
   number here, results of this node left out on both sides.
3. The counts the images declare are here, for every series (see `dicom_node.complete.inventory`).
4. Every series is a regular stack without a gap. It cannot tell a stack that was cut off at its end, so it waits as
   long as 5 and only names what was seen. So do multi-frame instances, each whole by itself: scanners send one after
   another, some each over an association of its own.
5. Every association that fed the study was released, and it is quiet.
6. The quiet period, with an association open, or after one was aborted.
7. The maximum age.

Nothing is taken for quiet that the index has not got to: an instance that was acknowledged and waits in a journal has
no row yet. All but the maximum age is decided by the time until which everything is indexed.

Evidence that something is missing makes a study wait for the quiet period, and is said when the timer ends the
waiting. Only MPPS settles it: it lists the very instances, while 2 and 3 must not be contradicted. An aborted
association always makes the study wait longer: the scanner will most likely try again.

What comes after all opens the study's next revision, so a wrong decision costs a computation, never an image.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dicom_node.complete.inventory import Inventory, SeriesCount, plural
from storage.records.completion import (
    AssociationNumbers,
    Completion,
    CompletionNumbers,
    Evidence,
    Grade,
    SeriesNumbers,
    SourceNumbers,
    StepNumbers,
    Waiting,
)
from storage.records.evidence import AssociationEnd, FeedingAssociation, SourceAnswer, StudyEvidence
from storage.records.procedure_steps import ProcedureStepState

ABORTED_FACTOR = 2
"""Of the quiet period: after an aborted association, and where a procedure step lists what is not here."""

INDEX_BEHIND = timedelta(seconds=5)
"""From when on it is worth saying: the index moves on ten times a second where nothing keeps it."""

FIRST_ASK_AGAIN = timedelta(seconds=5)
LONGEST_ASK_AGAIN = timedelta(seconds=60)


@dataclass(frozen=True)
class CompletionRule:
    """Waiting times in seconds, `settled` <= `released` <= `quiet`.

    `settled` is enough for evidence 1 to 3 once every association that fed the study was released; `released` is
    enough without it. `quiet` follows the last instance while an association is still open, where something is
    missing, or after an association was aborted (doubled, unless 1 to 3 say that all is here). `maximum_age` ends the
    waiting for a study whose instances never stop coming, counted from the first instance of the revision. `source`
    is the PACS that is asked for its count, where one is configured.
    """

    quiet: float
    released: float
    settled: float
    maximum_age: float
    source: str | None = None


@dataclass(frozen=True)
class _Basis:
    """What would complete the study now. `seconds` None: nothing but its age."""

    evidence: Evidence
    says: tuple[str, ...]
    seconds: float | None
    condition: str


def decide(
    study: StudyEvidence, inventory: Inventory, rule: CompletionRule, now: datetime, filed: datetime | None
) -> Completion | Waiting:
    """`inventory` is what the images of the study, as of the same moment, say of themselves. Everything acknowledged
    before `filed`, which was asked for first, is part of both; None where nobody knows (`filed_until`).
    """
    basis = _basis(study, inventory, rule)
    behind = _behind(now, filed)
    if behind:
        basis = replace(basis, says=(*basis.says, behind))
    images = plural(study.instances, "instance")
    numbers = _numbers(study, inventory)
    since = quiet_since(study, inventory)
    oldest_at = _oldest_at(study, rule)
    until = oldest_at
    if basis.seconds is not None:
        quiet_at = since + timedelta(seconds=basis.seconds)
        if filed is not None and min(now, filed) >= quiet_at:
            reason = "; ".join((images, *basis.says, basis.condition))
            return Completion(basis.evidence, reason, numbers, basis.seconds, since)
        until = min(max(now, quiet_at), oldest_at)
    if now >= oldest_at:
        moving = "while the index is behind" if behind else "while instances still arrive"
        still = basis.condition if basis.seconds is None else moving
        reason = "; ".join((images, *basis.says, f"maximum age of {rule.maximum_age:g} s reached {still}"))
        return Completion(Evidence.MAXIMUM_AGE, reason, numbers, rule.maximum_age, study.revision_started_at)
    if basis.seconds is None:
        reason = "; ".join((f"{images} so far", *basis.says, f"waits {basis.condition}, up to {rule.maximum_age:g} s"))
        return Waiting(until, Evidence.MAXIMUM_AGE, reason, numbers)
    return Waiting(
        until, basis.evidence, "; ".join((f"{images} so far", *basis.says, f"complete once {basis.condition}")), numbers
    )


def may_end(study: StudyEvidence, rule: CompletionRule, now: datetime, filed: datetime | None) -> bool:
    """False while no evidence whatever could complete the study, so that nobody need look at its images."""
    settled_at = quiet_since(study) + timedelta(seconds=rule.settled)
    return now >= _oldest_at(study, rule) or (filed is not None and min(now, filed) >= settled_at)


def _oldest_at(study: StudyEvidence, rule: CompletionRule) -> datetime:
    return _noticed(study, study.revision_started_at) + timedelta(seconds=rule.maximum_age)


def _behind(now: datetime, filed: datetime | None) -> str:
    """That the index says nothing of what came last; empty where it is up to date."""
    if filed is None:
        return "the index has not been through the journals yet"
    return f"the index is behind since {filed:%H:%M:%S} UTC" if now - filed > INDEX_BEHIND else ""


def _noticed(study: StudyEvidence, at: datetime) -> datetime:
    """A time of an event, which cannot be later than when it was noticed: the clock that gave it was ahead, and a
    study is not to wait until it is that time again.
    """
    return at if study.noticed_at is None else min(at, study.noticed_at)


def ask_at(study: StudyEvidence, rule: CompletionRule) -> datetime | None:
    """When the source PACS is to be asked (again) for its count; None when its answer could not change anything.

    Once what came has settled; then ever more seldom, counted over the whole revision. What came since it answered is
    not kept waiting for that.
    """
    if rule.source is None or any(state is ProcedureStepState.IN_PROGRESS for _, state in study.steps):
        return None
    due = _noticed(study, study.last_received_at) + timedelta(seconds=rule.settled)
    if not study.answers:
        return due
    answered_at = study.answers[-1].at
    if answered_at < due:
        return max(due, answered_at + FIRST_ASK_AGAIN)
    return answered_at + min(FIRST_ASK_AGAIN * 2 ** min(len(study.answers) - 1, 10), LONGEST_ASK_AGAIN)


def whole_series(study: StudyEvidence, inventory: Inventory, rule: CompletionRule, now: datetime) -> Mapping[str, str]:
    """The series whose instances are all here, by all that can be known, with the reason; for `start = "inputs"`.

    A declared count is enough once it has settled, and so is a completed procedure step that lists the series. Other
    series are whole when every association that could have fed them was released. Rows do not say which association
    brought an instance, so those count that were open when the series arrived.
    """
    return {
        series.series_instance_uid: reason
        for series in inventory.series
        if series.grade is not Grade.SHORT and (reason := _whole(study, series, rule, now))
    }


def quiet_since(study: StudyEvidence, inventory: Inventory | None = None) -> datetime:
    """The last time that something happened to the study, or that it was noticed."""
    times = [study.last_received_at, study.last_association_ended_at, study.noticed_at]
    if inventory is not None:
        times.append(inventory.steps_ended_at)
    return max(_noticed(study, t) for t in times if t is not None)


def _basis(study: StudyEvidence, inventory: Inventory, rule: CompletionRule) -> _Basis:
    steps = inventory.steps
    running = sum(state is ProcedureStepState.IN_PROGRESS for _, state in study.steps)
    if running:
        what = "while a procedure step is" if running == 1 else f"while {running} procedure steps are"
        return _Basis(Evidence.MAXIMUM_AGE, _doubts(study, inventory, rule), None, f"{what} IN PROGRESS")
    if steps.completed and steps.referenced and not steps.missing:
        return _proven(study, rule, Evidence.PROCEDURE_STEP, _steps_text(steps))
    if doubts := _doubts(study, inventory, rule):
        return _doubted(study, rule, doubts, ABORTED_FACTOR if steps.missing else 1)
    answer = _fresh(study, rule)
    if answer is not None and _expected(answer) == inventory.images:
        too = f"{answer.source} counts {plural(inventory.images, 'instance')} too"
        return _proven(study, rule, Evidence.SOURCE_COUNT, too)
    if inventory.says_declared and not _owes_answer(study, rule):
        return _proven(study, rule, Evidence.DECLARED, inventory.text)
    return _timed(study, inventory, rule)


def _steps_text(steps: StepNumbers) -> str:
    ended = steps.completed + steps.discontinued
    what = "the procedure step is" if ended == 1 else f"{ended} procedure steps are"
    but = f" ({steps.discontinued} discontinued)" if steps.discontinued else ""
    return f"{what} completed{but} and all {plural(steps.referenced, 'instance')} listed are here"


def _proven(study: StudyEvidence, rule: CompletionRule, evidence: Evidence, says: str) -> _Basis:
    if study.open_associations or study.aborted_associations:
        return _Basis(evidence, (says,), rule.quiet, _condition(study, rule.quiet))
    return _Basis(evidence, (says,), rule.settled, _condition(study, rule.settled))


def _doubted(study: StudyEvidence, rule: CompletionRule, doubts: tuple[str, ...], factor: int) -> _Basis:
    seconds = rule.quiet * max(factor, ABORTED_FACTOR if _only_aborted(study) else 1)
    return _Basis(Evidence.QUIET, doubts, seconds, _condition(study, seconds))


def _timed(study: StudyEvidence, inventory: Inventory, rule: CompletionRule) -> _Basis:
    """No more is known than when what came."""
    if study.open_associations:
        return _Basis(Evidence.QUIET, (), rule.quiet, _condition(study, rule.quiet))
    if study.aborted_associations:
        seconds = rule.quiet * ABORTED_FACTOR
        return _Basis(Evidence.QUIET, (), seconds, _condition(study, seconds))
    evidence = Evidence.RELEASED
    if inventory.says_regular:
        evidence = Evidence.DECLARED if inventory.says_declared else Evidence.GEOMETRY
    says = (inventory.text,) if inventory.text else tuple(s.text for s in inventory.series if s.untrue)
    return _Basis(evidence, says, rule.released, _condition(study, rule.released))


def _only_aborted(study: StudyEvidence) -> bool:
    return bool(study.aborted_associations) and not study.open_associations


def _condition(study: StudyEvidence, seconds: float) -> str:
    if study.open_associations:
        return f"quiet for {seconds:g} s with an association still open"
    if study.aborted_associations:
        return f"quiet for {seconds:g} s after an aborted association"
    return f"all associations released and quiet for {seconds:g} s"


def _doubts(study: StudyEvidence, inventory: Inventory, rule: CompletionRule) -> tuple[str, ...]:
    """What speaks against completeness."""
    steps = inventory.steps
    found = []
    if steps.missing:
        found.append(f"{steps.referenced - steps.missing} of {steps.referenced} instances that procedure steps list")
    if steps.discontinued and not (steps.completed or steps.in_progress):
        found.append("the procedure was discontinued")
    answer = _fresh(study, rule)
    if answer is not None and (expected := _expected(answer)) is not None and expected > inventory.images:
        found.append(f"{inventory.images} of {expected} instances that {answer.source} counts")
    found += [f"{series.text} in series {series.series_instance_uid}" for series in inventory.short]
    return tuple(found)


def _fresh(study: StudyEvidence, rule: CompletionRule) -> SourceAnswer | None:
    """The last answer of the source PACS, where it was asked after everything here had come and settled."""
    settled_at = _noticed(study, study.last_received_at) + timedelta(seconds=rule.settled)
    if rule.source is None or not study.answers or study.answers[-1].at < settled_at:
        return None
    return study.answers[-1]


def _owes_answer(study: StudyEvidence, rule: CompletionRule) -> bool:
    """Whether the source PACS was not asked yet since the last instance: its count is stronger than a declared one.
    Whoever waits for it waits for `released` at most; one that cannot be asked has given its answer.
    """
    return rule.source is not None and _fresh(study, rule) is None


def _expected(answer: SourceAnswer) -> int | None:
    """What the PACS holds that can have come here. It holds our results too, where it is a destination: they are no
    evidence, and nothing says when they come back, or whether.
    """
    return None if answer.count is None else answer.count - answer.own


def _numbers(study: StudyEvidence, inventory: Inventory) -> CompletionNumbers:
    open_, aborted = study.open_associations, study.aborted_associations
    return CompletionNumbers(
        instances=study.instances,
        own_results=inventory.own,
        associations=AssociationNumbers(open_, aborted, released=len(study.associations) - open_ - aborted),
        series=tuple(
            SeriesNumbers(s.series_instance_uid, s.here, s.declared, s.grade, s.text) for s in inventory.series
        ),
        procedure_steps=inventory.steps if study.steps else None,
        source=_source_numbers(study.answers[-1]) if study.answers else None,
    )


def _source_numbers(answer: SourceAnswer) -> SourceNumbers:
    return SourceNumbers(answer.source, answer.count, answer.own, answer.problem, answer.at)


def _whole(study: StudyEvidence, series: SeriesCount, rule: CompletionRule, now: datetime) -> str:
    """Why a series is whole; empty where that is not known."""

    def quiet(seconds: float, since: datetime = series.last_received_at) -> bool:
        return now >= since + timedelta(seconds=seconds)

    if series.in_completed_step and quiet(rule.settled):
        return "listed by a completed procedure step, whose instances are all here"
    if series.grade is Grade.DECLARED and quiet(rule.settled):
        return series.text
    if series.grade is Grade.MULTI_FRAME:  # each instance is whole by itself, but another one may follow
        return f"{series.text}; quiet for {rule.released:g} s" if quiet(rule.released) else ""
    feeding = [a for a in study.associations if _may_have_fed(a, series)]
    released = all(a.end is AssociationEnd.RELEASED for a in feeding)
    ended = max((a.ended_at for a in feeding if a.ended_at is not None), default=series.last_received_at)
    if released and feeding and quiet(rule.released, max(ended, series.last_received_at)):
        return (
            f"{series.text or plural(series.here, 'image')}; its association released and quiet for {rule.released:g} s"
        )
    return ""


def _may_have_fed(association: FeedingAssociation, series: SeriesCount) -> bool:
    return association.opened_at <= series.last_received_at and (
        association.ended_at is None or association.ended_at >= series.first_received_at
    )
