"""Without the internals of pynetdicom that the fast path needs, the receiver serves through the public ones."""

import logging
import tomllib
from pathlib import Path

import pytest
from pydicom.uid import generate_uid
from pynetdicom import AE

from dicom_node.dimse import scu, upper_layer
from dicom_node.dimse.data_path import LARGE_BYTES
from dicom_node.dimse.scu import StorageSCU
from dicom_node.receive import receiver as receiver_module
from dicom_node.receive.stock import StockAcceptor
from dicom_node.receive.storage import Peer
from storage.records.evidence import AssociationEnd
from tests.instances import MakeFile
from tests.receive.conftest import Receive
from tests.receive.kept import KeptJournal
from tests.receive.test_receiver import dataset_digest, reject_reason, status_of, wait_until


def test_the_installed_pynetdicom_has_what_is_needed() -> None:
    assert upper_layer.missing_internals() == []
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert f"pynetdicom=={upper_layer.PINNED_VERSION}" in project["project"]["dependencies"]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upper_layer.pynetdicom, "__version__", "9.9.9")
    monkeypatch.delattr(upper_layer.Association, "_serve_request")
    assert upper_layer.missing_internals() == ["version 3.0.4 (installed is 9.9.9)", "Association._serve_request"]


@pytest.fixture
def stock(receive: Receive, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Receive:
    monkeypatch.setattr(receiver_module, "missing_internals", lambda: ["version 1.2.3"])

    def start(**policy: object):  # type: ignore[no-untyped-def]
        receiver, target = receive(**policy)
        assert isinstance(receiver._listener, StockAcceptor)
        warnings = [
            r.message for r in caplog.records if r.levelno == logging.WARNING and r.name.startswith("dicom_node")
        ]
        assert warnings == ["Receiving is slow: pynetdicom lacks version 1.2.3, so its own data path is used"]
        return receiver, target

    return start


def test_instances_of_every_kind_and_size_are_kept(stock: Receive, journal: KeptJournal, make_file: MakeFile) -> None:
    _, target = stock()
    paths = [make_file(), make_file(SOPClassUID=generate_uid()), make_file(pixels=LARGE_BYTES)]
    assert all(result.ok for result in scu.send_files(paths, "MR1", target))
    assert journal.digests == {dataset_digest(path) for path in paths}
    assert [kept.large for kept in journal.kept] == [False, False, True]
    assert scu.echo("MR1", target).ok
    wait_until(lambda: journal.ends == [AssociationEnd.RELEASED])


def test_statuses_are_the_same(stock: Receive, journal: KeptJournal, make_file: MakeFile) -> None:
    _, target = stock()
    journal.full = True
    assert status_of(target, make_file()) == 0xA700
    journal.full = False
    assert status_of(target, make_file(), sop_instance="1.2.3.4") == 0xA900
    assert status_of(target, make_file(StudyInstanceUID=None)) == 0xC000
    assert status_of(target, make_file()) == 0x0000


def test_the_policy_is_the_same(stock: Receive) -> None:
    _, target = stock(peers=(Peer("MR1"),), maximum_associations=1)
    assert reject_reason(target, "MR9", "NODE") == (0x01, 0x01, 0x03)
    assert reject_reason(target, "MR1", "EDON") == (0x01, 0x01, 0x07)
    ae = AE(ae_title="MR1")
    ae.add_requested_context("1.2.840.10008.1.1")
    assoc = ae.associate(target.host, target.port, ae_title="NODE")
    assert reject_reason(target, "MR1", "NODE") == (0x02, 0x03, 0x02)
    assoc.release()
    wait_until(lambda: reject_reason(target, "MR1", "NODE") is None)


def test_a_peer_that_vanishes_leaves_an_aborted_association(
    stock: Receive, journal: KeptJournal, make_file: MakeFile
) -> None:
    receiver, target = stock()
    instance = scu.Outgoing.from_file(make_file())
    client = StorageSCU("MR1", target, instance.contexts(), 5).__enter__()
    assert client.store(instance).ok
    assert client._assoc is not None
    client._assoc.dul.socket._shutdown_socket()
    wait_until(lambda: journal.ends == [AssociationEnd.ABORTED])
    assert receiver._service.established == 0


def test_stop_aborts_what_is_left(stock: Receive, journal: KeptJournal, make_file: MakeFile) -> None:
    receiver, target = stock()
    instance = scu.Outgoing.from_file(make_file())
    client = StorageSCU("MR1", target, instance.contexts(), 5).__enter__()
    assert client.store(instance).ok
    receiver.stop(grace=0.1)
    assert journal.ends == [AssociationEnd.ABORTED]
    assert not scu.echo("MR1", target, timeout=1).ok
