"""Faults while a study is on its way: everything still arrives, once."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_node.demo.pacs.base import Pacs
from tests.acceptance.conftest import Push
from tests.acceptance.node import Node, delivered, running
from tests.acceptance.studies import write_ball_study

ROUNDS = 120  # the model takes some seconds: long enough to kill its worker in the middle


@pytest.fixture(scope="module")
def place(make_node: Callable[..., tuple[Node, Pacs]]) -> tuple[Node, Pacs]:
    return make_node(rounds=ROUNDS)


def kinds(pacs: Pacs, uid: str) -> list[str]:
    """The modalities of the results that the PACS holds."""
    return sorted(i.modality for i in pacs.instances(uid) if i.modality != "MR")


@pytest.mark.slow
def test_a_killed_workers_job_runs_again(place: tuple[Node, Pacs], push: Push, tmp_path: Path) -> None:
    node, pacs = place
    uid = write_ball_study(tmp_path).study_instance_uid
    push(node, tmp_path)
    node.wait(uid, running)
    time.sleep(0.5)
    os.kill(node.worker(), signal.SIGKILL)
    detail = node.wait(uid, delivered())
    (job,) = detail["jobs"]
    assert job["attempts"] == 2
    assert kinds(pacs, uid) == ["SEG", "SR"]


def test_a_stopped_pacs_gets_everything_later(place: tuple[Node, Pacs], push: Push, tmp_path: Path) -> None:
    node, pacs = place
    uid = write_ball_study(tmp_path).study_instance_uid
    pacs.stop()
    try:
        push(node, tmp_path)
        detail = node.wait(uid, lambda d: any(x["waited_seconds"] >= 2 for x in d["deliveries"]))
        seg, sr = detail["deliveries"]
        assert (seg["state"], seg["attempts"]) in (("RETRYING", 0), ("SENDING", 1))
        assert (sr["state"], sr["attempts"]) == ("QUEUED", 0)
    finally:
        pacs.start()
    node.wait(uid, delivered())
    assert kinds(pacs, uid) == ["SEG", "SR"]


def test_a_killed_node_goes_on_where_it_was(place: tuple[Node, Pacs], push: Push, tmp_path: Path) -> None:
    node, pacs = place
    uid = write_ball_study(tmp_path).study_instance_uid
    push(node, tmp_path)
    node.kill()  # the images are acknowledged; nothing else has happened yet
    detail = node.study(uid)
    assert detail is None or detail["jobs"] == []  # they may be in the journal only
    node.start()
    node.wait(uid, delivered())
    assert kinds(pacs, uid) == ["SEG", "SR"]


def test_a_node_killed_at_work_repeats_the_job(place: tuple[Node, Pacs], push: Push, tmp_path: Path) -> None:
    node, pacs = place
    uid = write_ball_study(tmp_path).study_instance_uid
    push(node, tmp_path)
    node.wait(uid, running)
    node.kill()
    node.start()
    node.wait(uid, delivered())
    assert kinds(pacs, uid) == ["SEG", "SR"]


def test_a_stopped_node_gives_its_job_back_uncounted(place: tuple[Node, Pacs], push: Push, tmp_path: Path) -> None:
    node, pacs = place
    uid = write_ball_study(tmp_path).study_instance_uid
    push(node, tmp_path)
    node.wait(uid, running)
    node.stop()
    node.start()
    detail = node.wait(uid, delivered())
    assert detail["jobs"][0]["attempts"] == 1
    assert kinds(pacs, uid) == ["SEG", "SR"]


@pytest.mark.slow
def test_after_the_loss_of_the_database_the_same_result_has_the_same_uids(
    place: tuple[Node, Pacs], push: Push, tmp_path: Path
) -> None:
    node, pacs = place
    uid = write_ball_study(tmp_path).study_instance_uid
    push(node, tmp_path)
    before = {o["sop_instance_uid"] for o in node.wait(uid, delivered())["objects"]}
    node.stop()
    for file in node.data_dir.glob("node.sqlite*"):
        file.unlink()
    node.start()
    after = node.wait(uid, delivered())
    assert {o["sop_instance_uid"] for o in after["objects"]} == before
    assert kinds(pacs, uid) == ["SEG", "SR"]


def test_a_second_data_directory_on_the_same_database_is_refused(place: tuple[Node, Pacs], tmp_path: Path) -> None:
    node, _ = place
    other = Node(tmp_path, node.target.port + 1)
    text = other.config.read_text()
    other.config.write_text(
        text.replace("[node]", f'[node]\ndatabase_url = "sqlite:///{node.data_dir / "node.sqlite"}"')
    )
    refused = other.run("run")
    assert refused.returncode == 1
    assert "belongs to another data directory" in refused.stderr
    assert "Traceback" not in refused.stderr
