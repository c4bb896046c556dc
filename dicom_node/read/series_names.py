"""Names by which the operator knows a series at the scanner: its number and description instead of its UID."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dicom_node.read.study import StudyDetail
from inference.headers.reading import read_header
from inference.series.naming import series_label
from storage.records.instances import Instance
from storage.records.routing import RecognisedSeries, RoutingDecision

UNNAMED = "(unnamed)"
_REFERENCE = re.compile(r"\b(series|study) ([0-9]+(?:\.[0-9]+)+)\b")
_TAGS = ["SeriesNumber", "SeriesDescription"]


@dataclass(frozen=True)
class SeriesNames:
    """The names of the series of a study, and of earlier studies of the patient, by UID."""

    names: Mapping[str, str]

    def of(self, series_instance_uid: str) -> str:
        return self.names.get(series_instance_uid, UNNAMED)

    def described(self, series: RecognisedSeries) -> str:
        """Return the name with plane and slices, as in `3 'T1 TSE tra', axial, 36 slices`."""
        slices = f"{series.slices} slice{'' if series.slices == 1 else 's'}" if series.slices else ""
        return ", ".join(filter(None, [self.of(series.series_instance_uid), series.plane, slices]))

    def put_into(self, text: str) -> str:
        """Replace the UIDs of series and studies in a reason by their names."""

        def name(reference: re.Match[str]) -> str:
            known = self.names.get(reference[2])
            return f"{reference[1]} {known}" if known is not None else f"another {reference[1]}"

        return _REFERENCE.sub(name, text)


def name_series(detail: StudyDetail, routing: RoutingDecision | None) -> SeriesNames:
    """Name the series of a study from the decision of routing, or else from the header of one of their instances."""
    recognised = {} if routing is None else {s.series_instance_uid: s for s in routing.series}
    names = {}
    for instance in detail.instances:
        uid = instance.series_instance_uid
        if uid in names:
            continue
        kept = recognised.get(uid)
        if kept is not None and (kept.number is not None or kept.description):
            names[uid] = series_label(kept.number, kept.description) or UNNAMED
        else:
            names[uid] = series_label(*_header(instance)) or UNNAMED
    for application in () if routing is None else routing.applications:
        for study in application.earlier:
            when = "of the patient" if study.days is None else f"{study.days} days before"
            names[study.study_instance_uid] = when
    return SeriesNames(names)


def _header(instance: Instance) -> tuple[int | None, str]:
    try:
        ds = read_header(instance.blob, _TAGS)
        number = ds.get("SeriesNumber")
        description = " ".join(str(ds.get("SeriesDescription") or "").split())
        return (None if number is None else int(number)), description
    except Exception:  # it is gone or malformed: the series is shown without a name
        return None, ""
