"""The series of studies as they were received, which are read once as long as they stay the same."""

import threading
from collections import OrderedDict
from collections.abc import Collection

from storage.log.instances import InstanceStore, SeriesState
from storage.records.instances import Series
from storage.records.patients import StudyIdentities

MOST_INSTANCES = 50_000  # of remembered series

_SeriesKey = tuple[str, str]  # UIDs of study and series


class ReceivedSeries:
    """The series that other nodes sent. Results of this node that came back are left out.

    Series are remembered, so that a study which was looked at while it arrived is routed without reading all of its
    rows again. Any number of threads may ask.
    """

    def __init__(self, instances: InstanceStore) -> None:
        self._instances = instances
        self._remembered: OrderedDict[_SeriesKey, tuple[SeriesState, Series]] = OrderedDict()
        self._lock = threading.Lock()

    def own_results(self, study_instance_uid: str) -> frozenset[str]:
        """Return the SOP Instance UIDs of the results of this node that came back into the study."""
        return self._instances.own(study_instance_uid)

    def identities(self, study_instance_uid: str) -> StudyIdentities:
        """Return the patients that the instances of a study state."""
        return self._instances.identities(study_instance_uid)

    def of_study(self, study_instance_uid: str) -> list[Series]:
        """Return the series that hold anything but results of this node."""
        return self.besides(study_instance_uid, self.own_results(study_instance_uid))

    def besides(
        self, study_instance_uid: str, own: Collection[str], only: Collection[str] | None = None
    ) -> list[Series]:
        """Return the series, or `only` these of them, that hold anything but the instances of `own`."""
        series = self.read(study_instance_uid, only)
        return [s for s in series if any(i.sop_instance_uid not in own for i in s.instances)]

    def read(self, study_instance_uid: str, only: Collection[str] | None = None) -> list[Series]:
        """Return the series of a study, or `only` these of them, by their UIDs."""
        states = self._instances.series_states(study_instance_uid, only)
        found = {uid: self._recall((study_instance_uid, uid), state) for uid, state in states.items()}
        changed = [uid for uid, series in found.items() if series is None]
        for series in self._instances.series(study_instance_uid, changed) if changed else ():
            uid = series.series_instance_uid
            found[uid] = series
            self._remember((study_instance_uid, uid), states[uid], series)
        return [series for _, series in sorted(found.items()) if series is not None]

    def _recall(self, key: _SeriesKey, state: SeriesState) -> Series | None:
        with self._lock:
            known = self._remembered.get(key)
        return known[1] if known is not None and known[0] == state else None

    def _remember(self, key: _SeriesKey, state: SeriesState, series: Series) -> None:
        with self._lock:
            self._remembered[key] = state, series
            self._remembered.move_to_end(key)
            while len(self._remembered) > 1 and self._size() > MOST_INSTANCES:
                self._remembered.popitem(last=False)

    def _size(self) -> int:
        return sum(state.instances for state, _ in self._remembered.values())
