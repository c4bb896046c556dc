"""Files that appear whole, once, and only when they are durable."""

import errno
import os
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from storage.blobs import FileBlob
from storage.errors import Permanent, StorageFull
from storage.log.files import (
    IMPLEMENTATION_CLASS_UID,
    STALE_SECONDS,
    FileMeta,
    remove_stale,
    write_durable,
)


def dataset(size: int = 100) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    ds.SOPInstanceUID = "1.2.3"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.add_new(0x7FE00010, "OW", bytes(size))
    return ds


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_dataset_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folders" / "seg.dcm"
    for size in (100, 200):
        assert write_durable(path, dataset(size)) == FileBlob(path)
        assert len(dcmread(path).PixelData) == size
    assert files(tmp_path) == ["new/folders/seg.dcm"]


def test_a_result_is_flushed_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File, then name, then folder: any other order can lose or tear it."""
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(descriptor: int) -> None:
        steps.append("flush " + ("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"))
        fsync(descriptor)

    def seen_replace(source: Path, target: Path) -> None:
        steps.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    write_durable(tmp_path / "seg.dcm", dataset())
    assert steps == ["flush file", "name", "flush folder"]


def test_temporary_files_of_the_dead_are_removed(tmp_path: Path) -> None:
    write_durable(tmp_path / "a" / "seg.dcm", dataset())
    dead, alive = tmp_path / "a" / ".writing-dead", tmp_path / "a" / ".writing-alive"
    dead.touch()
    alive.touch()
    old = alive.stat().st_mtime - STALE_SECONDS - 1
    os.utime(dead, (old, old))
    assert remove_stale(tmp_path) == 1
    assert files(tmp_path) == ["a/.writing-alive", "a/seg.dcm"]


def test_a_full_disk_is_said_and_leaves_nothing(small_disk: Path) -> None:
    with pytest.raises(StorageFull):
        write_durable(small_disk / "seg.dcm", dataset(200_000))
    assert files(small_disk) == []
    write_durable(small_disk / "seg.dcm", dataset(2_000))  # and the room is free again


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_when_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull):
        write_durable(tmp_path / "seg.dcm", dataset())
    assert files(tmp_path) == []


@pytest.mark.parametrize("source", ["MR1", "MR12", "", "A_TITLE_LONGER_THAN_16"])
def test_the_header_is_file_meta_information(tmp_path: Path, source: str) -> None:
    """PS3.10 7.1, read by pydicom."""
    path = tmp_path / "1.dcm"
    header = FileMeta("1.2.840.10008.5.1.4.1.1.4", ExplicitVRLittleEndian, source).header("1.2.33")
    path.write_bytes(header + b"\x08\x00\x60\x00CS\x02\x00MR")
    ds = dcmread(path)
    assert ds.Modality == "MR"
    assert ds.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.4"
    assert ds.file_meta.MediaStorageSOPInstanceUID == "1.2.33"
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert ds.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert ds.file_meta.get("SourceApplicationEntityTitle", "") == source[:16]
    assert ds.file_meta.FileMetaInformationGroupLength == len(header) - 144
    assert len(IMPLEMENTATION_CLASS_UID) <= 64


def test_the_digest_covers_the_dataset_alone(tmp_path: Path) -> None:
    paths = [tmp_path / "1.dcm", tmp_path / "2.dcm"]
    for path, source in zip(paths, ("MR1", "OTHER"), strict=True):
        path.write_bytes(FileMeta("1.2", ExplicitVRLittleEndian, source).header("1.2.3") + b"dataset")
    assert FileBlob(paths[0]).checksum == FileBlob(paths[1]).checksum


@pytest.mark.parametrize("content", [b"", b"x" * 500, bytes(128) + b"DICM"])
def test_a_foreign_file_has_no_digest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "1.dcm").write_bytes(content)
    with pytest.raises(Permanent):
        _ = FileBlob(tmp_path / "1.dcm").checksum
