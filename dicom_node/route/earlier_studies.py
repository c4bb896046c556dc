"""Earlier studies of the same patient, and the later studies that they concern.

Two studies are of one patient if Patient ID and Issuer of Patient ID are the same, and birth date and sex do not differ
where both studies give them. They are ordered by Study Date and Study Time (PS3.3 C.7.2.1).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial

from dicom_node.read.visits import SAMPLES, Visit, read_visit, visit_of
from dicom_node.route.headers import sample_header
from dicom_node.route.received_series import ReceivedSeries
from dicom_node.route.recognition import SeriesRecogniser
from inference.series.recogniser import Recognition
from storage.log.headers.patient_header import read_identity
from storage.log.instances import InstanceStore
from storage.records.instances import Instance, Series
from storage.records.patients import NOBODY, PatientIdentity, StudyIdentities
from storage.tables.patients import Patients


@dataclass(frozen=True)
class EarlierStudy:
    """A complete study of the same patient, made `days` before, with its series and what each is recognised as.

    `problem` explains why the study cannot be used; it is empty if it can. `days` is None if the order of the studies
    is not known.
    """

    study_instance_uid: str
    days: int | None
    series: tuple[Series, ...] = ()
    recognised: tuple[Recognition, ...] = ()
    problem: str = ""


class EarlierStudies:
    """The search for studies of the same patient that were made before, or after, a given study."""

    def __init__(
        self,
        patients: Patients,
        instances: InstanceStore,
        received: ReceivedSeries,
        recogniser: SeriesRecogniser,
    ) -> None:
        self._patients = patients
        self._instances = instances
        self._received = received
        self._recogniser = recogniser

    def before(self, study_instance_uid: str) -> list[EarlierStudy]:
        """Return the earlier complete studies of the patient, the oldest first, and then those that may be earlier."""
        self.identify(study_instance_uid)
        others = self._patients.others(study_instance_uid)
        visit = self._visit(study_instance_uid) if others else None
        if visit is None:
            return []
        identities = self._instances.identities(study_instance_uid)
        before = [
            (self._problem(uid, other, identities, visit), other, uid)
            for uid, other in self._visits(others).items()
            if other.is_before(visit) is not False
        ]
        before.sort(key=lambda one: (one[0] != "", one[1].day or date.max, one[1].time, one[2]))
        return [self._study(uid, other, visit, problem) for problem, other, uid in before]

    def arrived(self, study_instance_uid: str) -> list[str]:
        """Return the later studies of the patient of this complete study, which must be routed again.

        These are the later studies of its patient, and of the patient under which it was routed before a correction.
        """
        self.identify(study_instance_uid)
        return self._later(study_instance_uid, self._patients.routed(study_instance_uid))

    def note_arrived(self, study_instance_uid: str, revision: int) -> None:
        """Note that the later studies, which `arrived` returned, are routed again."""
        self._patients.note_routed(study_instance_uid, revision)

    def missed(self, study_instance_uid: str, event: int) -> list[str]:
        """Return the later studies of the patient that were routed after this event, without this study."""
        return self._later(study_instance_uid, self._patients.routed_since(study_instance_uid, event))

    def identify(self, study_instance_uid: str) -> bool:
        """Identify the patient of a study that the index did not identify. Return True if that was necessary.

        Raises OSError if no row states the patient, and an instance cannot be read now.
        """
        instances = partial(self._instances.sample, study_instance_uid, SAMPLES)
        return self._patients.identify(study_instance_uid, lambda: _stated_by(instances()))

    def _later(self, study_instance_uid: str, others: Sequence[str]) -> list[str]:
        visit = self._visit(study_instance_uid) if others else None
        if visit is None:
            return []
        return sorted(uid for uid, other in self._visits(others).items() if visit.is_before(other))

    def _problem(self, study_instance_uid: str, visit: Visit, later: StudyIdentities, later_visit: Visit) -> str:
        if later.differ(self._instances.identities(study_instance_uid)):
            return "has the same Patient ID, but another birth date or sex: it may be of another patient"
        if visit.is_before(later_visit) is None:
            return "is of the same patient, but the dates and times of both studies do not say which one is earlier"
        return ""

    def _study(self, study_instance_uid: str, visit: Visit, later: Visit, problem: str) -> EarlierStudy:
        if problem:
            return EarlierStudy(study_instance_uid, None, problem=problem)
        if self._instances.identities(study_instance_uid).conflict() is not None:
            return EarlierStudy(study_instance_uid, None, problem="holds images that state different patients")
        assert later.day is not None
        assert visit.day is not None
        series = tuple(self._received.of_study(study_instance_uid))
        recognised = tuple(recognised for recognised, _ in self._recogniser.look(series))
        return EarlierStudy(study_instance_uid, (later.day - visit.day).days, series, recognised)

    def _visits(self, study_instance_uids: Iterable[str]) -> dict[str, Visit]:
        """Return the visits of those studies of which a header can be read."""
        found = ((uid, self._visit(uid)) for uid in study_instance_uids)
        return {uid: visit for uid, visit in found if visit is not None}

    def _visit(self, study_instance_uid: str) -> Visit | None:
        """Return the visit of a study; None if no header can be read. Raises OSError as `read_visit` does."""
        sample = self._instances.sample(study_instance_uid, SAMPLES)
        header = sample_header(self._instances, sample)
        return read_visit([instance.blob for instance in sample]) if header is None else visit_of(header)


def _stated_by(instances: Sequence[Instance]) -> PatientIdentity:
    """Return what the first of the instances states that states a Patient ID."""
    identities = (read_identity(instance.blob) for instance in instances)
    return next((identity for identity in identities if identity.patient_id), NOBODY)
