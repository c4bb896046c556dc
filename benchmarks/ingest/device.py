"""A disk for one server, in a file, so that what its kernel writes for that server can be counted.

The count of the block device is the whole truth: it has the metadata and the journal of the file system, which no
counter of a process has. On a disk that others use too it would have their writes as well.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("mkfs.ext4", "mount", "umount")
SYSTEM_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
SECTOR_BYTES = 512  # of the kernel's statistics, whatever the device's sectors are
SECTORS_WRITTEN = 6  # column of the statistics, from 0
GIGABYTES = 16  # of address space; the file has only what was written


class NotPossible(Exception):
    """The message says what is missing."""


@dataclass(frozen=True)
class OwnDisk:
    folder: Path

    def written_bytes(self) -> int:
        """Everything that has been written to the device, after what was waiting to be written."""
        os.sync()
        device = self.folder.stat().st_dev
        statistics = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()
        return int(statistics[SECTORS_WRITTEN]) * SECTOR_BYTES


@contextmanager
def own_disk(folder: Path) -> Iterator[OwnDisk]:
    """An empty ext4 file system on a loop device below `folder`. Raises NotPossible."""
    if os.geteuid() != 0:
        raise NotPossible("a file system of its own needs root")
    if missing := [p for p in PROGRAMS if shutil.which(p, path=SYSTEM_PATH) is None]:
        raise NotPossible(f"there is no {missing[0]} here")
    folder.mkdir(parents=True)
    image, mounted = folder / "disk.img", folder / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(GIGABYTES * 2**30)
    # Lazy initialisation would write in the background, and be counted.
    _run("mkfs.ext4", "-q", "-m", "0", "-i", "65536", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
    _run("mount", "-o", "loop", image, mounted)
    try:
        yield OwnDisk(mounted)
    finally:
        subprocess.run(["umount", str(mounted)], capture_output=True, check=False)
        image.unlink(missing_ok=True)


def _run(*command: object) -> None:
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, check=False, env={**os.environ, "PATH": SYSTEM_PATH}
    )
    if done.returncode != 0:
        raise NotPossible(f"{command[0]}: {done.stderr.strip()}")
