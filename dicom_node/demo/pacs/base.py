"""The interface of the PACS of the demo and the tests.

The PACS accepts peers on this machine only, keeps everything below one folder, and ends with the process that started
it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from pydicom.dataset import Dataset

from dicom_node.dimse.scu import Target
from storage.errors import NodeError

LOOPBACK = "127.0.0.1"


class PacsKind(StrEnum):
    """The program that serves as the PACS."""

    ORTHANC = "orthanc"  # the program on this machine, as Debian packages it
    CONTAINER = "container"  # Orthanc in a container, through docker or podman
    PLAIN = "plain"  # a storage SCP in this process: stores, and answers no query


class PacsUnavailable(NodeError):
    """An error for a PACS that could not be started."""


@dataclass(frozen=True)
class StoredInstance:
    """An instance that the PACS holds."""

    sop_instance_uid: str
    sop_class_uid: str
    modality: str
    series_instance_uid: str


@dataclass(frozen=True)
class PacsConfig:
    """The folder that a PACS writes into, the port it listens on, and the peers that may associate with it.

    These peers are `node` and the AE titles in `callers`, from this machine alone. With `route_back` the PACS sends
    everything it stores to `node`; with `dicomweb` it answers below `http_url`/dicom-web as well.
    """

    folder: Path
    ae_title: str
    port: int
    node: Target | None = None
    callers: Sequence[str] = ()
    route_back: bool = False
    dicomweb: bool = False


class Pacs(ABC):
    """A PACS. After `stop` and another `start` it has the same ports and still holds everything that was stored."""

    kind: PacsKind
    description: str
    http_url: str | None = None

    def __init__(self, config: PacsConfig) -> None:
        self.folder = config.folder
        self.ae_title = config.ae_title
        self.host = LOOPBACK
        self.port = config.port

    @property
    def target(self) -> Target:
        return Target(self.ae_title, self.host, self.port)

    @abstractmethod
    def start(self) -> None:
        """Start the PACS, and return when it answers. Raises PacsUnavailable if it does not."""

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def instances(self, study_instance_uid: str) -> list[StoredInstance]:
        """List the instances of the study that the PACS holds, in no particular order."""

    @abstractmethod
    def dataset(self, sop_instance_uid: str) -> Dataset:
        """Read one instance from the PACS. Raises LookupError if the PACS does not hold it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
