"""The peers of the configuration, as receivers and the commitment reporter know them."""

from dicom_node.deliver.destinations.dimse import DimseSettings
from dicom_node.dimse.commitment import Addressee
from dicom_node.receive.policy import Peer, ReceivePolicy, ServiceName
from dicom_node.settings.model import Settings


def receive_policy(settings: Settings) -> ReceivePolicy:
    """Return the policy of the receivers: the peers that they admit, and the address on which they listen.

    If only peers are admitted, destinations are admitted too, to report on storage commitment.
    """
    named = {p.ae_title for p in settings.peers}
    reporting = [
        Peer(d.ae_title, d.host, services=frozenset({ServiceName.ECHO, ServiceName.COMMITMENT}))
        for d in settings.destinations
        if isinstance(d, DimseSettings) and d.confirm == "auto" and d.ae_title not in named
    ]
    peers = [
        Peer(
            p.ae_title,
            p.host,
            maximum_associations=p.maximum_associations,
            maximum_pdu_bytes=p.maximum_pdu_bytes,
            services=None if p.services is None else frozenset(ServiceName(name) for name in p.services),
        )
        for p in settings.peers
    ]
    return ReceivePolicy(
        ae_title=settings.node.ae_title,
        host=settings.receive.host,
        port=settings.receive.port,
        peers=(*peers, *reporting) if peers else (),
        maximum_associations=settings.receive.maximum_associations,
        network_timeout=settings.receive.network_timeout_seconds,
    )


def addressees(settings: Settings) -> list[Addressee]:
    """Return the peers as requestors of storage commitment, to which the node reports."""
    return [Addressee(p.ae_title, p.host, p.port, p.commitment == "same") for p in settings.peers]
