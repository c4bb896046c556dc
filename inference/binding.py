"""Which series feeds which input of an application, and why: pure decisions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydicom.uid import UID

from inference.inputs import InputRule
from inference.series import Kind, SeriesDescription

IMAGE_MODALITIES = frozenset({"MR", "CT", "PT"})
MINIMUM_CONFIDENCE = 0.3
MANY_NAMES = 4


@dataclass(frozen=True)
class Decision:
    """What was decided about one series for one input."""

    input: str
    series_instance_uid: str
    taken: bool
    reason: str


@dataclass(frozen=True)
class Binding:
    """`accepted` when every required input has its series; otherwise `reason` says what is missing.

    `unusable` tells that what is missing was acquired, but makes no volume.
    """

    inputs: Mapping[str, str]  # input name to SeriesInstanceUID
    accepted: bool
    decisions: tuple[Decision, ...]
    reason: str
    unusable: bool = False


def bind(rules: Sequence[InputRule], series: Sequence[SeriesDescription]) -> Binding:
    """Gives every input the best matching series; a series feeds one input at most."""
    inputs: dict[str, str] = {}
    decisions: list[Decision] = []
    missing: list[str] = []
    for rule in rules:
        refusals = {s.series_instance_uid: _refusal(rule, s, inputs) for s in series}
        candidates = [s for s in series if not refusals[s.series_instance_uid]]
        best = max(candidates, key=_merit, default=None)
        for s in series:
            reason = refusals[s.series_instance_uid]
            if s is best:
                reason = f"{_words(s)}: {'; '.join(s.reasons)}"
            elif not reason and best is not None:
                reason = f"fits, but series {best.series_instance_uid} fits better ({_words(best)})"
            decisions.append(Decision(rule.name, s.series_instance_uid, s is best, reason))
        if best is not None:
            inputs[rule.name] = best.series_instance_uid
        elif rule.required:
            missing.append(_missing(rule, series, refusals))
    if missing:
        wanted = [rule for rule in rules if rule.required and rule.name not in inputs]
        unusable = all(any(not _unfit(rule, s) and _unusable(s) for s in series) for rule in wanted)
        return Binding({}, False, tuple(decisions), "; ".join(missing), unusable)
    chosen = ", ".join(f"{name} is series {uid}" for name, uid in inputs.items())
    return Binding(inputs, True, tuple(decisions), chosen)


def feeds_inputs(sop_class_uid: str, modality: str) -> bool:
    """Whether a late instance of this kind could change an application's result: images can, reports cannot."""
    name = UID(sop_class_uid).name
    return modality in IMAGE_MODALITIES and "Image Storage" in name


def _refusal(rule: InputRule, s: SeriesDescription, taken: Mapping[str, str]) -> str:
    """Why this series cannot feed this input; empty where it can. That images make no volume is told in any case."""
    reason = _unfit(rule, s) or _unusable(s) or _unsuitable(rule, s)
    images_without_volume = s.problem and s.slices and not s.volumes
    if reason and images_without_volume and s.problem not in reason:
        return f"{reason}; moreover it makes no volume: {s.problem}"
    if not reason and s.series_instance_uid in taken.values():
        return "already feeds another input"
    return reason


def _unfit(rule: InputRule, s: SeriesDescription) -> str:
    """It shows something else than what the input takes."""
    if s.modality != rule.modality:
        return f"modality is {s.modality or 'unknown'}, not {rule.modality}"
    if rule.kind is not None and s.kind != rule.kind:
        return f"is {s.kind}, not {rule.kind} ({'; '.join(s.reasons)})"
    if rule.kind is not None and s.confidence < MINIMUM_CONFIDENCE:
        return f"may be {s.kind}, but its images disagree ({'; '.join(s.reasons)})"
    return ""


def _unusable(s: SeriesDescription) -> str:
    """It makes no volume."""
    return f"cannot be used: {s.problem}" if s.problem and not (s.kind is Kind.DWI and s.volumes > 1) else ""


def _unsuitable(rule: InputRule, s: SeriesDescription) -> str:
    """It was acquired in another way than the input takes."""
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
    return ""


def _shortened(names: Sequence[str]) -> str:
    """A long list is no reason that anybody reads."""
    more = len(names) - MANY_NAMES
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:MANY_NAMES])} and {more} more"


def _merit(s: SeriesDescription) -> tuple[float, bool, int, str]:
    """Sure of its kind, without contrast agent, with many slices; the UID makes the order total."""
    return round(s.confidence, 1), not s.contrast, s.slices, s.series_instance_uid


def _words(s: SeriesDescription) -> str:
    return f"{s.kind}, {s.dimension or '2D or 3D'}, {s.plane or 'no plane'}, {s.slices} slices"


def _missing(rule: InputRule, series: Sequence[SeriesDescription], refusals: Mapping[str, str]) -> str:
    wanted = f"no series fits input {rule.name!r} ({_wanted(rule)})"
    told = [f"series {s.series_instance_uid} {refusals[s.series_instance_uid]}" for s in series]
    return f"{wanted}: {'; '.join(told)}" if told else f"{wanted}: the study holds no image"


def _wanted(rule: InputRule) -> str:
    parts = [rule.modality, rule.kind or "any kind", rule.dimension, f"at least {rule.minimum_slices} slices"]
    parts.append({True: "with contrast agent", False: "without contrast agent", None: None}[rule.contrast])
    parts.append({True: "fat suppressed", False: "not fat suppressed", None: None}[rule.fat_suppressed])
    return ", ".join(p for p in parts if p)
