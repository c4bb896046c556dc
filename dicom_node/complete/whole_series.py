"""Series that are whole while their study still arrives, for applications with `start = "inputs"`: pure decisions."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from dicom_node.complete.inventory import Inventory, SeriesCount, plural
from dicom_node.complete.rule import CompletionRule
from storage.records.completion import Grade
from storage.records.evidence import AssociationEnd, FeedingAssociation, StudyEvidence


def whole_series(study: StudyEvidence, inventory: Inventory, rule: CompletionRule, now: datetime) -> Mapping[str, str]:
    """Return the series that are known to be whole, each with the reason.

    A declared count is enough once it has settled, and so is a completed procedure step that lists the series. Other
    series are whole when every association that could have fed them was released. Rows do not tell which association
    brought an instance, so all associations count that were open when the series arrived.
    """
    return {
        series.series_instance_uid: reason
        for series in inventory.series
        if series.grade is not Grade.SHORT and (reason := _why_whole(study, series, rule, now))
    }


def _why_whole(study: StudyEvidence, series: SeriesCount, rule: CompletionRule, now: datetime) -> str:
    """Return the reason why a series is whole; an empty text if it is not known to be whole."""

    def quiet(seconds: float, since: datetime = series.last_received_at) -> bool:
        return now >= since + timedelta(seconds=seconds)

    if series.in_completed_step and quiet(rule.settled):
        return "listed by a completed procedure step, whose instances are all here"
    if series.grade is Grade.DECLARED and quiet(rule.settled):
        return series.text
    if series.grade is Grade.MULTI_FRAME:  # Each instance is whole by itself, but another one may follow.
        return f"{series.text}; quiet for {rule.released:g} s" if quiet(rule.released) else ""
    feeding = [a for a in study.associations if _may_have_fed(a, series)]
    released = all(a.end is AssociationEnd.RELEASED for a in feeding)
    ended = max((a.ended_at for a in feeding if a.ended_at is not None), default=series.last_received_at)
    if released and feeding and quiet(rule.released, max(ended, series.last_received_at)):
        return (
            f"{series.text or plural(series.here, 'image')}; its association released and quiet for {rule.released:g} s"
        )
    return ""


def _may_have_fed(association: FeedingAssociation, series: SeriesCount) -> bool:
    return association.opened_at <= series.last_received_at and (
        association.ended_at is None or association.ended_at >= series.first_received_at
    )
