"""The inventory of a study: its images, and what they say about their number. Pure counting over their `Facts`.

Each series gets the strongest statement that can be made (`Grade`). It is made from these attributes of PS3.3: Images
in Acquisition and Acquisition Number (C.7.6.1), Number of Temporal Positions (C.7.6.1, C.8.3.1), Image Position and
Orientation (Patient) (C.7.6.2, LPS mm), Number of Frames (C.7.6.6).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from itertools import pairwise

from inference.headers.images import ImageClass, counts_as_image, image_class
from inference.volumes.geometry import GAP, spacing_varies
from storage.records.completion import Grade, StepNumbers
from storage.records.evidence import InstanceEvidence, StepEvidence, StudyContents
from storage.records.instances import Facts
from storage.records.procedure_steps import ProcedureStepState

MINIMUM_SLICES = 3  # two slices have one distance, which cannot be compared with another
SAME_POSITION = 0.05  # mm along the normal: scanners round, and repeat a place within one series
SAME_DIRECTION = 1e-3  # largest difference of a direction cosine

_Vector = tuple[float, float, float]
_Orientation = tuple[float, float, float, float, float, float]  # direction cosines of the rows, then of the columns


@dataclass(frozen=True)
class SeriesCount:
    """The number of images of one series, and what they say about it.

    `text` tells what was counted. `declared` is None if nothing was declared, or if it cannot be true.
    `in_completed_step` is True if a COMPLETED procedure step lists every instance of the series, and all instances that
    the step lists are here.
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
        """True if nothing is known but that the declared count is wrong; `text` then says so."""
        return self.grade is Grade.SILENT and bool(self.text)


@dataclass(frozen=True)
class Inventory:
    """The instances of a study that are here: `own` counts the results of this node, `images` all others.

    An instance that is filed in several series counts once. `correction` says how far a correction of the patient has
    come; it is empty if none is under way.
    """

    images: int = 0
    own: int = 0
    series: tuple[SeriesCount, ...] = ()  # only series that hold images
    steps: StepNumbers = field(default_factory=StepNumbers)
    steps_ended_at: datetime | None = None
    correction: str = ""

    @property
    def short(self) -> list[SeriesCount]:
        return [s for s in self.series if s.grade is Grade.SHORT]

    @property
    def says_declared(self) -> bool:
        return bool(self.series) and all(s.grade is Grade.DECLARED for s in self.series)

    @property
    def says_regular(self) -> bool:
        """True if every series has the count it declares, or is a regular stack."""
        return bool(self.series) and all(s.grade in (Grade.DECLARED, Grade.REGULAR) for s in self.series)

    @property
    def says_something(self) -> bool:
        """True if every series says something about its number of images, and no series that images are missing."""
        return bool(self.series) and all(s.grade not in (Grade.SHORT, Grade.SILENT) for s in self.series)

    @cached_property
    def text(self) -> str:
        """The statements of all series in one sentence; empty if one of them says nothing."""
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
    """Count a study. Results of this node that came back, and objects that are no images, declare nothing."""
    here = frozenset(i.sop_instance_uid for i in contents.instances)
    steps = [replace(step, referenced=step.referenced - contents.elsewhere) for step in contents.steps]
    own = len({i.sop_instance_uid for i in contents.instances if i.own})
    conflict = contents.identities.conflict()
    listed = _listed_completely(steps, here)
    series: dict[str, list[InstanceEvidence]] = defaultdict(list)
    for instance in contents.instances:
        if not instance.own and counts_as_image(instance.sop_class_uid):
            series[instance.series_instance_uid].append(instance)
    return Inventory(
        images=len(here) - own,
        own=own,
        series=tuple(_count(uid, _without_captures(found), listed) for uid, found in sorted(series.items())),
        steps=_count_steps(steps, here),
        steps_ended_at=max((s.ended_at for s in steps if s.ended_at is not None), default=None),
        correction=conflict.text if conflict is not None and conflict.is_correction else "",
    )


def _without_captures(instances: Sequence[InstanceEvidence]) -> list[InstanceEvidence]:
    """Return the instances of the best storage class: captures in a series of images are none of its images."""
    best = max(min(image_class(i.sop_class_uid), ImageClass.UNKNOWN) for i in instances)
    return [i for i in instances if image_class(i.sop_class_uid) >= best]


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
    """Return the instances that completed steps list, without steps that list an instance that is not here."""
    return frozenset[str]().union(
        *(s.referenced for s in steps if s.state is ProcedureStepState.COMPLETED and s.referenced <= here)
    )


