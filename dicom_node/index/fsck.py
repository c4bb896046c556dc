"""The check behind `dicom-node fsck`: every acknowledged instance must be here, whole and indexed."""

import os
from contextlib import suppress
from pathlib import Path

from dicom_node.read.census import Census, Fault, FoundFault
from storage.errors import DamagedFrame, Permanent
from storage.log.archive import sop_instance_uid_of
from storage.log.instances import InstanceStore
from storage.log.segments.frames import FrameKind
from storage.log.segments.reader import SegmentReader
from storage.log.segments.store import Segments
from storage.records.instances import Instance


def take_census(data_dir: Path, instances: InstanceStore, journals: Path) -> Census:
    """Read every file once, and return the counts and every problem.

    Safe while the node runs, because instances that a journal still holds count as waiting, not as missing.
    """
    problems: list[FoundFault] = []
    waiting: list[str] = []
    segments = Segments(journals)
    for receiver in segments.receivers():
        for number in segments.numbers(receiver):
            with suppress(FileNotFoundError), segments.open(receiver, number) as reader:  # filed and removed meanwhile
                found, damaged = _frames(reader)
                waiting += found
                if damaged:
                    problems.append(FoundFault(Fault.JOURNAL, str(reader.path.relative_to(data_dir))))
        kept = sorted((journals / receiver).glob("*.damaged"))
        problems += [FoundFault(Fault.JOURNAL, str(p.relative_to(data_dir))) for p in kept]
    problems += [
        FoundFault(Fault.UNFILED, str(p.relative_to(data_dir))) for p in sorted((data_dir / "unfiled").glob("*.dcm"))
    ]
    in_journals = frozenset(waiting)
    counted = 0
    for instance in instances.all():
        counted += 1
        fault = _fault(instance)
        if fault is not None:
            name = os.path.relpath(str(instance.blob), data_dir)
            problems.append(FoundFault(fault, name, instance.study_instance_uid, instance.sop_instance_uid))
    problems += [
        FoundFault(Fault.NOT_INDEXED, str(path.relative_to(data_dir)), path.parent.parent.name)
        for path in instances.files_without_row()
        if sop_instance_uid_of(path) not in in_journals
    ]
    quarantined = sum(1 for _ in (data_dir / "quarantine").rglob("*.dcm"))
    return Census(counted, len(waiting), quarantined, tuple(problems))


def _fault(instance: Instance) -> Fault | None:
    try:
        return None if instance.blob.is_intact() else Fault.DAMAGED
    except FileNotFoundError:
        return Fault.MISSING
    except (OSError, Permanent):
        return Fault.DAMAGED


def _frames(reader: SegmentReader) -> tuple[list[str], bool]:
    """Return the SOP Instance UIDs in a segment, and True if anything in it is damaged."""
    uids: list[str] = []
    damaged, end = False, reader.first
    for frame in reader.all_frames():
        damaged = damaged or frame.offset > end
        end = frame.end
        try:
            if frame.kind in (FrameKind.INSTANCE, FrameKind.LARGE_INSTANCE):
                reader.body(frame)
                uids.append(frame.meta["sop_instance_uid"])
        except DamagedFrame:
            damaged = True
    return uids, damaged or (end < reader.size and not reader.is_cut_off(end))
