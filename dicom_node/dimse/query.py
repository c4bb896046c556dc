"""The node as a query SCU (PS3.4 annex C): it asks a PACS which instances it holds, and how many of a study.

The number comes from a study-root C-FIND at STUDY level for Number of Study Related Instances (0020,1208), an optional
key that not every PACS answers (PS3.4 C.6.2.1.2). The instances come from one C-FIND at IMAGE level for each series.
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
    """A PACS from which studies come, and which can be asked about them."""

    name: str

    def count_instances(self, study_instance_uid: str) -> int:
        """Return the number of instances of the study that the PACS holds; 0 for an unknown study.

        Raise PeerUnavailable, or PeerRefused if the PACS gives no number.
        """


class QuerySCU(StorageSCU):
    """An association for C-FIND, as a context manager. Entering raises PeerUnavailable or PeerRefused."""

    def find(self, query: Dataset, model: str) -> list[Dataset]:
        """Return the identifiers that match (PS3.4 C.4.1). Raise PeerRefused when the query is not accepted."""
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
    """A source PACS that is asked by C-FIND, each time on an association of its own."""

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
    """Return the SOP Instance UIDs of the references that the peer holds.

    Asks for whole series, because not every PACS matches lists of UIDs, and results have series of their own. Raises
    PeerUnavailable, or PeerRefused if the peer refuses the query.
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
