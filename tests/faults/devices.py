"""Small disks of our own, in files: to fill, to break, and to copy as they are at a loss of power. They need root."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60)


class Disk:
    """An ext4 file system in `image`, mounted at `folder`."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.image = image
        self.folder = folder
        self._mounted = False

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    def mount(self) -> None:
        """Skips the test where the system forbids it."""
        self.folder.mkdir(exist_ok=True)
        done = _run("mount", "-o", "loop", self.image, self.folder)
        if done.returncode != 0:
            pytest.skip(f"a loop device cannot be mounted here: {done.stderr.strip()}")
        self._mounted = True

    def unmount(self) -> None:
        if self._mounted:
            done = _run("umount", self.folder)
            if done.returncode != 0:
                _run("umount", "--lazy", self.folder)  # a process that should be dead holds it
            self._mounted = False

    def as_after_a_loss_of_power(self, image: Path, folder: Path) -> "Disk":
        """A copy of what has reached the device: the page cache of the file system has not, and is not in it."""
        done = _run("cp", "--sparse=always", self.image, image)
        assert done.returncode == 0, done.stderr
        return Disk(image, folder)

    def fail_for_good(self) -> None:
        """What ext4 does after an error in its metadata: nothing can be written until it is mounted anew."""
        done = _run("mount", "-o", "remount,abort", self.folder)
        assert done.returncode == 0, done.stderr

    def free(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int) -> Path:
        """A file that takes all but `leave` bytes."""
        filler = self.folder / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, self.free() - leave))
        return filler


@contextmanager
def disk(folder: Path, megabytes: int) -> Iterator[Disk]:
    """A new one. Whoever uses it must have ended before."""
    if os.geteuid() != 0:
        pytest.skip("mounting a loop device needs root")
    for program in ("mkfs.ext4", "mount", "losetup"):
        if shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
            pytest.skip(f"there is no {program} here")
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(megabytes * 2**20)
    # lazy initialisation would write behind our back, and a reserve for root would let us write on a full disk
    done = _run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
    assert done.returncode == 0, done.stderr
    made = Disk(image, folder / "mounted")
    made.mount()
    try:
        yield made
    finally:
        made.unmount()


@contextmanager
def small_memory(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system in memory. An image in it that finds no room for a block gives its device an I/O error."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder.mkdir(parents=True, exist_ok=True)
    done = _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder)
    if done.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        _run("umount", folder)
