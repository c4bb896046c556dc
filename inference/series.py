"""What a series is, from its physics: timing, flip angle, diffusion weighting, image type. No pixels are read.

Every image is judged by itself and the series takes the kind most of them have; then what only the whole series tells
is looked at: repeats of a place, several echoes, phases of the heart. A SeriesDescription differs at every site, so it
decides only where the physics is silent, and with low confidence. What the site itself says in its table stands above
all.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from inference.facts import Facts, agent_by_name, facts_of, is_image, seconds_after_injection
from inference.kinds import Kind as Kind
from inference.physics import Verdict, judge
from inference.planes import Plane, Vector, functional, is_enhanced, planes_of
from inference.sites import SiteTable, rule_for
from inference.volume import Stack, differences, stacks_of
from storage.errors import InputRefused

PERFUSION_REPEATS = 20  # of one place; fewer are phases of a dynamic study
HEART_PHASES = 8  # the fewest that are a cine
LOCALIZER_SLICES = 15  # the most in one plane
LONGEST_HEARTBEAT = 2000.0  # ms
FAT_SHIFT = 3.4e-6  # of the frequency of water
GYROMAGNETIC = 42.577e6  # Hz/T
DIFFUSION = frozenset({Kind.DWI, Kind.ADC, Kind.FA, Kind.TENSOR})
DIXON = frozenset({Kind.WATER, Kind.FAT, Kind.IN_PHASE, Kind.OPPOSED_PHASE, Kind.FAT_FRACTION})
REPEATABLE = frozenset({Kind.T1W, Kind.PDW, Kind.T2_STAR, Kind.OTHER, Kind.PERFUSION, Kind.UNKNOWN, Kind.LGE})
PRE_CONTRAST = "pre-contrast"
PHASES = (  # of a contrast study, and the second after the injection at which each begins
    ("hepatobiliary", 900.0),
    ("delayed", 110.0),
    ("portal venous", 45.0),
    ("arterial", 8.0),
)
PHASE_NAMES = ("arterial", "portal", "venous", "delayed", "late", "hepatobiliary")


@dataclass(frozen=True)
class SeriesDescription:
    """What is known of one series. `problem` says why its images make no volume, empty where they do."""

    series_instance_uid: str
    modality: str
    kind: Kind
    plane: str | None  # "axial", "coronal", "sagittal": the nearest one
    dimension: str | None  # "2D", "3D"
    slices: int  # of its first volume
    contrast: bool | None
    fat_suppressed: bool | None  # None: the header does not tell
    b_values: tuple[float, ...]  # s/mm2; of diffusion alone
    confidence: float  # 0..1
    reasons: tuple[str, ...]
    body_part: str = ""
    volumes: int = 0
    problem: str = ""
    echo_times: tuple[float, ...] = ()  # ms
    inversion_times: tuple[float, ...] = ()  # ms
    phases: int = 1  # images of one place that differ in time alone
    phase: str = ""  # of a contrast study: "pre-contrast", "arterial", "portal venous", "delayed", "hepatobiliary"


def read_headers(paths: Iterable[Path]) -> list[Dataset]:
    """The headers of a series, without pixels."""
    return [dcmread(path, stop_before_pixels=True) for path in paths]


def recognise(headers: Sequence[Dataset], site: SiteTable = ()) -> SeriesDescription:
    """What the series with these headers is. `headers` must not be empty; what is no image among them is passed over.

    The first rule of `site` that names the series decides its kind.
    """
    images = [ds for ds in headers if is_image(ds)]
    if not images:
        what = getattr(headers[0].get("SOPClassUID", ""), "name", "") or "an unknown object"
        return _nothing(
            headers[0],
            Kind.NON_IMAGE,
            1.0,
            f"holds no image: {what}, without Rows and Columns",
            "the series holds no image",
        )
    first = images[0]
    modality = str(first.get("Modality", ""))
    facts = [f for ds in images for f in _readable(ds)]
    if not facts:
        return _nothing(first, Kind.UNKNOWN, 0.0, "its headers are malformed", "its headers are malformed")
    planes, problem, stacks = _geometry(images)
    verdict = _verdict(modality, facts, planes)
    phases = 1 if verdict.kind in DIFFUSION else _phases(facts)
    contrast, by_name = _contrast(facts)
    found = SeriesDescription(
        series_instance_uid=str(first.get("SeriesInstanceUID", "")),
        modality=modality,
        kind=verdict.kind,
        plane=_plane(planes, first),
        dimension=str(first.get("MRAcquisitionType") or "") or None,
        slices=len(stacks[0].planes) if stacks else len(planes),
        contrast=contrast,
        fat_suppressed=_fat_suppressed(verdict.kind, facts) if modality == "MR" else None,
        b_values=_different(f.b_value for f in facts) if verdict.kind in DIFFUSION else (),
        confidence=verdict.confidence,
        reasons=(verdict.reason, *(["its description alone tells of a contrast agent"] if by_name else [])),
        body_part=str(first.get("BodyPartExamined") or "").strip().upper(),
        volumes=len(stacks),
        problem=problem,
        echo_times=_different(f.echo_time for f in facts),
        inversion_times=_different(f.inversion_time for f in facts),
        phases=phases,
        phase=_contrast_phase(modality, contrast, phases, images, facts[0].description),
    )
    rule = rule_for(first, site)
    if rule is None:
        return found
    return replace(
        found,
        kind=rule.kind,
        confidence=1.0,
        reasons=(f"the site's table names it ({rule})",),
        fat_suppressed=found.fat_suppressed if rule.fat_suppressed is None else rule.fat_suppressed,
        contrast=found.contrast if rule.contrast is None else rule.contrast,
        b_values=_different(f.b_value for f in facts) if rule.kind in DIFFUSION else (),
    )


def _nothing(ds: Dataset, kind: Kind, confidence: float, reason: str, problem: str) -> SeriesDescription:
    """Of a series in which there is nothing to look at."""
    return SeriesDescription(
        series_instance_uid=str(ds.get("SeriesInstanceUID", "")),
        modality=str(ds.get("Modality", "")),
        kind=kind,
        plane=None,
        dimension=None,
        slices=0,
        contrast=None,
        fat_suppressed=None,
        b_values=(),
        confidence=confidence,
        reasons=(reason,),
        problem=problem,
    )


def _readable(ds: Dataset) -> list[Facts]:
    """None of an instance whose header is malformed: pydicom reads values late, and raises anything."""
    try:
        return list(facts_of(ds))
    except Exception:
        return []


# -- the kind of the whole ---------------------------------------------------------------------------------------------


def _verdict(modality: str, facts: Sequence[Facts], planes: Sequence[Plane]) -> Verdict:
    if modality == "SEG":
        return Verdict(Kind.DERIVED, 1.0, "a segmentation")
    if modality == "CT":
        return _ct(facts)
    if modality != "MR":
        return Verdict(Kind.UNKNOWN, 0.0, f"modality {modality or 'unknown'} is neither MR nor CT")
    if planes and (_few_in_several_planes(planes) or "LOCALIZER" in facts[0].flavours):
        return Verdict(Kind.LOCALIZER, 0.9, "few slices in several planes, or called LOCALIZER in ImageType")
    verdicts = [judge(f) for f in facts]
    return (
        _of_diffusion(facts, verdicts)
        or _field_map(facts, verdicts)
        or _dixon(facts, verdicts)
        or _heart(facts, verdicts)
        or _repeated(facts, verdicts)
        or _echoes(facts, verdicts)
        or _vote(verdicts)
    )


def _ct(facts: Sequence[Facts]) -> Verdict:
    if "LOCALIZER" in facts[0].flavours:
        return Verdict(Kind.LOCALIZER, 0.95, "called LOCALIZER in ImageType")
    if facts[0].captured or facts[0].colour:
        return Verdict(Kind.DERIVED, 0.95, "a capture of a screen, or a colour image")
    return Verdict(Kind.CT, 0.95, "modality is CT")


def _vote(verdicts: Sequence[Verdict]) -> Verdict:
    """What most images are. Phase images beside others say nothing of the contrast."""
    heard = [v for v in verdicts if v.kind is not Kind.PHASE] or verdicts
    kind, votes = Counter(v.kind for v in heard).most_common(1)[0]
    chosen = next(v for v in heard if v.kind is kind)
    return replace(chosen, confidence=chosen.confidence * votes / len(heard))


def _of_diffusion(facts: Sequence[Facts], verdicts: Sequence[Verdict]) -> Verdict | None:
    """Images without weighting belong to the weighted ones beside them; maps do not."""
    weighted = [v for v in verdicts if v.kind is Kind.DWI]
    maps = sum(v.kind in DIFFUSION - {Kind.DWI} for v in verdicts)
    if not weighted or maps >= len(verdicts) / 2:
        return None
    chosen = max(weighted, key=lambda v: v.confidence)
    b_values = ", ".join(f"{b:g}" for b in _different(f.b_value for f in facts))
    return replace(chosen, reason=f"diffusion weighted, b = {b_values}" if b_values else chosen.reason)


def _field_map(facts: Sequence[Facts], verdicts: Sequence[Verdict]) -> Verdict | None:
    named = [v for v in verdicts if v.kind is Kind.FIELD_MAP]
    if len(named) >= len(verdicts) / 3:
        return named[0]
    phases = sum(v.kind is Kind.PHASE for v in verdicts)
    echoes = _different(f.echo_time for f in facts)
    if phases == len(facts) / 2 and len(echoes) == 2 and echoes[1] < 15 and all("GR" in f.sequence for f in facts):
        return Verdict(Kind.FIELD_MAP, 0.8, "magnitude and phase of a gradient echo at two short echo times")
    return None


def _dixon(facts: Sequence[Facts], verdicts: Sequence[Verdict]) -> Verdict | None:
    kinds = {v.kind for v in verdicts} & DIXON
    if len(kinds) > 1:
        return Verdict(Kind.DIXON, 0.9, f"holds several images of a Dixon acquisition: {', '.join(sorted(kinds))}")
    echoes, field = _different(f.echo_time for f in facts), facts[0].field_strength
    if kinds or len(echoes) != 2 or not field or not all("GR" in f.sequence for f in facts):
        return None
    turns = [te / 1000 * FAT_SHIFT * GYROMAGNETIC * field for te in echoes]  # of fat against water
    off = [abs(turn - round(turn)) for turn in turns]
    if max(turns) < 3 and min(off) < 0.15 and max(off) > 0.35:
        return Verdict(Kind.DIXON, 0.7, f"one echo in phase and one opposed, TE {echoes[0]:g} and {echoes[1]:g} ms")
    return None


def _heart(facts: Sequence[Facts], verdicts: Sequence[Verdict]) -> Verdict | None:
    """Phases of the heart, and inversion recoveries that are sampled for a map."""
    if any(v.kind not in REPEATABLE for v in verdicts):
        return None
    places = _by_place(facts)
    triggers = max((_different(f.trigger_time for f in place) for place in places), key=len)
    if len(triggers) >= HEART_PHASES and 200 <= triggers[-1] - triggers[0] <= LONGEST_HEARTBEAT:
        return Verdict(Kind.CINE, 0.9, f"{len(triggers)} phases of the heart in one place")
    if facts[0].heart_phases >= HEART_PHASES and all(f.gated for f in facts):
        return Verdict(Kind.CINE, 0.8, f"CardiacNumberOfImages is {facts[0].heart_phases:g}")
    inversions = max(len(_different(f.inversion_time for f in place)) for place in places)
    if inversions >= 3:
        return Verdict(Kind.OTHER, 0.8, f"{inversions} inversion times in one place: the source of a T1 map")
    return None


def _repeated(facts: Sequence[Facts], verdicts: Sequence[Verdict]) -> Verdict | None:
    phases = _phases(facts)
    chosen = _vote(verdicts)
    if phases < 2 or chosen.kind not in REPEATABLE or chosen.kind is Kind.LGE:
        return None
    planar = all("EP" in f.sequence for f in facts)
    agent, _ = _contrast(facts)
    why = f"{phases} images of each place one after another, {'with' if agent else 'without'} contrast agent"
    if planar and not agent:
        return Verdict(Kind.BOLD, 0.9, f"echo planar, {why}")
    if phases >= PERFUSION_REPEATS:
        return Verdict(Kind.PERFUSION, 0.85 if agent else 0.6, why)
    if planar:
        return Verdict(Kind.PERFUSION, 0.6, f"echo planar, {why}")
    return Verdict(Kind.DYNAMIC, 0.85 if agent else 0.6, f"{why}; {chosen.reason}")


def _echoes(facts: Sequence[Facts], verdicts: Sequence[Verdict]) -> Verdict | None:
    """Many echoes of one place: what their decay shows counts, not the contrast of each."""
    if any(v.kind not in {Kind.T1W, Kind.T2W, Kind.PDW, Kind.T2_STAR, Kind.OTHER, Kind.PHASE} for v in verdicts):
        return None
    echoes = max((_different(f.echo_time for f in place) for place in _by_place(facts)), key=len)
    if len(echoes) < 3:
        return None
    why = f"{len(echoes)} echoes of each place, TE {echoes[0]:g} to {echoes[-1]:g} ms"
    if all("GR" in f.sequence for f in facts):
        return Verdict(Kind.T2_STAR, 0.6, f"gradient echo, {why}")
    if all("SE" in f.sequence for f in facts):
        return Verdict(Kind.T2W, 0.6, f"spin echo, {why}")
    return None


def _by_place(facts: Sequence[Facts]) -> list[list[Facts]]:
    places: defaultdict[tuple[float, ...], list[Facts]] = defaultdict(list)
    for f in facts:
        places[f.position].append(f)
    return list(places.values())


def _phases(facts: Sequence[Facts]) -> int:
    """Images of one place that nothing but time tells apart."""
    groups: defaultdict[tuple[object, ...], list[Facts]] = defaultdict(list)
    for f in facts:
        groups[f.position, f.echo_time, f.inversion_time, f.b_value, f.flavours].append(f)
    declared = max(f.time_points for f in facts) > 1
    return max(len(group) if declared else len({f.moment for f in group}) for group in groups.values())


# -- what else is known ------------------------------------------------------------------------------------------------


def _fat_suppressed(kind: Kind, facts: Sequence[Facts]) -> bool | None:
    if kind is Kind.WATER:
        return True
    told = {f.fat_suppressed for f in facts}
    return True if True in told else None if None in told else False


def _contrast(facts: Sequence[Facts]) -> tuple[bool, bool]:
    """Whether an agent was given, and whether the name alone tells so: technologists leave the attribute empty."""
    if any(f.agent for f in facts):
        return True, False
    by_name = agent_by_name(facts[0].description)
    return by_name, by_name


def _contrast_phase(modality: str, contrast: bool, phases: int, images: Sequence[Dataset], description: str) -> str:
    """Of a series that is one phase of a contrast study: by the time since the injection, else by its name."""
    if modality not in ("CT", "MR") or phases > 1:
        return ""
    if not contrast:
        return PRE_CONTRAST if modality == "CT" else ""
    seconds = [s for ds in images if (s := seconds_after_injection(ds)) is not None]
    if seconds:
        after = min(seconds)
        reached = [
            name for name, begin in PHASES if after >= begin and not (name == "hepatobiliary" and modality == "CT")
        ]
        return reached[0] if reached else PRE_CONTRAST
    named = next((name for name in PHASE_NAMES if name in description), "")
    return {"portal": "portal venous", "venous": "portal venous", "late": "delayed"}.get(named, named)


def _different(values: Iterable[float | None]) -> tuple[float, ...]:
    return tuple(sorted({value for value in values if value is not None}))


def _geometry(images: Sequence[Dataset]) -> tuple[list[Plane], str, list[Stack]]:
    """The planes, why they make no volume, and the volumes they make."""
    planes: list[Plane] = []
    try:
        for ds in images:
            planes += planes_of(ds, Path())
        stacks = stacks_of(planes)
    except InputRefused as error:
        return planes, str(error), []
    except Exception as error:  # pydicom reads values late, and raises anything where one is malformed
        return planes, f"its place in space cannot be read ({type(error).__name__})", []
    return planes, _problem(stacks), stacks


def _problem(stacks: Sequence[Stack]) -> str:
    """Why a series that makes these volumes cannot be used."""
    return f"holds {len(stacks)} volumes: {differences(stacks)}" if len(stacks) > 1 else ""


def _few_in_several_planes(planes: Sequence[Plane]) -> bool:
    counts = Counter(_nearest(plane.normal) for plane in planes)
    return len(counts) > 1 and max(counts.values()) <= LOCALIZER_SLICES


def _plane(planes: Sequence[Plane], ds: Dataset) -> str | None:
    """Of the first image. Tiled and coloured images have a direction, though they make no plane."""
    if planes:
        return _nearest(planes[0].normal)
    place = functional(ds, 0, "PlaneOrientationSequence") if is_enhanced(ds) else ds
    directions = None if place is None else place.get("ImageOrientationPatient")
    if directions is None or len(directions) != 6:
        return None
    return _nearest(np.cross(directions[:3], directions[3:]))


def _nearest(normal: Vector) -> str:
    return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(normal)))]
