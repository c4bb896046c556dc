"""The recogniser, which finds the kind of a series from its headers. No pixels are read.

Every image is judged by itself, and the series takes the kind that most of them have. Then come the signs that only a
whole series shows: repeats of a place, several echoes, phases of the heart. SeriesDescription differs at every site, so
it decides only if the physics does not, and with low confidence. The site's own table overrules everything else.
"""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from inference.headers.attributes import values, vector
from inference.headers.decoding import pattern_of
from inference.headers.images import images_among, may_be_image, told_odd
from inference.headers.reading import read_beginning
from inference.series.agent import AgentEvidence, agent_evidence, seconds_after_injection
from inference.series.image_facts import ImageFacts, facts_like, facts_of
from inference.series.kinds import Kind as Kind
from inference.series.series_rules import (
    DIFFUSION_KINDS,
    b_values_of,
    different,
    kind_of_series,
    nearest_plane,
    phases_of,
)
from inference.series.site_table import SiteTable, rule_for
from inference.volumes.planes import Plane, functional, is_enhanced, planes_of_each
from inference.volumes.stacks import SliceStack, differences, stacks_of
from storage.blobs import Blob
from storage.errors import InputRefused

PRE_CONTRAST = "pre-contrast"
PHASES = (  # phase of a contrast study, and the second after the injection at which it begins
    ("hepatobiliary", 900.0),
    ("delayed", 110.0),
    ("portal venous", 45.0),
    ("arterial", 8.0),
)
PHASE_NAMES = (
    (r"hepatobil", "hepatobiliary"),
    (r"delay|(?<![a-z])late(?![a-z])", "delayed"),
    (r"portal|venous", "portal venous"),
    (r"arterial", "arterial"),
)


@dataclass(frozen=True)
class Recognition:
    """The result of recognising one series. `problem` says why its images make no volume; it is empty if they do."""

    series_instance_uid: str
    modality: str
    kind: Kind
    plane: str | None  # "axial", "coronal", "sagittal": the nearest one
    dimension: str | None  # "2D", "3D"
    slices: int  # of its first volume
    contrast: bool | None
    fat_suppressed: bool | None  # None if the header does not tell
    b_values: tuple[float, ...]  # s/mm2; empty unless the series is of diffusion
    confidence: float  # 0..1
    reasons: tuple[str, ...]
    body_part: str = ""
    laterality: str = ""  # "R" or "L", if all images that tell a side tell this one
    volumes: int = 0
    problem: str = ""
    differences: str = ""  # what tells its volumes apart, if it makes several
    contents: tuple[Mapping[str, Any], ...] = ()  # `Volume.told_apart` of each of them
    echo_times: tuple[float, ...] = ()  # ms
    inversion_times: tuple[float, ...] = ()  # ms
    phases: int = 1  # images of one place that differ in time alone
    phase: str = ""  # of a contrast study: "pre-contrast", "arterial", "portal venous", "delayed", "hepatobiliary"
    number: int | None = None  # Series Number
    description: str = ""  # Series Description: free text of the scanner, which no log may hold


def read_headers(blobs: Iterable[Blob]) -> list[Dataset]:
    """Read the headers of a series as `read_beginning` does."""
    return [read_beginning(blob).header for blob in blobs]


def recognise_headers(headers: Sequence[Dataset], site: SiteTable = ()) -> Recognition:
    """Describe the series that has these headers.

    `headers` must not be empty; objects that are no images are left out, and the reasons name them. The first rule of
    `site` that names the series decides its kind.
    """
    chosen, odd = images_among(headers)
    images = [headers[n] for n in chosen]
    if not images:
        if any(map(may_be_image, headers)):  # nothing is reported of a series that is known to hold no image
            reason = "; ".join(told_odd(odd))
            return _nothing(headers[0], Kind.UNKNOWN, 0.0, reason, "no image of the series can be read")
        reason = f"holds no image: its first object {odd[0].reason}"
        return _nothing(headers[0], Kind.NON_IMAGE, 1.0, reason, "the series holds no image")
    first = images[0]
    modality = str(first.get("Modality", ""))
    facts = _readable(images)
    if not facts:
        return _nothing(first, Kind.UNKNOWN, 0.0, "its headers are malformed", "its headers are malformed")
    planes, problem, stacks = _geometry(images)
    told = told_odd(odd)
    problem = "; ".join([problem, *told]) if problem else ""  # a slice that seems to be missing may be one of these
    verdict = kind_of_series(modality, facts, planes)
    phases = 1 if verdict.kind in DIFFUSION_KINDS else phases_of(facts)
    agent = agent_evidence(facts)
    contrast = agent is not AgentEvidence.NONE
    found = Recognition(
        series_instance_uid=str(first.get("SeriesInstanceUID", "")),
        modality=modality,
        kind=verdict.kind,
        plane=_plane(planes, first),
        dimension=str(first.get("MRAcquisitionType") or "") or None,
        slices=len(stacks[0].planes) if stacks else len(planes),
        contrast=contrast,
        fat_suppressed=_fat_suppressed(verdict.kind, facts) if modality == "MR" else None,
        b_values=b_values_of(facts) if verdict.kind in DIFFUSION_KINDS else (),
        confidence=verdict.confidence,
        reasons=(
            verdict.reason,
            *(["its description alone tells of a contrast agent"] if agent is AgentEvidence.NAME else []),
            *([] if problem else told),
        ),
        body_part=_body_part(first),
        laterality=_laterality(facts),
        volumes=len(stacks),
        problem=problem,
        differences=differences(stacks) if len(stacks) > 1 else "",
        contents=tuple(stack.told_apart for stack in stacks),
        echo_times=different(f.echo_time for f in facts),
        inversion_times=different(f.inversion_time for f in facts),
        phases=phases,
        phase=_contrast_phase(modality, contrast, phases, images, facts[0].description),
        number=_number(first),
        description=_description(first),
    )
    rule = rule_for(first, site)
    if rule is None:
        return found
    return replace(
        found,
        kind=rule.kind,
        confidence=1.0,
        reasons=(f"the site's table names it ({rule})", *([] if problem else told)),
        fat_suppressed=found.fat_suppressed if rule.fat_suppressed is None else rule.fat_suppressed,
        contrast=found.contrast if rule.contrast is None else rule.contrast,
        b_values=b_values_of(facts) if rule.kind in DIFFUSION_KINDS else (),
    )


