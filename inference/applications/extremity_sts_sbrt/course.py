"""The course of a mass over time points: changes of diameters, volume and ADC, and the response by RECIST 1.1."""

from collections.abc import Sequence

import numpy as np

from inference.applications.extremity_sts_sbrt.examination import Examination
from inference.contract.concepts import (
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
from inference.contract.findings import NOT_ATTEMPTED, Code, Evaluation, Measurement
from inference.quantities.missing import Missing
from inference.quantities.response import Course, recist

SAME_PLANE = 20.0  # degrees: the largest angle between the slices of two time points
CUT_OFF = "the mass goes on beyond what was imaged at one of the time points"
OTHER_PLANE = "the time points were imaged in different planes, and the longest diameter is one within a slice"


def recist_course(examinations: Sequence[Examination]) -> Course | Missing:
    """Apply RECIST 1.1 to the longest diameters of the mass, oldest time point first; all must have found the mass."""
    if any(one.cut_off for one in examinations):
        return Missing(NOT_ATTEMPTED, CUT_OFF)
    if not _same_plane(examinations):
        return Missing(NOT_ATTEMPTED, OTHER_PLANE)
    return recist([one.diameters.long_axis for one in examinations])


def change_measurements(examinations: Sequence[Examination]) -> tuple[Measurement, ...]:
    """Measure the changes at the last time point in % of the first value, or of the smallest for NADIR_CHANGE."""
    last, first = examinations[-1], examinations[0]
    whole = len(examinations) > 1 and not any(one.cut_off for one in examinations)
    comparable = whole and _same_plane(examinations)
    nadir = min((one.diameters.long_axis for one in examinations[:-1]), default=0.0)
    return (
        Measurement(DIAMETER_SUM, last.diameters.long_axis, MM),
        _change(DIAMETER_CHANGE, first.diameters.long_axis if comparable else None, last.diameters.long_axis),
        _change(NADIR_CHANGE, nadir if comparable else None, last.diameters.long_axis),
        _change(VOLUME_CHANGE, first.volume("mass") if whole else None, last.volume("mass")),
        _change(ADC_CHANGE, first.adc if len(examinations) > 1 else None, last.adc),
    )


def response_evaluations(examinations: Sequence[Examination]) -> tuple[Evaluation, ...]:
    found = recist_course(examinations)
    if isinstance(found, Missing):
        return ()
    return (Evaluation(RESPONSE_METHOD, RECIST_1_1), Evaluation(RESPONSE, found.response.value))


def _same_plane(examinations: Sequence[Examination]) -> bool:
    first, *others = (one.source.geometry.normal for one in examinations)
    return all(abs(float(other @ first)) >= np.cos(np.radians(SAME_PLANE)) for other in others)


def _change(name: Code, before: float | None, now: float | None) -> Measurement:
    if before is None or now is None:
        return Measurement(name, None, PERCENT, missing=NOT_ATTEMPTED)
    return Measurement(name, 100.0 * (now - before) / before, PERCENT)
