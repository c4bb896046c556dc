"""The received series of a study, what each of them is recognised as, and the values that its images state.

An error of the machine is raised as it is (OSError, MemoryError): it says nothing about a series.
"""

import logging
from collections.abc import Collection
from dataclasses import replace

from dicom_node.runtime.logs import fields, unexpected
from inference.contract.study_rule import StudyValues, stated_values
from inference.headers.images import images_among
from inference.series.kinds import Kind
from inference.series.recogniser import Recognition, read_headers, recognise_headers
from inference.series.site_table import SiteTable
from storage.log.instances import InstanceStore
from storage.records.instances import Series
from storage.records.patients import StudyIdentities
from storage.tables.results import Results

log = logging.getLogger(__name__)

DESCRIPTIONS = 256  # series that are remembered


class ReceivedSeries:
    """The series that other nodes sent. Results of this node that came back are left out."""

    def __init__(self, instances: InstanceStore, results: Results) -> None:
        self._instances = instances
        self._results = results

    def own_results(self, study_instance_uid: str) -> frozenset[str]:
        """Return the SOP Instance UIDs of all results of this node in the study."""
        return frozenset(result.sop_instance_uid for result in self._results.objects(study_instance_uid))

    def identities(self, study_instance_uid: str) -> StudyIdentities:
        """Return the patients that the instances of a study state."""
        return self._instances.identities(study_instance_uid)

    def of_study(self, study_instance_uid: str) -> list[Series]:
        """Return the series that hold anything but results of this node."""
        return self.besides(study_instance_uid, self.own_results(study_instance_uid))

    def besides(self, study_instance_uid: str, own: Collection[str]) -> list[Series]:
        """Return the series that hold anything but the instances of `own`."""
        series = self._instances.series(study_instance_uid)
        return [s for s in series if any(i.sop_instance_uid not in own for i in s.instances)]


class SeriesRecogniser:
    """The recogniser of stored series. The headers of a series are read again only when its instances changed.

    `site` holds what the site declares about its own series.
    """

    def __init__(self, site: SiteTable = ()) -> None:
        self._site = site
        self._descriptions: dict[str, tuple[int, Recognition, StudyValues]] = {}

    def describe(self, series: Series) -> Recognition:
        """Return what the series is recognised as. Raises OSError if its instances cannot be read now."""
        return self.look(series)[0]

    def look(self, series: Series) -> tuple[Recognition, StudyValues]:
        """Return also the values that the images of the series state. Raises OSError as `describe` does."""
        version = _series_version(series)
        known = self._descriptions.get(series.series_instance_uid)
        if known is not None and known[0] == version:
            return known[1:]
        description, stated = _recognise(series, self._site)
        if not description.problem:  # A series that cannot be read may be readable next time.
            self._descriptions[series.series_instance_uid] = (version, description, stated)
            while len(self._descriptions) > DESCRIPTIONS:
                self._descriptions.pop(next(iter(self._descriptions)))
        return description, stated


def _series_version(series: Series) -> int:
    """Return a number that changes with the instances of the series and with their content."""
    return hash(tuple((i.sop_instance_uid, i.blob.checksum) for i in series.instances))


def _recognise(series: Series, site: SiteTable) -> tuple[Recognition, StudyValues]:
    """Recognise a series. If it is malformed, the description has a problem, and the study is routed without it."""
    headers = read_headers([instance.blob for instance in series.instances])
    try:
        images, _ = images_among(headers)
        found = recognise_headers(headers, site)
        # A header that cannot be read names no series.
        found = replace(
            found, series_instance_uid=series.series_instance_uid, modality=found.modality or series.modality
        )
        return found, stated_values(headers[n] for n in images)
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises OSError too for a malformed value, but no file is read here
        extra = fields("series_recognition_failed", series=series.series_instance_uid)
        log.error("A series cannot be recognised: %s", unexpected(error), extra=extra)
        unknown = Recognition(
            series_instance_uid=series.series_instance_uid,
            modality=series.modality,
            kind=Kind.UNKNOWN,
            plane=None,
            dimension=None,
            slices=0,
            contrast=None,
            fat_suppressed=None,
            b_values=(),
            confidence=0.0,
            reasons=(),
            problem=f"its headers cannot be read ({type(error).__name__})",
        )
        return unknown, stated_values(headers)
