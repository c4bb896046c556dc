"""The bytes of the dataset that are stored equal the bytes on the wire, for every sender and transfer syntax."""

import json
import shutil
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.misc import is_dicom
from pynetdicom import AE

from dicom_node.demo.pacs.base import PacsKind
from dicom_node.demo.pacs.provisioning import find_orthanc
from dicom_node.demo.pacs.start import start_pacs
from dicom_node.dimse.scu import Target, find_files
from tests.acceptance.node import Node
from tests.faults.conftest import MakeNode
from tests.faults.ledger import indexed, stored, wait_indexed
from tests.faults.proxy import Proxy, Stored
from tests.faults.wire import Instance, part10_dataset

PER_FOLDER = 2  # files of one folder with one transfer syntax
SEND_SECONDS = 120
UNCOMPRESSED = "1.2.840.10008.1.2"
# What dcmtk's storescu must be told to propose a transfer syntax.
PROPOSE = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.1": "-xe",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.81": "-xu",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}

Files = dict[str, list[Path]]  # by transfer syntax


@pytest.fixture(scope="module")
def files(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Real MR."""
    chosen = choose(test_data / "mr", tmp_path_factory.mktemp("renamed"))
    assert len(chosen) >= 9, list(chosen)
    return chosen


@pytest.fixture(scope="module")
def rare(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Other objects, in big endian, deflated, and in syntaxes that dcmtk and Orthanc do not know."""
    return choose(test_data / "conformance" / "pydicom_rt_sr", tmp_path_factory.mktemp("renamed"))


def choose(folder: Path, renamed: Path) -> Files:
    """A few files of each folder and transfer syntax. The same image in several syntaxes gets several UIDs."""
    counts: Counter[tuple[Path, str]] = Counter()
    seen: set[str] = set()
    by_syntax: Files = {}
    for path in find_files([folder]):
        if not is_dicom(path):
            continue
        ds = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
        if "SOPInstanceUID" not in ds:
            continue  # no sender can send it
        syntax, uid = str(ds.file_meta.TransferSyntaxUID), str(ds.SOPInstanceUID)
        if counts[path.parent, syntax] == PER_FOLDER:
            continue
        counts[path.parent, syntax] += 1
        if uid in seen:
            new = f"{uid[:-3]}{len(seen) + 100:03}".encode()  # as long as the other
            copy = renamed / f"{len(seen)}.dcm"
            copy.write_bytes(path.read_bytes().replace(uid.encode(), new))
            path, uid = copy, new.decode()
        seen.add(uid)
        by_syntax.setdefault(syntax, []).append(path)
    return by_syntax


def program(name: str) -> str:
    found = shutil.which(name, path="/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip("dcmtk is not installed: run tests/install-peers.sh")
    return found


def assert_stored_as_sent(node: Node, passed: Iterable[Stored]) -> None:
    """Every instance that passed the proxy is in the index, and its bytes are those that passed."""
    on_the_wire = {s.sop_instance_uid: s for s in passed}
    waiting = {uid: Instance(uid, s.dataset) for uid, s in on_the_wire.items()}
    assert waiting
    assert wait_indexed(node.data_dir, waiting, 60) == [], node.log.read_text()[-2000:]
    assert set(indexed(node.data_dir)) == set(waiting)
    files = {row.sop_instance_uid: row.file for row in stored(node.data_dir)}
    for uid, sent in on_the_wire.items():
        assert part10_dataset(files[uid]) == sent.dataset, f"{uid} in {sent.transfer_syntax_uid}"
        meta = dcmread(BytesIO(files[uid]), stop_before_pixels=True).file_meta
        assert meta.TransferSyntaxUID == sent.transfer_syntax_uid
        assert meta.MediaStorageSOPInstanceUID == uid


def syntaxes(passed: Iterable[Stored]) -> set[str]:
    return {s.transfer_syntax_uid for s in passed}


@pytest.mark.timeout(250)
def test_dcmtk_storescu(make_node: MakeNode, files: Files) -> None:
    storescu = program("storescu")
    node = make_node()
    with Proxy(node.target.host, node.target.port) as proxy:
        for syntax, paths in files.items():
            done = subprocess.run(
                [storescu, "-R", PROPOSE[syntax], "-aec", "DICOM_NODE", "127.0.0.1", str(proxy.port), *map(str, paths)],
                capture_output=True, text=True, timeout=SEND_SECONDS,
            )  # fmt: skip
            assert done.returncode == 0, f"{syntax}: {done.stderr}"
    assert syntaxes(proxy.stores()) >= set(files) - {UNCOMPRESSED}
    assert_stored_as_sent(node, proxy.stores())


@pytest.mark.timeout(250)
def test_dcmtk_dcmsend(make_node: MakeNode, files: Files) -> None:
    dcmsend = program("dcmsend")
    node = make_node()
    with Proxy(node.target.host, node.target.port) as proxy:
        everything = [str(path) for paths in files.values() for path in paths]
        done = subprocess.run(
            [dcmsend, "--decompress-never", "-aec", "DICOM_NODE", "127.0.0.1", str(proxy.port), *everything],
            capture_output=True, text=True, timeout=SEND_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert syntaxes(proxy.stores()) >= set(files) - {UNCOMPRESSED}
    assert_stored_as_sent(node, proxy.stores())


@pytest.mark.timeout(250)
def test_pynetdicom(make_node: MakeNode, files: Files, rare: Files) -> None:
    everything = [*files.items(), *rare.items()]
    node = make_node()
    with Proxy(node.target.host, node.target.port) as proxy:
        for syntax, paths in everything:
            ae = AE("PYNETDICOM")
            datasets = [dcmread(path) for path in paths]
            for sop_class in dict.fromkeys(str(ds.SOPClassUID) for ds in datasets):
                ae.add_requested_context(sop_class, syntax)
            assoc = ae.associate("127.0.0.1", proxy.port, ae_title="DICOM_NODE")
            assert assoc.is_established
            try:
                for ds in datasets:
                    assert assoc.send_c_store(ds).Status == 0
            finally:
                assoc.release()
    assert syntaxes(proxy.stores()) == {syntax for syntax, _ in everything}
    assert_stored_as_sent(node, proxy.stores())


@pytest.mark.timeout(250)
def test_orthanc(make_node: MakeNode, files: Files, tmp_path: Path) -> None:
    if find_orthanc() is None:
        pytest.skip("Orthanc is not installed: run tests/install-peers.sh")
    node = make_node()
    with Proxy(node.target.host, node.target.port) as proxy:
        target = Target("DICOM_NODE", "127.0.0.1", proxy.port)
        with start_pacs(tmp_path / "pacs", node=target, kind=PacsKind.ORTHANC) as pacs:
            assert pacs.http_url is not None
            identifiers = []
            for path in (path for paths in files.values() for path in paths):
                answer = json.loads(post(f"{pacs.http_url}/instances", path.read_bytes()))
                identifiers.append(answer["ID"])
            body = json.dumps({"Resources": identifiers, "Synchronous": True}).encode()
            done = json.loads(post(f"{pacs.http_url}/modalities/node/store", body))
            assert done["InstancesCount"] == len(identifiers)
            assert done["FailedInstancesCount"] == 0
    assert syntaxes(proxy.stores()) >= set(files) - {UNCOMPRESSED}
    assert_stored_as_sent(node, proxy.stores())


def post(url: str, body: bytes) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, body, timeout=SEND_SECONDS) as response:
        content: bytes = response.read()
        return content
