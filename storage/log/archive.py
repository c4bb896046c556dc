"""The archive: a file for each instance, at a place that follows from its UIDs. Files are never replaced.

Every step is idempotent, so that it can be repeated after a crash. Only one process may write below a folder.
"""

import hashlib
import logging
from dataclasses import dataclass, field, replace
from datetime import datetime
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import BinaryIO, NamedTuple

from storage.blobs import FileBlob, dataset_offset
from storage.errors import Permanent, Unfileable
from storage.log.comparison import Difference, compare, has_same_pixels
from storage.log.files import Tree
from storage.records.instances import UID, Facts, ReceivedInstance, Stored
from storage.records.patients import Subject

log = logging.getLogger(__name__)

INSTANCE_SUFFIX = ".dcm"
VERSION_MARK = "-"  # between SOP Instance UID and content of a later version; no UID has it
QUARANTINE = "quarantine"
ASIDE = "aside"  # a folder of the quarantine, for files that were in the way and are not indexed
_BLOCK = 4096  # bytes that a file system writes at once


class InstancePlace(NamedTuple):
    """The place where an instance is filed, in the order of the key of its row. A SOP instance may have several."""

    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str


@dataclass(frozen=True)
class IndexEntry:
    """An instance as the index lists it. `file` is relative to the folder of instances; None is the usual place."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    modality: str
    size: int
    sha256: str
    received_at: datetime
    facts: Facts
    file: str | None = None
    subject: Subject | None = field(default=None, repr=False)  # of an instance that arrives
    subject_id: int | None = None  # of an instance that has a row

    @property
    def place(self) -> InstancePlace:
        return InstancePlace(self.sop_instance_uid, self.series_instance_uid, self.study_instance_uid)

    @property
    def usual_file(self) -> str:
        return f"{self.study_instance_uid}/{self.series_instance_uid}/{self.sop_instance_uid}{INSTANCE_SUFFIX}"


class Archive:
    """The instances below `root`, as `<study>/<series>/<SOP instance>.dcm`, and the quarantine beside it.

    The quarantine holds instances that contradict an archived one. The archive compares contents, and never replaces or
    removes a file that may be of value.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tree = Tree(root)
        self._quarantine = Tree(root.parent / QUARANTINE)
        self.moved: list[Path] = []  # files that were in the way and are in quarantine now, until `forget_moved`

    @property
    def quarantine(self) -> Path:
        return self._quarantine.root

    def path(self, entry: IndexEntry) -> Path:
        return self.root / (entry.file or entry.usual_file)

    def place(self, entry: IndexEntry, content: bytes | Path, known: IndexEntry | None) -> tuple[IndexEntry, Stored]:
        """Put one instance at its place. `known` is the current version there that is indexed, or about to be.

        The returned entry may name another file than the usual one: that of a further version beside the first one.
        """
        if known is None:
            self._put(self._tree, entry, self.root / entry.usual_file, content)
            return entry, Stored.NEW
        if known.sha256 == entry.sha256:
            self._restore(known, content)
            return replace(entry, file=known.file), Stored.DUPLICATE
        difference = compare(self.path(known), content)
        if difference is Difference.NONE:
            return known, Stored.DUPLICATE
        if difference is Difference.IMAGE:
            return self._keep_beside(entry, content), Stored.CONFLICT
        version = _version(entry)
        self._put(self._tree, entry, self.path(version), content)
        return version, Stored.VERSION

    def mend(self, entry: IndexEntry, content: bytes | Path) -> None:
        """Move away the partly written files of this instance that a loss of power left."""
        for path in (self.root / entry.usual_file, self.path(_version(entry)), self.quarantined(entry)):
            if path.is_file() and not self._holds(path, entry.sha256) and _is_torn(path, content):
                self._set_aside(path)

    def is_copy(self, entry: IndexEntry, other: IndexEntry) -> bool:
        """Return True if the file of an instance has the same pixels as that of another place with the same UID."""
        return has_same_pixels(self.path(other), self.path(entry))

    def displace(self, entry: IndexEntry) -> None:
        """Move a file whose UID belongs to another instance into quarantine."""
        path = self.path(entry)
        self._keep_beside(entry, path)
        path.unlink(missing_ok=True)

    def forget_moved(self) -> None:
        self.moved.clear()

    def remove_stale(self) -> None:
        self._tree.remove_stale()
        self._quarantine.remove_stale()

    def quarantined(self, entry: IndexEntry) -> Path:
        name = f"{entry.sop_instance_uid}.{entry.sha256[:16]}{INSTANCE_SUFFIX}"
        return self._quarantine.root / entry.study_instance_uid / entry.series_instance_uid / name

    def _keep_beside(self, entry: IndexEntry, content: bytes | Path) -> IndexEntry:
        self._put(self._quarantine, entry, self.quarantined(entry), content)
        return entry

    def _put(self, tree: Tree, entry: IndexEntry, path: Path, content: bytes | Path) -> None:
        """Write the file. A file that is there already is the same instance, a torn part of it, or is not indexed."""
        if tree.put(path, content) or self._holds(path, entry.sha256):
            return
        is_torn = _is_torn(path, content)
        aside = self._set_aside(path)
        if is_torn:
            log.info("A file that a crash had cut off is rewritten", extra=_extra("file_rewritten", entry))
        else:
            self.moved.append(aside)
            log.warning(
                "A file that is not indexed was in the way and is set aside",
                extra=_extra("unknown_file_set_aside", entry),
            )
        tree.put(path, content)

    def _holds(self, path: Path, sha256: str) -> bool:
        try:
            return FileBlob(path).checksum == sha256
        except Permanent:
            return False

    def _restore(self, known: IndexEntry, content: bytes | Path) -> None:
        """Restore a file that a loss of power damaged, from the same instance in the journal or sent again."""
        path = self.path(known)
        if path.is_file():
            if path.stat().st_size == known.size and self._holds(path, known.sha256):
                return
            self._set_aside(path)
        log.warning("A damaged or missing file is restored", extra=_extra("file_restored", known))
        self._tree.put(path, content)

    def _set_aside(self, path: Path) -> Path:
        """Move a file into quarantine, because it might still be wanted; return its name, which no instance has."""
        number = next(n for n in count(1) if not self._aside(path, n).exists())
        aside = self._aside(path, number)
        aside.parent.mkdir(parents=True, exist_ok=True)
        path.rename(aside)
        return aside

    def _aside(self, path: Path, number: int) -> Path:
        return self._quarantine.root / ASIDE / f"{path.name}.{number}"


