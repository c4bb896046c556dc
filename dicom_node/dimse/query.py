"""The node as a query SCU (PS3.4 annex C): how many instances of a study a PACS holds, and which of certain ones.

The first is a study-root C-FIND at STUDY level for Number of Study Related Instances (0020,1208), an optional key that
not every PACS answers (PS3.4 C.6.2.1.2); the second one at IMAGE level for each series.
"""

from collections.abc import Collection
from typing import Protocol

from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.dimse.results import InstanceReference
from dicom_node.dimse.scu import StorageSCU, Target
from dicom_node.dimse.status import DimseStatus
from dicom_node.errors import PeerRefused, PeerUnavailable


class SourcePacs(Protocol):
    """Where studies come from, and who can be asked for more about them."""

    name: str

    def count_instances(self, study_instance_uid: str) -> int:
        """How many instances of the study it holds; 0 for a study it does not know. Raises PeerUnavailable, or
        PeerRefused when it does not say.
        """
        ...


class QuerySCU(StorageSCU):
    """An association for C-FIND, as a context manager. Entering raises PeerUnavailable or PeerRefused."""

    def find(self, query: Dataset, model: str) -> list[Dataset]:
        """The identifiers that match (PS3.4 C.4.1). Raises PeerRefused when the query is not taken."""
        assert self._assoc is not None
        if not self._accepted:
            raise PeerRefused(f"{self._target} does not accept queries")
        found: list[Dataset] = []
        for status, identifier in self._assoc.send_c_find(query, model):
            if "Status" not in status:
                raise PeerUnavailable(f"{self._target} did not answer the query")
            if status.Status in (DimseStatus.PENDING, DimseStatus.PENDING_WITHOUT_OPTIONAL_KEYS):
                if identifier is None:
                    raise PeerRefused(f"{self._target} answers the query with what cannot be read")
                found.append(identifier)
            elif status.Status == DimseStatus.OUT_OF_RESOURCES:
                raise PeerUnavailable(f"{self._target} is out of resources for the query")
            elif status.Status != DimseStatus.SUCCESS:
                raise PeerRefused(f"{self._target} refuses the query with 0x{status.Status:04X}")
        return found


class DimseSource:
    """A PACS that is asked by C-FIND, each time in an association of its own."""

    def __init__(self, name: str, calling_ae_title: str, target: Target, timeout: float) -> None:
        self.name = name
        self._calling_ae_title = calling_ae_title
        self._target = target
        self._timeout = timeout

    def count_instances(self, study_instance_uid: str) -> int:
        model = str(StudyRootQueryRetrieveInformationModelFind)
        query = Dataset()
        query.QueryRetrieveLevel = "STUDY"
        query.StudyInstanceUID = study_instance_uid
        query.NumberOfStudyRelatedInstances = None
        contexts = [(model, str(ImplicitVRLittleEndian))]
        with QuerySCU(self._calling_ae_title, self._target, contexts, self._timeout) as scu:
            answers = scu.find(query, model)
        matches = [ds for ds in answers if ds.get("StudyInstanceUID", study_instance_uid) == study_instance_uid]
        if not matches:
            return 0
        try:
            return max(int(ds.NumberOfStudyRelatedInstances) for ds in matches)
        except (AttributeError, TypeError, ValueError):
            raise PeerRefused(f"{self._target} does not say how many instances a study has") from None


def find_instances(
    calling_ae_title: str, target: Target, references: Collection[InstanceReference], timeout: float
) -> set[str]:
    """The SOP Instance UIDs of those that the peer holds. Raises PeerUnavailable, or PeerRefused where it does not say.

    Asks for whole series: not every PACS matches lists of UIDs, and results have series of their own.
    """
    model = str(StudyRootQueryRetrieveInformationModelFind)
    found: set[str] = set()
    with QuerySCU(calling_ae_title, target, [(model, str(ImplicitVRLittleEndian))], timeout) as scu:
        for study, series in sorted({(r.study_instance_uid, r.series_instance_uid) for r in references}):
            query = Dataset()
            query.QueryRetrieveLevel = "IMAGE"
            query.StudyInstanceUID = study
            query.SeriesInstanceUID = series
            query.SOPInstanceUID = None
            found.update(str(ds.get("SOPInstanceUID", "")) for ds in scu.find(query, model))
    return found.intersection(r.sop_instance_uid for r in references)
