"""The identification, in the background, of patients of studies that were filed before the index identified them."""

import logging

from dicom_node.route.earlier_studies import EarlierStudies
from dicom_node.runtime.logs import fields
from storage.tables.patients import Patients
from storage.tables.studies import Studies

log = logging.getLogger(__name__)

BATCH = 1_000  # studies to look at in one run; nearly all of them are identified


class ExistingPatients:
    """The identification of existing studies: all that there are after an upgrade or a lost key, and otherwise none.

    It goes through the studies once in the life of a process. After a restart it begins anew, and passes over those
    that are identified.
    """

    def __init__(self, patients: Patients, earlier: EarlierStudies, studies: Studies) -> None:
        self._patients = patients
        self._earlier = earlier
        self._studies = studies
        self._began = patients.last_event()
        self._after: str | None = ""
        self._identified = self._unread = 0

    def advance(self) -> None:
        """Identify the patients of one batch of studies."""
        if self._after is None:
            return
        batch = self._patients.unidentified(self._after, BATCH)
        for uid in batch.unidentified:
            try:
                if self._earlier.identify(uid):
                    self._identified += 1
                    self._route_again(uid)
            except OSError:  # Another study must not wait for this one.
                self._unread += 1
        self._after = batch.last
        if self._after is None and self._identified + self._unread:
            self._tell()

    def _route_again(self, study_instance_uid: str) -> None:
        """Route studies again that were routed while nobody knew that this one is an earlier study of their patient."""
        for later in self._earlier.missed(study_instance_uid, self._began):
            reason = f"to be routed again: the patient of the earlier study {study_instance_uid} is identified"
            if self._studies.reroute(later, reason):
                log.info(
                    "A study is routed again, because an earlier study of its patient was identified",
                    extra=fields("study_rerouted", study=later),
                )

    def _tell(self) -> None:
        extra = fields("patients_identified", unread=self._unread)
        log.info("Identified the patients of %d existing studies", self._identified, extra=extra)
        if self._unread:
            message = "The patients of %d studies are not identified, because no image can be read; a start tries again"
            log.warning(message, self._unread, extra=fields("patients_unread"))
