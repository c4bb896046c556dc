"""The worker's own check that the images of a job are of one patient."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.objects.profiles import ObjectProfile
from storage.records.jobs import JobState
from storage.records.patients import NOBODY, PatientIdentity
from storage.tables.database.connection import Database
from tests.storage.node import Node, Sent, received
from tests.work.parts import build_worker


def as_sent(sent: Sent) -> Sent:
    return sent


def without_identity(sent: Sent) -> Sent:
    """Make the rows those of an earlier version: only the file states a patient."""
    return replace(sent, instance=replace(sent.instance, patient=NOBODY))


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        (as_sent, "study 1.2.3 is not analysed, and nothing is sent: its 2 instances state different patients"),
        (without_identity, "the images state different patients: they contradict one another in Patient ID"),
    ],
)
def test_a_job_over_two_patients_fails_before_anything_is_computed(
    tmp_path: Path, kept: Callable[[Sent], Sent], told: str
) -> None:
    database = Database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    database.upgrade()
    node = Node(database, tmp_path / "instances")
    for number, patient in enumerate(("SECRET-A", "SECRET-B"), 1):
        node.store(kept(received(number, patient=PatientIdentity(patient))))
    node.route("liver")
    ran: list[object] = []
    application = SimpleNamespace(run=lambda *given: ran.append(given))
    configured = ConfiguredApplication("liver", ("pacs",), None)
    worker = build_worker(node, configured, application, {"pacs": ObjectProfile()}, tmp_path / "objects")
    assert worker.work_one()
    assert ran == []
    (job,) = node.jobs.list()  # and no report, which would carry one of the patients
    assert job.state is JobState.FAILED
    assert job.reason.startswith(told)
    assert "SECRET" not in job.reason
    assert not (tmp_path / "objects").exists()
    database.close()
