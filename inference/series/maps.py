"""Rules for images that are computed from others: maps, projections, subtractions. Their timing is that of the sources.

What a map shows stands in ImageType or FrameType, in a code, in the unit of its values, or only in its name.
"""

import re

from inference.headers.image_content import SIGNALS, TRACE
from inference.series.image_facts import ImageFacts
from inference.series.kinds import Kind, Verdict
from inference.series.names import named
from inference.series.units import KINDS, PixelUnit

TRACES = frozenset({"TRACEW", "DIFFUSION_ISO"})
CODED_MAPS = {
    "ADC": Kind.ADC, "FA": Kind.FA, "T1_MAP": Kind.T1_MAP, "T2_MAP": Kind.T2_MAP, "T2_STAR_MAP": Kind.T2_STAR_MAP,
    "FAT_FRACTION": Kind.FAT_FRACTION,
}  # fmt: skip
DIFFUSION_SCALARS = frozenset({"MD", "RD", "DIFFUSION_TRACE", "RA", "VR", "MEAN_DIFFUSIVITY", "DTI_MAP"})
COMPUTED = frozenset({  # quantities, projections and pictures without a kind of their own, spelled without "_"
    "MIP", "MAXIP", "MINIP", "MNIP", "PROJECTIONIMAGE", "PROJECTION", "MINIMUM", "MAXIMUM",
    "SUB", "SUBTRACTION", "SUBTRACT", "SUBTRACTED", "DIVISION", "RATIO", "STDDEV", "STDDEVIATION",
    "RCBV", "RCBF", "CBV", "CBF", "MTT", "TTP", "TMAX", "T0", "TSTART", "BAT", "PBP", "GBP", "PEI", "NEI", "IRF",
    "RELCBF", "RELCBV", "RELMTT", "CORRECTEDCBV", "RCBVCORR", "LEAKAGE", "K2", "PERFUSIONMAP", "CBFMAP", "CBVMAP",
    "KTRANS", "KEP", "VE", "VP", "PS", "IAUC", "IAUGC", "AUC", "WASHIN", "WASHOUT", "SLOPE", "ENHANCEMENT", "RSQUARE",
    "ECV", "ECVMAP", "QSM", "SUSCEPTIBILITY", "CHI", "B1", "B1MAP", "TEMPERATURE", "MTR", "MTRMAP", "T1RHO",
    "T1RHOMAP", "STIFFNESS", "ELASTOGRAM", "WAVE", "CONFIDENCE", "RHO", "SNRMAP", "SCM", "RCOEFFICIENT", "NUMERIC",
    "PDMAP", "MYELIN", "MYELINMAP", "METABOLITEMAPS", "MASK", "ERRORMAP", "CHISQUARE", "GOODNESSOFFIT", "R2",
    "SCREENSAVE", "SCREENSHOT",
})  # fmt: skip
QUANTITATIVE = frozenset({"QMAP", "MULTI_QMAP", "QUANT", "QUANTITATIVE", "QUANTITY"})
CONTRAST_KEPT = frozenset({  # derived images that keep it: resampled, corrected, joined, or part of a complex signal
    "MPR", "CSA_MPR", "REFORMATTED", "RESAMPLED", "AXIAL", "CORONAL", "SAGITTAL", "COMPOSED", "COMP_SP", "COMBINED",
    "MOSAIC", "AVERAGE", "MEAN", "ADDITION", "NORM", "DIS2D", "DIS3D", "FILTERED", "NONE", "DIXON",
    *(name for name, kind in SIGNALS.items() if kind != TRACE), "DIFFUSION", "PSIR", "SWI", "UNI",
    "M", "M_SE", "M_IR", "M_FFE", "R", "R_SE", "R_IR", "R_FFE", "I", "P", "PHASE", "PHASE_MAP",
})  # fmt: skip
BY_NAME = {  # what a name tells of a map whose header tells its unit only
    PixelUnit.TIME: frozenset({Kind.T1_MAP, Kind.T2_MAP, Kind.T2_STAR_MAP}),
    PixelUnit.RATE: frozenset({Kind.FIELD_MAP}),
    PixelUnit.FRACTION: frozenset({Kind.FAT_FRACTION}),
    PixelUnit.FLOW: frozenset({Kind.ASL}),
}
NAMED_MAPS = frozenset({
    Kind.ADC, Kind.FA, Kind.T1_MAP, Kind.T2_MAP, Kind.T2_STAR_MAP, Kind.FAT_FRACTION, Kind.DERIVED, Kind.FIELD_MAP,
})  # fmt: skip
FIELD_MAPPING = re.compile(r"^\*?fm\d?d|b0_?map|field_?map")  # sequences of several vendors


