"""The policy of receiving: the admitted peers, their hosts and services, and the limit of associations."""

import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from dicom_node.dimse.pdu import LARGEST_PDU_BYTES
from dicom_node.dimse.service import Rejection
from dicom_node.dimse.status import RejectReason

SMALLEST_PDU_BYTES = 4096  # in smaller ones the headers outweigh the data


class ServiceName(StrEnum):
    """A service that a peer may use."""

    ECHO = "echo"
    STORE = "store"
    COMMITMENT = "commitment"
    MPPS = "mpps"


@dataclass(frozen=True)
class Peer:
    """A calling application entity that is admitted: from any host if `host` is None, to all if `services` is None."""

    ae_title: str
    host: str | None = None  # name or address
    maximum_associations: int | None = None
    maximum_pdu_bytes: int | None = None
    services: frozenset[ServiceName] | None = None

    def __post_init__(self) -> None:
        if self.maximum_associations is not None and self.maximum_associations < 1:
            raise ValueError("maximum_associations must be at least 1")
        if self.maximum_pdu_bytes is not None and not SMALLEST_PDU_BYTES <= self.maximum_pdu_bytes <= LARGEST_PDU_BYTES:
            raise ValueError(f"maximum_pdu_bytes must be from {SMALLEST_PDU_BYTES} to {LARGEST_PDU_BYTES}")

    def may_use(self, service: ServiceName) -> bool:
        return self.services is None or service in self.services


@dataclass(frozen=True)
class ReceivePolicy:
    """The address of the node, and the peers it admits. Without `peers` it admits all, under any called AE title."""

    ae_title: str
    host: str = "0.0.0.0"  # noqa: S104 - scanners are on other machines
    port: int = 11112  # 0: any free one
    peers: tuple[Peer, ...] = ()
    maximum_associations: int = 50
    network_timeout: float = 60.0  # seconds of silence after which a peer is cut, also in the middle of a message
    request_timeout: float = 10.0  # seconds from the connection to the end of the association request


def find_peer(
    policy: ReceivePolicy, calling: str, called: str, host: str, addresses: Callable[[str], Iterable[str]]
) -> Peer | Rejection:
    """Return the configured peer that an application entity is, or a rejection. `addresses` resolves a host name."""
    if not policy.peers:
        return Peer(calling)
    if called != policy.ae_title:
        return Rejection(
            RejectReason.CALLED_AE_TITLE_NOT_RECOGNIZED,
            f"it called {called!r}, but this node is {policy.ae_title!r}",
        )
    known = [peer for peer in policy.peers if peer.ae_title == calling]
    if not known:
        return Rejection(
            RejectReason.CALLING_AE_TITLE_NOT_RECOGNIZED,
            "its AE title is not among the configured peers",
        )
    for peer in known:
        if peer.host is None or _same_host(host, peer.host, addresses):
            return peer
    return Rejection(
        RejectReason.CALLING_AE_TITLE_NOT_RECOGNIZED,
        "its AE title is configured for another host",
    )


def reject_beyond_limit(policy: ReceivePolicy, peer: Peer, associations: int, of_peer: int) -> Rejection | None:
    """Return a rejection if the limit of associations is reached. It is transient, so that the peer may retry."""
    if associations >= policy.maximum_associations:
        return Rejection(RejectReason.LOCAL_LIMIT_EXCEEDED, f"there are {associations} associations already")
    if peer.maximum_associations is not None and of_peer >= peer.maximum_associations:
        return Rejection(RejectReason.LOCAL_LIMIT_EXCEEDED, f"it has {of_peer} associations already")
    return None


def _same_host(actual: str, configured: str, addresses: Callable[[str], Iterable[str]]) -> bool:
    return actual == configured or _canonical(actual) in {_canonical(a) for a in addresses(configured)}


def _canonical(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def resolve(host: str) -> list[str]:
    """Return the addresses of a host name, which are none if the name is unknown."""
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None)]
    except OSError:
        return []
