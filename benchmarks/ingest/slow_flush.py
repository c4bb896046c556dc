"""A disk whose flushes take time, for servers that run on one where they cost next to nothing.

A flush on a disk without a write cache of its own takes milliseconds, on a virtual one a fraction of that. The wait is
added in the server's process, by a library that stands before the C library: whoever flushes twice waits twice.
"""

import shutil
import subprocess
from pathlib import Path

SOURCE = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static int then(const char *name, int descriptor) {
    struct timespec pause = {0, NANOSECONDS};
    int (*real)(int) = (int (*)(int)) dlsym(RTLD_NEXT, name);
    nanosleep(&pause, 0);
    return real(descriptor);
}

int fsync(int descriptor) { return then("fsync", descriptor); }
int fdatasync(int descriptor) { return then("fdatasync", descriptor); }
int syncfs(int descriptor) { return then("syncfs", descriptor); }
"""


class NotPossible(Exception):
    """The message says what is missing."""


def slow_flush_library(folder: Path, milliseconds: float) -> Path:
    """A library for LD_PRELOAD that delays every flush. Raises NotPossible without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise NotPossible("there is no C compiler")
    source, library = folder / "slow_flush.c", folder / "slow_flush.so"
    source.write_text(SOURCE)
    nanoseconds = f"-DNANOSECONDS={round(milliseconds * 1e6)}L"
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", nanoseconds, "-o", str(library), str(source), "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise NotPossible(f"the C compiler ended with {done.returncode}: {done.stderr.strip()[:200]}")
    return library
