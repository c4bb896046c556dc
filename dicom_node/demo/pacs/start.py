"""The PACS of the demo and the tests: Orthanc, or a plain storage SCP where there is no Orthanc."""

from collections.abc import Sequence
from pathlib import Path

from dicom_node.demo.pacs.base import Pacs, PacsConfig, PacsKind
from dicom_node.demo.pacs.orthanc import Orthanc
from dicom_node.demo.pacs.ports import free_port
from dicom_node.demo.pacs.provisioning import Say, choose_pacs
from dicom_node.demo.pacs.storage_scp import StorageScp
from dicom_node.dimse.scu import Target


def start_pacs(
    folder: Path,
    *,
    ae_title: str = "ORTHANC",
    node: Target | None = None,
    callers: Sequence[str] = (),
    route_back: bool = False,
    dicomweb: bool = False,
    kind: PacsKind | None = None,
    say: Say = lambda line: None,
) -> Pacs:
    """Start the best PACS there is, or the `kind` that is wanted, with everything it writes below `folder`.

    Only `node` and the AE titles in `callers` may associate with it, and only from this machine. With `route_back` it
    sends everything it stores to `node`. With `dicomweb` it answers below `http_url`/dicom-web, by Debian's plugin.
    Without `kind`, Orthanc is installed where that is possible without asking.
    The calling thread must live as long as the PACS: Linux ends children with the thread that started them.
    Raises PacsUnavailable.
    """
    if route_back and node is None:
        raise ValueError("route_back needs a node")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # images of patients will lie in it
    config = PacsConfig(folder, ae_title, free_port(), node, callers, route_back, dicomweb)
    command, kind = choose_pacs(kind, folder, say)
    pacs = StorageScp(config) if command is None else Orthanc(config, kind, command)
    pacs.start()
    return pacs
