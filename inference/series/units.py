"""Units of pixel values, as far as they tell what a map shows."""

import re
from enum import StrEnum

from inference.headers.units import unit_of
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


BY_DIMENSION = {
    (("s", 1),): PixelUnit.TIME,
    (("s", -1),): PixelUnit.RATE,
    (("m", 2), ("s", -1)): PixelUnit.DIFFUSIVITY,
    (): PixelUnit.FRACTION,
    (("rad", 1),): PixelUnit.ANGLE,
    (("m", 1), ("s", -1)): PixelUnit.VELOCITY,
}
BY_SPELLING = (  # what no dimension tells
    (r".*ml.*/.*(100|g|min|ml).*", PixelUnit.FLOW),
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


def pixel_unit_of(text: str) -> PixelUnit:
    """Return the dimension that a RescaleType or a UCUM code stands for."""
    spelled = text.strip().lower()
    for pattern, told in BY_SPELLING:
        if re.fullmatch(pattern, spelled):
            return told
    unit = unit_of(text)
    return PixelUnit.NONE if unit is None or unit.arbitrary else BY_DIMENSION.get(unit.dimension, PixelUnit.NONE)
