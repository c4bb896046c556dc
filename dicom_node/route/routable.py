"""The gathering of everything that the routing of a study depends on, from the database and from headers."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from dicom_node.route.earlier_studies import EarlierStudies
from dicom_node.route.received_series import ReceivedSeries
from dicom_node.route.recognition import SeriesRecogniser
from dicom_node.route.routing import RoutableStudy
from storage.records.patients import IdentityConflict
from storage.records.studies import Study
from storage.tables.studies import Studies


@dataclass(frozen=True)
class Urgency:
    """The priorities of peers, by their AE titles."""

    peers: Mapping[str, int]

    def of(self, study_priority: int, callers: Iterable[str]) -> int:
        """Return the priority of a job: the highest of its study's priority and those of the peers that fed it."""
        return max(study_priority, *(self.peers.get(caller.strip(), 0) for caller in callers), 0)


class RoutableStudies:
    """The reader of routable studies. `earlier` is None if no application asks for earlier studies."""

    def __init__(
        self,
        studies: Studies,
        received: ReceivedSeries,
        recogniser: SeriesRecogniser,
        earlier: EarlierStudies | None,
        urgency: Urgency,
    ) -> None:
        self._studies = studies
        self._received = received
        self._recogniser = recogniser
        self._earlier = earlier
        self._urgency = urgency

    def read(self, study: Study, only: Collection[str] | None = None) -> RoutableStudy:
        """Read a study, or `only` these of its series. Raises OSError if its files cannot be read now."""
        uid = study.study_instance_uid
        own = self._received.own_results(uid)
        series = self._received.besides(uid, own, only)
        looked = self._recogniser.look(series)
        callers = self._studies.callers(uid)
        return RoutableStudy(
            study_instance_uid=uid,
            revision=study.revision,
            series=series,
            recognised=[recognised for recognised, _ in looked],
            stated=[stated for _, stated in looked],
            callers=frozenset(caller.strip() for caller in callers),
            analysed=frozenset(self._studies.analysed(uid)),
            priority=self._urgency.of(study.priority, callers),
            own=own,
            earlier=() if self._earlier is None else self._earlier.before(uid),
        )

    def conflict(self, study_instance_uid: str) -> IdentityConflict | None:
        """Return the contradiction between the patients that the instances of a study state; None if there is none."""
        return self._received.identities(study_instance_uid).conflict()

    def unread(self, study: Study) -> RoutableStudy:
        """Return a study as far as the database knows it, after its headers turned out to be unusable."""
        uid = study.study_instance_uid
        own = self._received.own_results(uid)
        return RoutableStudy(uid, study.revision, self._received.besides(uid, own), own=own)
