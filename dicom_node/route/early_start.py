"""The early start of applications on their inputs, while the rest of the study still arrives."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.route.earlier_studies import EarlierStudies
from dicom_node.route.recognition import SeriesRecogniser
from dicom_node.route.routing import RoutableStudy, Route, route
from dicom_node.route.urgency import Urgency
from dicom_node.runtime.logs import fields, unexpected
from storage.errors import Retriable
from storage.log.instances import InstanceStore
from storage.records.evidence import StudyEvidence
from storage.records.jobs import NewJob
from storage.records.routing import EarlyStart
from storage.tables.studies import Studies

log = logging.getLogger(__name__)


class EarlyStarter:
    """The early start. `applications` are those that start on their inputs and can be used."""

    def __init__(
        self,
        studies: Studies,
        instances: InstanceStore,
        recogniser: SeriesRecogniser,
        earlier: EarlierStudies | None,
        urgency: Urgency,
        applications: Sequence[ConfiguredApplication],
    ) -> None:
        self._studies = studies
        self._instances = instances
        self._recogniser = recogniser
        self._earlier = earlier
        self._urgency = urgency
        self._applications = applications

    def start(self, evidence: StudyEvidence, whole: Mapping[str, str], now: datetime) -> None:
        """Enqueue a job for every application whose inputs are fed by `whole` series, which give the reason for each.

        An unexpected failure is logged; the study will be routed when it is complete.
        """
        try:
            early = self._route(evidence, whole)
        except Retriable:
            raise
        except Exception as error:
            extra = fields("early_start_failed", study=evidence.study_instance_uid)
            log.error("The whole series of a study cannot be routed yet: %s", unexpected(error), extra=extra)
            return
        if early is None:
            return
        for job in early.jobs:
            self._start(job, early, whole, now)

    def _route(self, evidence: StudyEvidence, whole: Mapping[str, str]) -> Route | None:
        """Route the study with its whole series only. Return None if the study does not exist any more."""
        uid = evidence.study_instance_uid
        series = [s for s in self._instances.series(uid) if s.series_instance_uid in whole]
        recognised = [self._recogniser.describe(s) for s in series]
        study = self._studies.get(uid)
        if study is None:
            return None
        routable = RoutableStudy(
            study_instance_uid=uid,
            revision=evidence.revision,
            series=series,
            recognised=recognised,
            priority=self._urgency.of(study.priority, self._studies.callers(uid)),
            earlier=() if self._earlier is None else self._earlier.before(uid),
        )
        return route(routable, self._applications)

    def _start(self, job: NewJob, early: Route, whole: Mapping[str, str], now: datetime) -> None:
        why = "; ".join(f"{key} is series {s}, {whole.get(s, 'of an earlier study')}" for key, s in job.inputs.items())
        (told,) = [a for a in early.decision.applications if (a.application, a.side) == (job.application, job.side)]
        if self._studies.start_early(job, EarlyStart(why, dict(job.inputs), told), now):
            extra = fields("early_job_enqueued", study=job.study_instance_uid, application=job.application)
            log.info("An application starts before its study is complete: %s", why, extra=extra)