def _count(uid: str, instances: Sequence[InstanceEvidence], listed: frozenset[str]) -> SeriesCount:
    facts = [instance.facts for instance in instances]
    single = [f for f in facts if (f.frames or 1) == 1]
    grade, declared, text = _count_single_frame(single) if single else _count_multi_frame(facts)
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


_Statement = tuple[Grade, int | None, str]  # grade, declared number, text


def _count_multi_frame(facts: Sequence[Facts]) -> _Statement:
    frames = sum(f.frames or 1 for f in facts)
    return Grade.MULTI_FRAME, None, f"{plural(len(facts), 'multi-frame instance')} of {frames} frames"


def _count_single_frame(facts: Sequence[Facts]) -> _Statement:
    """Compare the images with each declared count, and with the geometry.

    A count that is not reached outweighs counts that are reached. A count that is exceeded cannot be true and is
    ignored.
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
    """Return True if an acquisition exceeds its Images in Acquisition, and the sum over the acquisitions.

    The sum is None if an image declares no count, if the images of one acquisition disagree, or if every image calls
    itself the only one, as some exports do. An acquisition that exceeds its count makes the attribute untrue for the
    whole series: some scanners write the number of slices into each of several echoes or time points.
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
    """Return Number of Temporal Positions times the number of slice positions, summed over the echoes."""
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
    """Return in words which slices are missing between others, and the number of slice positions in regular stacks.

    The number is 0 if it cannot be told from the positions.
    """
    placed = [f for f in facts if f.position is not None and f.orientation is not None]
    if 2 * len(placed) <= len(facts):
        return "", 0
    stacks = _stacks(placed)
    # A few images without a place, or in a direction of their own, are no slices of the volume that the others make.
    main = [places for places in stacks if 2 * sum(number for _, number in places) > len(facts)]
    few = [places for places in stacks if sum(number for _, number in places) < MINIMUM_SLICES]
    stacks = [places for places in stacks if not (main and places in few)]
    total = 0
    for places in stacks:
        if len(places) < MINIMUM_SLICES:
            return "", 0
        at = [place for place, _ in places]
        steps = [b - a for a, b in pairwise(at)]
        if spacing_varies(steps, _numbers_have_holes(placed)):
            return "", 0
        step = sorted(steps)[(len(steps) - 1) // 2]  # the lower median: a gap must not pass as the rule
        missing = sum(round(s / step) - 1 for s in steps if s > GAP * step)
        if missing:
            return f"a gap of {plural(missing, 'slice')} between {len(places)}", 0
        images = Counter(number for _, number in places)
        if len(images) > 1:
            most = max(images)
            short = sum(most - number for _, number in places)
            return f"{plural(short, 'image')} fewer at some of {len(places)} slices than at the others", 0
        total += len(places)
    return "", total if sum(number for places in stacks for _, number in places) == len(facts) else 0


def _numbers_have_holes(facts: Sequence[Facts]) -> bool:
    numbers = sorted(f.instance_number for f in facts if f.instance_number is not None)
    if len(numbers) < len(facts):
        return True  # an unknown number may be any
    return len({b - a for a, b in pairwise(numbers)}) > 1


def _stacks(facts: Sequence[Facts]) -> list[list[tuple[float, int]]]:
    """Return for each orientation the slice positions along its normal, in mm, and how many images are at each."""
    groups: list[tuple[_Orientation, list[_Vector]]] = []
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


def _is_same(one: _Orientation, other: _Orientation) -> bool:
    return all(abs(a - b) < SAME_DIRECTION for a, b in zip(one, other, strict=True))


def _dot(a: _Vector, b: _Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _normal(o: _Orientation) -> _Vector:
    return (o[1] * o[5] - o[2] * o[4], o[2] * o[3] - o[0] * o[5], o[0] * o[4] - o[1] * o[3])


def _merge(places: list[float]) -> list[tuple[float, int]]:
    merged: list[tuple[float, int]] = []
    for place in sorted(places):
        if merged and place - merged[-1][0] < SAME_POSITION:
            merged[-1] = (merged[-1][0], merged[-1][1] + 1)
        else:
            merged.append((place, 1))
    return merged
