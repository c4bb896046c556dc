"""A worker that hangs frees its device by ending its process; one that does not writes a set of objects per profile."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.objects.profiles import ObjectProfile
from dicom_node.work.worker import EXIT_AGAIN
from inference.headers.reading import read_object
from storage.records.jobs import JobState
from storage.records.results import ObjectKind
from storage.tables.database import schema
from storage.tables.database.connection import Database
from tests.objects.sources import findings, read, write_oblique
from tests.storage.node import Node, received
from tests.work.parts import build_worker

SECRET = "SECRETPERSON"

Hang = Callable[[float], subprocess.Popen[str]]

# A process of its own with a worker whose application never returns, as when a kernel hangs in torch.
HANGING = """
import sys, threading, time
from pathlib import Path
from dicom_node.catalogue import ConfiguredApplication
from storage.tables.database.connection import Database
from tests.work.parts import build_worker, open_stores

class Hanging:
    def run(self, inputs, engine, progress):
        print("hangs", flush=True)
        time.sleep(600)

folder = Path(sys.argv[2])
worker = build_worker(
    open_stores(Database(sys.argv[1]), folder), ConfiguredApplication("liver", ("pacs",), None), Hanging(), {}, folder,
    heartbeat_seconds=0.2, job_timeout_seconds=float(sys.argv[3]),
)
worker.run(threading.Event())
"""

# A process of its own with a worker that writes every kind of object, of a patient whose name libraries warn about.
WRITING = """
import sys
from pathlib import Path
from types import SimpleNamespace
from dicom_node.catalogue import ConfiguredApplication
from dicom_node.runtime.logs import configure
from storage.tables.database.connection import Database
from tests.conformance.cases import rich_findings
from tests.conformance.makers import EVERYTHING
from tests.objects.sources import read
from tests.work.parts import build_worker, open_stores

configure("work", "DEBUG")
folder = Path(sys.argv[2])
application = SimpleNamespace(run=lambda *_: rich_findings(read(Path(sys.argv[3]))))
worker = build_worker(
    open_stores(Database(sys.argv[1]), folder.parent / "instances"), ConfiguredApplication("liver", ("pacs",), None),
    application, {"pacs": EVERYTHING}, folder,
)
worker.work_one()
"""


@pytest.fixture
def node(tmp_path: Path) -> Node:
    database = Database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    database.upgrade()
    node = Node(database, tmp_path / "instances")
    node.queue("liver")
    return node


@pytest.fixture
def hang(tmp_path: Path, node: Node) -> Iterator[Hang]:
    """Starts a worker with this time limit, and returns once its job hangs."""
    started: list[subprocess.Popen[str]] = []

    def start(limit: float) -> subprocess.Popen[str]:
        arguments = [f"sqlite:///{tmp_path / 'node.sqlite'}", str(tmp_path / "instances"), str(limit)]
        process = subprocess.Popen([sys.executable, "-c", HANGING, *arguments], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "hangs\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_superseded_job_that_hangs_frees_its_device(node: Node, hang: Hang) -> None:
    process = hang(600)
    node.store(received(2))
    node.route("liver")
    assert process.wait(30) == EXIT_AGAIN
    assert [(j.revision, j.state) for j in node.jobs.list()] == [(1, JobState.CANCELLED), (2, JobState.QUEUED)]


def test_a_job_that_was_given_to_another_worker_is_left_to_it(node: Node, hang: Hang) -> None:
    process = hang(600)
    with node.database.session() as session:
        session.execute(update(schema.JobRow).values(worker="other"))
    assert process.wait(30) == EXIT_AGAIN
    (job,) = node.jobs.list()
    assert (job.state, job.worker) == (JobState.RUNNING, "other")


def test_a_job_that_takes_too_long_is_tried_again(node: Node, hang: Hang) -> None:
    assert hang(0.5).wait(30) == EXIT_AGAIN
    (job,) = node.jobs.list()
    assert (job.state, job.reason) == (JobState.RETRYING, "took longer than 0.5 s")


def test_what_a_worker_says_names_no_patient(node: Node, tmp_path: Path) -> None:
    """highdicom warns of a name of one component, and quotes it."""
    series = write_oblique(tmp_path / "series", SECRET, "ISO_IR 100")
    arguments = [f"sqlite:///{tmp_path / 'node.sqlite'}", str(tmp_path / "objects"), str(series)]
    done = subprocess.run([sys.executable, "-c", WRITING, *arguments], capture_output=True, text=True, check=True)
    (job,) = node.jobs.list()
    assert (job.state, job.reason) == (JobState.SUCCEEDED, "")
    assert "The job succeeded" in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_destinations_with_the_same_profile_get_the_same_objects(node: Node, tmp_path: Path) -> None:
    """A later report names the form that its destination got of the one before."""
    report_only = ObjectProfile(objects=frozenset({ObjectKind.SR}))
    found = findings(read(write_oblique(tmp_path / "series", "A^B", "ISO_IR 100")))
    worker = build_worker(
        node, ConfiguredApplication("liver", ("pacs", "archive", "reports"), None),
        SimpleNamespace(run=lambda *_: found),
        {"pacs": ObjectProfile(), "archive": ObjectProfile(), "reports": report_only}, tmp_path / "objects",
    )  # fmt: skip

    def offered(job: int, destination: str) -> dict[str, Any]:
        return {target.kind: target for target, _ in node.deliveries.offered(job, destination)}

    assert worker.work_one()
    assert offered(1, "pacs") == offered(1, "archive")
    reports = offered(1, "reports")
    assert reports["SR"].destinations == ("reports",)
    assert reports["SR"].sop_instance_uid != offered(1, "pacs")["SR"].sop_instance_uid
    assert [(d.object.kind, d.destination) for d in node.deliveries.list()] == [
        ("SEG", "archive"), ("SR", "archive"), ("SEG", "pacs"), ("SR", "pacs"), ("SR", "reports"),
    ]  # fmt: skip
    assert offered(1, "pacs")["SR-REGIONS"].stands_for == ("SR",)
    assert "SEG" not in reports
    assert "SR-REGIONS" not in reports  # its report refers to no SEG anyway

    for destination in ("pacs", "reports"):
        node.arrive(destination)
    node.store(received(2))
    node.route("liver")
    assert worker.work_one()
    for destination in ("pacs", "reports"):
        later = read_object(offered(2, destination)["SR"].blob)
        (study,) = later.PredecessorDocumentsSequence
        (series,) = study.ReferencedSeriesSequence
        (predecessor,) = series.ReferencedSOPSequence
        assert predecessor.ReferencedSOPInstanceUID == offered(1, destination)["SR"].sop_instance_uid
