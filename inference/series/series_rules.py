"""The kind of a whole series: the kind of most of its images, unless the series tells more than each of them.

Only a whole series shows repeats of a place, several echoes or inversion times, and phases of the heart.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from inference.headers.image_content import MAGNITUDE
from inference.series.agent import AgentEvidence, agent_evidence
from inference.series.image_facts import ImageFacts
from inference.series.image_rules import kind_of_image
from inference.series.kinds import Kind, Verdict
from inference.volumes.planes import LpsVector, Plane

PERFUSION_REPEATS = 20  # images of one place; fewer are phases of a dynamic study
HEART_PHASES = 8  # minimum of a cine
LOCALIZER_SLICES = 15  # maximum in one plane
LONGEST_HEARTBEAT = 2000.0  # ms
FAT_SHIFT = 3.4e-6  # part of the frequency of water
GYROMAGNETIC = 42.577e6  # Hz/T
FIRST_GRADIENT_ECHO = 5.0  # ms: refocusing pulses need more time before the first echo and between echoes
DECAYING = frozenset({Kind.T1W, Kind.T2W, Kind.PDW, Kind.T2_STAR, Kind.OTHER, Kind.PHASE, Kind.UNKNOWN})
DIFFUSION_KINDS = frozenset({Kind.DWI, Kind.ADC, Kind.FA, Kind.TENSOR})
DIXON_KINDS = frozenset({Kind.WATER, Kind.FAT, Kind.IN_PHASE, Kind.OPPOSED_PHASE, Kind.FAT_FRACTION})
MAP_KINDS = frozenset({Kind.T1_MAP, Kind.T2_MAP, Kind.T2_STAR_MAP, Kind.DERIVED})
REPEATABLE = frozenset({Kind.T1W, Kind.PDW, Kind.T2_STAR, Kind.OTHER, Kind.PERFUSION, Kind.UNKNOWN, Kind.LGE})


def kind_of_series(modality: str, facts: Sequence[ImageFacts], planes: Sequence[Plane]) -> Verdict:
    """Return the verdict on the kind of the series that these images make.

    `facts` must not be empty; `planes` may be empty, if they are unknown.
    """
    if modality == "SEG":
        return Verdict(Kind.DERIVED, 1.0, "a segmentation")
    if modality == "CT":
        return _ct(facts)
    if modality != "MR":
        return Verdict(Kind.UNKNOWN, 0.0, f"modality {modality or 'unknown'} is neither MR nor CT")
    if _few_in_several_planes(planes) or "LOCALIZER" in facts[0].flavours:
        return Verdict(Kind.LOCALIZER, 0.9, "few slices in several planes, or called LOCALIZER in ImageType")
    verdicts = _verdicts(facts)
    return (
        _of_diffusion(facts, verdicts)
        or _several_maps(verdicts)
        or _field_map(facts, verdicts)
        or _dixon(facts, verdicts)
        or _heart(facts, verdicts)
        or _flip_angles(facts, verdicts)
        or _repeated(facts, verdicts)
        or _echoes(facts, verdicts)
        or _vote(verdicts)
    )


def _verdicts(facts: Sequence[ImageFacts]) -> list[Verdict]:
    """Return the verdict on each image. Place and time have no part in it."""
    known: dict[int, Verdict] = {}
    found = []
    for f in facts:
        one = f.like or f
        if id(one) not in known:
            known[id(one)] = kind_of_image(f)
        found.append(known[id(one)])
    return found


def _ct(facts: Sequence[ImageFacts]) -> Verdict:
    if "LOCALIZER" in facts[0].flavours:
        return Verdict(Kind.LOCALIZER, 0.95, "called LOCALIZER in ImageType")
    if facts[0].captured or facts[0].colour:
        return Verdict(Kind.DERIVED, 0.95, "a capture of a screen, or a colour image")
    return Verdict(Kind.CT, 0.95, "modality is CT")


def _vote(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict of most images. Phase images beside others do not count, because they show no contrast."""
    heard = [v for v in verdicts if v.kind is not Kind.PHASE] or verdicts
    kind, votes = Counter(v.kind for v in heard).most_common(1)[0]
    chosen = next(v for v in heard if v.kind is kind)
    return replace(chosen, confidence=chosen.confidence * (votes / len(heard)))


