"""The check behind `dicom-node fsck`: every acknowledged instance must be here, whole and indexed."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from dicom_node.read.census import Census, Fault, FoundFault
from dicom_node.read.folders import NodeFolders
from dicom_node.read.stores import Stores
from storage.errors import Permanent
from storage.log.filing.reached import Reached, read_reached
from storage.log.filing.release01 import OldFiles
from storage.log.index_log import read_deleted_frames
from storage.log.segments.frames import Frame, FrameKind, instance_of
from storage.log.segments.judged import FrameVerdict, judge_frames
from storage.log.segments.reader import SegmentReader
from storage.log.segments.store import Segments, address_of
from storage.records.instances import Instance, InstancePlace

_INSTANCES = (FrameKind.INSTANCE, FrameKind.LARGE_INSTANCE)


def take_census(folders: NodeFolders, stores: Stores) -> Census:
    """Read every instance once, and return the counts and every problem.

    Safe while the node runs, because instances that are not filed yet count as waiting, not as missing.
    """
    problems: list[FoundFault] = []
    # The places come first: whatever is behind them may be filed, and listed, in the meantime.
    reached = {one.receiver: one for one in read_reached(stores.database)}
    listed = _Listed()
    for place, checksum in stores.instances.listed():
        listed.add(place, checksum)
    waiting = 0
    segments = Segments(folders.journals, read_deleted_frames(folders.index_log, folders.journals).of)
    for receiver in segments.receivers():
        for number in segments.numbers(receiver):
            with suppress(FileNotFoundError), segments.open(receiver, number) as reader:  # deleted meanwhile
                found = _check_segment(reader, receiver, number, reached.get(receiver), listed)
                waiting += found.waiting
                problems += found.problems
    problems += _check_index_log(folders)
    counted = 0
    for instance in stores.instances.all():
        counted += 1
        fault = _fault(instance)
        if fault is not None:
            name = str(instance.blob).removeprefix(f"{folders.data_dir}/")
            problems.append(FoundFault(fault, name, instance.study_instance_uid, instance.sop_instance_uid))
    old_files = OldFiles(stores.database, stores.instances, folders.instances)
    problems += [
        FoundFault(Fault.NOT_INDEXED, str(path.relative_to(folders.data_dir)), path.parent.parent.name)
        for path in old_files.without_row()
    ]
    aside = stores.instances.kept_aside()
    problems += [
        FoundFault(Fault.UNFILED, one.place, one.study_instance_uid, one.sop_instance_uid)
        for one in aside
        if not one.is_quarantined
    ]
    return Census(counted, waiting, sum(one.is_quarantined for one in aside), tuple(problems))


class _Listed:
    """The content that rows list, as numbers, because there may be millions."""

    def __init__(self) -> None:
        self._contents: set[int] = set()
        self._places: set[int] = set()

    def add(self, place: InstancePlace, checksum: str) -> None:
        self._contents.add(hash((place, checksum)))
        self._places.add(hash(place))

    def has(self, frame: Frame) -> bool:
        """Return True if the instance of a frame is listed. Release 0.1 did not note checksums in frames."""
        received = instance_of(frame.meta)
        if received.hashes is None:
            return hash(received.place) in self._places
        return hash((received.place, received.hashes.checksum)) in self._contents


@dataclass
class _SegmentCheck:
    waiting: int = 0
    problems: list[FoundFault] = field(default_factory=list)


def _check_segment(
    reader: SegmentReader, receiver: str, number: int, reached: Reached | None, listed: _Listed
) -> _SegmentCheck:
    found = _SegmentCheck()
    name = f"{receiver}/{reader.path.stem}"
    filed = (0, 0) if reached is None else (reached.segment, reached.offset)
    for part in judge_frames(reader, bodies=False):
        if part.verdict is FrameVerdict.DAMAGED:
            found.problems.append(FoundFault(Fault.JOURNAL, f"{name}:{part.offset}"))
        frame = part.frame
        if frame is None or frame.kind not in _INSTANCES:
            continue
        if (number, frame.offset) >= filed:
            found.waiting += 1
        elif not listed.has(frame):
            uids = (str(frame.meta["study_instance_uid"]), str(frame.meta["sop_instance_uid"]))
            found.problems.append(FoundFault(Fault.NOT_INDEXED, str(address_of(frame, receiver, number)), *uids))
    return found


def _check_index_log(folders: NodeFolders) -> Iterator[FoundFault]:
    """Yield the damages of the log of the index role: without it, a deleted study might come back."""
    segments, name = Segments(folders.data_dir), folders.index_log.name
    for number in segments.numbers(name):
        with segments.open(name, number) as reader:
            for part in judge_frames(reader, bodies=True):
                if part.verdict is FrameVerdict.DAMAGED:
                    yield FoundFault(Fault.JOURNAL, f"{name}/{number:08}:{part.offset}")


def _fault(instance: Instance) -> Fault | None:
    try:
        return None if instance.blob.is_intact() else Fault.DAMAGED
    except FileNotFoundError:
        return Fault.MISSING
    except (OSError, Permanent):
        return Fault.DAMAGED
