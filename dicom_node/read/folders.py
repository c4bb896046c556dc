"""The folders of a node below its `data_dir`."""

from dataclasses import dataclass
from pathlib import Path

from storage.errors import Permanent


@dataclass(frozen=True)
class NodeFolders:
    """Where a node keeps what. Only the folder itself is made here; each role makes its own below it."""

    data_dir: Path

    @property
    def journals(self) -> Path:
        """One folder for each receiver, with what the indexer has still to file."""
        return self.data_dir / "journal"

    @property
    def instances(self) -> Path:
        return self.data_dir / "instances"

    @property
    def quarantine(self) -> Path:
        """Instances whose UID another one with other pixels has already."""
        return self.data_dir / "quarantine"

    @property
    def unfiled(self) -> Path:
        """Instances that cannot be filed: an operator has to look at them."""
        return self.data_dir / "unfiled"

    @property
    def procedure_steps(self) -> Path:
        return self.data_dir / "mpps"

    @property
    def objects(self) -> Path:
        """Result objects of this node."""
        return self.data_dir / "objects"

    @property
    def patients_key(self) -> Path:
        """The file with the key under which patients are hashed."""
        return self.data_dir / "patients.key"

    def make(self) -> None:
        """Make the `data_dir`. Raises Permanent, naming the key, where that is not possible."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Permanent(
                f"node.data_dir = '{self.data_dir}': cannot be made ({error.strerror}); name another folder"
            ) from None
