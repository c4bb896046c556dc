"""Rules for the kind of one image, by the physics of its acquisition, the most trustworthy sign first.

A name is the last resort: it decides only if the physics does not, and with low confidence.
"""

import re
from dataclasses import replace

from inference.headers.image_content import IMAGINARY, PHASE, REAL
from inference.series.contrast import OPEN, gradient_echo, spin_echo
from inference.series.image_facts import ImageFacts, is_stir
from inference.series.kinds import Kind, Verdict
from inference.series.maps import NAMED_MAPS, TRACES, kind_by_unit, kind_of_computed, kind_of_derived, kind_of_map
from inference.series.names import named

DIXON = {"water": Kind.WATER, "fat": Kind.FAT, "in phase": Kind.IN_PHASE, "opposed phase": Kind.OPPOSED_PHASE}
DECLARED = {
    "T1": Kind.T1W, "T2": Kind.T2W, "PROTON_DENSITY": Kind.PDW, "FLUID_ATTENUATED": Kind.FLAIR, "STIR": Kind.STIR,
    "T2_STAR": Kind.T2_STAR, "PERFUSION": Kind.PERFUSION, "TOF": Kind.OTHER, "FLOW_ENCODED": Kind.OTHER,
    "TAGGING": Kind.OTHER,
}  # fmt: skip
WEIGHTED = frozenset({Kind.T1W, Kind.T2W, Kind.PDW, Kind.T2_STAR})  # kinds that times alone tell
DISPUTED = 0.5  # confidence where the times contradict AcquisitionContrast
STEADY_STATES = re.compile(r"(?<![a-z])(tfi|ci3d|de3d|psif|b[-_]?[ft]fe)|fiesta")  # sequences of several vendors
SUSCEPTIBILITY = re.compile(r"SWI|SW_M(_\w+)?|SWAN")
PERFUSION = re.compile(r"PERFUSION_(FFE|SE|TSE|EPI)")  # Philips: computed perfusion images


def kind_of_image(facts: ImageFacts) -> Verdict:
    """Return the verdict on the kind of one MR image."""
    return (
        _perfusion(facts)
        or kind_of_map(facts)
        or kind_by_unit(facts)
        or kind_of_computed(facts)
        or _labelled(facts)
        or kind_of_derived(facts)
        or _diffusion(facts)
        or _dixon(facts)
        or _component(facts)
        or _flow(facts)
        or _susceptibility(facts)
        or _late_enhancement(facts)
        or _echo_planar(facts)
        or _steady_state(facts)
        or _doubted(facts, _weighted(facts))
        or named(facts.description)
        or Verdict(Kind.UNKNOWN, 0.0, "neither its timing nor its description tells what it is")
    )


def _perfusion(f: ImageFacts) -> Verdict | None:
    if not any(PERFUSION.fullmatch(flavour) for flavour in f.flavours):
        return None
    if f.agent:
        return Verdict(Kind.PERFUSION, 0.8, "ImageType says perfusion, with contrast agent")
    return Verdict(Kind.ASL, 0.7, "ImageType says perfusion, without contrast agent: of labelled spins")


def _labelled(f: ImageFacts) -> Verdict | None:
    if f.labelled or "ASL" in f.flavours or "PERFUSION_ASL" in f.flavours or "asl" in f.sequence_name:
        return Verdict(Kind.ASL, 0.95, "arterial spins are labelled")
    return None


def _diffusion(f: ImageFacts) -> Verdict | None:
    if f.b_value:
        return Verdict(Kind.DWI, 0.95, f"diffusion weighted, b = {f.b_value:g}")
    if f.flavours & TRACES or "DIFFUSION" in (*f.flavours, f.declared) or f.sequence_name.startswith("dwi"):
        return Verdict(Kind.DWI, 0.8, "called diffusion in its header")
    return None


