"""The files of the instances: each at its place by its UIDs, told apart by content, nothing ever replaced.

What is done here may be done again after a crash with the same outcome. One process files below one folder.
"""

import hashlib
import logging
from dataclasses import dataclass, replace
from datetime import datetime
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import BinaryIO

from storage.errors import Permanent, Unfileable
from storage.log.comparison import Difference, compare
from storage.log.files import Tree, dataset_offset, dataset_sha256
from storage.records.instances import UID, Facts, ReceivedInstance, Stored

log = logging.getLogger(__name__)

SUFFIX = ".dcm"
VERSION_MARK = "-"  # between SOP Instance UID and content of a later version; no UID has it
QUARANTINE = "quarantine"
ASIDE = "aside"  # below it: files that were in the way and are no instances of the index
_BLOCK = 4096  # bytes: what a file system writes at once


@dataclass(frozen=True)
class Row:
    """What the index keeps of one instance. `file` is relative to the folder of instances, None at its usual place."""

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

    @property
    def usual_file(self) -> str:
        return f"{self.study_instance_uid}/{self.series_instance_uid}/{self.sop_instance_uid}{SUFFIX}"


class Archive:
    """The files: instances below `root` as `<study>/<series>/<SOP instance>.dcm`, what contradicts them in the folder
    `quarantine` beside it. Decides by content, and never replaces or removes what it cannot tell to be worthless.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tree = Tree(root)
        self._quarantine = Tree(root.parent / QUARANTINE)

    @property
    def quarantine(self) -> Path:
        return self._quarantine.root

    def path(self, row: Row) -> Path:
        return self.root / (row.file or row.usual_file)

    def place(self, row: Row, content: bytes | Path, known: Row | None) -> tuple[Row, Stored]:
        """Puts one instance where it belongs. `known` is the current version in the index, or about to be there.

        The row may come back with another file: a version beside the first one.
        """
        if known is None:
            self._put(self._tree, row, self.root / row.usual_file, content)
            return row, Stored.NEW
        if (known.study_instance_uid, known.series_instance_uid) != (row.study_instance_uid, row.series_instance_uid):
            return self._keep_beside(row, content), Stored.CONFLICT
        if known.sha256 == row.sha256:
            self._restore(known, content)
            return known, Stored.DUPLICATE
        difference = compare(self.path(known), content)
        if difference is Difference.NONE:
            return known, Stored.DUPLICATE
        if difference is Difference.IMAGE:
            return self._keep_beside(row, content), Stored.CONFLICT
        version = _version(row)
        self._put(self._tree, row, self.path(version), content)
        return version, Stored.REVISION

    def mend(self, row: Row, content: bytes | Path) -> None:
        """Moves away what a loss of power left of this instance, so that nobody takes it for one."""
        for path in (self.root / row.usual_file, self.path(_version(row)), self.quarantined(row)):
            if path.is_file() and not self._holds(path, row.sha256) and _is_torn(path, content):
                self._set_aside(path)

    def displace(self, row: Row) -> None:
        """Moves a file that turned out to be under another instance's UID into quarantine."""
        path = self.path(row)
        self._keep_beside(row, path)
        path.unlink(missing_ok=True)

    def remove_stale(self) -> None:
        self._tree.remove_stale()
        self._quarantine.remove_stale()

    def quarantined(self, row: Row) -> Path:
        name = f"{row.sop_instance_uid}.{row.sha256[:16]}{SUFFIX}"
        return self._quarantine.root / row.study_instance_uid / row.series_instance_uid / name

    def _keep_beside(self, row: Row, content: bytes | Path) -> Row:
        self._put(self._quarantine, row, self.quarantined(row), content)
        return row

    def _put(self, tree: Tree, row: Row, path: Path, content: bytes | Path) -> None:
        """A file that is there already is this instance, or what a crash left of it, or something that no row knows."""
        if tree.put(path, content) or self._holds(path, row.sha256):
            return
        if _is_torn(path, content):
            log.info("What a crash left of a file is written again", extra=_extra(row))
        else:
            log.warning("A file that is not in the index was in the way, and is set aside", extra=_extra(row))
        self._set_aside(path)
        tree.put(path, content)

    def _holds(self, path: Path, sha256: str) -> bool:
        try:
            return dataset_sha256(path) == sha256
        except Permanent:
            return False

    def _restore(self, known: Row, content: bytes | Path) -> None:
        """Mends a file that a loss of power damaged, from the same instance in the journal or sent again."""
        path = self.path(known)
        if path.is_file():
            if path.stat().st_size == known.size and self._holds(path, known.sha256):
                return
            self._set_aside(path)
        log.warning("A damaged or missing file is restored", extra=_extra(known))
        self._tree.put(path, content)

    def _set_aside(self, path: Path) -> None:
        """Nothing is deleted that might be wanted: it goes to quarantine under a name that says it is no instance."""
        number = next(n for n in count(1) if not self._aside(path, n).exists())
        aside = self._aside(path, number)
        aside.parent.mkdir(parents=True, exist_ok=True)
        path.rename(aside)

    def _aside(self, path: Path, number: int) -> Path:
        return self._quarantine.root / ASIDE / f"{path.name}.{number}"


def row_of(received: ReceivedInstance, content: bytes | Path) -> Row:
    """What the index will keep of it. Raises Unfileable for a UID that cannot be the name of a file."""
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
        size, sha256 = content.stat().st_size, dataset_sha256(content)
    else:
        size = len(content)
        sha256 = hashlib.sha256(memoryview(content)[dataset_offset(content[:144]) :]).hexdigest()
    return Row(
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
    """The SOP Instance UID that the name of a filed instance says, in whatever version."""
    return path.name.removesuffix(SUFFIX).split(VERSION_MARK)[0]


def _code_string(modality: str) -> str:
    """A code string (PS3.5 6.2: CS) as every database takes it, whatever a peer sent."""
    return "".join(c for c in modality if c.isprintable())[:16]


def _version(row: Row) -> Row:
    """The same instance as a version beside the first one."""
    name = f"{row.sop_instance_uid}{VERSION_MARK}{row.sha256[:16]}{SUFFIX}"
    return replace(row, file=f"{row.study_instance_uid}/{row.series_instance_uid}/{name}")


def _extra(row: Row) -> dict[str, object]:
    return {"action": "file", "sop_instance": row.sop_instance_uid}


def _is_torn(path: Path, content: bytes | Path) -> bool:
    """Whether a file is what was written of `content` up to some moment: every block of it is that of `content`, or
    was never written and reads as zeros.
    """
    wanted: BinaryIO = content.open("rb") if isinstance(content, Path) else BytesIO(content)
    with path.open("rb") as found, wanted:
        while block := found.read(_BLOCK):
            whole = wanted.read(_BLOCK)
            if block != whole[: len(block)] and any(block):
                return False
    return True