def index_entry(received: ReceivedInstance, content: bytes | Path) -> IndexEntry:
    """Return the index entry of an instance. Raises Unfileable for a UID that cannot be the name of a file."""
    for uid in (
        received.study_instance_uid,
        received.series_instance_uid,
        received.sop_instance_uid,
        received.sop_class_uid,
        received.transfer_syntax_uid,
    ):
        if not UID.fullmatch(uid):
            raise Unfileable("A UID has other characters than digits and dots, or more than 64")
    if isinstance(content, Path):
        size, sha256 = content.stat().st_size, FileBlob(content).checksum
    else:
        size = len(content)
        sha256 = hashlib.sha256(memoryview(content)[dataset_offset(content[:144]) :]).hexdigest()
    return IndexEntry(
        sop_instance_uid=received.sop_instance_uid,
        sop_class_uid=received.sop_class_uid,
        series_instance_uid=received.series_instance_uid,
        study_instance_uid=received.study_instance_uid,
        transfer_syntax_uid=received.transfer_syntax_uid,
        modality=_code_string(received.modality),
        size=size,
        sha256=sha256,
        received_at=received.received_at,
        facts=received.facts,
    )


def sop_instance_uid_of(path: Path) -> str:
    """Return the SOP Instance UID from the file name of an instance in any version."""
    return path.name.removesuffix(INSTANCE_SUFFIX).split(VERSION_MARK)[0]


def _code_string(modality: str) -> str:
    """Return the code string (PS3.5 6.2: CS) of a peer, made fit for every database."""
    return "".join(c for c in modality if c.isprintable())[:16]


def _version(entry: IndexEntry) -> IndexEntry:
    """Return the entry of an instance that is filed as a further version beside the first one."""
    name = f"{entry.sop_instance_uid}{VERSION_MARK}{entry.sha256[:16]}{INSTANCE_SUFFIX}"
    return replace(entry, file=f"{entry.study_instance_uid}/{entry.series_instance_uid}/{name}")


def _extra(action: str, entry: IndexEntry) -> dict[str, object]:
    return {"action": action, "sop_instance": entry.sop_instance_uid}


def _is_torn(path: Path, content: bytes | Path) -> bool:
    """Return True if a file holds only a part of `content`.

    Every block of such a file equals that of `content`, or was never written and reads as zeros.
    """
    wanted: BinaryIO = content.open("rb") if isinstance(content, Path) else BytesIO(content)
    with path.open("rb") as found, wanted:
        while block := found.read(_BLOCK):
            whole = wanted.read(_BLOCK)
            if block != whole[: len(block)] and any(block):
                return False
    return True
