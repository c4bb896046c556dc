"""Earlier studies of the patient as time points of an application, with the reasons why some are not taken.

Pure decisions.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from dicom_node.route.earlier_studies import EarlierStudy
from inference.contract.binding import SIDE_NAMES, Binding, bind, bind_sides, named_inputs, unfilled
from inference.contract.inputs import EarlierRule, input_key
from inference.contract.manifest import Manifest
from inference.series.recogniser import Recognition
from storage.records.instances import Series
from storage.records.jobs import NotCompared

# Values of BodyPartExamined that would fit another part of the patient as well.
UNSPECIFIC = frozenset({"", "EXTREMITY", "LEXTREMITY", "UEXTREMITY", "LEG", "ARM"})


@dataclass(frozen=True)
class RoutingTimePoint:
    """The decision on an earlier study. `number` is its time point, 1 for the oldest, or 0 if it is not taken.

    `binding` is None if the series of the study were not looked at.
    """

    study: EarlierStudy
    binding: Binding | None
    number: int
    reason: str

    @property
    def bound(self) -> dict[str, Series]:
        """The series that feeds each input of this time point, by the key of the input."""
        assert self.binding is not None
        series = {s.series_instance_uid: s for s in self.study.series}
        return {input_key(name, self.number): series[uid] for name, uid in self.binding.inputs.items()}

    def named_inputs(self, manifest: Manifest) -> tuple[str, ...]:
        """Name the series of this time point for the reader of the report."""
        assert self.binding is not None
        names = named_inputs(manifest.inputs, self.binding, self.study.recognised)
        return tuple(f"{name}, {self.study.days} days before" for name in names)

    @property
    def not_compared(self) -> NotCompared:
        """The record of a study that is not compared. Its reason is for readers of the report and names no series."""
        lacking = self.binding.lacking if self.binding is not None else ()
        reason = "; ".join(map(unfilled, lacking)) or self.reason
        return NotCompared(self.study.study_instance_uid, self.study.days, reason)

    def may_be_missed(self, manifest: Manifest) -> bool:
        """Return False if the study feeds none of the required inputs, because it is another kind of examination.

        The report mentions only studies that its reader may miss.
        """
        return self.binding is None or any(r.required and r not in self.binding.lacking for r in manifest.inputs)


@dataclass(frozen=True)
class ShownAnatomy:
    """The body parts and sides that series declare to show; empty if they declare none."""

    body_parts: frozenset[str]
    sides: frozenset[str]  # "L", "R"
    both: bool = False  # both sides are examined, and are two bindings


def decide_time_points(
    manifest: Manifest, shown: ShownAnatomy, earlier: Sequence[EarlierStudy]
) -> tuple[RoutingTimePoint, ...]:
    """Decide on every earlier study, in the order given, the oldest first.

    A study is taken if its series fill the same inputs, and do not show another region than the present study, which
    shows `shown`.
    """
    if manifest.earlier is None:
        return ()
    points = [_candidate(manifest, shown, study) for study in earlier]
    chosen = _chosen(manifest.earlier, [point.study for point in points if not point.reason])
    return tuple(point if point.reason else _placed(point, chosen) for point in points)


def anatomy_of_required(manifest: Manifest, binding: Binding, recognised: Sequence[Recognition]) -> ShownAnatomy:
    """Return the anatomy that the series of the required inputs show."""
    required = {binding.inputs.get(rule.name) for rule in manifest.inputs if rule.required}
    series = [s for s in recognised if s.series_instance_uid in required]
    return ShownAnatomy(
        frozenset(s.body_part for s in series) - UNSPECIFIC,
        frozenset(s.laterality for s in series if s.laterality),
        bool(binding.beside),
    )


def why_none_taken(points: Sequence[RoutingTimePoint]) -> str:
    """Explain why no earlier study can be used, to readers who know no UIDs."""
    told = [f"{_by_days(point.study)} {point.reason}" for point in points]
    return ": ".join(["no earlier study of the same patient can be used", "; ".join(told) or "none is here"])


def _candidate(manifest: Manifest, shown: ShownAnatomy, study: EarlierStudy) -> RoutingTimePoint:
    """Return the time point without a number. Its reason is empty if the study can be taken."""
    if study.problem:
        return RoutingTimePoint(study, None, 0, study.problem)
    side = next(iter(shown.sides)) if len(shown.sides) == 1 else ""
    binding = bind(manifest.inputs, study.recognised, side)
    if not binding.accepted and side:
        whole = bind(manifest.inputs, study.recognised)
        binding = whole if whole.accepted else binding
    if not binding.accepted:
        return RoutingTimePoint(study, binding, 0, binding.reason)
    before = anatomy_of_required(manifest, binding, study.recognised)
    reason = _elsewhere(before, shown) or _of_unknown_side(before, shown)
    if not reason and not side and len(bind_sides(manifest.inputs, study.recognised, each=True)) > 1:
        reason = "shows both sides, and the study does not say which one it shows"
    return RoutingTimePoint(study, binding, 0, reason)


def _placed(point: RoutingTimePoint, chosen: Sequence[EarlierStudy]) -> RoutingTimePoint:
    assert point.binding is not None
    if point.study in chosen:
        return replace(point, number=chosen.index(point.study) + 1, reason=point.binding.reason)
    taken = f"only {len(chosen)} earlier {'study is' if len(chosen) == 1 else 'studies are'} taken"
    return replace(point, reason=f"fits, but {taken}: the smallest size before (nadir) may be missed")


def _elsewhere(before: ShownAnatomy, now: ShownAnatomy) -> str:
    """Return the reason if an earlier study shows another region; empty unless both declare their regions."""
    if before.body_parts and now.body_parts and before.body_parts.isdisjoint(now.body_parts):
        return f"shows {_joined(before.body_parts)}, and the study {_joined(now.body_parts)}"
    if before.sides and now.sides and before.sides.isdisjoint(now.sides):
        return f"shows the {_named(before.sides)} side, and the study the {_named(now.sides)}"
    return ""


def _of_unknown_side(before: ShownAnatomy, now: ShownAnatomy) -> str:
    """Return the reason if an earlier study may be of the other one of two sides; empty if not."""
    return "does not say which side it shows, and the study shows both" if now.both and not before.sides else ""


def _named(sides: Collection[str]) -> str:
    return _joined([SIDE_NAMES[side] for side in sides])


def _by_days(study: EarlierStudy) -> str:
    return "another study" if study.days is None else f"the study {study.days} days before"


def _joined(words: Collection[str]) -> str:
    return " and ".join(sorted(words))


def _chosen(rule: EarlierRule, fitting: Sequence[EarlierStudy]) -> list[EarlierStudy]:
    """Choose the first study, because a course is measured against it, and then the latest ones."""
    if len(fitting) <= rule.maximum:
        return list(fitting)
    if rule.maximum == 1:
        return [fitting[-1]]
    return [fitting[0], *fitting[1 - rule.maximum :]]
