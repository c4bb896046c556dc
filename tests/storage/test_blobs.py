"""Blobs, and that every reader takes one that is no file: a range of a file that holds others."""

import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dicom_node.deliver.destinations.folder import FolderDestination
from dicom_node.dimse.scu import OutgoingInstance
from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.build import build_objects
from dicom_node.objects.no_result import build_no_result
from dicom_node.objects.profiles import ObjectProfile
from dicom_node.read.visits import read_visit
from inference.contract.findings import Findings, NoResult, NotComputed
from inference.headers.reading import read_object
from inference.series.recogniser import read_headers, recognise_headers
from inference.volumes.reading import read_volume
from storage.blobs import Blob, FileBlob, file_blobs
from storage.errors import Permanent, WhyNoResult
from storage.log.headers.patient_header import read_identity
from storage.log.segments.ranges import SegmentRange
from storage.records.results import ObjectKind
from tests.acceptance.studies import write_ball_study
from tests.objects.sources import findings
from tests.storage.log.logged import logged

CONTEXT = ObjectContext("NODE", "seed")


@pytest.fixture
def files(tmp_path: Path) -> tuple[FileBlob, ...]:
    return file_blobs(write_ball_study(tmp_path / "study").paths)


def test_every_reader_takes_ranges_of_a_file(files: tuple[FileBlob, ...], tmp_path: Path) -> None:
    ranges = logged(files, tmp_path / "journal")
    assert all(isinstance(blob, SegmentRange) for blob in ranges)
    assert [read_identity(blob) for blob in ranges] == [read_identity(blob) for blob in files]
    assert read_visit(ranges) == read_visit(files)
    assert recognise_headers(read_headers(ranges)) == recognise_headers(read_headers(files))
    volume, expected = read_volume(ranges), read_volume(files)
    assert np.array_equal(volume.array, expected.array)
    assert {frame.blob for frame in volume.frames} == set(ranges)
    kinds = ObjectProfile(objects=frozenset(ObjectKind) - {ObjectKind.REJECTION, ObjectKind.PM})
    found = findings(expected)
    assert made(replace(found, source=volume, inputs=(volume,) * len(found.inputs)), ranges, kinds) == made(
        found, files, kinds
    )
    sent, known = OutgoingInstance.from_blob(ranges[3]), OutgoingInstance.from_blob(files[3])
    assert replace(sent, blob=files[3]) == known
    assert sent.encoded(sent.transfer_syntax_uid) == known.encoded(sent.transfer_syntax_uid)
    (tmp_path / "inbox").mkdir()
    for _ in range(2):  # the second time they are there already
        assert all(result.ok for result in FolderDestination("inbox", tmp_path / "inbox").send(ranges))
    inbox = {path.read_bytes() for path in (tmp_path / "inbox").rglob("*.dcm")}
    assert inbox == {blob.path.read_bytes() for blob in files}


def made(found: Findings, blobs: tuple[Blob, ...], profile: ObjectProfile) -> list[str]:
    failed = NotComputed("Mass", WhyNoResult.FAILURE, "it failed")
    refused = NoResult((failed,), found.started_at, research=True)
    objects = [built.dataset for built in build_objects(found, CONTEXT, profile)]
    assert len(objects) >= 10
    objects.append(build_no_result(refused, blobs, CONTEXT))
    return [re.sub("Contribution DateTime.*", "", str(ds)) for ds in objects]


def test_a_blob_is_a_value(files: tuple[FileBlob, ...]) -> None:
    one, other, *_ = files
    kept = FileBlob(one.path, one.size, one.checksum)
    assert kept == one == pickle.loads(pickle.dumps(one))
    assert len({kept, one, other}) == 2
    assert str(kept) == str(one.path)
    assert pickle.loads(pickle.dumps(kept)).checksum == one.checksum


def test_a_changed_byte_is_found(files: tuple[FileBlob, ...]) -> None:
    path = files[0].path
    kept = FileBlob(path, files[0].size, files[0].checksum)
    assert kept.is_intact()
    assert not replace(kept, kept_size=files[0].size + 1).is_intact()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert not kept.is_intact()
    path.write_bytes(content[:-2])
    assert not kept.is_intact()
    path.write_bytes(b"no Part 10 file")
    with pytest.raises(Permanent):
        assert FileBlob(path).checksum
    assert read_object(files[1]).SOPInstanceUID
