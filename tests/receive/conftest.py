"""Receivers on free ports of the loopback interface, and datasets to send them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom.sop_class import MRImageStorage

from dicom_node.receiver import Receiver
from dicom_node.scp import ReceivePolicy
from dicom_node.scu import Target
from storage.errors import Permanent
from tests.receive.fake_store import FakeStore

Receive = Callable[..., tuple[Receiver, Target]]
MakeFile = Callable[..., Path]


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def receive(store: FakeStore) -> Iterator[Receive]:
    """Starts a receiver with the given policy fields; it is stopped after the test."""
    started: list[Receiver] = []

    def start(**policy: object) -> tuple[Receiver, Target]:
        settings = {"ae_title": "NODE", "host": "127.0.0.1", "port": 0, "network_timeout": 10.0, **policy}
        receiver = Receiver(ReceivePolicy(**settings), store, "receive-0")  # type: ignore[arg-type]
        receiver.start()
        started.append(receiver)
        return receiver, Target("NODE", "127.0.0.1", receiver.port)

    yield start
    for receiver in started:
        receiver.stop(grace=0.5)


@pytest.fixture
def make_file(tmp_path: Path) -> MakeFile:
    """Writes a small instance with a patient's name that must never appear in a log."""

    def make(transfer_syntax: str = ExplicitVRLittleEndian, pixels: int = 2048, **attributes: object) -> Path:
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = transfer_syntax
        ds.SOPClassUID = MRImageStorage
        ds.SOPInstanceUID = generate_uid()
        ds.StudyInstanceUID = generate_uid()
        ds.SeriesInstanceUID = generate_uid()
        ds.Modality = "MR"
        ds.PatientName = "SECRET^PERSON"
        ds.PatientID = "SECRET-ID"
        ds.PatientBirthDate = "19010203"
        for keyword, value in attributes.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
        ds.add_new(0x7FE00010, "OW", bytes(range(256)) * (pixels // 128))
        ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", MRImageStorage)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
        path = tmp_path / f"{generate_uid()}.dcm"
        ds.save_as(path, enforce_file_format=True)
        return path

    return make


def disk_full(*_: object) -> None:
    from storage.errors import StorageFull

    raise StorageFull("no space left")


def unusable(*_: object) -> None:
    raise Permanent("the UID is not usable")
