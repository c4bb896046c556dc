"""The key under which patients are hashed: one for all processes, and whole."""

import stat
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from storage.errors import Retriable
from storage.log.patient_key import PatientKey
from storage.records.patients import PatientIdentity

THREADS = 8
PERSON = PatientIdentity("SECRET", "HOSPITAL", "19010203", "F", (("OTHER", ""),))
CHILD = """
import sys
from pathlib import Path
from storage.log.patient_key import PatientKey
print("ready", flush=True)
sys.stdin.readline()
print(PatientKey(Path(sys.argv[1])).name)
"""


def names(file: Path, barrier: Barrier) -> str:
    barrier.wait()
    return PatientKey(file).name


def test_threads_that_need_the_key_at_once_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for number in range(40):
            file, barrier = tmp_path / f"{number}.key", Barrier(THREADS)
            found = list(pool.map(lambda _: names(file, barrier), range(THREADS)))  # noqa: B023 - used up here
            assert found == [PatientKey(file).name] * THREADS
    assert {path.suffix for path in tmp_path.iterdir()} == {".key"}


def test_processes_that_start_at_once_get_the_same(tmp_path: Path) -> None:
    file = tmp_path / "data" / "patients.key"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    found = said(children)
    assert found == [PatientKey(file).name] * 4
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]


def said(children: Sequence["subprocess.Popen[str]"]) -> list[str]:
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    return [child.communicate(timeout=20)[0].strip() for child in children]


def test_a_key_that_is_replaced_counts_from_the_next_start(tmp_path: Path) -> None:
    file = tmp_path / "patients.key"
    running = PatientKey(file)
    before, another = running.subject(PERSON), running.hash("ANOTHER")
    file.write_bytes(bytes(range(32)))
    assert (running.subject(PERSON), running.hash("ANOTHER")) == (before, another)
    after = PatientKey(file).subject(PERSON)
    assert after.key != before.key
    assert after.hashes.patient_id != before.hashes.patient_id


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_damaged_key_hashes_nothing(tmp_path: Path, length: int) -> None:
    file = tmp_path / "patients.key"
    file.write_bytes(bytes(length))
    with pytest.raises(Retriable, match=f"it has {length} bytes"):
        PatientKey(file).subject(PERSON)
