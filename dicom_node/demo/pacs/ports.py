"""Free ports of this machine."""

import socket

from dicom_node.demo.pacs.base import LOOPBACK


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
