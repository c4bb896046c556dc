"""What an MR series is, from its physics: timing, flip angle, diffusion weighting, image type. No pixels are read.

Every instance is judged by itself and the series takes the kind most of them have. A SeriesDescription differs at
every site, so it decides only where the physics is silent, and with low confidence.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from inference.diffusion import b_values
from inference.planes import Plane, functional, is_enhanced, number, planes_of
from inference.volume import differences, stacks_of
from storage.errors import InputRefused


class Kind(StrEnum):
    """The contrast of a series."""

    T1W = "T1w"
    T2W = "T2w"
    PDW = "PDw"
    FLAIR = "FLAIR"
    DWI = "DWI"
    ADC = "ADC"
    LOCALIZER = "localizer"
    OTHER = "other"  # recognised, and none of the above: phase images, echo planar time series, steady state
    UNKNOWN = "unknown"


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
    fat_suppressed: bool | None
    b_values: tuple[float, ...]  # s/mm2
    confidence: float  # 0..1
    reasons: tuple[str, ...]
    body_part: str = ""
    volumes: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Facts:
    """The physics of one instance (of its first frame where it is Enhanced). Times in ms, the angle in degrees."""

    image_type: frozenset[str]
    sequence: frozenset[str]  # SE, IR, GR, EP, RM
    variant: frozenset[str]
    declared: str  # AcquisitionContrast of Enhanced objects
    repetition_time: float | None
    echo_time: float | None
    inversion_time: float | None
    flip_angle: float | None
    fat_suppressed: bool
    b_values: frozenset[float]
    description: str


@dataclass(frozen=True)
class Verdict:
    kind: Kind
    confidence: float
    reason: str


def read_headers(paths: Iterable[Path]) -> list[Dataset]:
    """The headers of a series, without pixels."""
    return [dcmread(path, stop_before_pixels=True) for path in paths]


def recognise(headers: Sequence[Dataset]) -> SeriesDescription:
    """What the series with these headers is. `headers` must not be empty."""
    first = headers[0]
    modality = str(first.get("Modality", ""))
    facts = [facts_of(ds) for ds in headers]
    planes, problem, volumes, slices = _geometry(headers)
    verdict = _vote([judge(f) for f in facts]) if modality == "MR" else _not_mr(modality)
    if modality == "MR" and planes and (_several_planes(planes) or "LOCALIZER" in facts[0].image_type):
        verdict = Verdict(Kind.LOCALIZER, 0.9, "few slices in several planes, or called LOCALIZER in ImageType")
    return SeriesDescription(
        series_instance_uid=str(first.SeriesInstanceUID),
        modality=modality,
        kind=verdict.kind,
        plane=_plane(planes[0]) if planes else None,
        dimension=str(first.get("MRAcquisitionType") or "") or None,
        slices=slices,
        contrast=_contrast(first),
        fat_suppressed=any(f.fat_suppressed for f in facts),
        b_values=tuple(sorted({b for f in facts for b in f.b_values})),
        confidence=verdict.confidence,
        reasons=(verdict.reason,),
        body_part=str(first.get("BodyPartExamined") or "").strip().upper(),
        volumes=volumes,
        problem=problem,
    )


def facts_of(ds: Dataset) -> Facts:
    """Reads one header; numbers that are absent or unreadable are None."""
    enhanced = is_enhanced(ds)
    timing = (functional(ds, 0, "MRTimingAndRelatedParametersSequence") if enhanced else None) or ds
    echo = (functional(ds, 0, "MREchoSequence") if enhanced else None) or ds
    modifier = (functional(ds, 0, "MRModifierSequence") if enhanced else None) or ds
    frame_type = (functional(ds, 0, "MRImageFrameTypeSequence") if enhanced else None) or ds
    description = f"{ds.get('SeriesDescription', '')} {ds.get('ProtocolName', '')}".lower()
    inversion = modifier.get("InversionTimes") if enhanced else ds.get("InversionTime")
    inversion_time = number(inversion[0] if isinstance(inversion, Sequence) and inversion else inversion)
    return Facts(
        image_type=frozenset(_upper(ds.get("ImageType")) | _upper(frame_type.get("FrameType"))),
        sequence=frozenset(_upper(ds.get("ScanningSequence")) | _enhanced_sequence(ds, modifier)),
        variant=frozenset(_upper(ds.get("SequenceVariant"))),
        declared=str(ds.get("AcquisitionContrast") or frame_type.get("AcquisitionContrast") or ""),
        repetition_time=number(timing.get("RepetitionTime")),
        echo_time=number(echo.get("EffectiveEchoTime") if enhanced else ds.get("EchoTime")),
        inversion_time=inversion_time or None,
        flip_angle=number(timing.get("FlipAngle")),
        fat_suppressed=(
            "FS" in _upper(ds.get("ScanOptions"))
            or "FAT" in _upper(modifier.get("SpectrallySelectedSuppression"))
            or _is_stir(inversion_time)
            or re.search(r"fat.?sat|(?<![a-z])fs(?![a-z])|stir|spair|spir", description) is not None
        ),
        b_values=frozenset(b_values(ds)),
        description=description,
    )


def judge(facts: Facts) -> Verdict:
    """The kind of one instance, from the most to the least trustworthy sign."""
    return (
        _diffusion(facts)
        or _not_a_contrast(facts)
        or _declared(facts)
        or _spin_echo(facts)
        or _gradient_echo(facts)
        or _named(facts)
        or Verdict(Kind.UNKNOWN, 0.0, "neither its timing nor its description tells what it is")
    )


def _diffusion(f: Facts) -> Verdict | None:
    if "ADC" in f.image_type:
        return Verdict(Kind.ADC, 0.95, "ImageType contains ADC")
    weighted = sorted(b for b in f.b_values if b > 0)
    if "DERIVED" in f.image_type and re.search(r"apparent diffusion|(?<![a-z])adc(?![a-z])", f.description):
        return Verdict(Kind.ADC, 0.6, "a derived image whose description names ADC")
    if weighted:
        return Verdict(Kind.DWI, 0.95, f"diffusion weighted, b = {weighted[0]:g}")
    if f.image_type & {"DIFFUSION", "TRACEW"} or f.declared == "DIFFUSION":
        return Verdict(Kind.DWI, 0.8, "called diffusion in its image type")
    return None


def _not_a_contrast(f: Facts) -> Verdict | None:
    if f.image_type & {"P", "PHASE", "PHASE MAP"}:
        return Verdict(Kind.OTHER, 0.9, "a phase image")
    if "EP" in f.sequence:
        return Verdict(Kind.OTHER, 0.8, "echo planar without diffusion weighting")
    return None


def _declared(f: Facts) -> Verdict | None:
    kinds = {"T1": Kind.T1W, "T2": Kind.T2W, "PROTON_DENSITY": Kind.PDW, "FLUID_ATTENUATED": Kind.FLAIR}
    if f.declared in kinds:
        return Verdict(kinds[f.declared], 0.9, f"AcquisitionContrast is {f.declared}")
    return None


def _spin_echo(f: Facts) -> Verdict | None:
    tr, te, ti = f.repetition_time, f.echo_time, f.inversion_time
    if not f.sequence & {"SE", "IR"} or "GR" in f.sequence or tr is None or te is None:
        return None
    why = f"spin echo, TR {tr:g} ms, TE {te:g} ms" + (f", TI {ti:g} ms" if ti else "")
    if ti is not None and ti >= 1500 and te >= 60:
        return Verdict(Kind.FLAIR, 0.9, why)
    if te < 30 and tr < 1500:
        return Verdict(Kind.T1W, 0.9, why)
    if tr >= 1500:
        return Verdict(Kind.T2W if te >= 50 or _is_stir(ti) else Kind.PDW, 0.9, why)
    return Verdict(Kind.OTHER, 0.5, why)


def _gradient_echo(f: Facts) -> Verdict | None:
    tr, te, ti, angle = f.repetition_time, f.echo_time, f.inversion_time, f.flip_angle
    if "GR" not in f.sequence or tr is None or te is None:
        return None
    why = f"gradient echo, TR {tr:g} ms, TE {te:g} ms" + (f", flip angle {angle:g}" if angle else "")
    if te >= 15:
        return Verdict(Kind.OTHER, 0.7, f"{why}: T2* weighted")
    if "MP" in f.variant or (ti is not None and 400 <= ti <= 1500):
        return Verdict(Kind.T1W, 0.9, f"{why}, magnetisation prepared")
    if angle is None:
        return None
    if f.variant == {"SS"} and angle >= 30 and tr < 10:
        return Verdict(Kind.OTHER, 0.7, f"{why}: balanced steady state")
    # the Ernst angle of T1 = 1 s parts proton density from T1 weighting
    ernst = float(np.degrees(np.arccos(np.exp(-tr / 1000.0))))
    if angle >= ernst:
        return Verdict(Kind.T1W, 0.75, why)
    return Verdict(Kind.PDW, 0.5, why)


def _named(f: Facts) -> Verdict | None:
    """The last resort: what the site calls it."""
    names = (
        (r"flair", Kind.FLAIR),
        (r"(?<![a-z])adc(?![a-z])", Kind.ADC),
        (r"dwi|diff", Kind.DWI),
        (r"mprage|(?<![a-z0-9])t1(?![0-9])", Kind.T1W),
        (r"stir|(?<![a-z0-9])t2(?![0-9*])", Kind.T2W),
        (r"(?<![a-z])pd(?![a-z])", Kind.PDW),
    )
    for pattern, kind in names:
        if re.search(pattern, f.description):
            return Verdict(kind, 0.4, "timing is missing; its description names it")
    return None


def _is_stir(inversion_time: float | None) -> bool:
    return inversion_time is not None and 80 <= inversion_time <= 300


def _enhanced_sequence(ds: Dataset, modifier: Dataset) -> set[str]:
    """ScanningSequence values from what Enhanced objects say instead (PS3.3 C.8.13.4)."""
    found = {"SPIN": {"SE"}, "GRADIENT": {"GR"}, "BOTH": {"SE", "GR"}}.get(str(ds.get("EchoPulseSequence", "")), set())
    if ds.get("EchoPlanarPulseSequence") == "YES":
        found = found | {"EP"}
    if modifier.get("InversionRecovery") == "YES":
        found = found | {"IR"}
    return found


def _vote(verdicts: Sequence[Verdict]) -> Verdict:
    kind, votes = Counter(v.kind for v in verdicts).most_common(1)[0]
    chosen = next(v for v in verdicts if v.kind is kind)
    return Verdict(kind, chosen.confidence * votes / len(verdicts), chosen.reason)


def _not_mr(modality: str) -> Verdict:
    return Verdict(Kind.UNKNOWN, 0.0, f"modality {modality or 'unknown'} is not MR")


def _geometry(headers: Sequence[Dataset]) -> tuple[list[Plane], str, int, int]:
    """Planes, why they make no volume, and how many volumes of how many slices they make."""
    planes: list[Plane] = []
    try:
        for ds in headers:
            planes += planes_of(ds, Path())
        stacks = stacks_of(planes)
    except InputRefused as error:
        return planes, str(error), 0, len(planes)
    slices = len(stacks[0].planes)
    return (
        planes,
        (f"holds {len(stacks)} volumes: {differences(stacks)}" if len(stacks) > 1 else ""),
        len(stacks),
        slices,
    )


def _several_planes(planes: Sequence[Plane]) -> bool:
    return len(planes) < 30 and len({_plane(plane) for plane in planes}) > 1


def _plane(plane: Plane) -> str:
    return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(plane.normal)))]


def _contrast(ds: Dataset) -> bool:
    return bool(ds.get("ContrastBolusAgent") or ds.get("ContrastBolusAgentSequence"))


def _upper(value: Any) -> set[str]:
    values = [value] if isinstance(value, str) else list(value or [])
    return {str(v).strip().upper() for v in values}
