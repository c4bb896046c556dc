"""Rules for the kind of one image, by the physics of its acquisition, the most trustworthy sign first.

A name is the last resort: it decides only if the physics does not, and with low confidence.
"""

import re
from dataclasses import dataclass

import numpy as np

from inference.series.image_facts import ImageFacts, is_stir
from inference.series.kinds import Kind

NAMED = 0.4  # confidence in a kind that only a name tells
TYPICAL_T1 = 1000.0  # ms, of tissue: its Ernst angle divides T1 from proton density weighting
MAPS = {
    "ADC": Kind.ADC, "ADC_MAP": Kind.ADC,
    "FA": Kind.FA, "FA_MAP": Kind.FA, "COLFA": Kind.FA, "FRACTIONAL_ANISO": Kind.FA, "DIFFUSION_ANISO": Kind.FA,
    "TENSOR": Kind.TENSOR, "TENSOR_B0": Kind.TENSOR,
    "T1_MAP": Kind.T1_MAP, "T1MAP": Kind.T1_MAP,
    "T2_MAP": Kind.T2_MAP, "T2MAP": Kind.T2_MAP,
    "T2_STAR_MAP": Kind.T2_STAR_MAP, "T2STAR_MAP": Kind.T2_STAR_MAP,
    "FF": Kind.FAT_FRACTION, "FAT_FRACTION": Kind.FAT_FRACTION, "FAT_FRAC": Kind.FAT_FRACTION,
    "PDFF": Kind.FAT_FRACTION,
    "FIELD_MAP": Kind.FIELD_MAP, "B0_MAP": Kind.FIELD_MAP,
    "R1_MAP": Kind.DERIVED, "R2_MAP": Kind.DERIVED, "R2_STAR_MAP": Kind.DERIVED, "R2_STAR": Kind.DERIVED,
    "EADC": Kind.DERIVED, "EXP_ADC": Kind.DERIVED, "DIFFUSION_ATTNTD": Kind.DERIVED,
}  # fmt: skip
COMPUTED = frozenset({
    "MIP", "MAX_IP", "MIN_IP", "MINIP", "MNIP", "PROJECTION_IMAGE", "SUB", "SUBTRACTION", "SUBTRACT", "STDDEV",
    "STD_DEVIATION", "RCBV", "RCBF", "CBV", "CBF", "MTT", "TTP", "KTRANS", "KEP", "VE", "WASH_IN", "WASH_OUT",
    "SCREEN_SAVE", "SCREEN_SHOT",
})  # fmt: skip
DIXON = {
    "W": Kind.WATER, "WATER": Kind.WATER,
    "F": Kind.FAT, "FAT": Kind.FAT,
    "IP": Kind.IN_PHASE, "IN_PHASE": Kind.IN_PHASE,
    "OP": Kind.OPPOSED_PHASE, "OPP_PHASE": Kind.OPPOSED_PHASE, "OUT_PHASE": Kind.OPPOSED_PHASE,
    "OPPOSED_PHASE": Kind.OPPOSED_PHASE, "OUT_OF_PHASE": Kind.OPPOSED_PHASE,
}  # fmt: skip
CONTRAST_KEPT = frozenset({  # derived images that keep it: resampled, corrected, joined, or part of a complex signal
    "MPR", "CSA_MPR", "REFORMATTED", "RESAMPLED", "AXIAL", "CORONAL", "SAGITTAL", "COMPOSED", "COMP_SP", "COMBINED",
    "MOSAIC", "AVERAGE", "MEAN",
    "NORM", "DIS2D", "DIS3D", "FILTERED", "NONE", "DIXON", *DIXON, "DIFFUSION", "PSIR",
    "M", "M_SE", "M_IR", "M_FFE", "R", "R_SE", "R_IR", "R_FFE", "I", "P", "PHASE", "PHASE_MAP",
})  # fmt: skip
DECLARED = {
    "T1": Kind.T1W, "T2": Kind.T2W, "PROTON_DENSITY": Kind.PDW, "FLUID_ATTENUATED": Kind.FLAIR, "STIR": Kind.STIR,
    "T2_STAR": Kind.T2_STAR, "PERFUSION": Kind.PERFUSION, "TOF": Kind.OTHER, "FLOW_ENCODED": Kind.OTHER,
    "TAGGING": Kind.OTHER,
}  # fmt: skip
NAMES = (
    (r"flair", Kind.FLAIR),
    (r"(?<![a-z])adc(?![a-z])|apparent diffusion", Kind.ADC),
    (r"(?<![a-z])(col)?fa(?![a-z]|[ _=]?[0-9])|fractional aniso", Kind.FA),  # followed by a number it is a flip angle
    (r"dwi|diff|(?<![a-z])dti(?![a-z])", Kind.DWI),
    (r"(?<![a-z0-9])t1.?map", Kind.T1_MAP),
    (r"(?<![a-z0-9])t2(\*|.?star).?map", Kind.T2_STAR_MAP),
    (r"(?<![a-z0-9])t2.?map", Kind.T2_MAP),
    (r"(?<![a-z])(lge|late.?(gad|enh))", Kind.LGE),
    (r"stir", Kind.STIR),
    (r"mprage|(?<![a-z0-9])t1(?![0-9])", Kind.T1W),
    (r"(?<![a-z0-9])t2(\*|.?star)|(?<![a-z])swi(?![a-z])", Kind.T2_STAR),
    (r"(?<![a-z0-9])t2(?![0-9*])", Kind.T2W),
    (r"(?<![a-z])pd(?![a-z])", Kind.PDW),
    (r"(?<![a-z])(loc|scout|localizer|localiser|survey)(?![a-z])", Kind.LOCALIZER),
)  # fmt: skip
NAMED_MAPS = frozenset({Kind.ADC, Kind.FA, Kind.T1_MAP, Kind.T2_MAP, Kind.T2_STAR_MAP})
STEADY_STATES = re.compile(r"(?<![a-z])(tfi|ci3d|de3d|psif|b[-_]?[ft]fe)|fiesta")  # sequences of several vendors
TRACES = frozenset({"TRACEW", "DIFFUSION_ISO"})


