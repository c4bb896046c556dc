"""The received series of a study, what each of them is recognised as, and the values that its images state.

An error of the machine is raised as it is (OSError, MemoryError): it says nothing about a series.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from pydicom.dataset import Dataset

from dicom_node.route.headers import series_headers
from dicom_node.route.received_series import ReceivedSeries
from dicom_node.runtime.logs import fields, unexpected
from inference.contract.study_rule import StudyValues, stated_values
from inference.headers.images import images_among
from inference.headers.reading import UnreadableHeader
from inference.series.kinds import Kind
from inference.series.recogniser import Recognition, recognise_headers
from inference.series.site_table import SiteTable
from storage.log.instances import InstanceStore
from storage.records.instances import Series

log = logging.getLogger(__name__)

DESCRIPTIONS = 2048  # series that are remembered
QUIET_SECONDS = 1.0  # without a new instance, before a series of a study that still arrives is recognised
QUIET_SHARE = 0.05  # of the time that recognitions of one series may take, while it goes on arriving slowly
SECONDS_AT_ONCE = 0.5  # of one run
INSTANCES_AT_ONCE = 500  # of series that are recognised together

_SeriesKey = tuple[str, str]  # UIDs of study and series
Looked = tuple[Recognition, StudyValues]
"""A recognised series, and the values that its images state."""


class SeriesRecogniser:
    """The recogniser of stored series. A series is recognised anew only when its instances or their content changed.

    `site` holds what the site declares about its own series. Any number of threads may ask.
    """

    def __init__(self, store: InstanceStore, site: SiteTable = ()) -> None:
        self._store = store
        self._site = site
        self._known: OrderedDict[_SeriesKey, tuple[int, Looked]] = OrderedDict()
        self._lock = threading.Lock()

    def look(self, series: Sequence[Series]) -> list[Looked]:
        """Return what each of these series of one study is recognised as, and the values that its images state.

        Raises OSError if an instance must be opened and cannot be read now.
        """
        versions = [_series_version(one) for one in series]
        found = [self._recall(one, version) for one, version in zip(series, versions, strict=True)]
        unknown = [n for n, looked in enumerate(found) if looked is None]
        headers = series_headers(self._store, [series[n] for n in unknown])
        for n, of_series in zip(unknown, headers, strict=True):
            found[n] = looked = _recognise(series[n], of_series, self._site)
            if not any(isinstance(ds, UnreadableHeader) for ds in of_series):  # it may be readable next time
                self._remember(series[n], versions[n], looked)
        return [looked for looked in found if looked is not None]

    def _recall(self, series: Series, version: int) -> Looked | None:
        with self._lock:
            known = self._known.get(_key(series))
        return known[1] if known is not None and known[0] == version else None

    def _remember(self, series: Series, version: int, looked: Looked) -> None:
        with self._lock:
            self._known[_key(series)] = version, looked
            self._known.move_to_end(_key(series))
            while len(self._known) > DESCRIPTIONS:
                self._known.popitem(last=False)


@dataclass
class _Arriving:
    """A series of a study in RECEIVING: the number of its instances, since when, and True once it is recognised.

    `quiet_seconds` is how long it must be quiet first.
    """

    count: int
    since: float
    quiet_seconds: float = QUIET_SECONDS
    is_recognised: bool = False


class RecognitionAhead:
    """The recognition of series that are quiet while their studies still arrive, so that little is left to routing.

    What comes later has the series recognised again, after a longer time the longer that took. One run stops after
    SECONDS_AT_ONCE.
    """

    def __init__(
        self,
        store: InstanceStore,
        received: ReceivedSeries,
        recogniser: SeriesRecogniser,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._received = received
        self._recogniser = recogniser
        self._monotonic = monotonic
        self._seen: dict[_SeriesKey, _Arriving] = {}

    def advance(self) -> None:
        """Recognise series in which nothing came for QUIET_SECONDS."""
        begin = self._monotonic()
        self._seen = {
            key: _seen_now(self._seen.get(key), count, begin) for key, count in self._store.arriving().items()
        }
        while (batch := self._next_batch(begin)) is not None and (now := self._monotonic()) - begin <= SECONDS_AT_ONCE:
            study, quiet = batch
            with suppress(OSError):  # Routing will tell of it.
                self._recogniser.look(self._received.read(study, quiet))
            took = self._monotonic() - now
            for series in quiet:
                seen = self._seen[study, series]
                seen.is_recognised, seen.quiet_seconds = True, max(QUIET_SECONDS, took / QUIET_SHARE)

    def _next_batch(self, now: float) -> tuple[str, list[str]] | None:
        """Return a study, and quiet series of it that are to be recognised; None if there are none."""
        study, quiet, instances = "", [], 0
        for (of_study, series), seen in self._seen.items():
            if seen.is_recognised or now - seen.since < seen.quiet_seconds or of_study != (study or of_study):
                continue
            study, instances = of_study, instances + seen.count
            quiet.append(series)
            if instances >= INSTANCES_AT_ONCE:
                break
        return (study, quiet) if quiet else None


def _seen_now(seen: _Arriving | None, count: int, now: float) -> _Arriving:
    if seen is None:
        return _Arriving(count, now)
    return seen if seen.count == count else _Arriving(count, now, seen.quiet_seconds)


def _key(series: Series) -> _SeriesKey:
    return series.study_instance_uid, series.series_instance_uid


def _series_version(series: Series) -> int:
    """Return a number that changes with the instances of the series and with their content."""
    return hash(tuple((i.sop_instance_uid, i.blob.checksum) for i in series.instances))


def _recognise(series: Series, headers: Sequence[Dataset], site: SiteTable) -> Looked:
    """Recognise a series. If it is malformed, the description has a problem, and the study is routed without it."""
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