def _of_diffusion(facts: Sequence[ImageFacts], verdicts: Sequence[Verdict]) -> Verdict | None:
    """Recognise diffusion weighting. Unweighted images beside weighted ones belong to them; maps do not."""
    weighted = [v for v in verdicts if v.kind is Kind.DWI]
    maps = sum(v.kind in DIFFUSION_KINDS - {Kind.DWI} for v in verdicts)
    if not weighted or maps >= len(verdicts) / 2:
        return None
    chosen = max(weighted, key=lambda v: v.confidence)
    b_values = ", ".join(f"{b:g}" for b in b_values_of(facts))
    return replace(chosen, reason=f"diffusion weighted, b = {b_values}" if b_values else chosen.reason)


def _several_maps(verdicts: Sequence[Verdict]) -> Verdict | None:
    kinds = {v.kind for v in verdicts}
    if len(kinds) < 2 or not kinds <= MAP_KINDS:
        return None
    return Verdict(Kind.DERIVED, 0.9, f"holds several maps: {', '.join(sorted(kinds))}")


def _field_map(facts: Sequence[ImageFacts], verdicts: Sequence[Verdict]) -> Verdict | None:
    named = [v for v in verdicts if v.kind is Kind.FIELD_MAP]
    if len(named) >= len(verdicts) / 3:
        return named[0]
    phases = sum(v.kind is Kind.PHASE for v in verdicts)
    echoes = different(f.echo_time for f in facts)
    if phases == len(facts) / 2 and len(echoes) == 2 and echoes[1] < 15 and all("GR" in f.sequence for f in facts):
        return Verdict(Kind.FIELD_MAP, 0.8, "magnitude and phase of a gradient echo at two short echo times")
    return None


def _dixon(facts: Sequence[ImageFacts], verdicts: Sequence[Verdict]) -> Verdict | None:
    kinds = {v.kind for v in verdicts} & DIXON_KINDS
    if len(kinds) > 1:
        return Verdict(Kind.DIXON, 0.9, f"holds several images of a Dixon acquisition: {', '.join(sorted(kinds))}")
    echoes, field = different(f.echo_time for f in facts), facts[0].field_strength
    if kinds or len(echoes) != 2 or not field or not all("GR" in f.sequence for f in facts):
        return None
    turns = [te / 1000 * FAT_SHIFT * GYROMAGNETIC * field for te in echoes]  # of the phase of fat against water
    off = [abs(turn - round(turn)) for turn in turns]
    if max(turns) < 3 and min(off) < 0.15 and max(off) > 0.35:
        return Verdict(Kind.DIXON, 0.7, f"one echo in phase and one opposed, TE {echoes[0]:g} and {echoes[1]:g} ms")
    return None


def _heart(facts: Sequence[ImageFacts], verdicts: Sequence[Verdict]) -> Verdict | None:
    """Recognise phases of the heart, and inversion recoveries that are sampled for a map."""
    if any(v.kind not in REPEATABLE | {Kind.PHASE} for v in verdicts):
        return None
    places = _by_place(facts)
    inversions = max(len(different(f.inversion_time for f in place)) for place in places)
    if inversions >= 3:
        return Verdict(Kind.OTHER, 0.8, f"{inversions} inversion times in one place: the source of a T1 map")
    if any(v.kind is Kind.PHASE for v in verdicts):
        return None
    triggers = max((different(f.trigger_time for f in place) for place in places), key=len)
    if len(triggers) >= HEART_PHASES and 200 <= triggers[-1] - triggers[0] <= LONGEST_HEARTBEAT:
        return Verdict(Kind.CINE, 0.9, f"{len(triggers)} phases of the heart in one place")
    if facts[0].heart_phases >= HEART_PHASES and all(f.gated for f in facts):
        return Verdict(Kind.CINE, 0.8, f"CardiacNumberOfImages is {facts[0].heart_phases:g}")
    return None


def _flip_angles(facts: Sequence[ImageFacts], verdicts: Sequence[Verdict]) -> Verdict | None:
    """Recognise gradient echoes that are sampled for a map, as inversion recoveries are."""
    if any(v.kind not in REPEATABLE for v in verdicts) or not all("GR" in f.sequence for f in facts):
        return None
    angles = max((different(f.flip_angle for f in place) for place in _by_place(facts)), key=len)
    if len(angles) < 2:
        return None
    return Verdict(Kind.OTHER, 0.8, f"{len(angles)} flip angles in one place: the source of a T1 map")


