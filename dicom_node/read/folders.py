"""The folders of a node below its `data_dir`."""

from dataclasses import dataclass
from pathlib import Path

from storage.errors import Permanent
from storage.log.patient_key import PATIENT_KEY


@dataclass(frozen=True)
class NodeFolders:
    """The folders of everything that a node keeps. Each role makes its own folders below the `data_dir`."""

    data_dir: Path

    @property
    def journals(self) -> Path:
        """The journals: a folder for each receiver, with everything that it has acknowledged."""
        return self.data_dir / "journal"

    @property
    def instances(self) -> Path:
        """The files of instances that release 0.1 filed."""
        return self.data_dir / "instances"

    @property
    def quarantine(self) -> Path:
        """The quarantine of release 0.1: instances whose UID belongs to a filed instance with other pixels."""
        return self.data_dir / "quarantine"

    @property
    def index_log(self) -> Path:
        """The log of the index role: what was indexed in which order, own results, and deletions."""
        return self.data_dir / "index-log"

    @property
    def procedure_steps(self) -> Path:
        return self.data_dir / "mpps"

    @property
    def objects(self) -> Path:
        """The result objects of this node."""
        return self.data_dir / "objects"

    @property
    def patients_key(self) -> Path:
        """The file with the key under which patients are hashed."""
        return self.data_dir / PATIENT_KEY

    @property
    def installation(self) -> Path:
        """The file with the identity of the installation."""
        return self.data_dir / "installation"

    def make(self) -> None:
        """Make the `data_dir`. Raises Permanent, naming the key, if that is not possible."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Permanent(
                f"node.data_dir = '{self.data_dir}': cannot be made ({error.strerror}); name another folder"
            ) from None
