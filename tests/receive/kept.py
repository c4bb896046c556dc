"""A receiver's journal, and what an indexer would find in it."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_file_meta_info

from storage.errors import StorageFull
from storage.log.files import BytesLike
from storage.log.journal import Journal
from storage.log.patient_key import PATIENT_KEY, PatientKey
from storage.log.segments.frames import Frame, FrameKind, instance_of
from storage.log.segments.large import LargeFile
from storage.log.segments.names import list_segments
from storage.log.segments.reader import SegmentReader
from storage.records.evidence import AssociationEnd
from storage.records.instances import ReceivedInstance


@dataclass(frozen=True)
class Kept:
    """One instance of the journal: its Part 10 file, and the dataset in it. `large` says that it was a file beside."""

    instance: ReceivedInstance
    file: bytes = field(repr=False)
    large: bool

    @property
    def dataset(self) -> bytes:
        length = int.from_bytes(self.file[140:144], "little")  # of the file meta information (PS3.10 7.1)
        return self.file[144 + length :]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.dataset).hexdigest()

    def file_meta(self, folder: Path) -> FileMetaDataset:
        path = folder / "kept.dcm"
        path.write_bytes(self.file)
        return read_file_meta_info(path)


class KeptJournal(Journal):
    """A real journal, and the key beside it. `before` runs ahead of each store, to fail or to wait there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.key = PatientKey(folder.parent / PATIENT_KEY)
        self.before: Callable[[ReceivedInstance], None] = lambda instance: None
        self.full = False

    def ensure_space(self) -> None:
        if self.full:
            raise StorageFull("below the watermark")

    def store(self, instance: ReceivedInstance, *parts: BytesLike, kept: bytes = b"") -> None:
        self.before(instance)
        super().store(instance, *parts, kept=kept)

    def store_large(self, instance: ReceivedInstance, file: LargeFile, kept: bytes = b"") -> None:
        self.before(instance)
        super().store_large(instance, file, kept)

    @property
    def kept(self) -> list[Kept]:
        """In the order of their arrival."""
        found = []
        for frame, body in self._contents():
            if frame.kind is FrameKind.INSTANCE:
                found.append(Kept(instance_of(frame.meta), body, large=False))
            elif frame.kind is FrameKind.LARGE_INSTANCE:
                found.append(Kept(instance_of(frame.meta), (self.folder / frame.meta["file"]).read_bytes(), large=True))
        return found

    @property
    def uids(self) -> list[str]:
        return [kept.instance.sop_instance_uid for kept in self.kept]

    @property
    def digests(self) -> set[str]:
        return {kept.digest for kept in self.kept}

    @property
    def opened_associations(self) -> dict[str, tuple[str, str, str]]:
        """Calling AE title, called AE title, and host of those that were noted."""
        return {
            frame.meta["association"]: tuple(  # type: ignore[misc]
                frame.meta[key] for key in ("calling_ae_title", "called_ae_title", "peer_host")
            )
            for frame in self._frames()
            if frame.kind is FrameKind.ASSOCIATION
        }

    @property
    def ends(self) -> list[AssociationEnd]:
        return [AssociationEnd(f.meta["end"]) for f in self._frames() if f.kind is FrameKind.ASSOCIATION_ENDED]

    def _frames(self) -> Iterator[Frame]:
        return (frame for frame, _ in self._contents())

    def _contents(self) -> Iterator[tuple[Frame, bytes]]:
        for path in list_segments(self.folder):
            with SegmentReader(path) as reader:
                for frame in reader.frames(0):
                    yield frame, reader.body(frame)
