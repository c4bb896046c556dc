"""When a study is complete: arrivals over time, swept once a second by a fake clock, against the decisions and reasons
expected; then the single rules."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from dicom_node.complete.decision import decide_completion, may_complete, quiet_since
from dicom_node.complete.inventory import take_inventory
from dicom_node.complete.rule import CompletionRule
from dicom_node.complete.source_pacs import ask_at
from dicom_node.complete.whole_series import whole_series
from storage.records.completion import Completion, Evidence, Waiting
from storage.records.evidence import (
    AssociationEnd,
    FeedingAssociation,
    InstanceEvidence,
    SourceAnswer,
    StepEvidence,
    StudyContents,
    StudyEvidence,
)
from storage.records.instances import Facts
from storage.records.procedure_steps import ProcedureStepState

START = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
RULE = CompletionRule(quiet=30, released=10, settled=2, maximum_age=600)
WITH_SOURCE = replace(RULE, source="archive")
MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
SR = "1.2.840.10008.5.1.4.1.1.88.33"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SILENT = Facts()
RELEASED, ABORTED = AssociationEnd.RELEASED, AssociationEnd.ABORTED
IN_PROGRESS, COMPLETED, DISCONTINUED = ProcedureStepState


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@dataclass
class Node:
    """The rows that storage would hold. A late instance opens the next revision, as `storage.log.filing` has it."""

    rule: CompletionRule = RULE
    now: float = 0.0
    complete: bool = False
    revision: int = 1
    started: float = 0.0
    last: float = 0.0
    instances: dict[str, InstanceEvidence] = field(default_factory=dict)
    associations: dict[str, FeedingAssociation] = field(default_factory=dict)
    open_before: dict[str, FeedingAssociation] = field(default_factory=dict)
    steps: dict[str, StepEvidence] = field(default_factory=dict)
    answers: list[SourceAnswer] = field(default_factory=list)
    pacs: int | str = 0  # the count of the source PACS, or why it gives none
    own_at_source: int = 0

    def opens(self, association: str, calling: str = "MR1") -> None:
        self.open_before[association] = FeedingAssociation(calling, at(self.now))

    def ends(self, association: str, end: AssociationEnd = RELEASED) -> None:
        for kept in (self.open_before, self.associations):
            if association in kept:
                kept[association] = replace(kept[association], ended_at=at(self.now), end=end)

    def brings(self, association: str, uid: str, facts: Facts, sop_class: str = MR, own: bool = False) -> None:
        if not self.instances:
            self.started = self.now
        if self.complete and uid not in self.instances:
            self.complete, self.revision, self.started = False, self.revision + 1, self.now
            self.associations, self.answers = {}, []
        if not self.complete:
            self.associations[association] = self.open_before[association]
            self.last = self.now
        series = uid.rpartition(".")[0]
        self.instances.setdefault(uid, InstanceEvidence(uid, sop_class, series, at(self.now), facts, own))

    @property
    def evidence(self) -> StudyEvidence:
        steps = tuple((uid, step.state) for uid, step in self.steps.items())
        return StudyEvidence(
            "1.9", self.revision, len(self.instances), at(self.started), at(self.last),
            tuple(self.associations.values()), steps, tuple(self.answers),
        )  # fmt: skip

    @property
    def contents(self) -> StudyContents:
        return StudyContents(tuple(self.instances.values()), tuple(self.steps.values()))

    def asks(self) -> None:
        due = ask_at(self.evidence, self.rule)
        if due is not None and at(self.now) >= due:
            count, problem = (self.pacs, "") if isinstance(self.pacs, int) else (None, self.pacs)
            self.answers.append(SourceAnswer(at(self.now), "archive", count, self.own_at_source, problem))


Event = tuple[float, Callable[[Node], None]]


def simulate(
    events: Sequence[Event], rule: CompletionRule = RULE, until: float = 2000
) -> list[tuple[float, Completion]]:
    """Plays the events and sweeps every second; every completion with its second."""
    node = Node(rule)
    waiting = sorted(events, key=lambda e: e[0])
    found: list[tuple[float, Completion]] = []
    for second in range(int(until)):
        while waiting and waiting[0][0] <= second:
            node.now, event = waiting.pop(0)
            event(node)
        node.now = float(second)
        if node.instances and not node.complete:
            decision = decide_completion(node.evidence, take_inventory(node.contents), rule, at(second), at(second))
            if isinstance(decision, Completion):
                assert may_complete(node.evidence, rule, at(second), at(second))  # or nobody would have looked
                node.complete = True
                found.append((second, decision))
            else:
                assert decision.until > at(second)
                node.asks()
    return found


# -- what scanners do ----------------------------------------------------------------------------------------------


def opens(second: float, name: str, calling: str = "MR1") -> Event:
    return second, lambda node: node.opens(name, calling)


def releases(second: float, name: str) -> Event:
    return second, lambda node: node.ends(name)


def aborts(second: float, name: str) -> Event:
    return second, lambda node: node.ends(name, ABORTED)


def brings(second: float, association: str, uid: str, facts: Facts = SILENT, sop_class: str = MR) -> Event:
    return second, lambda node: node.brings(association, uid, facts, sop_class)


def own_result(second: float, association: str, uid: str) -> Event:
    return second, lambda node: node.brings(association, uid, Facts(), SR, own=True)


def step(second: float, state: ProcedureStepState, uids: Sequence[str] = (), name: str = "step") -> Event:
    ended = None if state is IN_PROGRESS else at(second)

    def change(node: Node) -> None:
        node.steps[name] = StepEvidence(state, frozenset(uids), ended)

    return second, change


def pacs(second: float, count: int | str, own: int = 0) -> Event:
    def change(node: Node) -> None:
        node.pacs, node.own_at_source = count, own

    return second, change


def uids(series: str, count: int, start: int = 0) -> list[str]:
    return [f"{series}.{n}" for n in range(start, start + count)]


def slices(
    second: float,
    association: str,
    series: str,
    numbers: Sequence[int],
    *,
    declared: int | None = None,
    rate: float = 10,
    temporal: tuple[int, int] | None = None,
    positioned: bool = True,
) -> Iterator[Event]:
    """Axial slices 4 mm apart, `rate` a second; `temporal` is (identifier, number of temporal positions)."""
    for i, n in enumerate(numbers):
        facts = Facts(
            instance_number=n, acquisition_number=1, images_in_acquisition=declared,
            temporal_position=temporal and temporal[0], temporal_positions=temporal and temporal[1],
            position=(0.0, 0.0, 4.0 * n) if positioned else None, orientation=AXIAL if positioned else None,
        )  # fmt: skip
        suffix = f"{temporal[0]}{n:03}" if temporal else str(n)
        yield brings(second + i / rate, association, f"{series}.{suffix}", facts)


def sent(
    series: str, numbers: Sequence[int], *, begin: float = 0, end: float | None = 5, name: str = "a",
    declared: int | None = None, positioned: bool = True, finish: Callable[[float, str], Event] = releases,
) -> list[Event]:  # fmt: skip
    """One association that brings one series within `end` - `begin` seconds. It stays open where `end` is None."""
    rate = len(numbers) / (((begin + 4) if end is None else end) - begin - 0.5)
    events = [opens(begin, name)]
    events += slices(begin, name, series, numbers, declared=declared, rate=rate, positioned=positioned)
    return events if end is None else [*events, finish(end, name)]


def interleaved() -> list[Event]:
    """Two series whose slices alternate over one association."""
    one, two = slices(0, "a", "1.1", range(20), declared=20), slices(0, "a", "1.2", range(30), declared=30, rate=6)
    return [opens(0, "a"), *one, *two, releases(6, "a")]


ALL = list(range(170))
ONE_MISSING = [n for n in ALL if n != 169]
HOLE = [n for n in range(20) if n != 7]
INSTANCES = uids("1.1", 20)

Expected = tuple[float, Evidence, str]
SCENARIOS: dict[str, tuple[list[Event], CompletionRule, list[Expected]]] = {
    # -- timers, without anything better
    "one association, headers that say nothing": (
        sent("1.1", range(20), positioned=False), RULE,
        [(15, Evidence.RELEASED, "20 instances; all associations released and quiet for 10 s")],
    ),
    "an association that stays open": (
        sent("1.1", range(20), end=None, positioned=False), RULE,
        [(34, Evidence.QUIET, "20 instances; quiet for 30 s with an association still open")],
    ),
    "instances that never stop coming": (
        [opens(0, "a"), *slices(0, "a", "1.1", range(700), rate=1, positioned=False)], RULE,
        [(600, Evidence.MAXIMUM_AGE, "601 instances; maximum age of 600 s reached while instances still arrive"),
         (729, Evidence.QUIET, "700 instances; quiet for 30 s with an association still open")],
    ),
    "regular slices, released": (
        sent("1.1", range(20)), RULE,
        [(15, Evidence.GEOMETRY,
          "20 instances; 20 slices evenly spaced without a gap; all associations released and quiet for 10 s")],
    ),
    # -- counts that the images declare
    "interleaved series": (
        interleaved(), RULE,
        [(8, Evidence.DECLARED, "50 instances; 50 of 50 declared images in 2 series; all associations released and "
                                "quiet for 2 s")],
    ),
    "two associations at once, one slower": (
        [*sent("1.1", range(20), declared=20), *sent("1.2", range(30), name="b", end=21, declared=30)], RULE,
        [(23, Evidence.DECLARED, "50 instances; 50 of 50 declared images in 2 series; all associations released")],
    ),
    "declared counts, but the association stays open": (
        sent("1.1", range(20), end=None, declared=20), RULE,
        [(34, Evidence.DECLARED, "20 instances; 20 of 20 declared images; quiet for 30 s with an association still")],
    ),
    "one slice missing": (
        sent("1.1", ONE_MISSING, declared=170), RULE,
        [(35, Evidence.QUIET, "169 instances; 169 of 170 declared images in series 1.1; all associations released and "
                              "quiet for 30 s")],
    ),
    "one slice late": (
        [*sent("1.1", ONE_MISSING, declared=170), *sent("1.1", [169], begin=25, end=26, name="b", declared=170)], RULE,
        [(28, Evidence.DECLARED, "170 instances; 170 of 170 declared images; all associations released and quiet")],
    ),
    "one slice too late": (
        [*sent("1.1", ONE_MISSING, declared=170), *sent("1.1", [169], begin=90, end=91, name="b", declared=170)], RULE,
        [(35, Evidence.QUIET, "169 of 170 declared images"),
         (93, Evidence.DECLARED, "170 instances; 170 of 170 declared images")],
    ),
    "a hole in the stack": (
        sent("1.1", HOLE), RULE,
        [(35, Evidence.QUIET, "19 instances; a gap of 1 slice between 19 in series 1.1; all associations released")],
    ),
    "a gap of minutes between two series": (
        [*sent("1.1", range(20), declared=20), *sent("1.2", range(30), begin=200, end=205, name="b", declared=30)],
        RULE,
        [(7, Evidence.DECLARED, "20 of 20 declared images"),
         (207, Evidence.DECLARED, "50 instances; 50 of 50 declared images in 2 series")],
    ),
    "more images than declared": (
        sent("1.1", range(20), declared=12), RULE,
        [(15, Evidence.GEOMETRY, "20 instances; 20 slices evenly spaced without a gap (12 were declared); all assoc")],
    ),
    "more images than declared, and no geometry": (
        sent("1.1", range(20), declared=12, positioned=False), RULE,
        [(15, Evidence.RELEASED, "20 instances; 20 images (12 were declared); all associations released and quiet")],
    ),
    "fewer images than declared, for no reason": (
        sent("1.1", range(20), declared=500), RULE, [(35, Evidence.QUIET, "20 of 500 declared images in series 1.1")],
    ),
    "every image calls itself the only one": (
        sent("1.1", range(20), declared=1, positioned=False), RULE,
        [(15, Evidence.RELEASED, "20 instances; all assoc")],
    ),
    "a temporal series": (
        [opens(0, "a"), *(e for t in (1, 2, 3) for e in slices(t, "a", "1.1", range(5), temporal=(t, 3))),
         releases(5, "a")], RULE,
        [(7, Evidence.DECLARED, "15 instances; 15 of 15 declared images; all associations released and quiet for 2 s")],
    ),
    "a temporal series without its last time point": (
        [opens(0, "a"), *(e for t in (1, 2) for e in slices(t, "a", "1.1", range(5), temporal=(t, 3))),
         releases(5, "a")], RULE,
        [(35, Evidence.QUIET, "10 of 15 declared images in series 1.1")],
    ),
    "an Enhanced instance": (
        [opens(0, "a"), brings(3, "a", "1.1.1", Facts(frames=120), ENHANCED_MR), releases(4, "a")], RULE,
        [(14, Evidence.RELEASED, "1 instance; 1 multi-frame instance of 120 frames; all associations released and "
                                 "quiet for 10 s")],
    ),
    "Enhanced instances, each over an association of its own": (
        [event for n in range(4) for event in (
            opens(5 * n, f"a{n}"), brings(5 * n + 1, f"a{n}", f"1.1.{n}", Facts(frames=120), ENHANCED_MR),
            releases(5 * n + 1, f"a{n}"),
        )], RULE,
        [(26, Evidence.RELEASED, "4 instances; 4 multi-frame instances of 480 frames; all associations released")],
    ),
    "an Enhanced instance and a declared series": (
        [*sent("1.1", range(20), declared=20), opens(0, "b"), brings(1, "b", "1.2.1", Facts(frames=60), ENHANCED_MR),
         releases(2, "b")], RULE,
        [(15, Evidence.RELEASED, "21 instances; 20 of 20 declared images in 1 series, 1 multi-frame series; all")],
    ),
    "an Enhanced instance that a procedure step lists": (
        [opens(0, "a"), brings(3, "a", "1.1.1", Facts(frames=120), ENHANCED_MR), releases(4, "a"),
         step(4, COMPLETED, ["1.1.1"])], RULE,
        [(6, Evidence.PROCEDURE_STEP, "the procedure step is completed and all 1 instance listed are here")],
    ),
    "a report among the images declares nothing": (
        [*sent("1.1", range(20), declared=20), opens(5, "b"), brings(6, "b", "1.5.1", sop_class=SR), releases(6, "b")],
        RULE, [(8, Evidence.DECLARED, "21 instances; 20 of 20 declared images")],
    ),
    # -- aborted associations
    "abort and nothing more": (
        sent("1.1", range(20), finish=aborts, positioned=False), RULE,
        [(65, Evidence.QUIET, "20 instances; quiet for 60 s after an aborted association")],
    ),
    "abort within a declared series": (
        sent("1.1", range(100), finish=aborts, declared=170), RULE,
        [(65, Evidence.QUIET, "100 of 170 declared images in series 1.1; quiet for 60 s after an aborted association")],
    ),
    "abort and resend": (
        [*sent("1.1", range(100), finish=aborts, declared=170),
         *sent("1.1", ALL, begin=20, end=30, name="b", declared=170)], RULE,
        [(60, Evidence.DECLARED, "170 instances; 170 of 170 declared images; quiet for 30 s after an aborted assoc")],
    ),
    # -- MPPS
    "MPPS completed before the images": (
        [step(0, COMPLETED, INSTANCES), *sent("1.1", range(20), begin=10, end=15, positioned=False)], RULE,
        [(17, Evidence.PROCEDURE_STEP, "20 instances; the procedure step is completed and all 20 instances listed are "
                                       "here; all associations released and quiet for 2 s")],
    ),
    "MPPS completed after the images": (
        [step(0, IN_PROGRESS), *sent("1.1", range(20), positioned=False), step(200, COMPLETED, INSTANCES)], RULE,
        [(202, Evidence.PROCEDURE_STEP, "all 20 instances listed are here")],
    ),
    "MPPS holds two series together that come minutes apart": (
        [step(0, IN_PROGRESS), *sent("1.1", range(20), declared=20),
         *sent("1.2", range(20), begin=300, end=305, name="b", declared=20),
         step(310, COMPLETED, [*INSTANCES, *uids("1.2", 20)])], RULE,
        [(312, Evidence.PROCEDURE_STEP, "40 instances; the procedure step is completed and all 40 instances listed")],
    ),
    "MPPS in progress for ever": (
        [step(0, IN_PROGRESS), *sent("1.1", range(20), declared=20)], RULE,
        [(600, Evidence.MAXIMUM_AGE,
          "20 instances; maximum age of 600 s reached while a procedure step is IN PROGRESS")],
    ),
    "MPPS completed, an instance it lists is missing": (
        [*sent("1.1", range(19), positioned=False), step(6, COMPLETED, INSTANCES)], RULE,
        [(66, Evidence.QUIET, "19 instances; 19 of 20 instances that procedure steps list; all associations released "
                              "and quiet for 60 s")],
    ),
    "MPPS completed wins over declared counts": (
        [*sent("1.1", range(20), declared=24), step(6, COMPLETED, INSTANCES)], RULE,
        [(8, Evidence.PROCEDURE_STEP, "all 20 instances listed are here")],
    ),
    "MPPS discontinued": (
        [*sent("1.1", range(20), declared=20), step(6, DISCONTINUED, INSTANCES)], RULE,
        [(36, Evidence.QUIET, "20 instances; the procedure was discontinued; all associations released and quiet for "
                              "30 s")],
    ),
    "MPPS discontinued, then done again": (
        [step(0, DISCONTINUED, uids("1.1", 5), "first"), *sent("1.1", range(5), positioned=False),
         step(20, IN_PROGRESS), *sent("1.2", range(20), begin=30, end=35, name="b", positioned=False),
         step(40, COMPLETED, uids("1.2", 20))], RULE,
        [(42, Evidence.PROCEDURE_STEP, "25 instances; 2 procedure steps are completed (1 discontinued) and all 25 "
                                       "instances listed are here")],
    ),
    "MPPS that lists nothing": (
        [*sent("1.1", range(20), positioned=False), step(6, COMPLETED)], RULE,
        [(16, Evidence.RELEASED, "20 instances; all associations released and quiet for 10 s")],
    ),
    "MPPS completed, but the association was aborted": (
        [*sent("1.1", range(20), finish=aborts), step(6, COMPLETED, INSTANCES)], RULE,
        [(36, Evidence.PROCEDURE_STEP, "all 20 instances listed are here; quiet for 30 s after an aborted assoc")],
    ),
    # -- the source PACS
    "the PACS counts the same": (
        [pacs(0, 20), *sent("1.1", range(20), positioned=False)], WITH_SOURCE,
        [(8, Evidence.SOURCE_COUNT, "20 instances; archive counts 20 instances too; all associations released and "
                                    "quiet for 2 s")],
    ),
    "the PACS counts more": (
        [pacs(0, 40), *sent("1.1", range(20), declared=20)], WITH_SOURCE,
        [(35, Evidence.QUIET, "20 instances; 20 of 40 instances that archive counts; all associations released")],
    ),
    "the PACS counts more, and the rest comes": (
        [pacs(0, 40), *sent("1.1", range(20), declared=20), *sent("1.2", range(20), begin=20, end=25, name="b")],
        WITH_SOURCE, [(28, Evidence.SOURCE_COUNT, "40 instances; archive counts 40 instances too")],
    ),
    "the PACS has less than came here": (
        [pacs(0, 4), *sent("1.1", range(20), declared=20)], WITH_SOURCE,
        [(8, Evidence.DECLARED, "20 instances; 20 of 20 declared images; all associations released and quiet for 2 s")],
    ),
    "the PACS agrees, but a declared image is missing": (
        [pacs(0, 169), *sent("1.1", ONE_MISSING, declared=170)], WITH_SOURCE,
        [(35, Evidence.QUIET, "169 of 170 declared images in series 1.1")],
    ),
    "the PACS cannot be reached": (
        [pacs(0, "cannot be reached"), *sent("1.1", range(20), positioned=False)], WITH_SOURCE,
        [(15, Evidence.RELEASED, "20 instances; all associations released and quiet for 10 s")],
    ),
    "the PACS holds results of ours too": (
        [pacs(0, 22, own=2), *sent("1.1", range(20), positioned=False)], WITH_SOURCE,
        [(8, Evidence.SOURCE_COUNT, "20 instances; archive counts 20 instances too")],
    ),
    "the PACS sent one of our two results back": (
        [pacs(0, 22, own=2), *sent("1.1", range(20), end=None, positioned=False), own_result(3, "a", "2.25.1"),
         releases(5, "a")], WITH_SOURCE,
        [(7, Evidence.SOURCE_COUNT, "21 instances; archive counts 20 instances too")],
    ),
    "STAT is no evidence: it waits like any other": (
        [opens(0, "a"), *(brings(n / 10, "a", f"1.1.{n}", Facts(priority="STAT")) for n in range(20)),
         releases(5, "a")], RULE,
        [(15, Evidence.RELEASED, "20 instances; all associations released and quiet for 10 s")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_arrivals(name: str) -> None:
    events, rule, expected = SCENARIOS[name]
    found = simulate(events, rule)
    assert [(second, complete.evidence) for second, complete in found] == [(s, e) for s, e, _ in expected], [
        complete.reason for _, complete in found
    ]
    for (_, complete), (_, _, reason) in zip(found, expected, strict=True):
        assert reason in complete.reason


# -- single rules --------------------------------------------------------------------------------------------------


def played(events: Sequence[Event], until: float, rule: CompletionRule = RULE) -> Node:
    node = Node(rule)
    for second, event in sorted(events, key=lambda e: e[0]):
        if second <= until:
            node.now = second
            event(node)
    return node


def decided(node: Node, second: float) -> Completion | Waiting:
    return decide_completion(node.evidence, take_inventory(node.contents), node.rule, at(second), at(second))


@pytest.mark.parametrize("begin", ["released", "aborted", "open"])
def test_complete_at_the_second_and_not_before(begin: str) -> None:
    finish = {"released": releases, "aborted": aborts, "open": releases}[begin]
    node = played(sent("1.1", range(20), end=None if begin == "open" else 5, finish=finish, positioned=False), 5)
    needed = {"released": 10, "aborted": 60, "open": 30}[begin]
    since = (quiet_since(node.evidence) - START).total_seconds()
    waiting = decided(node, since + needed - 0.001)
    assert isinstance(waiting, Waiting)
    assert waiting.until == at(since + needed)
    assert isinstance(decided(node, since + needed), Completion)


def test_a_complete_study_keeps_what_was_counted() -> None:
    node = played([pacs(0, "is silent"), *sent("1.1", range(20), declared=20), step(5, COMPLETED, INSTANCES)], 5)
    node.rule = WITH_SOURCE
    node.now = 6.9
    node.asks()
    complete = decided(node, 8)
    assert isinstance(complete, Completion)
    data = complete.to_json()
    assert (data["evidence"], data["waited_seconds"], data["since"]) == ("MPPS", 2, at(5).isoformat())
    assert data["numbers"]["associations"] == {"open": 0, "aborted": 0, "released": 1}
    assert data["numbers"]["procedure_steps"]["referenced"] == 20
    assert data["numbers"]["source"]["problem"] == "is silent"
    (series,) = data["numbers"]["series"]
    assert (series["images"], series["declared"], series["evidence"]) == (20, 20, "declared count")


def test_a_waiting_study_says_what_it_waits_for() -> None:
    short = decided(played(sent("1.1", ONE_MISSING, declared=170), 10), 10)
    assert isinstance(short, Waiting)
    assert short.reason == (
        "169 instances so far; 169 of 170 declared images in series 1.1; complete once all associations released and "
        "quiet for 30 s"
    )
    held = decided(played([step(0, IN_PROGRESS), *sent("1.1", range(20))], 10), 10)
    assert isinstance(held, Waiting)
    assert held.reason == "20 instances so far; waits while a procedure step is IN PROGRESS, up to 600 s"
    assert held.until == at(600)


def test_what_is_indexed_late_is_not_taken_for_quiet() -> None:
    node = played(sent("1.1", range(20), positioned=False), 5)
    noticed = replace(node.evidence, noticed_at=at(100))
    inventory = take_inventory(node.contents)
    assert isinstance(decide_completion(noticed, inventory, RULE, at(109), at(109)), Waiting)
    assert isinstance(decide_completion(noticed, inventory, RULE, at(110), at(110)), Completion)
    assert not may_complete(noticed, RULE, at(101), at(101))


def test_it_is_not_quiet_as_long_as_the_index_is_behind() -> None:
    node = played(sent("1.1", range(20), positioned=False), 5)
    inventory = take_inventory(node.contents)
    for second, filed in ((15.1, 15), (16, 15.9), (200, 15)):
        assert may_complete(node.evidence, RULE, at(second), at(filed))
        assert isinstance(decide_completion(node.evidence, inventory, RULE, at(second), at(filed)), Completion)
    waiting = decide_completion(node.evidence, inventory, RULE, at(300), at(14.9))
    assert isinstance(waiting, Waiting)
    assert waiting.reason == (
        "20 instances so far; the index is behind since 08:00:14 UTC; complete once all associations released and "
        "quiet for 10 s"
    )
    assert waiting.until >= at(300)
    assert not may_complete(node.evidence, RULE, at(300), at(6))
    oldest = decide_completion(node.evidence, inventory, RULE, at(600), at(14))
    assert isinstance(oldest, Completion)
    assert "maximum age of 600 s reached while the index is behind" in oldest.reason
    assert may_complete(node.evidence, RULE, at(600), at(6))


def test_it_is_not_quiet_before_anything_was_indexed() -> None:
    node = played(sent("1.1", range(20), positioned=False), 5)
    assert not may_complete(node.evidence, RULE, at(300), None)
    waiting = decide_completion(node.evidence, take_inventory(node.contents), RULE, at(300), None)
    assert isinstance(waiting, Waiting)
    assert "the index has not been through the journals yet" in waiting.reason
    assert isinstance(decide_completion(node.evidence, take_inventory(node.contents), RULE, at(600), None), Completion)


def test_a_clock_that_was_ahead_keeps_no_study_waiting() -> None:
    node = played([pacs(0, 20), *sent("1.1", range(20), begin=9000, end=9005, positioned=False)], 9005, WITH_SOURCE)
    noticed = replace(node.evidence, noticed_at=at(100))
    inventory = take_inventory(node.contents)
    assert quiet_since(noticed, inventory) == at(100)
    assert ask_at(noticed, WITH_SOURCE) == at(102)
    assert isinstance(decide_completion(noticed, inventory, WITH_SOURCE, at(109), at(109)), Waiting)
    assert isinstance(decide_completion(noticed, inventory, WITH_SOURCE, at(110), at(110)), Completion)
    counted = replace(noticed, answers=(SourceAnswer(at(103), "archive", 20),))
    complete = decide_completion(counted, inventory, WITH_SOURCE, at(104), at(104))
    assert isinstance(complete, Completion)
    assert complete.evidence is Evidence.SOURCE_COUNT
    running = replace(noticed, steps=(("1.7", IN_PROGRESS),))
    assert isinstance(decide_completion(running, inventory, RULE, at(700), at(700)), Completion)  # its age


def test_the_source_is_asked_ever_more_seldom() -> None:
    node = played([pacs(0, "is silent"), *sent("1.1", range(20))], 5, WITH_SOURCE)
    asked = []
    for second in range(300):
        before, node.now = len(node.answers), float(second)
        node.asks()
        if len(node.answers) > before:
            asked.append(second)
    assert [b - a for a, b in pairwise(asked)] == [5, 10, 20, 40, 60, 60, 60]
    answered_at = node.answers[-1].at
    assert ask_at(node.evidence, WITH_SOURCE) == answered_at + timedelta(seconds=60)
    for came, due in ((1, 5), (10, 12)):  # seconds after its last answer
        late = replace(node.evidence, last_received_at=answered_at + timedelta(seconds=came))
        assert ask_at(late, WITH_SOURCE) == answered_at + timedelta(seconds=due)
    assert ask_at(node.evidence, RULE) is None  # none is configured
    held = played([step(0, IN_PROGRESS), *sent("1.1", range(20))], 5)
    assert ask_at(held.evidence, WITH_SOURCE) is None  # its answer could not change anything


def test_an_answer_from_before_the_last_instance_counts_for_nothing() -> None:
    node = played(sent("1.1", range(20), end=None), 5, WITH_SOURCE)
    node.answers.append(SourceAnswer(at(4), "archive", 20))
    node.now = 5
    node.ends("a")
    waiting = decided(node, 8)
    assert isinstance(waiting, Waiting)
    assert waiting.evidence is Evidence.GEOMETRY


def test_a_step_for_two_studies_waits_for_both_but_counts_only_this_one() -> None:
    other = uids("1.2", 20)
    node = played([*sent("1.1", range(20), positioned=False), step(5, COMPLETED, [*INSTANCES, *other])], 5)
    missing = take_inventory(node.contents)
    assert (missing.steps.referenced, missing.steps.missing) == (40, 20)
    assert isinstance(decide_completion(node.evidence, missing, RULE, at(8), at(8)), Waiting)
    arrived = take_inventory(replace(node.contents, elsewhere=frozenset(other)))
    assert (arrived.steps.referenced, arrived.steps.missing) == (20, 0)
    assert all(series.in_completed_step for series in arrived.series)
    complete = decide_completion(node.evidence, arrived, RULE, at(8), at(8))
    assert isinstance(complete, Completion)
    assert complete.evidence is Evidence.PROCEDURE_STEP
    only_other = replace(node.contents.steps[0], referenced=frozenset(other))
    unlisted = take_inventory(replace(node.contents, steps=(only_other,), elsewhere=frozenset(other)))
    waiting = decide_completion(node.evidence, unlisted, RULE, at(8), at(8))
    assert isinstance(waiting, Waiting)  # a step that lists nothing of this study proves nothing of it
    assert waiting.evidence is Evidence.RELEASED


# -- series that are whole while the study is not --------------------------------------------------------------------


def whole(events: Sequence[Event], second: float) -> dict[str, str]:
    node = played(events, second)
    return dict(whole_series(node.evidence, take_inventory(node.contents), RULE, at(second)))


def still_arriving(series: str = "1.9") -> list[Event]:
    return [opens(0, "z"), *slices(0, "z", series, range(400), rate=4, declared=400)]


def test_a_declared_series_is_whole_though_its_association_brings_others() -> None:
    events = [opens(0, "a"), *slices(0, "a", "1.1", range(20), declared=20), *slices(3, "a", "1.2", range(90))]
    assert whole(events, 1.5) == {}
    assert whole(events, 3.8) == {}  # not settled
    assert whole(events, 4) == {"1.1": "20 of 20 declared images"}


def test_a_series_is_whole_when_its_association_was_released() -> None:
    events = [*sent("1.1", range(20)), opens(6, "b"), *slices(6, "b", "1.2", range(90), rate=4)]
    assert whole(events, 14.9) == {}
    assert whole(events, 15) == {
        "1.1": "20 slices evenly spaced without a gap; its association released and quiet for 10 s"
    }
    assert whole([*events, *still_arriving()], 16) == {}  # the other association was open when it came
    assert whole([*sent("1.1", range(20), finish=aborts), *sent("1.2", range(90), begin=6, end=40, name="b")], 20) == {}


def test_a_series_with_a_gap_or_too_few_is_not_whole() -> None:
    assert whole(sent("1.1", HOLE), 100) == {}
    assert whole(sent("1.1", range(19), declared=20), 100) == {}


def test_a_multi_frame_series_may_be_followed_by_another_instance() -> None:
    events = [opens(0, "a"), brings(3, "a", "1.1.1", Facts(frames=120), ENHANCED_MR)]
    assert whole(events, 12.9) == {}
    assert whole(events, 13) == {"1.1": "1 multi-frame instance of 120 frames; quiet for 10 s"}
    assert whole([*events, releases(4, "a")], 6) == {}  # the next one may come over the next association


def test_a_series_that_a_completed_step_lists_is_whole() -> None:
    events = [*sent("1.1", range(20), end=None, positioned=False), step(5, COMPLETED, INSTANCES, "one"),
              step(5, IN_PROGRESS, (), "two"), *still_arriving()]  # fmt: skip
    assert list(whole(events, 6)) == ["1.1"]
    missing = [*sent("1.1", range(19), end=None, positioned=False), step(5, COMPLETED, INSTANCES, "one")]
    assert whole(missing, 20) == {}
