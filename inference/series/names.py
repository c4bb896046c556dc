"""The names that sites give to series: the last resort, because they differ at every site and are often wrong."""

import re

from inference.series.kinds import Kind, Verdict

NAMED = 0.4  # confidence in a kind that only a name tells
NAMES = (
    (r"flair", Kind.FLAIR),
    (r"(?<![a-z])e(xp)?adc(?![a-z])|exponential", Kind.DERIVED),
    (r"(?<![a-z])adc(?![a-z])|apparent diffusion", Kind.ADC),
    (r"(?<![a-z])(col)?fa(?![a-z]|[ _=]?[0-9])|fractional aniso", Kind.FA),  # followed by a number it is a flip angle
    (r"dwi|diff|(?<![a-z])dti(?![a-z])", Kind.DWI),
    (r"(?<![a-z])(pd|proton.?density|r[12]\*?|r2.?star|ecv|b1|qsm|cbf|cbv|mtt|ttp|perf(usion)?).?map", Kind.DERIVED),
    (r"(?<![a-z])(min|max)?.?mip(?![a-z])|subtract|(?<![a-z])(r2\*|r2.?star|ecv|qsm|ktrans)", Kind.DERIVED),
    (r"(?<![a-z])(b0|field).?map", Kind.FIELD_MAP),
    (r"fat.?frac|pdff|fatfrac", Kind.FAT_FRACTION),
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
)


def named(name: str) -> Verdict | None:
    """Judge by the name that the site gave."""
    for pattern, kind in NAMES:
        if re.search(pattern, name):
            return Verdict(kind, NAMED, "its header does not tell, but its description names it")
    return None
