"""Response of target lesions between time points by RECIST 1.1.

The criteria are those of Eisenhauer et al. 2009, doi 10.1016/j.ejca.2008.10.026.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from inference.contract.findings import NOT_ATTEMPTED, Code
from inference.quantities.missing import Missing

MEASURABLE = 10.0  # mm: a target lesion is at least this long at baseline
PARTIAL_CHANGE = -30.0  # % from baseline
PROGRESSIVE_CHANGE = 20.0  # % from the nadir
PROGRESSIVE_GROWTH = 5.0  # mm from the nadir, needed besides PROGRESSIVE_CHANGE
SLACK = 1e-9  # added to comparisons, so that a change of exactly the threshold counts in spite of rounding


class Response(Enum):
    """The response categories of target lesions, each with its code."""

    COMPLETE = Code("112041", "DCM", "Target Lesion Complete Response")
    PARTIAL = Code("112042", "DCM", "Target Lesion Partial Response")
    PROGRESSIVE = Code("112043", "DCM", "Target Lesion Progressive Disease")
    STABLE = Code("112044", "DCM", "Target Lesion Stable Disease")


@dataclass(frozen=True)
class Course:
    """The response and the sums of diameters in mm that it follows from.

    `baseline` is the first sum, `nadir` the smallest of all earlier ones and `current` the last. Changes are in %;
    `from_nadir` is None if the nadir is 0.
    """

    response: Response
    baseline: float
    nadir: float
    current: float
    from_baseline: float
    from_nadir: float | None


def recist(sums: Sequence[float]) -> Course | Missing:
    """Apply RECIST 1.1 to the sums of the target lesions' longest diameters in mm, one per time point, oldest first.

    Progression outweighs response. Complete response is a sum of 0, because target lesions here are never lymph nodes
    (for which a short axis below 10 mm would be enough). New lesions are not searched. The result is Missing for fewer
    than two time points, and where the disease was not measurable (under 10 mm) at baseline.
    """
    if sums and sums[0] < MEASURABLE:
        return Missing(NOT_ATTEMPTED, f"the disease was not measurable at baseline ({sums[0]:.1f} mm, needs 10 mm)")
    if len(sums) < 2:
        return Missing(NOT_ATTEMPTED, "a response needs an earlier time point")
    baseline, nadir, current = sums[0], min(sums[:-1]), sums[-1]
    from_baseline = 100.0 * (current - baseline) / baseline
    from_nadir = 100.0 * (current - nadir) / nadir if nadir > 0 else None
    if from_nadir is None:  # After a complete response, a lesion of any size is one that came back.
        grown = current > 0
    else:
        grown = from_nadir >= PROGRESSIVE_CHANGE - SLACK and current - nadir >= PROGRESSIVE_GROWTH - SLACK
    if grown:
        response = Response.PROGRESSIVE
    elif current == 0:
        response = Response.COMPLETE
    elif from_baseline <= PARTIAL_CHANGE + SLACK:
        response = Response.PARTIAL
    else:
        response = Response.STABLE
    return Course(response, baseline, nadir, current, from_baseline, from_nadir)