def _nothing(ds: Dataset, kind: Kind, confidence: float, reason: str, problem: str) -> Recognition:
    """Return the recognition of a series without any usable image."""
    return Recognition(
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
        number=_number(ds),
        description=_description(ds),
    )


def _number(ds: Dataset) -> int | None:
    try:
        return int(ds.SeriesNumber)
    except Exception:  # absent, empty or malformed: pydicom reads values late, and raises many kinds of errors
        return None


def _description(ds: Dataset) -> str:
    try:
        return " ".join(str(ds.get("SeriesDescription") or "").split())
    except Exception:
        return ""


def _readable(images: Iterable[Dataset]) -> list[ImageFacts]:
    """Return the facts of those instances whose headers are not malformed."""
    known: dict[Hashable, ImageFacts] = {}
    return [facts for ds in images for facts in _facts_of(ds, known)]


def _facts_of(ds: Dataset, known: dict[Hashable, ImageFacts]) -> list[ImageFacts]:
    """Return the facts of an instance, from those `known` of its pattern; none if its header is malformed.

    pydicom reads values late, and then raises errors of many kinds.
    """
    pattern = pattern_of(ds)
    try:
        facts = [facts_like(known[pattern], ds)] if pattern in known else list(facts_of(ds))
    except MemoryError:
        raise
    except Exception:
        return []
    if pattern is not None and len(facts) == 1:
        known.setdefault(pattern, facts[0])
    return facts


def _fat_suppressed(kind: Kind, facts: Sequence[ImageFacts]) -> bool | None:
    if kind is Kind.WATER:
        return True
    told = {f.fat_suppressed for f in facts}
    return True if True in told else None if None in told else False


def _body_part(ds: Dataset) -> str:
    """Return the first value: several are against the standard, but occur."""
    return next((text for v in values(ds.get("BodyPartExamined")) if (text := str(v).strip().upper())), "")


def _laterality(facts: Sequence[ImageFacts]) -> str:
    told = {f.laterality for f in facts} - {""}
    return told.pop() if len(told) == 1 and told <= {"R", "L"} else ""


def _contrast_phase(modality: str, contrast: bool, phases: int, images: Sequence[Dataset], description: str) -> str:
    """Return the phase of a series that is one phase of a contrast study.

    The phase follows from the time since the injection, or else from the name.
    """
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
    return next((name for pattern, name in PHASE_NAMES if re.search(pattern, description)), "")


def _geometry(images: Sequence[Dataset]) -> tuple[list[Plane], str, list[SliceStack]]:
    """Return the planes, the reason why they make no volume, and the volumes that they make."""
    planes: list[Plane] = []
    try:
        planes.extend(planes_of_each(images))
        stacks = stacks_of(planes)
    except InputRefused as error:
        return planes, str(error), []
    except MemoryError:
        raise
    except Exception as error:  # pydicom reads values late, and raises many kinds of errors for a malformed one
        return planes, f"its place in space cannot be read ({type(error).__name__})", []
    return planes, "", stacks


def _plane(planes: Sequence[Plane], ds: Dataset) -> str | None:
    """Return the plane of the first image, None if it is malformed.

    Tiled and coloured images have a direction, but make no `Plane`.
    """
    if planes:
        return nearest_plane(planes[0].normal)
    place = functional(ds, 0, "PlaneOrientationSequence") if is_enhanced(ds) else ds
    try:
        directions = vector(place or Dataset(), "ImageOrientationPatient", 6, "the first image")
    except InputRefused:
        return None
    normal = np.cross(directions[:3], directions[3:])
    return nearest_plane(normal) if normal.any() else None
