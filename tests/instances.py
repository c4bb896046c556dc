"""Small instances for tests. The patient's name and ID in them must never appear in a log."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom.sop_class import MRImageStorage

from dicom_node.dimse.results import InstanceReference

MakeFile = Callable[..., Path]


def reference(path: Path) -> InstanceReference:
    ds = dcmread(path, stop_before_pixels=True)
    return InstanceReference(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPClassUID, ds.SOPInstanceUID)


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
