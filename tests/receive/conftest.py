"""Receivers on free ports of the loopback interface."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from dicom_node.dimse.scu import Target
from dicom_node.receive.policy import ReceivePolicy
from dicom_node.receive.receiver import DimseService, Receiver
from storage.errors import Permanent, StorageFull
from tests.receive.kept import KeptJournal

Receive = Callable[..., tuple[Receiver, Target]]


@pytest.fixture
def journal(tmp_path: Path) -> KeptJournal:
    return KeptJournal(tmp_path / "journal")


@pytest.fixture
def receive(journal: KeptJournal) -> Iterator[Receive]:
    """Starts a receiver with the given policy fields; it is stopped after the test."""
    started: list[Receiver] = []

    def start(services: Sequence[DimseService] = (), **policy: object) -> tuple[Receiver, Target]:
        settings = {"ae_title": "NODE", "host": "127.0.0.1", "port": 0, "network_timeout": 10.0, **policy}
        receiver = Receiver(ReceivePolicy(**settings), journal, journal.key, "receive-0", services)  # type: ignore[arg-type]
        receiver.start()
        started.append(receiver)
        return receiver, Target("NODE", "127.0.0.1", receiver.port)

    yield start
    for receiver in started:
        receiver.stop(grace=0.5)


def disk_full(*_: object) -> None:
    raise StorageFull("no space left")


def unusable(*_: object) -> None:
    raise Permanent("the UID is not usable")
