"""The series that feed the inputs of an application, and the one place that reads their volumes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from inference.contract.inputs import InputRule, selected
from inference.headers.image_content import COMPONENT, FRAME_TYPE, IMAGINARY, PHASE, is_signal
from inference.series.kinds import Kind
from inference.volumes.reading import read_volume, read_volumes
from inference.volumes.volume import Volume
from storage.errors import InputRefused

SIGNAL_KINDS = frozenset({Kind.T1W, Kind.T2W, Kind.PDW, Kind.T2_STAR, Kind.STIR, Kind.FLAIR, Kind.DWI})


@dataclass(frozen=True)
class SeriesInput:
    """The series bound to one input of the application: its files, in no particular order.

    `time_point` is 0 for the study that is analysed, and counts earlier studies of the same patient from 1, the oldest
    first. `acquired` is None if the images do not state it.
    """

    name: str
    series_instance_uid: str
    paths: tuple[Path, ...]
    time_point: int = 0
    acquired: date | None = None


def read_input(series: SeriesInput, rules: Sequence[InputRule]) -> tuple[Volume, ...]:
    """Read the volumes that the application's rule for this input asks for.

    With `volumes = "all"` these are all volumes of the series, in the order of acquisition. Otherwise it is exactly
    one. If the series holds several, it is the one that `select` means, or the only one that shows what `kind` names:
    the magnitude beside a phase, or the ADC beside the images that it was computed from. Raises InputRefused if the
    series makes no such volume, or shows no signal where `kind` asks for one, and KeyError if no rule has the name of
    the input.
    """
    rule = {rule.name: rule for rule in rules}[series.name]
    if rule.volumes == "all":
        return read_volumes(series.paths)
    volume = read_volume(series.paths, partial(_chosen, rule=rule))
    component = volume.told_apart.get(COMPONENT)
    if component in (PHASE, IMAGINARY) and rule.kind and SIGNAL_KINDS.issuperset(rule.kind):
        raise InputRefused(f"the images of the series show the {component}, and {rule.name} needs a signal")
    return (volume,)


def _chosen(told_apart: Sequence[Mapping[str, Any]], rule: InputRule) -> int | None:
    if rule.select is not None:
        return selected(told_apart, rule.select)
    fitting = [n for n, told in enumerate(told_apart) if _shows(rule, told)]
    return fitting[0] if len(fitting) == 1 else None


def _shows(rule: InputRule, told: Mapping[str, Any]) -> bool:
    """Return True if a volume shows one of the kinds of the rule, as far as its frame type and component tell."""
    if told.get(FRAME_TYPE) in rule.kind or told.get(COMPONENT) in rule.kind:
        return True
    return is_signal(told) and not SIGNAL_KINDS.isdisjoint(rule.kind)
