"""One node that many drawn studies share, and what became of each of them."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import Dataset

from dicom_node.dimse.scu import send_files
from storage.blobs import file_blobs
from tests.acceptance.drawn.bases import BODY, BODY_LEVEL, LIMB
from tests.acceptance.drawn.disturbances import Trouble
from tests.acceptance.drawn.drawing import DrawnStudy
from tests.acceptance.drawn.expectations import Outcome, mistakes, read_reports
from tests.acceptance.node import SCANNER, Node
from tests.acceptance.tiny_model import write_threshold

AT_ONCE = 10  # studies that are on their way together
REST_SECONDS = 600.0  # for all of these
WAITING_SECONDS = 6.0  # well beyond the quiet period of the node: who still waits then, waits for something

BUNDLE = """
version = "1.0"
title = "Body"
algorithm = "Threshold"
manufacturer = "dicom-node tests"
training_data = "none"
[input]
minimum_slices = 5
[model]
weights = "model.ts"
inference = "whole"
[preprocessing]
orientation = "RAS"
spacing = [2.0, 2.0, 2.0]
normalization = { method = "percentile", lower = 0.5, upper = 99.5 }
[postprocessing]
keep_largest_component = "all"
[[labels]]
value = 1
name = "Body"
category = ["91723000", "SCT", "Anatomical Structure"]
type = ["38266002", "SCT", "Entire body"]
color = [220, 40, 40]
"""

CONFIG = """
[[destinations]]
name = "inbox"
kind = "folder"
path = "{inbox}"
objects = ["SR"]
confirm = "none"
[[applications]]
id = "segmentation"
name = "{body}"
bundle = "{bundle}"
destinations = ["inbox"]
[[applications]]
id = "{limb}"
destinations = ["inbox"]
"""


class SharedNode:
    """A running node with the applications of the bases, whose results go to a folder."""

    def __init__(self, folder: Path, port: int, environment: Mapping[str, str]) -> None:
        self.inbox = folder / "inbox"
        self.inbox.mkdir()
        bundle = write_threshold(folder / "bundle", BUNDLE, BODY_LEVEL)
        self.node = Node(folder, port, environment=environment)
        with self.node.config.open("a") as config:
            config.write(CONFIG.format(inbox=self.inbox, bundle=bundle, body=BODY, limb=LIMB))
        self._outgoing = folder / "outgoing"

    def run(self, studies: Sequence[DrawnStudy], troubles: Mapping[Trouble, Callable[[], Any]]) -> dict[str, list[str]]:
        """Send the studies, and return by name what is wrong with each that did not come out as it had to.

        Those without trouble of the machine are on their way together; each of the others is alone.
        """
        wrong: dict[str, list[str]] = {}
        quiet = [study for study in studies if study.plan.trouble is Trouble.NONE]
        groups = [quiet[i : i + AT_ONCE] for i in range(0, len(quiet), AT_ONCE)]
        groups += [[study] for study in studies if study.plan.trouble is not Trouble.NONE]
        for group in groups:
            with troubles[group[0].plan.trouble]():
                for step in range(max(len(study.plan.sent) for study in group)):
                    for study in group:
                        if step < len(study.plan.sent):
                            self._send(study.plan.sent[step])
                    self._wait_for_rest(group, step)
            for study in group:
                found = self._mistakes(study)
                if found:
                    wrong[study.name] = found
        return wrong

    def _send(self, datasets: Sequence[Dataset]) -> None:
        self._outgoing.mkdir(exist_ok=True)
        paths = []
        for number, ds in enumerate(datasets):
            paths.append(self._outgoing / f"{number:05}.dcm")
            ds.save_as(paths[-1], enforce_file_format=True)
        results = send_files(file_blobs(paths), SCANNER, self.node.target)
        assert all(result.ok for result in results), [result.reason for result in results if not result.ok][:3]
        for path in paths:
            path.unlink()

    def _wait_for_rest(self, group: Sequence[DrawnStudy], step: int) -> None:
        deadline = time.monotonic() + REST_SECONDS
        for study in group:
            sent = study.plan.sent[: step + 1]
            for uid, expected in study.plan.expected.items():
                times = sum(any(str(ds.StudyInstanceUID) == uid for ds in datasets) for datasets in sent)
                if not times:
                    continue
                since = time.monotonic()
                while not self._rests(uid, revision=times):
                    if expected.outcome is Outcome.WAIT and time.monotonic() > since + WAITING_SECONDS:
                        break
                    assert time.monotonic() < deadline, f"{study.name} does not come to rest: {self.node.study(uid)}"
                    time.sleep(0.2)

    def _rests(self, uid: str, revision: int) -> bool:
        """Return True once nothing is under way; what was sent again has opened a further revision by then."""
        detail = self.node.study(uid)
        if detail is None or detail["state"] not in ("ROUTED", "IGNORED") or detail["revision"] < revision:
            return False
        busy = any(job["state"] in ("QUEUED", "RUNNING", "RETRYING") for job in detail["jobs"])
        return not busy and all(d["state"] not in ("QUEUED", "SENDING", "RETRYING") for d in detail["deliveries"])

    def _mistakes(self, study: DrawnStudy) -> list[str]:
        found = []
        for uid, expected in study.plan.expected.items():
            detail = self.node.study(uid)
            assert detail is not None
            waits = self.node.command("explain", uid) if expected.outcome is Outcome.WAIT else {}
            found += mistakes(expected, detail, read_reports(self.inbox / uid), str(waits.get("waiting")))
        return found


@contextmanager
def no_trouble() -> Iterator[None]:
    yield


LIBFAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


class FakeClock:
    """The wall clock of the node's processes, as libfaketime shows it; the monotonic clock is left alone."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "faketime"
        self.set("+0")

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(LIBFAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset: str) -> None:
        temporary = self._file.with_suffix(".new")
        temporary.write_text(offset + "\n")
        os.replace(temporary, self._file)


FAILING_READS = '''
"""Loaded by every process of the node: while the flag is there, no instance can be read from the log."""

import errno, os, select, time

# libfaketime 0.9.10 takes the target of clock_nanosleep for a faked time, although the monotonic clock is not faked.
time.sleep = lambda seconds: select.select([], [], [], seconds)
flag, real = os.environ["DRAWN_FLAG"], os.preadv


def preadv(*arguments):
    if os.path.exists(flag):
        time.sleep(0.3)
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return real(*arguments)


os.preadv = preadv
'''


class FailingDisk:
    """A disk below the node's journals that hangs and then fails when it is read, for as long as a test wants."""

    def __init__(self, folder: Path) -> None:
        self._modules = folder / "modules"
        self._modules.mkdir()
        (self._modules / "sitecustomize.py").write_text(FAILING_READS)
        self._flag = folder / "disk-hangs"

    @property
    def environment(self) -> dict[str, str]:
        paths = [str(self._modules), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            "PYTHONPATH": os.pathsep.join(paths),
            "DRAWN_FLAG": str(self._flag),
        }

    def hang(self) -> None:
        self._flag.touch()

    def recover(self) -> None:
        self._flag.unlink(missing_ok=True)
