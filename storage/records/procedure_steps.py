"""Records of Modality Performed Procedure Steps."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from storage.blobs import Blob


class ProcedureStepState(StrEnum):
    """Performed Procedure Step Status (PS3.3 C.4.14); only the first may still change."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


@dataclass(frozen=True)
class ProcedureStep:
    """A Modality Performed Procedure Step (PS3.4 annex F). Its dataset, which names the patient, is `blob`.

    `referenced` are the SOP instances that its Performed Series Sequence lists. They are final once the state is.
    """

    sop_instance_uid: str
    state: ProcedureStepState
    source_ae_title: str
    study_instance_uids: tuple[str, ...]
    referenced: tuple[str, ...]
    created_at: datetime
    ended_at: datetime | None
    blob: Blob
    version: int = 1  # one more with each N-SET
