"""Acknowledged instances must be there: looked up in the index and in the log, not asked of the node's code."""

import hashlib
import sqlite3
import struct
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from dicom_node.settings.model import ReceiveSettings
from tests.faults.wire import Instance, part10_dataset

INDEX_SECONDS = 90.0


def receive_lines(minimum_free_megabytes: int = 8, network_timeout_seconds: int = 60) -> str:
    """Lines of [receive] for devices that are smaller than what the node wants to keep free by default."""
    lines = f"network_timeout_seconds = {network_timeout_seconds}\nmaximum_associations = 50\n"
    if "minimum_free_megabytes" in ReceiveSettings.model_fields:
        lines += f"minimum_free_megabytes = {minimum_free_megabytes}\n"
    return lines


def indexed(data_dir: Path) -> Counter[str]:
    """How many rows of the index each SOP Instance UID has."""
    try:
        with closing(sqlite3.connect(f"file:{data_dir / 'node.sqlite'}?mode=ro", uri=True, timeout=30)) as connection:
            return Counter(uid for (uid,) in connection.execute("SELECT sop_instance_uid FROM instance"))
    except sqlite3.OperationalError:  # not there yet, or locked
        return Counter()


def wait_indexed(data_dir: Path, acknowledged: Mapping[str, Instance], seconds: float = INDEX_SECONDS) -> list[str]:
    """The acknowledged instances that are still not in the index when the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        rows = indexed(data_dir)
        missing = [uid for uid in acknowledged if uid not in rows]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.1)


def faults(data_dir: Path, acknowledged: Mapping[str, Instance], seconds: float = INDEX_SECONDS) -> list[str]:
    """List the faults of what was acknowledged: missing, indexed twice, other bytes, or kept aside as well."""
    found = [f"{uid} is not indexed" for uid in wait_indexed(data_dir, acknowledged, seconds)]
    rows: dict[str, list[Row]] = {}
    for row in stored(data_dir):
        rows.setdefault(row.sop_instance_uid, []).append(row)
    beside = {row.digest for row in stored(data_dir, "aside")}
    for uid, instance in acknowledged.items():
        places = rows.get(uid, [])
        if len(places) != 1:
            found.append(f"{uid} has {len(places)} rows")
        elif places[0].digest != instance.sha256:
            found.append(f"{uid} has other bytes")
        elif instance.study_instance_uid and (places[0].study_instance_uid, places[0].series_instance_uid) != (
            instance.study_instance_uid,
            instance.series_instance_uid,
        ):
            found.append(f"{uid} lies in the wrong place")
        if instance.sha256 in beside:
            found.append(f"{uid} is in quarantine as well")
    return found


@dataclass(frozen=True)
class Row:
    """A row of the index, and the bytes that lie where it says; none if its segment is not there."""

    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    file: bytes = field(repr=False)

    @property
    def digest(self) -> str:
        """Hash the dataset; empty when this is no Part 10 file."""
        try:
            return hashlib.sha256(part10_dataset(self.file)).hexdigest()
        except (AssertionError, struct.error):
            return ""


def stored(data_dir: Path, table: str = "instance") -> list[Row]:
    """The rows of a table, with what lies at their addresses."""
    statement = (
        "SELECT sop_instance_uid, series_instance_uid, study_instance_uid, receiver, number, body_offset, size, file "
        f"FROM {table} JOIN segment ON segment.id = segment_id"
    )
    with closing(sqlite3.connect(f"file:{data_dir / 'node.sqlite'}?mode=ro", uri=True, timeout=30)) as connection:
        found = connection.execute(statement).fetchall()
    return [Row(*row[:3], _bytes(data_dir / "journal" / row[3], *row[4:])) for row in found]


def _bytes(folder: Path, number: int, offset: int, size: int, file: str | None) -> bytes:
    try:
        with (folder / (file or f"{number:08}.log")).open("rb") as content:
            content.seek(offset)
            return content.read(size)
    except OSError:
        return b""


def assert_kept(data_dir: Path, acknowledged: Mapping[str, Instance], log: Path, what: str) -> None:
    assert acknowledged, f"{what}: nothing was acknowledged, so nothing is shown"
    wrong = faults(data_dir, acknowledged)
    assert not wrong, (
        f"{what}: {len(wrong)} faults in {len(acknowledged)} instances, such as {wrong[:5]}\n"
        + (log.read_text(errors="replace")[-3000:])
    )
