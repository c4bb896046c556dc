"""The benchmark of receiving: its images are what they claim to be, and a case runs."""

import json
import shutil
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from benchmarks.ingest.__main__ import arguments, run, tell
from benchmarks.ingest.cases import NAMES, Sizes, Workloads, definitions
from benchmarks.ingest.results import goals
from benchmarks.vendors.images import SERIES_LENGTH, vendor_images
from benchmarks.vendors.private import Vendor
from benchmarks.workloads import FIRST_RUN, UID_ROOT, Renewer
from inference.headers.csa import read_csa
from inference.headers.private import PrivateElements
from inference.series.kinds import Kind
from inference.series.recogniser import read_headers, recognise_headers
from storage.blobs import file_blobs

LEAST_ELEMENTS = 130
CREATORS = {
    Vendor.SIEMENS: (0x0029, "SIEMENS CSA HEADER", 0x08),
    Vendor.GE: (0x0043, "GEMS_PARM_01", 0x01),
    Vendor.PHILIPS: (0x2005, "Philips MR Imaging DD 001", 0x00),
    Vendor.UIH: (0x0065, "Image Private Header", 0x00),
}


def one_of_each(folder: Path) -> dict[str, Dataset]:
    images = vendor_images(folder, "images", 16, 4, series_length=1)
    return {ds.Manufacturer: ds for ds in map(dcmread, images.paths)}


def test_headers_are_as_long_as_those_of_scanners(tmp_path: Path) -> None:
    found = one_of_each(tmp_path / "images")
    assert set(found) == set(Vendor)
    for vendor, (group, creator, element) in CREATORS.items():
        ds = found[vendor]
        assert len(ds) >= LEAST_ELEMENTS
        assert PrivateElements(ds).value(group, creator, element) is not None
        assert ds.RequestAttributesSequence[0].ScheduledProtocolCodeSequence[0].CodeValue


def test_siemens_images_have_two_csa_headers_of_100_kilobytes(tmp_path: Path) -> None:
    private = PrivateElements(one_of_each(tmp_path / "images")[Vendor.SIEMENS])
    image, series = (private.value(0x0029, "SIEMENS CSA HEADER", element) for element in (0x10, 0x20))
    assert 95_000 < len(image) + len(series) < 110_000
    assert read_csa(image, ["SliceNormalVector"]) == {"SliceNormalVector": ["0.00000000", "0.00000000", "1.00000000"]}
    (protocol,) = read_csa(series, ["MrPhoenixProtocol"])["MrPhoenixProtocol"]
    assert protocol.startswith("### ASCCONV BEGIN ###")
    assert protocol.endswith("### ASCCONV END ###")


def test_every_vendor_sends_series_that_are_recognised(tmp_path: Path) -> None:
    paths = vendor_images(tmp_path / "images", "images", 16, 12 * SERIES_LENGTH).paths
    starts = range(0, len(paths), SERIES_LENGTH)
    series = [recognise_headers(read_headers(file_blobs(paths[i : i + SERIES_LENGTH]))) for i in starts]
    assert [s.problem for s in series] == [""] * 12
    assert [s.kind for s in series] == [Kind.T1W] * 4 + [Kind.T2W] * 4 + [Kind.DWI] * 4
    assert {s.b_values for s in series[8:]} == {(0.0, 800.0)}


def test_images_are_the_same_each_time_and_renewed_in_all_uids(tmp_path: Path) -> None:
    once, again = (vendor_images(tmp_path / name, name, 16, 4, series_length=1).paths for name in ("once", "again"))
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]
    renewer = Renewer()
    for run_number in (FIRST_RUN + 1, FIRST_RUN + 2):
        renewer.renew(once)
        for path in once:
            assert f"{UID_ROOT}.{FIRST_RUN}".encode() not in path.read_bytes()
            ds = dcmread(path)
            assert f".{run_number}." in ds.SOPInstanceUID
            assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID


def test_every_case_can_be_named_and_made(tmp_path: Path) -> None:
    workloads = Workloads(tmp_path, Sizes(images=2, enhanced_megabytes=1))
    assert [make(workloads).name for make in definitions().values()] == [n for n in NAMES if n in definitions()]
    assert arguments(["--cases", "mr256-x1,growth"]).cases == ["mr256-x1", "growth"]
    with pytest.raises(SystemExit):
        arguments(["--cases", "mr256-x1,nothing"])


def test_a_case_is_measured_beside_the_node_without_index(tmp_path: Path) -> None:
    if shutil.which("storescu", path="/usr/bin") is None:
        pytest.skip("dcmtk is not installed")
    given = ["--cases", "mr256-x1", "--rounds", "1", "--images", "2", "--servers", "node", "receive"]
    (tmp_path / "servers").mkdir()
    (tmp_path / "images").mkdir()
    options = arguments([*given, "--json", str(tmp_path / "all.json"), "--markdown", str(tmp_path / "tables.md")])
    results, cases, left_out = run(options, tmp_path / "servers", tmp_path / "images")
    assert (len(cases), left_out) == (1, [])
    (alone,), (both,) = (results.sent["mr256-x1"][server] for server in ("receive", "node"))
    assert set(alone.cpu) == {"receive"}
    assert set(both.cpu) == {"receive", "index"}
    assert alone.images == both.images == 2
    measured = [goal.text for goal in goals(results) if goal.met is not None]
    assert measured == ["1 sender, 256²", "last response → all indexed"]
    tell(options, results, cases, left_out)
    assert json.loads((tmp_path / "all.json").read_text())["sent"]["mr256-x1"]["receive"][0]["images"] == 2
    text = (tmp_path / "tables.md").read_text()
    assert "| 1 sender, 256² | ≥ 0.9 × index stopped |" in text
    assert "Not measured: 1 sender, 256² (× orthanc);" in text