@dataclass(frozen=True)
class Verdict:
    """A kind, the confidence in it from 0 to 1, and the reason for people to read."""

    kind: Kind
    confidence: float
    reason: str


def kind_of_image(facts: ImageFacts) -> Verdict:
    """Return the verdict on the kind of one MR image."""
    return (
        _map(facts)
        or _no_signal(facts)
        or _labelled(facts)
        or _computed(facts)
        or _diffusion(facts)
        or _dixon(facts)
        or _phase(facts)
        or _flow(facts)
        or _late_enhancement(facts)
        or _echo_planar(facts)
        or _steady_state(facts)
        or _declared(facts)
        or _spin_echo(facts)
        or _gradient_echo(facts)
        or _named(facts.description)
        or Verdict(Kind.UNKNOWN, 0.0, "neither its timing nor its description tells what it is")
    )


def _map(f: ImageFacts) -> Verdict | None:
    for flavour in sorted(f.flavours & MAPS.keys()):
        return Verdict(MAPS[flavour], 0.95, f"its header calls it {flavour}")
    if re.match(r"\*?fm\d?d", f.sequence_name):
        return Verdict(Kind.FIELD_MAP, 0.9, f"of the field mapping sequence {f.sequence_name}")
    return None


def _no_signal(f: ImageFacts) -> Verdict | None:
    if f.captured or f.colour:
        return Verdict(Kind.DERIVED, 0.95, "a capture of a screen" if f.captured else "a colour image")
    if not f.labelled and "ASL" not in f.flavours and (found := f.flavours & COMPUTED):
        return Verdict(Kind.DERIVED, 0.9, f"computed from other images: {', '.join(sorted(found))}")
    return None


def _labelled(f: ImageFacts) -> Verdict | None:
    if f.labelled or "ASL" in f.flavours or "asl" in f.sequence_name:
        return Verdict(Kind.ASL, 0.95, "arterial spins are labelled")
    return None


def _computed(f: ImageFacts) -> Verdict | None:
    """Judge derived images: their timing is that of their sources, and must not decide their kind."""
    if not f.derived or f.flavours & TRACES or (f.b_value and "DIFFUSION" in f.flavours):
        return None
    named = _named(f.title)  # The protocol may be that of the images from which the map was computed.
    if named is not None and named.kind in NAMED_MAPS:
        return Verdict(named.kind, 0.6, f"computed from other images, and its description names {named.kind}")
    if f.b_value and "SECONDARY" in f.image_type:
        return Verdict(Kind.DERIVED, 0.5, "computed from diffusion weighted images; its header does not tell what")
    found = f.flavours - {""}
    if found and not found & CONTRAST_KEPT and ("SECONDARY" in f.image_type or "PERFUSION" in found):
        return Verdict(Kind.DERIVED, 0.5, f"computed from other images: {', '.join(sorted(found))}")
    return None