def _dixon(f: ImageFacts) -> Verdict | None:
    if f.frame_type not in DIXON:
        return None
    return Verdict(DIXON[f.frame_type], 0.9, f"the {f.frame_type} image of a Dixon acquisition")


def _component(f: ImageFacts) -> Verdict | None:
    """Judge parts of the complex signal. The real part after an inversion has the contrast of its magnitude."""
    if f.component == PHASE:
        return Verdict(Kind.PHASE, 0.9, "a phase image")
    if f.component == IMAGINARY or (f.component == REAL and "PSIR" not in f.flavours and "GR" in f.sequence):
        return Verdict(Kind.OTHER, 0.7, f"the {f.component} part of the signal")
    return None


def _flow(f: ImageFacts) -> Verdict | None:
    if f.flow:
        return Verdict(Kind.OTHER, 0.8, "its contrast is flow")
    return None


def _susceptibility(f: ImageFacts) -> Verdict | None:
    if any(SUSCEPTIBILITY.fullmatch(flavour) for flavour in f.flavours) or "swi" in f.sequence_name:
        return Verdict(Kind.T2_STAR, 0.8, "susceptibility weighted")
    return None


def _late_enhancement(f: ImageFacts) -> Verdict | None:
    if "PSIR" in f.flavours:
        return Verdict(Kind.LGE, 0.9, "phase sensitive inversion recovery")
    prepared = f.inversion_time is not None and 150 <= f.inversion_time <= 600
    if f.gated and prepared and "GR" in f.sequence and "EP" not in f.sequence:
        why = f"gated gradient echo after inversion, TI {f.inversion_time:g} ms"
        return Verdict(Kind.LGE, 0.9, f"{why}, with contrast agent") if f.agent else Verdict(Kind.LGE, 0.6, why)
    return None


def _echo_planar(f: ImageFacts) -> Verdict | None:
    if "EP" in f.sequence:
        return Verdict(Kind.OTHER, 0.7, "echo planar without diffusion weighting")
    return None


def _steady_state(f: ImageFacts) -> Verdict | None:
    """Judge steady states: balanced, or made of echoes that several excitations form.

    Their contrast is neither that of T1 alone nor that of T2 alone.
    """
    if STEADY_STATES.search(f.sequence_name):
        return Verdict(Kind.OTHER, 0.8, f"of the steady state sequence {f.sequence_name}")
    return None


def _doubted(f: ImageFacts, weighted: Verdict | None) -> Verdict | None:
    """Take the confidence away if the description names a map, although nothing else calls the image one."""
    by_name = named(f.title)
    if weighted is None or by_name is None or by_name.kind not in NAMED_MAPS:
        return weighted
    reason = f"{weighted.reason}; but its description names a map"
    return replace(weighted, confidence=min(weighted.confidence, OPEN), reason=reason)


def _weighted(f: ImageFacts) -> Verdict | None:
    """Judge by AcquisitionContrast and by the times. Where they contradict one another, nobody is sure."""
    physics = spin_echo(f) or gradient_echo(f)
    declared = DECLARED.get(f.declared)
    if declared is None:
        return physics
    if declared is Kind.T2W and is_stir(f.inversion_time):
        return Verdict(Kind.STIR, 0.9, f"AcquisitionContrast is T2, TI {f.inversion_time:g} ms")
    why = f"AcquisitionContrast is {f.declared}"
    if physics is None or physics.kind is declared or declared not in WEIGHTED:
        return Verdict(declared, 0.9, why)
    if physics.kind is Kind.UNKNOWN:
        return Verdict(declared, 0.6, f"{why}; by its times it may be ({physics.reason})")
    if declared is Kind.T2W and physics.kind in (Kind.FLAIR, Kind.STIR, Kind.T2_STAR):
        return physics
    sure = min(physics.confidence, DISPUTED)
    return replace(physics, confidence=sure if physics.kind in WEIGHTED else OPEN, reason=f"{physics.reason}; {why}")
