"""The node as a query SCU (PS3.4 annex C): it asks a PACS which instances it holds, and how many of a study.

The number comes from a study-root C-FIND at STUDY level for Number of Study Related Instances (0020,1208), an optional
key that not every PACS answers (PS3.4 C.6.2.1.2). The instances come from one C-FIND at IMAGE level for each series.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.dimse.results import InstanceReference
from dicom_node.dimse.scu import StorageSCU, Target
from dicom_node.dimse.status import DimseStatus
from dicom_node.errors import PeerRefused, PeerUnavailable
from storage.records.deliveries import StoredAs

MOST_MOVED = 10  # answers to a question that has at most one right answer


class SourcePacs(Protocol):
    """A PACS from which studies come, and which can be asked about them."""

    name: str

    def count_instances(self, study_instance_uid: str) -> int:
        """Return the number of instances of the study that the PACS holds; 0 for an unknown study.

        Raise PeerUnavailable, or PeerRefused if the PACS gives no number.
        """


class QuerySCU(StorageSCU):
    """An association for C-FIND, as a context manager. Entering raises PeerUnavailable or PeerRefused."""

    def find(self, query: Dataset, model: str, most: int | None = None) -> list[Dataset]:
        """Return the identifiers that match (PS3.4 C.4.1).

        Raise PeerRefused when the query is not accepted, and when more than `most` match.
        """
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
                if most is not None and len(found) > most:  # the association is aborted, as after any error
                    raise PeerRefused(f"{self._target} answers a query for one instance with many")
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


def find_moved(
    calling_ae_title: str, target: Target, references: Collection[InstanceReference], timeout: float
) -> dict[str, StoredAs]:
    """Return where the peer keeps `references` that it does not hold under their own UIDs.

    An instance is known by its SOP Instance UID in whatever study, or as the only one of its series. Raises
    PeerUnavailable. A peer that refuses such a query, which is beyond the baseline (PS3.4 C.4.1.2.1), finds nothing.
    """
    model = str(StudyRootQueryRetrieveInformationModelFind)
    found: dict[str, StoredAs] = {}
    for reference in references:
        anywhere = {"SOPInstanceUID": reference.sop_instance_uid}
        within = {"StudyInstanceUID": reference.study_instance_uid, "SeriesInstanceUID": reference.series_instance_uid}
        for keys in (anywhere, within):
            query = Dataset()
            query.QueryRetrieveLevel = "IMAGE"
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                setattr(query, keyword, keys.get(keyword))
            try:
                with QuerySCU(calling_ae_title, target, [(model, str(ImplicitVRLittleEndian))], timeout) as scu:
                    answers = scu.find(query, model, MOST_MOVED)
            except PeerRefused:
                continue
            matching = [ds for ds in answers if _matches(ds, keys)]
            if len(matching) == 1 and (kept := _place(matching[0])).sop_instance_uid:
                found[reference.sop_instance_uid] = kept
                break
    return found


def _matches(answer: Dataset, keys: Mapping[str, str]) -> bool:
    """Return True if the answer has the keys. It may leave out those above the last, which says what is meant."""
    *above, last = keys
    return str(answer.get(last)) == keys[last] and all(str(answer.get(k, keys[k])) == keys[k] for k in above)


def _place(answer: Dataset) -> StoredAs:
    keywords = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    return StoredAs(*(str(answer.get(keyword) or "") for keyword in keywords))
