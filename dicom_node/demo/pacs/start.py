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
    """Start a PACS of `kind`, or the best one that is available, and return it. It writes only below `folder`.

    Only `node` and the AE titles in `callers` may associate with the PACS, and only from this machine. With
    `route_back` the PACS sends everything it stores to `node`. With `dicomweb` it also answers DICOMweb requests at
    `http_url`/dicom-web, by a plugin of Debian. Without `kind`, Orthanc is installed first if that needs no password.

    The calling thread must live as long as the PACS, because Orthanc asks Linux to end it with the thread that started
    it. Raises PacsUnavailable if the `kind` is not available here, or if the PACS does not start.
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
