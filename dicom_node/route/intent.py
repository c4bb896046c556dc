"""Decisions about which studies an application is for. Pure decisions; no text holds a value of the patient.

An application is meant for a study if its `when` matches; without `when`, if an image series of a required input's
modality names one of the body parts of that input, or if the application was bound to the study.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dicom_node.catalogue import ConfiguredApplication
from inference.contract.manifest import Manifest
from inference.contract.study_rule import StudyRule, StudyValues
from inference.series.naming import name_of_series
from inference.series.recogniser import Recognition


@dataclass(frozen=True)
class Intent:
    """The decision whether an application is meant for a study. If it is `excluded`, it does not run either."""

    meant: bool
    because: str
    excluded: bool = False


def decide_intent(
    application: ConfiguredApplication,
    series: Sequence[tuple[Recognition, StudyValues]],
    callers: frozenset[str],
    analysed: Collection[str],
) -> Intent:
    """Decide on one application. `analysed` are the applications that were bound to the study before."""
    if application.when is not None:
        return _by_rule(application.when, [stated for _, stated in series], callers)
    if application.manifest is not None and (named := _naming_series(application.manifest, series)):
        return Intent(True, f"{named} names a body part that it is for")
    if application.name in analysed:
        return Intent(True, "an analysis of this study was started before")
    if application.manifest is None:
        return Intent(False, "it has no `when`, and its body parts are not known")
    if any(rule.body_parts for rule in application.manifest.inputs if rule.required):
        return Intent(False, "it has no `when`, and no series names a body part that it is for")
    return Intent(False, "it has neither `when` nor `body_parts`, so that it is meant only where its inputs are found")


def _by_rule(rule: StudyRule, stated: Sequence[StudyValues], callers: frozenset[str]) -> Intent:
    unmet = rule.unmet(StudyValues.union((*stated, StudyValues(sending_ae_title=callers))))
    if unmet:
        return Intent(False, f"its `when` excludes the study: {' and '.join(unmet)}", excluded=True)
    return Intent(True, "its `when` matches the study")


def _naming_series(manifest: Manifest, series: Sequence[tuple[Recognition, StudyValues]]) -> str:
    """Return the name of the first series that names a body part of a required input; empty if there is none."""
    for recognised, stated in series:
        for rule in manifest.inputs:
            if rule.required and rule.modality in stated.modality and not stated.body_part.isdisjoint(rule.body_parts):
                return name_of_series(recognised.number, recognised.description)
    return ""
