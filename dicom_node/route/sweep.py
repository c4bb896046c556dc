"""The routing sweep: studies go from COMPLETE to ROUTED or IGNORED."""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.route.earlier_studies import EarlierStudies
from dicom_node.route.routable import RoutableStudies
from dicom_node.route.routing import Route, route, unroutable
from dicom_node.runtime.logs import fields, unexpected
from storage.errors import Retriable
from storage.records.patients import IdentityConflict
from storage.records.problems import ProblemKind
from storage.records.studies import Study
from storage.tables.problems import Problems
from storage.tables.studies import Studies

log = logging.getLogger(__name__)

RETRY_SECONDS = 10.0  # between two tries on a study whose files cannot be read


class RoutingSweep:
    """The sweep over all studies in COMPLETE. `earlier` is None if no application asks for earlier studies.

    An I/O error or a lack of memory says nothing about a study: it stays COMPLETE, a problem is opened, and it is tried
    again.
    """

    def __init__(
        self,
        studies: Studies,
        routable: RoutableStudies,
        earlier: EarlierStudies | None,
        problems: Problems,
        applications: Sequence[ConfiguredApplication],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._studies = studies
        self._routable = routable
        self._earlier = earlier
        self._problems = problems
        self._applications = applications
        self._now = now
        self._monotonic = monotonic
        self._put_off: dict[str, float] = {}  # studies in trouble, and the time of the next try

    def sweep(self) -> None:
        """Route every study that is complete."""
        completed = self._studies.completed()
        for study in completed:
            uid = study.study_instance_uid
            if self._put_off.get(uid, 0.0) > self._monotonic():
                continue
            try:
                conflict = self._routable.conflict(uid)
                if conflict is not None:
                    self._refuse(study, conflict)
                    continue
                self._reroute_later(study)
                found = self._decide(study)
            except (OSError, MemoryError) as error:
                self._put_off_study(study, error)
                continue
            self._apply(study, found)
            if found.failure:
                self._problems.open(ProblemKind.ROUTING_FAILED, uid, found.failure, uid)
            if self._put_off.pop(uid, None) is not None:
                extra = fields("study_files_answer", study=uid)
                log.info("The files of the study can be read again, and it is routed", extra=extra)
        waiting = {study.study_instance_uid for study in completed}
        self._put_off = {uid: at for uid, at in self._put_off.items() if uid in waiting}

    def _put_off_study(self, study: Study, error: OSError | MemoryError) -> None:
        uid = study.study_instance_uid
        self._put_off[uid] = self._monotonic() + RETRY_SECONDS
        what = getattr(error, "strerror", None) or type(error).__name__
        text = f"the files of a complete study cannot be read ({what}); it is routed as soon as they can"
        self._problems.open(ProblemKind.MACHINE_TROUBLE, uid, text, uid)
        log.error(
            "The files of a complete study cannot be read (%s); it stays COMPLETE, and is tried again every %g s",
            what,
            RETRY_SECONDS,
            extra=fields("routing_put_off", study=uid),
        )

    def _refuse(self, study: Study, conflict: IdentityConflict) -> None:
        """End the routing of a study whose instances state different patients.

        Nothing is sent, no report either: it would carry one of the patients.
        """
        uid, revision = study.study_instance_uid, study.revision
        reason = f"not analysed, and nothing is sent: {conflict.text}"
        if self._studies.refuse(uid, revision, conflict, reason, self._now()):
            extra = fields("patient_correction_incomplete" if conflict.is_correction else "patients_mixed", study=uid)
            log.error("The study is not analysed, and nothing is sent: %s", conflict.text, extra=extra)

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
            self._earlier.note_arrived(uid, study.revision)  # last, because a crash or an error has all repeated
        except (Retriable, OSError, MemoryError):
            raise
        except Exception as error:
            extra = fields("later_studies_search_failed", study=uid)
            log.error("The search for later studies of the patient failed: %s", unexpected(error), extra=extra)

    def _decide(self, study: Study) -> Route:
        """Route one study. After an unexpected failure, return that the study cannot be routed, and why.

        Raises OSError if its files cannot be read now.
        """
        uid = study.study_instance_uid
        try:
            return route(self._routable.read(study), self._applications)
        except (Retriable, OSError, MemoryError):
            raise
        except Exception as error:
            extra = fields("routing_failed", study=uid)
            log.error("The study cannot be routed and is not analysed: %s", unexpected(error), extra=extra)
            reason = f"routing failed ({type(error).__name__}), see the log; then `dicom-node retry --study`"
            return unroutable(self._routable.unread(study), self._applications, reason)

    def _apply(self, study: Study, found: Route) -> None:
        now = self._now()
        uid, revision = study.study_instance_uid, study.revision
        if found.jobs:
            if self._studies.route(uid, revision, found.reason, found.jobs, found.decision, now, found.warnings):
                extra = fields("study_routed", study=uid, revision=revision)
                log.info("The study is routed, and its jobs are enqueued: %s", found.reason, extra=extra)
        elif self._studies.ignore(uid, revision, found.reason, found.decision, now, found.warnings):
            # the reason holds descriptions of series, which no log may hold
            extra = fields("study_ignored", study=uid, revision=revision)
            log.info("The study is ignored, and no analysis is enqueued; `dicom-node explain` says why", extra=extra)
