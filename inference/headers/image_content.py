"""The content of an image: the part of the complex signal that it shows, and the quantity or contrast computed from it.

Vendors put both into the values of ImageType or FrameType from the third on (PS3.3 C.8.13.3.1.1), in any order.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from inference.headers.attributes import values
from inference.headers.private import PrivateElements

COMPONENT = "image component"
FRAME_TYPE = "frame type"
MAGNITUDE, PHASE, REAL, IMAGINARY = "magnitude", "phase", "real", "imaginary"
TRACE, ONE_DIRECTION = "trace", "one direction"

COMPONENTS = {
    "M": MAGNITUDE, "MAG": MAGNITUDE, "MAGNITUDE": MAGNITUDE,
    "P": PHASE, "PHASE": PHASE, "PHASE_MAP": PHASE, "VELOCITY_MAP": PHASE,
    "R": REAL, "REAL": REAL,
    "I": IMAGINARY, "IMAGINARY": IMAGINARY,
}  # fmt: skip
# The texts are those of `Kind`, where there is such a kind. Images of these types show a signal ...
SIGNALS = {
    "W": "water", "WATER": "water",
    "F": "fat", "FAT": "fat",
    "IP": "in phase", "IN_PHASE": "in phase",
    "OP": "opposed phase", "OPP_PHASE": "opposed phase", "OUT_PHASE": "opposed phase",
    "OPPOSED_PHASE": "opposed phase", "OUT_OF_PHASE": "opposed phase",
    "TRACEW": TRACE, "TRACE": TRACE, "DIFFUSION_ISO": TRACE,
}  # fmt: skip
# ... and these are maps.
MAPS = {
    "ADC": "ADC", "ADC_MAP": "ADC",
    "EADC": "exponential ADC", "EXP_ADC": "exponential ADC", "DIFFUSION_ATTNTD": "exponential ADC",
    "FA": "FA", "FA_MAP": "FA", "COLFA": "FA", "FRACTIONAL_ANISO": "FA", "DIFFUSION_ANISO": "FA",
    "TENSOR": "tensor", "TENSOR_B0": "tensor",
    "T1_MAP": "T1 map", "T1MAP": "T1 map", "R1_MAP": "R1 map",
    "T2_MAP": "T2 map", "T2MAP": "T2 map", "R2_MAP": "R2 map",
    "T2_STAR_MAP": "T2* map", "T2STAR_MAP": "T2* map",
    "R2_STAR": "R2* map", "R2_STAR_MAP": "R2* map", "R2STAR": "R2* map", "R2STAR_MAP": "R2* map",
    "FF": "fat fraction", "FAT_FRACTION": "fat fraction", "FAT_FRAC": "fat fraction", "FATFRAC": "fat fraction",
    "PDFF": "fat fraction",
    "WF": "water fraction", "WATER_FRACTION": "water fraction",
    "FIELD_MAP": "field map", "B0_MAP": "field map",
    "PD_MAP": "PD map",
}  # fmt: skip
# These are maps in a derived image, or behind QMAP; elsewhere they name a contrast.
DERIVED_MAPS = {"T2_STAR": "T2* map", "T2STAR": "T2* map"}
SYNTHETIC = frozenset({"QMAP", "MULTI_QMAP"})  # SyMRI and MAGiC
SYNTHETIC_MAPS = {"T1": "T1 map", "T2": "T2 map", "PD": "PD map", "R1": "R1 map", "R2": "R2 map"}

GE_COMPONENTS: Mapping[float, str] = {0: "M", 1: "P", 2: "R", 3: "I"}


@dataclass(frozen=True)
class ImageContent:
    """The content of an image: its `component`, and its `frame_type`, which is None if the header names none.

    `component` is MAGNITUDE where the header says nothing else.
    """

    component: str = MAGNITUDE
    frame_type: str | None = None


def content_of(image_type: Any, complex_component: Any, private: PrivateElements | None = None) -> ImageContent:
    """Read the content of an image from ImageType or FrameType, ComplexImageComponent, and what vendors add.

    ComplexImageComponent decides if it names a component. The private attribute of GE comes before ImageType, because
    GE may write the same ImageType into images of all components.
    """
    every = code_strings(image_type)
    told = _components(every[2:], code_strings(complex_component), private)
    component = next((COMPONENTS[value] for value in told if value in COMPONENTS), MAGNITUDE)
    return ImageContent(component, _frame_type(every))


def is_signal(told: Mapping[str, Any]) -> bool:
    """Return True if images with these attributes show a signal that fits and networks can use.

    That is the magnitude, and the real part after an inversion, whose sign is a part of the signal. `told` has the keys
    COMPONENT and FRAME_TYPE; without them an image counts as a magnitude image.
    """
    component = told.get(COMPONENT) or MAGNITUDE
    shows_signal = component == MAGNITUDE or (component == REAL and bool(told.get("InversionTime")))
    return shows_signal and not is_map(told)


def is_map(told: Mapping[str, Any]) -> bool:
    frame_type = told.get(FRAME_TYPE)
    return frame_type is not None and frame_type not in {*SIGNALS.values(), ONE_DIRECTION}


def ge_component(private: PrivateElements) -> str:
    """Return the letter of a magnitude, phase, real or imaginary image of GE; "" if there is none."""
    found = private.numbers(0x0043, "GEMS_PARM_01", 0x2F, "SS", "GE")
    return GE_COMPONENTS.get(found[0], "") if found else ""


def code_strings(value: Any) -> list[str]:
    """Return the values of a CS in one spelling: "T1 MAP" and "T2* MAP" become "T1_MAP" and "T2_STAR_MAP"."""
    return [re.sub(r"[\s*-]+", "_", str(v).strip().upper().replace("*", "_STAR")) for v in values(value)]


def _components(image_type: list[str], declared: list[str], private: PrivateElements | None) -> Iterator[str]:
    """Yield what may name the component, the most trustworthy first."""
    yield from declared
    if private is not None:
        yield ge_component(private)
    yield from image_type
    if private is not None:
        yield from code_strings(private.text(0x2005, "Philips MR Imaging DD 001", 0x11))


def _frame_type(image_type: list[str]) -> str | None:
    known = MAPS | SIGNALS
    if "DERIVED" in image_type[:1]:
        known = known | DERIVED_MAPS
    if SYNTHETIC & set(image_type):
        known = known | SYNTHETIC_MAPS
    elif image_type[:1] == ["DERIVED"] and image_type[2:3] == ["PD"]:
        known = known | {"PD": "PD map"}
    found = [known[value] for value in image_type[2:] if value in known]
    maps = [value for value in found if value not in SIGNALS.values()]
    return next(iter(maps or found), None)
