"""The routing sweep: studies go from COMPLETE to ROUTED or IGNORED."""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.route.earlier_studies import EarlierStudies
from dicom_node.route.recognition import ReceivedSeries, SeriesRecogniser
from dicom_node.route.routing import RoutableStudy, Route, route, unroutable
from dicom_node.route.urgency import Urgency
from dicom_node.runtime.logs import fields, unexpected
from storage.errors import Retriable
from storage.records.studies import Study
from storage.tables.studies import Studies

log = logging.getLogger(__name__)


class RoutingSweep:
    """The sweep over all studies in COMPLETE. `earlier` is None if no application asks for earlier studies."""

    def __init__(
        self,
        studies: Studies,
        received: ReceivedSeries,
        recogniser: SeriesRecogniser,
        earlier: EarlierStudies | None,
        urgency: Urgency,
        applications: Sequence[ConfiguredApplication],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._studies = studies
        self._received = received
        self._recogniser = recogniser
        self._earlier = earlier
        self._urgency = urgency
        self._applications = applications
        self._now = now

    def sweep(self) -> None:
        """Route every study that is complete."""
        for study in self._studies.completed():
            self._reroute_later(study)
            self._apply(study, self._decide(study))

    def _reroute_later(self, study: Study) -> None:
        """Route later studies of the patient again, because this one may be an earlier time point of theirs.

        This happens once for each revision of the study, because a study that is itself routed again has no new images.
        """
        uid = study.study_instance_uid
        if self._earlier is None or self._studies.routing(uid, study.revision) is not None:
            return
        try:
            for later in self._earlier.arrived(uid):
                if self._studies.reroute(later, f"to be routed again: the earlier study {uid} of the patient came"):
                    extra = fields("study_rerouted", study=later)
                    log.info("A study is routed again, because an earlier study of its patient came", extra=extra)
        except Retriable:
            raise
        except Exception as error:
            extra = fields("later_studies_search_failed", study=uid)
            log.error("The search for later studies of the patient failed: %s", unexpected(error), extra=extra)

    def _decide(self, study: Study) -> Route:
        """Route one study. After an unexpected failure, return that the study cannot be routed, and why."""
        uid, revision = study.study_instance_uid, study.revision
        own = self._received.own_results(uid)
        series = self._received.besides(uid, own)
        try:
            routable = RoutableStudy(
                study_instance_uid=uid,
                revision=revision,
                series=series,
                recognised=[self._recogniser.describe(s) for s in series],
                priority=self._urgency.of(study.priority, self._studies.callers(uid)),
                own=own,
                earlier=() if self._earlier is None else self._earlier.before(uid),
            )
            return route(routable, self._applications)
        except Retriable:
            raise
        except Exception as error:
            extra = fields("routing_failed", study=uid)
            log.error("The study cannot be routed and is not analysed: %s", unexpected(error), extra=extra)
            reason = f"routing failed ({type(error).__name__}), see the log; then `dicom-node retry --study`"
            return unroutable(RoutableStudy(uid, revision, series, own=own), self._applications, reason)

    def _apply(self, study: Study, found: Route) -> None:
        now = self._now()
        uid, revision = study.study_instance_uid, study.revision
        if found.jobs:
            jobs = (*found.jobs, *found.reports)
            if self._studies.route(uid, revision, found.reason, jobs, found.decision, now, found.warnings):
                extra = fields("study_routed", study=uid, revision=revision)
                log.info("The study is routed, and its jobs are enqueued: %s", found.reason, extra=extra)
        elif self._studies.ignore(uid, revision, found.reason, found.decision, now, found.warnings, found.reports):
            # the reason holds descriptions of series, which no log may hold
            extra = fields("study_ignored", study=uid, revision=revision)
            log.info("The study is ignored, and no analysis is enqueued; `dicom-node explain` says why", extra=extra)
