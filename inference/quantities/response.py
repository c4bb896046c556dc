"""Response of target lesions between time points: RECIST 1.1 by diameters, and its equivalent by volume."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from inference.contract.findings import NOT_ATTEMPTED, Code
from inference.quantities.missing import Missing

MEASURABLE = 10.0  # mm: the shortest longest diameter of a target lesion
SLACK = 1e-9  # of a percentage: a change of exactly the threshold reaches it


class Response(Enum):
    """The categories, each with its code."""

    COMPLETE = Code("112041", "DCM", "Target Lesion Complete Response")
    PARTIAL = Code("112042", "DCM", "Target Lesion Partial Response")
    PROGRESSIVE = Code("112043", "DCM", "Target Lesion Progressive Disease")
    STABLE = Code("112044", "DCM", "Target Lesion Stable Disease")


@dataclass(frozen=True)
class Thresholds:
    """`partial` in % from baseline, `progressive` in % from the nadir and, at the same time, `least` in mm or mL."""

    partial: float
    progressive: float
    least: float


# Eisenhauer et al. 2009, doi 10.1016/j.ejca.2008.10.026.
RECIST_1_1 = Thresholds(partial=-30.0, progressive=20.0, least=5.0)
# What these changes of diameter are for the volume of a sphere (Therasse et al. 2000, doi 10.1093/jnci/92.3.205,
# appendix II), which names no least growth in mL.
VOLUMETRIC = Thresholds(partial=-65.0, progressive=73.0, least=0.0)


@dataclass(frozen=True)
class Course:
    """`baseline` is the first, `nadir` the smallest of all earlier and `current` the last sum, in mm or mL.

    Changes are in %; `from_nadir` is None where the nadir is 0.
    """

    response: Response
    baseline: float
    nadir: float
    current: float
    from_baseline: float
    from_nadir: float | None


def recist(sums: Sequence[float], new_lesions: bool = False) -> Course | Missing:
    """RECIST 1.1 from the sums of the target lesions' longest diameters in mm, one per time point, oldest first.

    Progression outweighs response, and a new lesion is progression. Complete response is a sum of 0: lymph nodes, by
    their short axis complete below 10 mm, are not target lesions here. Missing with fewer than two time points, or
    where the disease was not measurable (under 10 mm) at the first.
    """
    if sums and sums[0] < MEASURABLE:
        return Missing(NOT_ATTEMPTED, f"the disease was not measurable at baseline ({sums[0]:.1f} mm, needs 10 mm)")
    return _course(sums, RECIST_1_1, new_lesions)


def volumetric(volumes: Sequence[float], new_lesions: bool = False) -> Course | Missing:
    """The same from the total volumes in mL: partial response at -65 % from baseline, progression at +73 % from nadir.

    Missing with fewer than two time points, or without any volume at the first.
    """
    return _course(volumes, VOLUMETRIC, new_lesions)


def _course(sizes: Sequence[float], thresholds: Thresholds, new_lesions: bool) -> Course | Missing:
    if len(sizes) < 2:
        return Missing(NOT_ATTEMPTED, "a response needs an earlier time point")
    baseline, nadir, current = sizes[0], min(sizes[:-1]), sizes[-1]
    if baseline <= 0:
        return Missing(NOT_ATTEMPTED, "there was no lesion at baseline")
    from_baseline = 100.0 * (current - baseline) / baseline
    from_nadir = 100.0 * (current - nadir) / nadir if nadir > 0 else None
    if from_nadir is None:  # after a complete response, a lesion of any size is one that came back
        grown = current > 0
    else:
        grown = from_nadir >= thresholds.progressive - SLACK and current - nadir >= thresholds.least - SLACK
    if new_lesions or grown:
        response = Response.PROGRESSIVE
    elif current == 0:
        response = Response.COMPLETE
    elif from_baseline <= thresholds.partial + SLACK:
        response = Response.PARTIAL
    else:
        response = Response.STABLE
    return Course(response, baseline, nadir, current, from_baseline, from_nadir)
