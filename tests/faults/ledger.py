"""What was acknowledged must be there: looked up in the files and the index, not asked of the node's code."""

import hashlib
import sqlite3
import struct
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
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
    """What is wrong with what was acknowledged: missing, indexed twice, other bytes, or kept more than once."""
    found = [f"{uid} is not indexed" for uid in wait_indexed(data_dir, acknowledged, seconds)]
    rows = indexed(data_dir)
    files: dict[str, list[Path]] = {}
    for path in data_dir.glob("instances/*/*/*"):
        files.setdefault(path.name, []).append(path)
    # What a crash has torn may lie in quarantine; what is whole must not be kept twice.
    beside = {_digest(path) for path in data_dir.glob("quarantine/**/*") if path.is_file()}
    for uid, instance in acknowledged.items():
        places = files.get(f"{uid}.dcm", [])
        if rows[uid] > 1:
            found.append(f"{uid} has {rows[uid]} rows")
        if len(places) != 1:
            found.append(f"{uid} has {len(places)} files")
        elif _digest(places[0]) != instance.sha256:
            found.append(f"{uid} has other bytes")
        elif instance.study_instance_uid and places[0].parts[-3:-1] != (
            instance.study_instance_uid,
            instance.series_instance_uid,
        ):
            found.append(f"{uid} lies in the wrong place")
        if instance.sha256 in beside:
            found.append(f"{uid} is in quarantine as well")
    return found


def _digest(path: Path) -> str:
    """Of the dataset; empty when it is no Part 10 file."""
    try:
        return hashlib.sha256(part10_dataset(path.read_bytes())).hexdigest()
    except (AssertionError, struct.error):
        return ""


def assert_kept(data_dir: Path, acknowledged: Mapping[str, Instance], log: Path, what: str) -> None:
    assert acknowledged, f"{what}: nothing was acknowledged, so nothing is shown"
    wrong = faults(data_dir, acknowledged)
    assert not wrong, (
        f"{what}: {len(wrong)} faults in {len(acknowledged)} instances, such as {wrong[:5]}\n"
        + (log.read_text(errors="replace")[-3000:])
    )
