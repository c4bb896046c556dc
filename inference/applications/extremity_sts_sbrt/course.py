"""What changed in a mass between time points: diameters, volume, ADC, and the response by RECIST 1.1."""

from collections.abc import Sequence

from inference.applications.extremity_sts_sbrt.examination import Examination
from inference.concepts import (
    ADC_CHANGE,
    DIAMETER_CHANGE,
    DIAMETER_SUM,
    MM,
    NADIR_CHANGE,
    PERCENT,
    RECIST_1_1,
    RESPONSE,
    RESPONSE_METHOD,
    VOLUME_CHANGE,
)
from inference.findings import NOT_ATTEMPTED, Code, Evaluation, Measurement
from inference.quantities.missing import Missing
from inference.quantities.response import Course, recist

CHANGES = (DIAMETER_CHANGE, NADIR_CHANGE, VOLUME_CHANGE, ADC_CHANGE)


def course(examinations: Sequence[Examination]) -> Course | Missing:
    """By the longest diameter of the one mass in each, oldest first; every mass must have been found."""
    return recist([one.diameters.long_axis for one in examinations])


def changes(examinations: Sequence[Examination]) -> tuple[Measurement, ...]:
    """The last time point's change, in % of the first one's (of the smallest one's, for NADIR_CHANGE)."""
    last, first = examinations[-1], examinations[0]
    total = Measurement(DIAMETER_SUM, last.diameters.long_axis, MM)
    if len(examinations) < 2:
        return (total, *(Measurement(name, None, PERCENT, missing=NOT_ATTEMPTED) for name in CHANGES))
    nadir = min(one.diameters.long_axis for one in examinations[:-1])
    return (
        total,
        _change(DIAMETER_CHANGE, first.diameters.long_axis, last.diameters.long_axis),
        _change(NADIR_CHANGE, nadir, last.diameters.long_axis),
        _change(VOLUME_CHANGE, first.volume("mass"), last.volume("mass")),
        _change(ADC_CHANGE, first.adc, last.adc),
    )


def response(examinations: Sequence[Examination]) -> tuple[Evaluation, ...]:
    found = course(examinations)
    if isinstance(found, Missing):
        return ()
    return (Evaluation(RESPONSE_METHOD, RECIST_1_1), Evaluation(RESPONSE, found.response.value))


def _change(name: Code, before: float | None, now: float | None) -> Measurement:
    if before is None or now is None:
        return Measurement(name, None, PERCENT, missing=NOT_ATTEMPTED)
    return Measurement(name, 100.0 * (now - before) / before, PERCENT)
