"""The rules for the inputs of an application.

A rule names the properties that a series needs to feed an input, the order of preference among several series, and the
volume that is used of a series with several.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from inference.headers.image_content import COMPONENT, FRAME_TYPE, MAGNITUDE, is_map, is_signal
from inference.series.kinds import Kind
from storage.errors import InputRefused

Modality = Literal["MR", "CT", "PT"]
PlaneName = Literal["axial", "coronal", "sagittal"]
BodyPart = Annotated[str, AfterValidator(lambda value: value.strip().upper())]
Name = Annotated[str, Field(pattern="^[^@ ]+$")]  # without "@", because "t1w@1" is input t1w of an earlier study

SAME_PLANE_AS = "same plane as "  # followed by the name of another input
PREFERENCES = (
    "2D", "3D", "axial", "coronal", "sagittal", "many slices", "many b-values", "with contrast", "without contrast",
    "fat suppressed", "not fat suppressed",
)  # fmt: skip
Laterality = Literal["each"]  # the application runs once for each side of the body that a study shows
Selection = Literal[
    "shortest echo", "longest echo", "lowest b-value", "highest b-value",
    "magnitude", "water", "fat", "in phase", "opposed phase",
]  # fmt: skip

SIGNAL_KINDS = frozenset({Kind.T1W, Kind.T2W, Kind.PDW, Kind.T2_STAR, Kind.STIR, Kind.FLAIR, Kind.DWI})

_EXTREMES = {
    "shortest echo": ("EchoTime", min), "longest echo": ("EchoTime", max),
    "lowest b-value": ("b-value", min), "highest b-value": ("b-value", max),
}  # fmt: skip
_FORBID = ConfigDict(extra="forbid")


def _known(value: str) -> str:
    if value in PREFERENCES or value.removeprefix(SAME_PLANE_AS) not in ("", value):
        return value
    allowed = (*PREFERENCES, f"{SAME_PLANE_AS}<input>")
    close = get_close_matches(value, allowed, n=1)
    raise ValueError(f"allowed: {', '.join(allowed)}" + (f"; did you mean {close[0]!r}?" if close else ""))


def _several(value: Any) -> Any:
    """Return a list as a tuple; one value stands for a list of one."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Preference = Annotated[str, AfterValidator(_known)]
Kinds = Annotated[tuple[Kind, ...], BeforeValidator(_several)]


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class BValues:
    """The b-values (s/mm2) that a diffusion-weighted series must have.

    They are not required of series of other kinds.
    """

    count: Annotated[int, Field(ge=1)] = 1  # minimum number of different b-values
    lowest_at_most: Annotated[float, Field(ge=0)] | None = None
    highest_at_least: Annotated[float, Field(ge=0)] | None = None


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class SeriesRule:
    """The properties that a series must have. None and empty mean: anything.

    If several series fit, the order of preference is: a series that surely has the requested `fat_suppressed` and
    `contrast`; then the kind that is named first; then a series that satisfies the first of `prefer`, then the second,
    and so on.
    """

    modality: Modality = "MR"
    kind: Kinds = ()  # one, or several in order of preference
    plane: PlaneName | None = None
    dimension: Literal["2D", "3D"] | None = None
    minimum_slices: Annotated[int, Field(ge=1)] = 3
    contrast: bool | None = None
    fat_suppressed: bool | None = None
    b_values: BValues | None = None
    body_parts: tuple[BodyPart, ...] = ()  # BodyPartExamined (PS3.16 annex L); a series that names none is not refused
    prefer: tuple[Preference, ...] = ()
    select: Selection | None = None  # the volume that is meant if the series holds several


@dataclass(frozen=True, config=_FORBID)
class InputRule(SeriesRule):
    """The rule for one input.

    With `volumes` "one", a series that holds several volumes is refused, unless `select` says which of them is meant.
    With "all", the application takes them all.
    """

    name: Name
    required: bool = True
    volumes: Literal["one", "all"] = "one"


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class EarlierRule:
    """The wish of an application for earlier studies of the same patient, whose series fill the same inputs.

    If there are more than `maximum`, the application gets the first study and the latest ones; if `maximum` is 1, only
    the latest.
    """

    maximum: Annotated[int, Field(ge=1)] = 1
    required: bool = False


def input_key(name: str, time_point: int) -> str:
    """Return the key under which a job names the series of an input: "t1w", or "t1w@1" for an earlier study.

    Time point 0 is the study that is analysed. Earlier studies of the patient count from 1, the oldest first.
    """
    return f"{name}@{time_point}" if time_point else name


def split_key(key: str) -> tuple[str, int]:
    """Return name and time point of a key that `input_key` made."""
    name, _, time_point = key.partition("@")
    return name, int(time_point or 0)


def volume_for(rule: InputRule, told_apart: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the index in `told_apart` of the volume that the rule means; None if it may mean any of several.

    That is the volume that `select` means, or else the only one that shows a kind of the rule, as far as component and
    frame type tell: the magnitude beside a phase, or the ADC beside the images that it was computed from. Raises
    InputRefused as `selected` does.
    """
    if rule.select is not None:
        return selected(told_apart, rule.select)
    fitting = [n for n, told in enumerate(told_apart) if _shows(rule, told)]
    return fitting[0] if len(fitting) == 1 else None


def _shows(rule: InputRule, told: Mapping[str, Any]) -> bool:
    if told.get(FRAME_TYPE) in rule.kind or told.get(COMPONENT) in rule.kind:
        return True
    return is_signal(told) and not SIGNAL_KINDS.isdisjoint(rule.kind)


def selected(told_apart: Sequence[Mapping[str, Any]], select: Selection) -> int:
    """Return the index in `told_apart` of the volume that `select` means.

    `told_apart` has for each volume the values that distinguish it from the others
    (`inference.volumes.volume.Volume.told_apart`). Raises InputRefused unless exactly one volume can be meant.
    """
    if select in _EXTREMES:
        key, extreme = _EXTREMES[select]
        signals = [n for n, apart in enumerate(told_apart) if is_signal(apart)] or range(len(told_apart))
        known = [told_apart[n][key] for n in signals if told_apart[n].get(key) is not None]
        found = [n for n in signals if known and told_apart[n].get(key) == extreme(known)]
    elif select == MAGNITUDE:
        found = [n for n, apart in enumerate(told_apart) if apart.get(COMPONENT) == select and not is_map(apart)]
    else:
        found = [n for n, apart in enumerate(told_apart) if apart.get(FRAME_TYPE) == select]
    if len(found) != 1:
        raise InputRefused(
            f"{len(found) or 'none'} of the {len(told_apart)} volumes of the series can be the one asked for "
            f"({select}); send that volume as a series of its own"
        )
    return found[0]
