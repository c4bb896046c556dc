"""What the images of a study say about how many of them there are: pure counting over `Facts`.

Of each series, the strongest statement that can be made (`Grade`). Attributes of PS3.3: Images in Acquisition and
Acquisition Number (C.7.6.1), Number of Temporal Positions (C.7.6.1, C.8.3.1), Image Position and Orientation (Patient)
(C.7.6.2, LPS mm), Number of Frames (C.7.6.6).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import pairwise

from pydicom.uid import UID

from storage.records.completion import Grade, StepNumbers
from storage.records.evidence import InstanceEvidence, StepEvidence, StudyContents
from storage.records.instances import Facts
from storage.records.procedure_steps import ProcedureStepState

MINIMUM_SLICES = 3  # the fewest whose distances can be checked against one another
SAME_POSITION = 0.05  # mm along the normal: scanners round, and repeat a place within one series
SAME_DIRECTION = 1e-3  # of a direction cosine
GAP = 1.5  # of the median distance of neighbours

Vector = tuple[float, float, float]
Orientation = tuple[float, float, float, float, float, float]  # of rows, then of columns


@dataclass(frozen=True)
class SeriesCount:
    """`text` says what was counted. `declared` is None where nothing was, or where it cannot be true.

    `in_completed_step`: a COMPLETED procedure step lists every instance of the series, and all it lists are here.
    """

    series_instance_uid: str
    grade: Grade
    here: int
    declared: int | None
    text: str
    first_received_at: datetime
    last_received_at: datetime
    in_completed_step: bool = False

    @property
    def untrue(self) -> bool:
        """Whether nothing is known but that the declared count is wrong, which `text` then says."""
        return self.grade is Grade.SILENT and bool(self.text)


@dataclass(frozen=True)
class Inventory:
    """What is here of a study. `images` are the instances that are no results of this node; `own` are those."""

    images: int = 0
    own: int = 0
    series: tuple[SeriesCount, ...] = ()  # those that hold images
    steps: StepNumbers = field(default_factory=StepNumbers)
    steps_ended_at: datetime | None = None

    @property
    def short(self) -> list[SeriesCount]:
        return [s for s in self.series if s.grade is Grade.SHORT]

    @property
    def says_declared(self) -> bool:
        return bool(self.series) and all(s.grade is Grade.DECLARED for s in self.series)

    @property
    def says_regular(self) -> bool:
        """Every series has the count it declares, or is a regular stack."""
        return bool(self.series) and all(s.grade in (Grade.DECLARED, Grade.REGULAR) for s in self.series)

    @property
    def says_something(self) -> bool:
        """Every series speaks for itself, and none against it."""
        return bool(self.series) and all(s.grade not in (Grade.SHORT, Grade.SILENT) for s in self.series)

    @cached_property
    def text(self) -> str:
        """What all series say together; empty when one of them says nothing."""
        if not self.says_something:
            return ""
        if len(self.series) == 1:
            return self.series[0].text
        grades = Counter(s.grade for s in self.series)
        parts = []
        if counted := [s for s in self.series if s.grade is Grade.DECLARED]:
            total = sum(s.declared or 0 for s in counted)
            parts.append(f"{sum(s.here for s in counted)} of {total} declared images in {len(counted)} series")
        if frames := grades[Grade.MULTI_FRAME]:
            parts.append(f"{frames} multi-frame series")
        if regular := grades[Grade.REGULAR]:
            parts.append(f"{regular} series evenly spaced without a gap")
        return ", ".join(parts)


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def take_inventory(contents: StudyContents) -> Inventory:
    """Counts a study. Results of this node that came back, and objects that are no images, declare nothing."""
    here = frozenset(i.sop_instance_uid for i in contents.instances)
    steps = [replace(step, referenced=step.referenced - contents.elsewhere) for step in contents.steps]
    own = sum(i.own for i in contents.instances)
    listed = _listed_completely(steps, here)
    series: dict[str, list[InstanceEvidence]] = defaultdict(list)
    for instance in contents.instances:
        if not instance.own and is_image(instance.sop_class_uid):
            series[instance.series_instance_uid].append(instance)
    return Inventory(
        images=len(contents.instances) - own,
        own=own,
        series=tuple(_count(uid, instances, listed) for uid, instances in sorted(series.items())),
        steps=_count_steps(steps, here),
        steps_ended_at=max((s.ended_at for s in steps if s.ended_at is not None), default=None),
    )


@lru_cache(maxsize=256)
def is_image(sop_class_uid: str) -> bool:
    """Whether objects of this class are images (PS3.4 B.5); a class nobody knows is taken for one."""
    name = UID(sop_class_uid).name
    return "Image Storage" in name or name == sop_class_uid


def _count_steps(steps: Iterable[StepEvidence], here: frozenset[str]) -> StepNumbers:
    states = Counter(step.state for step in steps)
    ended = (step.referenced for step in steps if step.state is not ProcedureStepState.IN_PROGRESS)
    referenced = frozenset[str]().union(*ended)
    return StepNumbers(
        in_progress=states[ProcedureStepState.IN_PROGRESS],
        completed=states[ProcedureStepState.COMPLETED],
        discontinued=states[ProcedureStepState.DISCONTINUED],
        referenced=len(referenced),
        missing=len(referenced - here),
    )


def _listed_completely(steps: Iterable[StepEvidence], here: frozenset[str]) -> frozenset[str]:
    """Instances that completed steps list, of which nothing is missing."""
    return frozenset[str]().union(
        *(s.referenced for s in steps if s.state is ProcedureStepState.COMPLETED and s.referenced <= here)
    )


def _count(uid: str, instances: Sequence[InstanceEvidence], listed: frozenset[str]) -> SeriesCount:
    facts = [instance.facts for instance in instances]
    single = [f for f in facts if (f.frames or 1) == 1]
    grade, declared, text = _judge(single) if single else _judge_multi_frame(facts)
    times = [instance.received_at for instance in instances]
    return SeriesCount(
        series_instance_uid=uid,
        grade=grade,
        here=len(instances),
        declared=declared,
        text=text,
        first_received_at=min(times),
        last_received_at=max(times),
        in_completed_step=all(instance.sop_instance_uid in listed for instance in instances),
    )


Judgement = tuple[Grade, int | None, str]  # grade, declared number, text


def _judge_multi_frame(facts: Sequence[Facts]) -> Judgement:
    frames = sum(f.frames or 1 for f in facts)
    return Grade.MULTI_FRAME, None, f"{plural(len(facts), 'multi-frame instance')} of {frames} frames"


def _judge(facts: Sequence[Facts]) -> Judgement:
    """Each statement is weighed by itself. One that is not reached outweighs those that are; a count that is exceeded
    cannot be true and says nothing.
    """
    here = len(facts)
    exceeded, by_acquisition = _by_acquisition(facts)
    claims = [c for c in (None if exceeded else by_acquisition, _by_temporal_position(facts)) if c is not None]
    for expected in claims:
        if here < expected:
            return Grade.SHORT, expected, f"{here} of {expected} declared images"
    problem, slices = _geometry(facts)
    reached = here in claims
    if problem:
        return Grade.SHORT, here if reached else None, problem
    if reached:
        return Grade.DECLARED, here, f"{here} of {here} declared images"
    wrong = max(claims, default=by_acquisition if exceeded else None)
    untrue = "" if wrong is None else f" ({wrong} were declared{', divided otherwise' if wrong == here else ''})"
    if slices:
        return Grade.REGULAR, None, f"{slices} slices evenly spaced without a gap{untrue}"
    return Grade.SILENT, None, f"{plural(here, 'image')}{untrue}" if untrue else ""


def _by_acquisition(facts: Sequence[Facts]) -> tuple[bool, int | None]:
    """Whether an acquisition exceeds its Images in Acquisition, and the sum over the acquisitions.

    The sum is None where an image declares none, where those of one acquisition disagree, or where every image calls
    itself the only one, as some exports do. An acquisition that exceeds its count makes the attribute untrue for the
    series: some scanners write the number of slices into each of several echoes or time points.
    """
    declared: dict[int | None, set[int]] = defaultdict(set)
    here: Counter[int | None] = Counter()
    for f in facts:
        if not f.images_in_acquisition:
            return False, None
        declared[f.acquisition_number].add(f.images_in_acquisition)
        here[f.acquisition_number] += 1
    if any(len(values) > 1 for values in declared.values()):
        return False, None
    numbers = {number: values.pop() for number, values in declared.items()}
    if all(value == 1 for value in numbers.values()):
        return False, None
    return any(here[number] > value for number, value in numbers.items()), sum(numbers.values())


def _by_temporal_position(facts: Sequence[Facts]) -> int | None:
    """Number of Temporal Positions × the places there are, for each echo."""
    declared = {f.temporal_positions for f in facts}
    if len(declared) != 1 or (positions := declared.pop()) is None or positions < 2:
        return None
    if any(f.position is None or f.orientation is None for f in facts):
        return None
    echoes: dict[int | None, list[Facts]] = defaultdict(list)
    for f in facts:
        echoes[f.echo_number].append(f)
    return sum(positions * len(places) for echo in echoes.values() for places in _stacks(echo))


def _geometry(facts: Sequence[Facts]) -> tuple[str, int]:
    """What is missing between the slices, and how many places make regular stacks; 0 where they cannot tell."""
    if any(f.position is None or f.orientation is None for f in facts):
        return "", 0
    total = 0
    for places in _stacks(facts):
        if len(places) < MINIMUM_SLICES:
            return "", 0
        at = [place for place, _ in places]
        steps = [b - a for a, b in pairwise(at)]
        step = sorted(steps)[(len(steps) - 1) // 2]  # of an even number the lower one: a gap must not pass as the rule
        missing = sum(round(s / step) - 1 for s in steps if s > GAP * step)
        if missing:
            return f"a gap of {plural(missing, 'slice')} between {len(places)}", 0
        images = Counter(number for _, number in places)
        if len(images) > 1:
            most = max(images)
            short = sum(most - number for _, number in places)
            return f"{plural(short, 'image')} fewer at some of {len(places)} slices than at the others", 0
        total += len(places)
    return "", total


def _stacks(facts: Sequence[Facts]) -> list[list[tuple[float, int]]]:
    """For each orientation: the places along its normal, in mm, and how many images are at each."""
    groups: list[tuple[Orientation, list[Vector]]] = []
    for f in facts:
        assert f.orientation is not None
        assert f.position is not None
        same = (positions for orientation, positions in groups if _is_same(orientation, f.orientation))
        found = next(same, None)
        if found is None:
            found = []
            groups.append((f.orientation, found))
        found.append(f.position)
    return [_merge([_dot(position, _normal(o)) for position in positions]) for o, positions in groups]


def _is_same(one: Orientation, other: Orientation) -> bool:
    return all(abs(a - b) < SAME_DIRECTION for a, b in zip(one, other, strict=True))


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _normal(o: Orientation) -> Vector:
    return (o[1] * o[5] - o[2] * o[4], o[2] * o[3] - o[0] * o[5], o[0] * o[4] - o[1] * o[3])


def _merge(places: list[float]) -> list[tuple[float, int]]:
    merged: list[tuple[float, int]] = []
    for place in sorted(places):
        if merged and place - merged[-1][0] < SAME_POSITION:
            merged[-1] = (merged[-1][0], merged[-1][1] + 1)
        else:
            merged.append((place, 1))
    return merged
