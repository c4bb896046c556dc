"""The second check of the patient: before a job computes or writes anything, its images must state one patient.

Routing compares rows of the index. The worker compares the rows of its studies again, and the headers of the very files
that it is about to read.
"""

from collections.abc import Iterable
from pathlib import Path

from dicom_node.errors import PatientConflict
from storage.log.headers.patient_header import read_identity
from storage.log.instances import InstanceStore
from storage.records.patients import contradictions, listed


def ensure_studies_of_one_patient(instances: InstanceStore, study_instance_uids: Iterable[str]) -> None:
    """Raise PatientConflict if the instances of one of these studies state different patients."""
    for uid in study_instance_uids:
        conflict = instances.identities(uid).conflict()
        if conflict is not None:
            raise PatientConflict(f"study {uid} is not analysed, and nothing is sent: {conflict.text}")


def ensure_files_of_one_patient(paths: Iterable[Path]) -> None:
    """Raise PatientConflict if these files state different patients, OSError if the disk does not give one."""
    differing = contradictions(list({read_identity(path) for path in paths}))
    if differing:
        raise PatientConflict(
            f"the images state different patients: they contradict one another in {listed(differing)}"
        )
