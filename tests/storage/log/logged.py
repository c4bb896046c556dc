"""Part 10 files as a receiver logs them, and their blobs in the log."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pydicom import dcmread

from storage.blobs import Blob, FileBlob, dataset_offset
from storage.log.headers.instance_reader import InstanceReader
from storage.log.journal import Journal
from storage.log.segments.frames import FrameKind
from storage.log.segments.store import Segments
from storage.records.instances import Address, ContentHashes
from tests.storage.node import received

RECEIVER = "receive-0"


def logged(files: Sequence[FileBlob], journals: Path, large: bool = False) -> tuple[Blob, ...]:
    """Log these files in their order, as large instances if so wanted, and return their blobs."""
    journal = Journal(journals / RECEIVER)
    journal.open()
    checksums: dict[str, str] = {}
    for file in files:
        content = file.path.read_bytes()
        ds = dcmread(file.path, stop_before_pixels=True)
        instance = replace(received().instance, sop_instance_uid=ds.SOPInstanceUID)
        checksums[ds.SOPInstanceUID] = hashes_of(content, ds.file_meta.TransferSyntaxUID).checksum
        if large:
            beside = journal.large()
            beside.write(content)
            journal.store_large(instance, beside)
        else:
            journal.store(instance, content)
    journal.close()
    segments = Segments(journals)
    found = [one for number in segments.numbers(RECEIVER) for one in addresses_in(segments, number)]
    return tuple(segments.blob(address, checksums[uid]) for uid, address in found)


def addresses_in(segments: Segments, number: int, start: int = 0) -> Iterator[tuple[str, Address]]:
    """Yield the SOP Instance UIDs and the addresses of the instances in a segment, from an offset on."""
    with segments.open(RECEIVER, number) as reader:
        for frame in reader.frames(start):
            if frame.kind is FrameKind.INSTANCE:
                place = Address(RECEIVER, number, frame.offset, frame.body_offset, frame.head.body_bytes)
            elif frame.kind is FrameKind.LARGE_INSTANCE:
                place = Address(RECEIVER, number, frame.offset, 0, frame.meta["size"], frame.meta["file"])
            else:
                continue
            yield frame.meta["sop_instance_uid"], place


def hashes_of(file: bytes, transfer_syntax_uid: str) -> ContentHashes:
    reader = InstanceReader(transfer_syntax_uid, hashing=True)
    reader.update(file[dataset_offset(file) :], final=True)
    return reader.hashes()
