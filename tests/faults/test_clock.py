"""The clock is set while a node of real processes works: nothing that waits ends early, and what is due runs."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dicom_node.demo.pacs.ports import free_port
from dicom_node.dimse.scu import send_files
from storage.blobs import file_blobs
from tests.acceptance.node import SCANNER, Node, delivered, running
from tests.acceptance.studies import write_ball_study
from tests.acceptance.tiny_model import write_bundle
from tests.faults.clock import SettableClock, SilentPacs
from tests.faults.wire import Sender, make_instance, new_uid

HOUR, MONTH = 3600, 30 * 86400
ROLES = ("run", "receive-0", "index", "schedule", "work-cpu", "dispatch")
SOON = 60.0  # within which due work runs
ARRIVING = 8.0  # seconds for which a study arrives, with pauses shorter than the quiet time
ROUNDS = 150  # the model takes some seconds


@dataclass
class Place:
    node: Node
    clock: SettableClock
    pacs: SilentPacs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("clock")
    clock, pacs = SettableClock(folder), SilentPacs(free_port())
    bundle = write_bundle(folder / "bundle", ROUNDS)
    node = Node(folder / "node", free_port(), pacs, bundle, environment=clock.environment)  # type: ignore[arg-type]
    node.start()
    yield Place(node, clock, pacs)
    node.kill()


class Arriving(threading.Thread):
    """A study that arrives slowly over one association. `early` tells what was said of it before its last image."""

    def __init__(self, node: Node, generator: random.Random) -> None:
        super().__init__()
        self.uid = new_uid(generator)
        self.early: dict[str, Any] | None = None
        self.sent = 0
        self._node = node
        self._series = new_uid(generator)
        self._generator = generator

    def run(self) -> None:
        with Sender(self._node.target.host, self._node.target.port, calling=SCANNER) as sender:
            until = time.monotonic() + ARRIVING
            while time.monotonic() < until:
                self._send(sender)
                time.sleep(0.3)
            self.early = self._node.study(self.uid)
            self._send(sender)

    def _send(self, sender: Sender) -> None:
        sender.store(make_instance(self._generator, 64, self.uid, self._series))
        self.sent += 1


def wait(until: Callable[[], bool], what: str, seconds: float = SOON) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def set_while_it_works(place: Place, folder: Path, seconds: int, restarted: str = "") -> None:
    """Set the clock while a study arrives, a job runs, and deliveries wait for a PACS that is away."""
    node = place.node
    asked = place.pacs.asked
    uid = write_ball_study(folder, seed=random.Random(f"{seconds}{restarted}").randrange(10**6)).study_instance_uid
    assert all(r.ok for r in send_files(file_blobs(sorted(folder.rglob("*.dcm"))), SCANNER, node.target))
    node.wait(uid, running)
    arriving = Arriving(node, random.Random(f"{seconds}{restarted}"))
    arriving.start()
    time.sleep(ARRIVING / 2)
    size = node.log.stat().st_size
    place.clock.step(seconds)
    if restarted:
        node.kill_role(restarted)
    arriving.join()
    assert arriving.early is not None
    assert (arriving.early["state"], arriving.early["revision"]) == ("RECEIVING", 1)
    detail = node.wait(arriving.uid, lambda d: d["state"] == "IGNORED", SOON)
    assert [e["stage"] for e in detail["timeline"]].count("complete") == 1
    assert (detail["revision"], len(detail["instances"])) == (1, arriving.sent)

    node.wait(uid, lambda d: d["jobs"][0]["state"] == "SUCCEEDED", 2 * SOON)
    place.pacs.start()
    try:
        detail = node.wait(uid, delivered(), SOON)
        assert [j["attempts"] for j in detail["jobs"]] == [1], detail["timeline"]
        wait(lambda: place.pacs.asked > asked, "the PACS is not asked to commit")
        time.sleep(3)
        # What it was asked to commit before the step, and after it, still waits for its report.
        rows = node.command("jobs")
        assert rows
        for study in {job["study_instance_uid"] for job in rows}:
            found = node.study(study)
            assert found is not None
            assert {(d["state"], d["resends"]) for d in found["deliveries"]} == {("SENT", 0)}, found["deliveries"]
    finally:
        place.pacs.stop()
    told = node.log.read_bytes()[size:].decode()
    assert "Traceback" not in told
    for role in ROLES:
        if role != restarted:
            assert any(f" {role}: " in line and "action=clock_stepped" in line for line in told.splitlines()), role
    assert told.count("action=waiting_times_moved") == 1
    assert "action=waiting_times_clamped" not in told


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_step_of_an_hour(place: Place, tmp_path: Path, seconds: int) -> None:
    set_while_it_works(place, tmp_path, seconds)


@pytest.mark.faults
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seconds", [MONTH, -MONTH])
def test_a_step_of_a_month(place: Place, tmp_path: Path, seconds: int) -> None:
    set_while_it_works(place, tmp_path, seconds)


@pytest.mark.faults
@pytest.mark.timeout(400)
@pytest.mark.parametrize("role", ["schedule", "dispatch", "index"])
@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_step_while_a_role_is_restarted(place: Place, tmp_path: Path, seconds: int, role: str) -> None:
    set_while_it_works(place, tmp_path, seconds, role)
