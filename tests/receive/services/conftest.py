"""A receiver with all further services, and the stores behind them."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dicom_node.deliver.commitment_reporter import CommitmentReporter, send_report
from dicom_node.dimse.commitment import PUSH_MODEL, Addressee
from dicom_node.receive.association_reports import AssociationReports
from dicom_node.receive.commitment import CommitmentService
from dicom_node.receive.confirmation import ConfirmationService
from dicom_node.receive.policy import ReceivePolicy, ServiceName
from dicom_node.receive.presentation_contexts import SopClass
from dicom_node.receive.procedure_steps import MODALITY_PERFORMED_PROCEDURE_STEP, ProcedureStepService
from dicom_node.receive.receiver import DimseService, Receiver
from dicom_node.runtime.backoff import Backoff
from storage.log.journal import Journal
from storage.log.patient_key import PATIENT_KEY, PatientKey
from storage.records.commitments import Commitment
from storage.tables.commitments import Commitments
from storage.tables.confirmations import Confirmations
from storage.tables.database.connection import Database, default_url
from storage.tables.procedure_steps import ProcedureSteps
from tests.storage.node import Node


@dataclass
class Services:
    """`filed` is the indexer's mark: by default it has always just passed."""

    port: int
    node: Node
    steps: ProcedureSteps
    commitments: Commitments
    reports: AssociationReports
    addressees: list[Addressee]
    filed: Callable[[], datetime | None] = lambda: datetime.now(UTC)
    stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def dispatch(self) -> None:
        """The reporter of the dispatch role, until the end of the test."""
        reporter = CommitmentReporter(
            self.commitments,
            lambda: self.filed(),
            self.addressees,
            lambda target, report: send_report("NODE", 5, target, report),
            Backoff(first=0.2, longest=0.5, attempts=3),
        )
        self._thread = threading.Thread(target=reporter.run, args=(self.stop,))
        self._thread.start()

    def close(self) -> None:
        self.stop.set()
        if self._thread is not None:
            self._thread.join()

    def wait(self, until: Callable[[Commitment], Any], seconds: float = 10) -> Commitment:
        """The one request, once it is so."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.commitments.list()
            if len(found) == 1 and until(found[0]):
                return found[0]
            assert time.monotonic() < deadline, found
            time.sleep(0.05)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    database = Database(default_url(tmp_path))
    database.upgrade()
    steps, commitments = ProcedureSteps(database, tmp_path / "mpps"), Commitments(database)
    addressees: list[Addressee] = []
    backoff = Backoff(first=0.2, longest=0.5, attempts=3)
    reports = AssociationReports(commitments, lambda: made.filed(), backoff)
    further = [
        DimseService(
            (SopClass(MODALITY_PERFORMED_PROCEDURE_STEP, ServiceName.MPPS, scu_role=True, scp_role=False),),
            tuple(ProcedureStepService(steps).handlers()),
        ),
        DimseService(
            (SopClass(PUSH_MODEL, ServiceName.COMMITMENT, scu_role=True, scp_role=True),),
            (
                *CommitmentService(commitments, addressees, reports).handlers(),
                *ConfirmationService(Confirmations(database)).handlers(),
            ),
        ),
    ]
    journal, key = Journal(tmp_path / "journal"), PatientKey(tmp_path / PATIENT_KEY)
    receiver = Receiver(ReceivePolicy("NODE", "127.0.0.1", 0), journal, key, "receive-0", further)
    receiver.start()
    made = Services(receiver.port, Node(database, tmp_path / "instances"), steps, commitments, reports, addressees)
    yield made
    made.close()
    receiver.stop(grace=0.5)
    database.close()
