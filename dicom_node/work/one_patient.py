"""The second check of the patient: before a job computes or writes anything, its images must state one patient.

Routing compares rows of the index. The worker compares the rows of its studies again, and the headers of the very
instances that it is about to read.
"""

from collections.abc import Iterable

from dicom_node.errors import PatientConflict
from storage.blobs import Blob
from storage.log.headers.patient_header import read_identity
from storage.log.instances import InstanceStore
from storage.records.patients import contradictions, listed


def ensure_studies_of_one_patient(instances: InstanceStore, study_instance_uids: Iterable[str]) -> None:
    """Raise PatientConflict if the instances of one of these studies state different patients."""
    for uid in study_instance_uids:
        conflict = instances.identities(uid).conflict()
        if conflict is not None:
            raise PatientConflict(f"study {uid} is not analysed, and nothing is sent: {conflict.text}")


def ensure_images_of_one_patient(blobs: Iterable[Blob]) -> None:
    """Raise PatientConflict if these images state different patients, OSError if the disk does not give one."""
    differing = contradictions(list({read_identity(blob) for blob in blobs}))
    if differing:
        raise PatientConflict(
            f"the images state different patients: they contradict one another in {listed(differing)}"
        )
