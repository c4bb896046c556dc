"""An acceptor of pynetdicom's own with the node's handlers, and the stores behind them."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE

from dicom_node.deliver.reporter import CommitmentReporter, send_report
from dicom_node.dimse.upper_layer import silence_pynetdicom
from dicom_node.receive.commitment import PUSH_MODEL, Addressee, AssociationReports, CommitmentService
from dicom_node.receive.confirmation import ConfirmationService
from dicom_node.receive.procedure_steps import MODALITY_PERFORMED_PROCEDURE_STEP, ProcedureStepService
from dicom_node.runtime.backoff import Backoff
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
    silence_pynetdicom()
    database = Database(default_url(tmp_path))
    database.upgrade()
    steps, commitments = ProcedureSteps(database, tmp_path / "mpps"), Commitments(database)
    addressees: list[Addressee] = []
    backoff = Backoff(first=0.2, longest=0.5, attempts=3)
    reports = AssociationReports(commitments, lambda: made.filed(), backoff)
    ae = AE("NODE")
    for sop_class in (MODALITY_PERFORMED_PROCEDURE_STEP, PUSH_MODEL):
        ae.add_supported_context(
            sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian], scu_role=True, scp_role=sop_class == PUSH_MODEL
        )
    commitment = CommitmentService(commitments, addressees, reports)
    confirmation = ConfirmationService(Confirmations(database))
    handlers = [*ProcedureStepService(steps).handlers(), *commitment.handlers(), *confirmation.handlers()]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    made = Services(
        server.server_address[1], Node(database, tmp_path / "instances"), steps, commitments, reports, addressees
    )
    yield made
    made.close()
    server.shutdown()
    database.close()
