"""Units of pixel values, as far as they tell what a map shows."""

import re
from enum import StrEnum

from inference.series.kinds import Kind


class PixelUnit(StrEnum):
    """The dimension of the values of an image."""

    NONE = ""  # a signal, or the header does not tell
    TIME = "a time"
    RATE = "a rate or frequency"
    DIFFUSIVITY = "a diffusivity"
    FRACTION = "a percentage"
    FLOW = "a blood flow or volume"
    ANGLE = "an angle"
    VELOCITY = "a velocity"
    OTHER = "another quantity"


SPELLINGS = (  # of RescaleType and of UCUM, where "US" means unspecified, and "us" microseconds
    (r"(us|ms|msec|s|sec|millisec(ond)?s?|seconds?)", PixelUnit.TIME),
    (r"(hz|khz|1/m?s|/m?s|m?s-1|m?s\^-1|s\*\*-1)", PixelUnit.RATE),
    (r".*(mm|um|µm|cm)(\^|\*\*)?[2²]/m?s.*", PixelUnit.DIFFUSIVITY),
    (r"(%|percent|per ?cent|pct)", PixelUnit.FRACTION),
    (r".*ml.*/.*(100|g|min|ml).*", PixelUnit.FLOW),
    (r"m?(rad|radians?)|deg(rees?)?", PixelUnit.ANGLE),
    (r"[cm]?m/s(ec)?", PixelUnit.VELOCITY),
    (r"\[?pp[bm]\]?|°c|cel|celsius|k?pa|mmol/.*|µ?t|mt", PixelUnit.OTHER),
)
KINDS = {  # of images whose values have such a unit, and the confidence; None if a map shows one of several things
    PixelUnit.TIME: None,
    PixelUnit.RATE: None,
    PixelUnit.DIFFUSIVITY: Kind.ADC,
    PixelUnit.FRACTION: None,
    PixelUnit.FLOW: None,
    PixelUnit.ANGLE: Kind.PHASE,
    PixelUnit.VELOCITY: Kind.OTHER,
    PixelUnit.OTHER: None,
}


def unit_of(text: str) -> PixelUnit:
    """Return the dimension that a RescaleType or a UCUM code stands for."""
    if text.strip() in ("US", "HU", "1", ""):
        return PixelUnit.NONE
    spelled = text.strip().lower()
    return next((unit for pattern, unit in SPELLINGS if re.fullmatch(pattern, spelled)), PixelUnit.NONE)
