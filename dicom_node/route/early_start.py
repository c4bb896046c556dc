"""The early start of applications on their inputs, while the rest of the study still arrives."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.route.routable import RoutableStudies
from dicom_node.route.routing import Route, route
from dicom_node.runtime.logs import fields, unexpected
from storage.errors import Retriable
from storage.records.evidence import StudyEvidence
from storage.records.jobs import NewJob
from storage.records.routing import EarlyStart
from storage.tables.studies import Studies

log = logging.getLogger(__name__)


class EarlyStarter:
    """The early start. `applications` are those that start on their inputs and can be used."""

    def __init__(
        self, studies: Studies, routable: RoutableStudies, applications: Sequence[ConfiguredApplication]
    ) -> None:
        self._studies = studies
        self._routable = routable
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
        """Route the study with its whole series only.

        Return None if the study does not exist any more, or if its instances state different patients.
        """
        study = self._studies.get(evidence.study_instance_uid)
        if study is None or self._routable.conflict(evidence.study_instance_uid) is not None:
            return None
        routable = self._routable.read(replace(study, revision=evidence.revision), only=whole)
        return route(routable, self._applications)

    def _start(self, job: NewJob, early: Route, whole: Mapping[str, str], now: datetime) -> None:
        why = "; ".join(f"{key} is series {s}, {whole.get(s, 'of an earlier study')}" for key, s in job.inputs.items())
        (told,) = [a for a in early.decision.applications if (a.application, a.side) == (job.application, job.side)]
        if self._studies.start_early(job, EarlyStart(why, dict(job.inputs), told), now):
            extra = fields("early_job_enqueued", study=job.study_instance_uid, application=job.application)
            log.info("An application starts before its study is complete: %s", why, extra=extra)