def kind_of_map(f: ImageFacts) -> Verdict | None:
    """Return the verdict on an image that its header calls a map."""
    for flavour in sorted(f.flavours & CODED_MAPS.keys()):
        return Verdict(CODED_MAPS[flavour], 0.95, f"its header calls it {flavour}")
    if f.frame_type and f.frame_type not in SIGNALS.values():
        kind = next((kind for kind in Kind if kind == f.frame_type), Kind.DERIVED)
        return Verdict(kind, 0.95, f"its header calls it {f.frame_type}")
    if found := f.flavours & DIFFUSION_SCALARS:
        return Verdict(Kind.TENSOR, 0.9, f"its header calls it {', '.join(sorted(found))}")
    if FIELD_MAPPING.search(f.sequence_name):
        return Verdict(Kind.FIELD_MAP, 0.9, f"of the field mapping sequence {f.sequence_name}")
    if f.flavours & QUANTITATIVE:
        return Verdict(Kind.DERIVED, 0.9, f"a quantitative map: {', '.join(sorted(f.flavours))}")
    return None


def kind_by_unit(f: ImageFacts) -> Verdict | None:
    """Return the verdict on an image whose values have a unit, which no signal has."""
    if f.unit is PixelUnit.NONE or f.labelled:
        return None
    why = f"its values are {f.unit}"
    kind = KINDS[f.unit]
    if kind is not None:
        return Verdict(kind, 0.9, why)
    by_name = named(f.title)
    if by_name is not None and by_name.kind in BY_NAME.get(f.unit, ()):
        return Verdict(by_name.kind, 0.8, f"{why}, and its description names {by_name.kind}")
    return Verdict(Kind.DERIVED, 0.8, f"{why}; its header does not tell of what")


def kind_of_computed(f: ImageFacts) -> Verdict | None:
    """Return the verdict on an image that its header calls computed, a projection or a picture."""
    if f.captured or f.colour:
        return Verdict(Kind.DERIVED, 0.95, "a capture of a screen" if f.captured else "a colour image")
    if f.labelled or "ASL" in f.flavours:
        return None
    if found := {flavour for flavour in f.flavours if flavour.replace("_", "") in COMPUTED}:
        return Verdict(Kind.DERIVED, 0.9, f"computed from other images: {', '.join(sorted(found))}")
    return None


def kind_of_derived(f: ImageFacts) -> Verdict | None:
    """Judge other derived images: their timing is that of their sources, and must not decide their kind."""
    if not f.derived or f.flavours & TRACES or (f.b_value and "DIFFUSION" in f.flavours):
        return None
    by_name = named(f.title)  # The protocol may be that of the images from which the map was computed.
    if by_name is not None and by_name.kind in NAMED_MAPS:
        return Verdict(by_name.kind, 0.6, f"computed from other images, and its description names {by_name.kind}")
    if f.b_value and "SECONDARY" in f.image_type:
        return Verdict(Kind.DERIVED, 0.5, "computed from diffusion weighted images; its header does not tell what")
    found = f.flavours - {""}
    if not found or found & CONTRAST_KEPT:
        return None
    return Verdict(Kind.DERIVED, 0.5, f"computed from other images: {', '.join(sorted(found))}")
