"""The contrast of an image by the equations of saturation and recovery, with the relaxation times of two tissues.

A sequence weights T1 if the tissue with the shorter T1 is clearly brighter, T2 if the one with the longer T2 is, and
proton density if neither is. Between these, physics leaves two kinds open, and the answer is `UNKNOWN`.
"""

from math import cos, exp, radians, sin

from inference.series.image_facts import ImageFacts, is_stir
from inference.series.kinds import Kind, Verdict

T1_TISSUES = 650.0, 1200.0  # ms at 1.5 T: white and grey matter; muscle lies between
T1_FIELD = 1.5, 1 / 3  # T1 grows as the cube root of the field
FIELDS = 0.05, 12.0  # T: other numbers are in other units
T1_WEIGHTED = 1.33  # signal of the short T1 divided by that of the long one: from here on it is T1w ...
T1_EQUAL = 1.26  # ... and up to here it is not
GRADIENT_EQUAL = 1.2  # the same for gradient echoes, whose flip angle alone may take all T1 weighting away
T2_LONG = 55.0  # ms: from this echo time on a spin echo is T2w ...
T2_SHORT = 45.0  # ... and up to this one PDw
T2_STAR_LONG = 15.0  # ms, of a gradient echo
RECOVERY_SEEN = 0.4  # difference of the two signals after inversion, of the larger: from here on it is T1w ...
RECOVERY_OVER = 0.1  # ... and below this nothing is left of the inversion
OPEN = 0.2  # below the confidence that an input asks for


def spin_echo(f: ImageFacts) -> Verdict | None:
    """Return the verdict on a spin echo; None if it is none or its times are not known."""
    tr, te, ti = f.repetition_time, f.echo_time, f.inversion_time
    if not f.sequence & {"SE", "IR"} or "GR" in f.sequence or not tr or te is None:
        return None
    why = f"spin echo, TR {tr:g} ms, TE {te:g} ms" + (f", TI {ti:g} ms" if ti else "")
    if ti is not None and (inverted := _inverted_spin_echo(f, tr, te, ti, why)):
        return inverted
    short, long = tissues(f.field_strength)
    t1 = (1 - exp(-tr / short)) / (1 - exp(-tr / long))
    if te < 30 and t1 >= T1_WEIGHTED:
        return Verdict(Kind.T1W, 0.9, why)
    if te < 30 and t1 > T1_EQUAL:
        return Verdict(Kind.UNKNOWN, OPEN, f"{why}: between T1w and PDw")
    if t1 <= T1_EQUAL:
        if T2_SHORT < te < T2_LONG:
            return Verdict(Kind.UNKNOWN, OPEN, f"{why}: between PDw and T2w")
        return Verdict(Kind.T2W if te >= T2_LONG else Kind.PDW, 0.9, why)
    if te >= T2_LONG and (f.echo_train or 0) >= 50:
        return Verdict(Kind.T2W, 0.8, f"single shot {why}")
    return Verdict(Kind.OTHER, 0.5, f"{why}: T1 and T2 weight it both")


def gradient_echo(f: ImageFacts) -> Verdict | None:
    """Return the verdict on a gradient echo; None if it is none or its times are not known."""
    tr, te, ti, angle = f.repetition_time, f.echo_time, f.inversion_time, f.flip_angle
    if "GR" not in f.sequence or not tr or te is None:
        return None
    why = f"gradient echo, TR {tr:g} ms, TE {te:g} ms" + (f", flip angle {angle:g}" if angle else "")
    if te >= T2_STAR_LONG:
        return Verdict(Kind.T2_STAR, 0.8, why)
    if ti is not None:
        return _inverted_gradient_echo(f, ti, f"{why}, TI {ti:g} ms")
    if "MP" in f.variant:
        return Verdict(Kind.T1W, 0.9, f"{why}, magnetisation prepared")
    if not angle:
        return None
    t1 = spoiled(tr, angle, f.field_strength)
    if t1 >= T1_WEIGHTED:
        if "SS" in f.variant and "SP" not in f.variant:
            return Verdict(Kind.OTHER, 0.7, f"{why}: steady state without spoiling")
        return Verdict(Kind.T1W, 0.75, why)
    if te >= 10:
        return Verdict(Kind.T2_STAR, 0.6, why)
    if t1 > GRADIENT_EQUAL:
        return Verdict(Kind.UNKNOWN, OPEN, f"{why}: between T1w and PDw")
    return Verdict(Kind.PDW, 0.5, why)


def spoiled(tr: float, angle: float, field_strength: float | None) -> float:
    """Return the signal of the shorter T1 divided by that of the longer one, of a spoiled gradient echo."""
    signals = []
    for t1 in tissues(field_strength):
        left = exp(-tr / t1)
        signals.append(sin(radians(angle)) * (1 - left) / (1 - cos(radians(angle)) * left))
    return signals[0] / signals[1]


def tissues(field_strength: float | None) -> tuple[float, float]:
    """Return the T1 of both tissues at this field (ms)."""
    field, power = T1_FIELD
    known = field_strength is not None and FIELDS[0] <= field_strength <= FIELDS[1]
    factor = ((field_strength or field) / field) ** power if known else 1.0
    return T1_TISSUES[0] * factor, T1_TISSUES[1] * factor


def _inverted_spin_echo(f: ImageFacts, tr: float, te: float, ti: float, why: str) -> Verdict | None:
    if ti >= 1500:
        return Verdict(Kind.FLAIR, 0.9, why) if te >= 60 else Verdict(Kind.OTHER, 0.5, f"{why}: fluid is nulled")
    if is_stir(ti) and ("IR" in f.sequence or te >= 30 or tr >= 1500):
        return Verdict(Kind.STIR, 0.9, why)  # otherwise it is the inversion of SPAIR, which is of fat alone
    if ti > 300 and te < 30:
        return Verdict(Kind.T1W, 0.9, why)
    return Verdict(Kind.OTHER, 0.5, why) if ti > 300 else None


def _inverted_gradient_echo(f: ImageFacts, ti: float, why: str) -> Verdict:
    """Judge the magnetisation of both tissues at the time TI after an inversion."""
    short, long = (1 - 2 * exp(-ti / t1) for t1 in tissues(f.field_strength))
    seen = abs(short - long) / max(abs(short), abs(long))
    if seen >= RECOVERY_SEEN:
        return Verdict(Kind.T1W, 0.9, f"{why}, magnetisation prepared")
    if seen < RECOVERY_OVER:
        return Verdict(Kind.OTHER, 0.6, f"{why}: tissue has recovered from the inversion, and T1 does not weight it")
    return Verdict(Kind.UNKNOWN, OPEN, f"{why}: partly recovered from the inversion, T1w or PDw")
