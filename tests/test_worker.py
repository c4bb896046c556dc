"""What a worker writes for each kind of job; and one that hangs frees its device by ending its process."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from dicom_node.worker import EXIT_AGAIN
from storage import schema
from storage.database import Database
from storage.records import JobState
from tests.storage.node import Node, received

Hang = Callable[[float], subprocess.Popen[str]]

# A process of its own with a worker whose application never returns, as when a kernel hangs in torch.
HANGING = """
import sys, threading, time
from pathlib import Path
from dicom_node.backoff import Backoff
from dicom_node.catalogue import ConfiguredApplication
from dicom_node.worker import Worker
from storage.database import Database
from storage.instances import InstanceStore
from storage.jobs import Jobs

class Hanging:
    def run(self, inputs, engine, progress):
        print("hangs", flush=True)
        time.sleep(600)

database = Database(sys.argv[1])
worker = Worker(
    "w", None, Jobs(database), InstanceStore(database, Path(sys.argv[2]), lambda sop, modality: True),
    {"liver": ConfiguredApplication("liver", ("pacs",), None)}, Path(sys.argv[2]), "NODE", {}, Backoff(5, 40, 3),
    heartbeat_seconds=0.2, job_timeout_seconds=float(sys.argv[3]),
)
worker._application = lambda name: Hanging()
worker.run(threading.Event())
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
        session.execute(update(schema.Job).values(worker="other"))
    assert process.wait(30) == EXIT_AGAIN
    (job,) = node.jobs.list()
    assert (job.state, job.worker) == (JobState.RUNNING, "other")


def test_a_job_that_takes_too_long_is_tried_again(node: Node, hang: Hang) -> None:
    assert hang(0.5).wait(30) == EXIT_AGAIN
    (job,) = node.jobs.list()
    assert (job.state, job.reason) == (JobState.RETRYING, "took longer than 0.5 s")
