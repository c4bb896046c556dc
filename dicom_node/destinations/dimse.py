"""A PACS that takes C-STORE."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_node import scu
from dicom_node.destinations.base import EchoResult, SendResult


@dataclass(frozen=True)
class DimseDestination:
    """Sends over one association per call. `timeout` (seconds) holds for connecting and for each answer."""

    name: str
    calling_ae_title: str
    ae_title: str
    host: str
    port: int
    timeout: float = 30.0

    def send(self, paths: Sequence[Path]) -> list[SendResult]:
        return scu.send_files(paths, self.calling_ae_title, self._target, self.timeout)

    def accepted(self, sop_class_uids: Collection[str]) -> frozenset[str] | None:
        return scu.accepted(self.calling_ae_title, self._target, sop_class_uids, self.timeout)

    def echo(self) -> EchoResult:
        return scu.echo(self.calling_ae_title, self._target, self.timeout)

    @property
    def _target(self) -> scu.Target:
        return scu.Target(self.ae_title, self.host, self.port)
