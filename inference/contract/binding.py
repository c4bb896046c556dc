"""The binding of series to the inputs of an application, with reasons. Its decisions are pure.

Reasons name series by number and description, which no log may hold.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from inference.contract.inputs import SAME_PLANE_AS, BValues, InputRule, volume_for
from inference.headers.diffusion import shells
from inference.series.kinds import Kind
from inference.series.naming import name_of_series
from inference.series.recogniser import Recognition

MINIMUM_CONFIDENCE = 0.3
SURE = 0.5  # above the confidence in a kind that only a name tells, which no preference outweighs
MANY_NAMES = 4
SIDE_NAMES = {"L": "left", "R": "right"}
OTHER_SIDE = {"L": "R", "R": "L"}

Rank = tuple[tuple[str, float], ...]
"""Reasons that speak for a series, the weightiest first: each in words, and how much of it there is."""


@dataclass(frozen=True)
class BindingDecision:
    """The decision about one series for one input."""

    input: str
    series_instance_uid: str
    taken: bool
    reason: str


@dataclass(frozen=True)
class LeftOut:
    """A series that fits an input as well as the one that is used."""

    taken: Recognition
    left_out: Recognition


@dataclass(frozen=True)
class Binding:
    """The series of each input. It is `accepted` if every required input has one; else `reason` says what is missing.

    `lacking` are the required inputs without a series. `unusable` is True if a missing series was acquired, but makes
    no volume. `side` is the side of the body that the required inputs show, "L" or "R"; empty if their series name
    none. `beside` is the other side if that is bound as well, separately. `equals` are series that fit as well as the
    ones that are used, and are not used; `one_side` explains why only one of two sides is used.
    """

    inputs: Mapping[str, str]  # input name to SeriesInstanceUID
    accepted: bool
    decisions: tuple[BindingDecision, ...]
    reason: str
    lacking: tuple[InputRule, ...] = ()
    unusable: bool = False
    side: str = ""
    beside: str = ""
    equals: tuple[LeftOut, ...] = ()
    one_side: str = ""

    @property
    def left_out(self) -> tuple[str, ...]:
        """Sentences for the reader of a report: which series fit as well and are not used."""
        by_taken: dict[str, list[LeftOut]] = {}
        for one in self.equals:
            by_taken.setdefault(one.taken.series_instance_uid, []).append(one)
        return (
            *filter(None, [self.one_side]),
            *(
                f"Not used, although it fits as well as {_of_side(some[0].taken)}: "
                f"{_shortened([_of_side(one.left_out) for one in some])}."
                for some in by_taken.values()
            ),
        )


def bind_sides(rules: Sequence[InputRule], series: Sequence[Recognition], each: bool) -> tuple[Binding, ...]:
    """Bind the series of a study: once for each side of the body if `each` is True and it can be, else once.

    It can be if the required inputs of both sides have series that name the side. A series that names no side may feed
    both. A single binding of a study that shows both sides explains why it is of one side.
    """
    whole = bind(rules, series)
    if not {"L", "R"} <= {s.laterality for s in series}:
        return (whole,)
    sides = {side: bind(rules, series, side) for side in ("R", "L")}
    if each and all(one.side == side for side, one in sides.items()):
        return tuple(_beside(one, beside) for one, beside in zip(sides.values(), ("L", "R"), strict=True))
    if not whole.accepted:  # its first input may have taken a series of the side that lacks another one
        whole = next((one for one in sides.values() if one.accepted), whole)
    other = OTHER_SIDE.get(whole.side, "")
    if not any(one.left_out.laterality == other for one in whole.equals if other):
        return (whole,)
    told = f"Only the {SIDE_NAMES[whole.side]} side is analysed"
    if not each:
        return (replace(whole, one_side=f"{told}: this application analyses one side of a study."),)
    missing = "; ".join(map(unfilled, sides[other].lacking))
    return (replace(whole, one_side=f"{told}. Of the {SIDE_NAMES[other]} side, {missing}." if missing else f"{told}."),)


def bind(rules: Sequence[InputRule], series: Sequence[Recognition], side: str = "") -> Binding:
    """Bind the best matching series to every input, in the order of the rules. A series feeds one input at most.

    No series of one side of the body is bound beside a series of the other. With `side`, all that name a side name this
    one, and those that name it are preferred to those that name none.
    """
    bound: dict[str, Recognition] = {}
    decisions: list[BindingDecision] = []
    missing: list[str] = []
    equals: list[LeftOut] = []
    for rule in rules:
        one_side = side or _side_of(bound.values())
        refusals = {s.series_instance_uid: _refusal(rule, s, bound) for s in series}
        fitting = [s for s in series if not refusals[s.series_instance_uid]]
        refusals |= {s.series_instance_uid: _on_other_side(s, one_side) for s in fitting}
        ranks = {s.series_instance_uid: _rank(rule, s, bound, side) for s in fitting}
        best = max(
            (s for s in fitting if not refusals[s.series_instance_uid]),
            key=lambda s: ([amount for _, amount in ranks[s.series_instance_uid]], s.series_instance_uid),
            default=None,
        )
        for s in series:
            reason = refusals[s.series_instance_uid]
            if s is best:
                reason = f"{_words(s)}: {'; '.join(s.reasons)}"
            elif not reason and best is not None:
                why = _better(ranks[best.series_instance_uid], ranks[s.series_instance_uid])
                reason = f"fits, but {_name(best)} fits better ({_words(best)}): {why}"
            decisions.append(BindingDecision(rule.name, s.series_instance_uid, s is best, reason))
        if best is not None:
            equals += [LeftOut(best, s) for s in fitting if s is not best and _is_equal(rule, best, s, bound)]
            bound[rule.name] = best
        elif rule.required:
            missing.append(_missing(rule, series, refusals))
    if missing:
        lacking = tuple(rule for rule in rules if rule.required and rule.name not in bound)
        unusable = all(any(not _unfit(rule, s) and _unusable(rule, s) for s in series) for rule in lacking)
        return Binding({}, False, tuple(decisions), "; ".join(missing), lacking, unusable)
    inputs = {name: s.series_instance_uid for name, s in bound.items()}
    return Binding(
        inputs,
        True,
        tuple(decisions),
        ", ".join(f"{name} is {_name(s)}" for name, s in bound.items()),
        side=_side_of(bound[rule.name] for rule in rules if rule.required),
        equals=tuple(one for one in equals if one.left_out not in bound.values()),
    )


def named_inputs(rules: Sequence[InputRule], binding: Binding, series: Sequence[Recognition]) -> tuple[str, ...]:
    """Name the series that feed the inputs, for the reader of a report, as in `T1w: series 5 'T1 TSE' (left side)`."""
    known = {s.series_instance_uid: s for s in series}
    bound = [(rule, known[binding.inputs[rule.name]]) for rule in rules if rule.name in binding.inputs]
    return tuple(f"{' or '.join(rule.kind) or rule.modality}: {_of_side(s)}" for rule, s in bound)


def unfilled(rule: InputRule) -> str:
    """Return the sentence that no series feeds an input, for readers who do not know the names of inputs."""
    return f"no series fits ({wanted(rule)})"


def wanted(rule: InputRule) -> str:
    """Describe in words the series that an input accepts."""
    parts = [
        rule.modality,
        " or ".join(rule.kind) or "any kind",
        rule.plane,
        rule.dimension,
        f"at least {rule.minimum_slices} slices",
        {True: "with contrast agent", False: "without contrast agent", None: None}[rule.contrast],
        {True: "fat suppressed", False: "not fat suppressed", None: None}[rule.fat_suppressed],
        _wanted_b_values(rule.b_values) if rule.b_values is not None else None,
        f"its {rule.select} volume" if rule.select is not None else None,
        f"preferably {', '.join(rule.prefer)}" if rule.prefer else None,
    ]
    return ", ".join(p for p in parts if p)


# -- fitting series ----------------------------------------------------------------------------------------------------


def _refusal(rule: InputRule, s: Recognition, bound: Mapping[str, Recognition]) -> str:
    """Return the reason why this series cannot feed this input; an empty text if it can.

    If the images of a refused series make no volume, the reason mentions this too, whatever else is wrong.
    """
    reason = _unfit(rule, s) or _unusable(rule, s) or _unsuitable(rule, s)
    images_without_volume = s.problem and s.slices and not s.volumes
    if reason and images_without_volume and s.problem not in reason:
        return f"{reason}; moreover it makes no volume: {s.problem}"
    if not reason and s in bound.values():
        return "already feeds another input"
    return reason


def _on_other_side(s: Recognition, side: str) -> str:
    """Return a reason if the series names the other side of the body, else an empty text."""
    if not side or s.laterality in ("", side):
        return ""
    return f"shows the {SIDE_NAMES[s.laterality]} side, not the {SIDE_NAMES[side]}"


def _unfit(rule: InputRule, s: Recognition) -> str:
    """Return a reason if the series shows something else than the input takes, else an empty text."""
    if s.modality != rule.modality:
        return f"modality is {s.modality or 'unknown'}, not {rule.modality}"
    if rule.kind and s.kind not in rule.kind:
        return f"is {s.kind}, not {' or '.join(rule.kind)} ({'; '.join(s.reasons)})"
    if rule.kind and s.confidence < MINIMUM_CONFIDENCE:
        return f"may be {s.kind}, but its images disagree ({'; '.join(s.reasons)})"
    return ""


def _unusable(rule: InputRule, s: Recognition) -> str:
    """Return a reason if the series makes no volume, or several although the input takes one; else an empty text."""
    if s.volumes > 1:
        if rule.volumes == "all" or rule.select is not None or volume_for(rule, s.contents) is not None:
            return ""
        return f"cannot be used: holds {s.volumes} volumes ({s.differences}), and the input takes one"
    return f"cannot be used: {s.problem}" if s.problem else ""


def _unsuitable(rule: InputRule, s: Recognition) -> str:
    """Return a reason if the series was acquired in another way than the input asks, else an empty text."""
    if rule.plane is not None and s.plane != rule.plane:
        return f"is {s.plane or 'in no plane'}, not {rule.plane}"
    if rule.dimension is not None and s.dimension is not None and s.dimension != rule.dimension:
        return f"was acquired in {s.dimension}, not {rule.dimension}"
    if rule.body_parts and s.body_part and s.body_part not in rule.body_parts:
        return f"shows {s.body_part}, none of {_shortened(rule.body_parts)}"
    if s.slices < rule.minimum_slices:
        return f"has {s.slices} slices, fewer than {rule.minimum_slices}"
    if rule.contrast is not None and s.contrast is not None and s.contrast != rule.contrast:
        return "was acquired with contrast agent" if s.contrast else "was acquired without contrast agent"
    if rule.fat_suppressed is not None and s.fat_suppressed is not None and s.fat_suppressed != rule.fat_suppressed:
        return "is fat suppressed" if s.fat_suppressed else "is not fat suppressed"
    if rule.b_values is not None and s.kind is Kind.DWI and not _has_b_values(rule.b_values, s.b_values):
        return f"has {_told_b_values(s.b_values)}, not {_wanted_b_values(rule.b_values)}"
    return ""


def _has_b_values(rule: BValues, found: Sequence[float]) -> bool:
    return (
        len(shells(found)) >= rule.count
        and (rule.lowest_at_most is None or min(found) <= rule.lowest_at_most)
        and (rule.highest_at_least is None or max(found) >= rule.highest_at_least)
    )


def _told_b_values(found: Sequence[float]) -> str:
    return f"b = {', '.join(f'{b:g}' for b in found)}" if found else "no known b-value"


def _wanted_b_values(rule: BValues) -> str:
    parts = [f"at least {rule.count} b-value{'s' if rule.count > 1 else ''}"]
    if rule.lowest_at_most is not None:
        parts.append(f"the lowest at most {rule.lowest_at_most:g}")
    if rule.highest_at_least is not None:
        parts.append(f"the highest at least {rule.highest_at_least:g}")
    return ", ".join(parts)


def _shortened(names: Sequence[str]) -> str:
    """Join the first names only, because nobody reads a long list as a reason."""
    more = len(names) - MANY_NAMES
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:MANY_NAMES])} and {more} more"


# -- the best of them --------------------------------------------------------------------------------------------------


def _rank(rule: InputRule, s: Recognition, bound: Mapping[str, Recognition], side: str) -> Rank:
    """Return the sort key of a series among those that fit the input.

    A series that certainly has what the input asks comes before one that leaves it open, and one of the `side` that is
    bound before one that names none. Then count the order of the input's kinds, its preferences, and what is better in
    general.
    """
    sure, *wishes = _wishes(rule, s, bound)
    return (
        sure,
        *_certain(rule, s),
        ("it names the side", float(bool(side) and s.laterality == side)),
        *wishes,
        ("its kind is surer", round(s.confidence, 1)),
        ("without contrast agent", float(not s.contrast)),
        ("it has more slices", float(s.slices)),
    )


def _wishes(rule: InputRule, s: Recognition, bound: Mapping[str, Recognition]) -> Rank:
    """Rank a series by what the application wishes: a sure kind, then the order of kinds, then the preferences."""
    kinds = [(f"it is {s.kind}", -float(rule.kind.index(s.kind)))] if rule.kind else []
    return (
        ("its kind is surer", float(s.confidence >= SURE)),
        *kinds,
        *((f"preferred: {p}", _satisfied(p, s, bound)) for p in rule.prefer),
    )


def _is_equal(rule: InputRule, best: Recognition, s: Recognition, bound: Mapping[str, Recognition]) -> bool:
    """Return True if the application's wishes do not prefer one series to the other, or if they differ in their side.

    Differences that no application asks for, such as the number of slices, make no series unequal.
    """
    if s.laterality and s.laterality != best.laterality:
        return True
    return (_wishes(rule, best, bound), _certain(rule, best)) == (_wishes(rule, s, bound), _certain(rule, s))


def _certain(rule: InputRule, s: Recognition) -> Rank:
    """Rank a series that surely has the requested fat suppression and contrast above one that does not say.

    A series that does not say may still feed the input.
    """
    return tuple(
        (f"it is surely {'' if asked else 'not '}{what}", float(said is asked))
        for what, asked, said in (
            ("fat suppressed", rule.fat_suppressed, s.fat_suppressed),
            ("contrast-enhanced", rule.contrast, s.contrast),
        )
        if asked is not None
    )


def _satisfied(preference: str, s: Recognition, bound: Mapping[str, Recognition]) -> float:
    """Return how well a series satisfies a preference; 0 if its headers do not say."""
    if preference.startswith(SAME_PLANE_AS):
        other = bound.get(preference.removeprefix(SAME_PLANE_AS))
        return float(other is not None and s.plane is not None and s.plane == other.plane)
    match preference:
        case "many slices":
            return float(s.slices)
        case "many b-values":
            return float(len(shells(s.b_values)))
        case "with contrast" | "without contrast":
            return float(s.contrast is (preference == "with contrast"))
        case "fat suppressed" | "not fat suppressed":
            return float(s.fat_suppressed is (preference == "fat suppressed"))
        case "2D" | "3D":
            return float(s.dimension == preference)
        case _:
            return float(s.plane == preference)


def _better(best: Rank, other: Rank) -> str:
    """Return the reason why one series was preferred to another."""
    decisive = (words for (words, one), (_, two) in zip(best, other, strict=True) if one != two)
    return next(decisive, "nothing tells them apart")


def _name(s: Recognition) -> str:
    return name_of_series(s.number, s.description)


def _of_side(s: Recognition) -> str:
    return f"{_name(s)} ({SIDE_NAMES[s.laterality]} side)" if s.laterality else _name(s)


def _side_of(series: Iterable[Recognition]) -> str:
    return next((s.laterality for s in series if s.laterality), "")


def _beside(binding: Binding, beside: str) -> Binding:
    """Return the binding of one of two sides, which leaves out nothing of the other."""
    equals = tuple(one for one in binding.equals if one.left_out.laterality != beside)
    return replace(binding, beside=beside, equals=equals)


def _words(s: Recognition) -> str:
    return f"{s.kind}, {s.dimension or '2D or 3D'}, {s.plane or 'no plane'}, {s.slices} slices"


def _missing(rule: InputRule, series: Sequence[Recognition], refusals: Mapping[str, str]) -> str:
    lacking = unfilled(rule)
    told = [f"{_name(s)} {refusals[s.series_instance_uid]}" for s in series]
    return f"{lacking}: {'; '.join(told)}" if told else f"{lacking}: the study holds no image"
