"""The kinds of series.

To add a kind, name it here and let `image_rules` (by one image) or `series_rules` (by all images) recognise it.
"""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The kind of image that a series holds."""

    T1W = "T1w"
    T2W = "T2w"
    PDW = "PDw"
    T2_STAR = "T2*w"
    STIR = "STIR"
    FLAIR = "FLAIR"
    DWI = "DWI"  # including its b = 0 images, and traces computed from them
    ADC = "ADC"
    FA = "FA"
    TENSOR = "tensor"  # other maps that a scanner computes from diffusion tensors
    WATER = "water"  # of a Dixon acquisition, like the next five
    FAT = "fat"
    IN_PHASE = "in phase"
    OPPOSED_PHASE = "opposed phase"
    FAT_FRACTION = "fat fraction"
    DIXON = "Dixon"  # several of these in one series
    T1_MAP = "T1 map"
    T2_MAP = "T2 map"
    T2_STAR_MAP = "T2* map"
    LGE = "LGE"
    CINE = "cine"
    PERFUSION = "perfusion"
    DYNAMIC = "dynamic"  # phases of a dynamic contrast study
    BOLD = "EPI time series"  # without contrast agent
    ASL = "ASL"
    FIELD_MAP = "field map"  # including the images that it is computed from
    PHASE = "phase"
    LOCALIZER = "localizer"
    CT = "CT"
    DERIVED = "derived"  # computed or captured, no measured signal: projections, subtractions, colour images
    NON_IMAGE = "non-image"
    OTHER = "other"  # recognised, but none of the above: balanced steady state, angiography, flow
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Verdict:
    """A kind, the confidence in it from 0 to 1, and the reason for people to read."""

    kind: Kind
    confidence: float
    reason: str