def _diffusion(f: ImageFacts) -> Verdict | None:
    if f.b_value:
        return Verdict(Kind.DWI, 0.95, f"diffusion weighted, b = {f.b_value:g}")
    if f.flavours & TRACES or "DIFFUSION" in (*f.flavours, f.declared) or f.sequence_name.startswith("dwi"):
        return Verdict(Kind.DWI, 0.8, "called diffusion in its header")
    return None


def _dixon(f: ImageFacts) -> Verdict | None:
    for flavour in sorted(f.flavours & DIXON.keys()):
        return Verdict(DIXON[flavour], 0.9, f"the {DIXON[flavour]} image of a Dixon acquisition")
    return None


def _phase(f: ImageFacts) -> Verdict | None:
    if f.flavours & {"P", "PHASE", "PHASE_MAP"}:
        return Verdict(Kind.PHASE, 0.9, "a phase image")
    return None


def _flow(f: ImageFacts) -> Verdict | None:
    if f.flow:
        return Verdict(Kind.OTHER, 0.8, "its contrast is flow")
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


def _declared(f: ImageFacts) -> Verdict | None:
    if f.declared not in DECLARED:
        return None
    kind = DECLARED[f.declared]
    if kind is Kind.T2W and is_stir(f.inversion_time):
        return Verdict(Kind.STIR, 0.9, f"AcquisitionContrast is T2, TI {f.inversion_time:g} ms")
    return Verdict(kind, 0.9, f"AcquisitionContrast is {f.declared}")


def _spin_echo(f: ImageFacts) -> Verdict | None:
    tr, te, ti = f.repetition_time, f.echo_time, f.inversion_time
    if not f.sequence & {"SE", "IR"} or "GR" in f.sequence or tr is None or te is None:
        return None
    why = f"spin echo, TR {tr:g} ms, TE {te:g} ms" + (f", TI {ti:g} ms" if ti else "")
    if ti is not None and ti >= 1500 and te >= 60:
        return Verdict(Kind.FLAIR, 0.9, why)
    inverted = (
        "IR" in f.sequence or te >= 30 or tr >= 1500
    )  # otherwise it is the inversion of SPAIR, which is of fat alone
    if is_stir(ti) and inverted:
        return Verdict(Kind.STIR, 0.9, why)
    if te < 30 and (tr < 1500 or (ti is not None and 400 <= ti < 1500)):
        return Verdict(Kind.T1W, 0.9, why)
    if tr >= 1500:
        return Verdict(Kind.T2W if te >= 50 else Kind.PDW, 0.9, why)
    if te >= 50 and (f.echo_train or 0) >= 50:
        return Verdict(Kind.T2W, 0.8, f"single shot {why}")
    return Verdict(Kind.OTHER, 0.5, why)


def _gradient_echo(f: ImageFacts) -> Verdict | None:
    tr, te, ti, angle = f.repetition_time, f.echo_time, f.inversion_time, f.flip_angle
    if "GR" not in f.sequence or tr is None or te is None:
        return None
    why = f"gradient echo, TR {tr:g} ms, TE {te:g} ms" + (f", flip angle {angle:g}" if angle else "")
    if te >= 15:
        return Verdict(Kind.T2_STAR, 0.8, why)
    if "MP" in f.variant or (ti is not None and 400 <= ti <= 1500):
        return Verdict(Kind.T1W, 0.9, f"{why}, magnetisation prepared")
    if angle is None:
        return None
    ernst = float(np.degrees(np.arccos(np.exp(-tr / TYPICAL_T1))))
    if angle >= ernst:
        if "SS" in f.variant and "SP" not in f.variant:
            return Verdict(Kind.OTHER, 0.7, f"{why}: steady state without spoiling")
        return Verdict(Kind.T1W, 0.75, why)
    return Verdict(Kind.T2_STAR, 0.6, why) if te >= 10 else Verdict(Kind.PDW, 0.5, why)


def _named(name: str) -> Verdict | None:
    """Judge by the name that the site gave, as the last resort."""
    for pattern, kind in NAMES:
        if re.search(pattern, name):
            return Verdict(kind, NAMED, "its header does not tell, but its description names it")
    return None
