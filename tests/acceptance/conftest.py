"""Real peers: Orthanc as the PACS, dcmtk as the scanner, the node in processes of its own."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicom_node.demo.pacs.base import Pacs, PacsKind
from dicom_node.demo.pacs.ports import free_port
from dicom_node.demo.pacs.provisioning import find_orthanc
from dicom_node.demo.pacs.start import start_pacs
from dicom_node.dimse.scu import Target
from tests.acceptance.node import SCANNER, Node
from tests.acceptance.tiny_model import write_bundle

Push = Callable[[Node, Path], None]


@pytest.fixture(scope="module")
def push() -> Push:
    """dcmtk's storescu, as a scanner: one association, every file below the folder."""
    program = shutil.which("storescu", path="/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("dcmtk is not installed: run tests/install-peers.sh")

    def send(node: Node, folder: Path) -> None:
        done = subprocess.run(
            [program, "-aet", SCANNER, "-aec", node.target.ae_title, "+sd", "+r", "-R",
             node.target.host, str(node.target.port), str(folder)],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    return send


@pytest.fixture(scope="module")
def make_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., tuple[Node, Pacs]]]:
    """Starts Orthanc and a node that knows it; both end with the module."""
    if find_orthanc() is None:
        pytest.skip("Orthanc is not installed: run tests/install-peers.sh")
    pairs: list[tuple[Node, Pacs]] = []

    def make(bundle: Path | None = None, rounds: int = 0, route_back: bool = False) -> tuple[Node, Pacs]:
        folder = tmp_path_factory.mktemp("node")
        port = free_port()
        pacs = start_pacs(
            folder / "pacs", node=Target("DICOM_NODE", "127.0.0.1", port), route_back=route_back, kind=PacsKind.ORTHANC
        )
        node = Node(folder, port, pacs, bundle or write_bundle(folder / "bundle", rounds))
        pairs.append((node, pacs))
        node.start()
        return node, pacs

    yield make
    for node, pacs in pairs:
        node.stop()
        pacs.stop()
