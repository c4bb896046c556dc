"""A PACS that takes C-STORE."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from dicom_node.deliver.commitment_scu import CommitmentSCU
from dicom_node.deliver.destinations.interface import Asker
from dicom_node.deliver.destinations.settings import DestinationSettings
from dicom_node.dimse import scu
from dicom_node.dimse.query import find_instances, find_moved
from dicom_node.dimse.results import EchoResult, InstanceReference, SendResult
from dicom_node.runtime.configuration import AETitle, Port
from storage.blobs import Blob
from storage.records.deliveries import StoredAs


@dataclass(frozen=True)
class DimseDestination:
    """A PACS that is reached over one association for each call.

    `timeout` (seconds) limits connecting and the wait for each answer.
    """

    name: str
    calling_ae_title: str
    ae_title: str
    host: str
    port: int
    timeout: float = 30.0

    def send(self, blobs: Sequence[Blob]) -> list[SendResult]:
        return scu.send_files(blobs, self.calling_ae_title, self._target, self.timeout)

    def accepted(self, sop_class_uids: Collection[str]) -> frozenset[str] | None:
        return scu.accepted_sop_classes(self.calling_ae_title, self._target, sop_class_uids, self.timeout)

    def echo(self) -> EchoResult:
        return scu.send_echo(self.calling_ae_title, self._target, self.timeout)

    def commit(self, transaction_uid: str, references: Sequence[InstanceReference], asker: Asker) -> None:
        """Ask for storage commitment (PS3.4 annex J).

        The report is awaited on the same association as long as `asker` waits for it.
        """
        with CommitmentSCU(self.calling_ae_title, self._target, self.timeout, asker.heard) as commitment:
            commitment.request(transaction_uid, references)
            asker.taken()
            commitment.listen(asker.waits)

    def stored(self, references: Collection[InstanceReference]) -> set[str]:
        """Return the SOP Instance UIDs of all `references` that a C-FIND finds (PS3.4 annex C)."""
        return find_instances(self.calling_ae_title, self._target, references, self.timeout)

    def moved(self, references: Collection[InstanceReference]) -> dict[str, StoredAs]:
        """Return where the PACS keeps `references` under other UIDs, as far as a C-FIND tells."""
        return find_moved(self.calling_ae_title, self._target, references, self.timeout)

    @property
    def _target(self) -> scu.Target:
        return scu.Target(self.ae_title, self.host, self.port)


class DimseSettings(DestinationSettings):
    """A `[[destinations]]` entry of kind "dimse", which is the kind of an entry that names none."""

    kind: Literal["dimse"] = "dimse"
    ae_title: AETitle
    host: str = Field(min_length=1)
    port: Port

    @property
    def address(self) -> str:
        return f"{self.ae_title} at {self.host}:{self.port}"

    def build(self, calling_ae_title: str, timeout: float) -> DimseDestination:
        return DimseDestination(self.name, calling_ae_title, self.ae_title, self.host, self.port, timeout)