def _repeated(facts: Sequence[ImageFacts], verdicts: Sequence[Verdict]) -> Verdict | None:
    phases = phases_of(facts)
    chosen = _vote(verdicts)
    if phases < 2 or chosen.kind not in REPEATABLE or chosen.kind is Kind.LGE:
        return None
    planar = all("EP" in f.sequence for f in facts)
    agent = agent_evidence(facts) is not AgentEvidence.NONE
    why = f"{phases} images of each place one after another, {'with' if agent else 'without'} contrast agent"
    if planar and not agent:
        return Verdict(Kind.BOLD, 0.9, f"echo planar, {why}")
    if phases >= PERFUSION_REPEATS:
        return Verdict(Kind.PERFUSION, 0.85 if agent else 0.6, why)
    if planar:
        return Verdict(Kind.PERFUSION, 0.6, f"echo planar, {why}")
    return Verdict(Kind.DYNAMIC, 0.85 if agent else 0.6, f"{why}; {chosen.reason}")


def _echoes(facts: Sequence[ImageFacts], verdicts: Sequence[Verdict]) -> Verdict | None:
    """Recognise many echoes of one place, which are acquired for their decay and not for the contrast of each."""
    if any(v.kind not in DECAYING for v in verdicts):
        return None
    echoes = max((different(f.echo_time for f in place) for place in _by_place(facts)), key=len)
    if len(echoes) < 3:
        return None
    why = f"{len(echoes)} echoes of each place, TE {echoes[0]:g} to {echoes[-1]:g} ms"
    if all("GR" in f.sequence for f in facts):
        return Verdict(Kind.T2_STAR, 0.6, f"gradient echo, {why}")
    if all("SE" in f.sequence for f in facts):
        return Verdict(Kind.T2W, 0.6, f"spin echo, {why}")
    if echoes[0] < FIRST_GRADIENT_ECHO and max(b - a for a, b in pairwise(echoes)) < FIRST_GRADIENT_ECHO:
        return Verdict(Kind.T2_STAR, 0.5, f"too close for spin echoes, {why}")
    return None


def _by_place(facts: Sequence[ImageFacts]) -> list[list[ImageFacts]]:
    places: defaultdict[tuple[float, ...], list[ImageFacts]] = defaultdict(list)
    for f in facts:
        places[f.position].append(f)
    return list(places.values())


def phases_of(facts: Sequence[ImageFacts]) -> int:
    """Count the images of one place that differ in nothing but time."""
    groups: defaultdict[tuple[object, ...], list[ImageFacts]] = defaultdict(list)
    for f in facts:
        groups[f.position, f.echo_time, f.inversion_time, f.flip_angle, f.b_value, f.flavours].append(f)
    declared = max(f.time_points for f in facts) > 1
    return max(len(group) if declared else len({f.moment for f in group}) for group in groups.values())


def b_values_of(facts: Sequence[ImageFacts]) -> tuple[float, ...]:
    """Return the b-values of the images, rising.

    Images that state none, beside weighted ones of the same place, TE and TR, are those of b = 0 (Canon and Toshiba
    write nothing there). Their pixels must confirm it; volumes are told apart accordingly when they are read.
    """
    stated = different(f.b_value for f in facts)
    weighted = {(f.position, f.echo_time, f.repetition_time) for f in facts if f.b_value}
    unlabelled = any(
        f.b_value is None and not f.derived and f.component == MAGNITUDE
        and (f.position, f.echo_time, f.repetition_time) in weighted
        for f in facts
    )  # fmt: skip
    return tuple(sorted({0.0, *stated})) if unlabelled else stated


def _few_in_several_planes(planes: Sequence[Plane]) -> bool:
    rows, columns = ([getattr(plane, along) for plane in planes] for along in ("row_direction", "column_direction"))
    counts = Counter(np.abs(np.cross(rows, columns)).argmax(axis=1).tolist()) if planes else {}
    return len(counts) > 1 and max(counts.values()) <= LOCALIZER_SLICES


def nearest_plane(normal: LpsVector) -> str:
    """Return the plane that a slice with this normal (LPS) is nearest to."""
    return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(normal)))]


def different(values: Iterable[float | None]) -> tuple[float, ...]:
    """Return the values in rising order, each once, without None."""
    return tuple(sorted({value for value in values if value is not None}))
