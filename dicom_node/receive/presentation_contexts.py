"""Presentation contexts that the node accepts: SOP classes, transfer syntaxes, roles (PS3.8 9.3.2.2, PS3.7 D.3.3.4).

Instances are stored byte for byte, so every transfer syntax of a storage SOP class is accepted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pydicom._uid_dict import UID_dictionary
from pynetdicom import build_context
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import Verification, uid_to_service_class

from dicom_node.receive.policy import Peer, ServiceName


@dataclass(frozen=True)
class SopClass:
    """A SOP class beyond verification and storage that the node offers.

    The roles are those that a requestor may take (PS3.7 D.3.3.4). If both are None, role selection is not answered, so
    the peer has the default role, SCU.
    """

    uid: str
    service: ServiceName
    scu_role: bool | None = None
    scp_role: bool | None = None


@lru_cache(maxsize=256)
def is_storage(sop_class_uid: str) -> bool:
    """Return True for a storage SOP class, be it standard, retired, private, or newer than our dictionary."""
    service = uid_to_service_class(sop_class_uid)
    if service is StorageServiceClass:
        return True
    if service is not ServiceClass:
        return False
    name, kind, *_ = UID_dictionary.get(sop_class_uid, ("", "", "", "", ""))
    return not kind or (kind == "SOP Class" and "Storage" in name)


def supported_contexts(
    proposed: Iterable[PresentationContext], peer: Peer, further: Sequence[SopClass] = ()
) -> list[PresentationContext]:
    """Return the supported contexts of a proposal: verification, storage and `further`, if the peer may use them.

    Each is supported in every proposed transfer syntax, in the peer's order of preference. The list is made for each
    association, because pynetdicom's own way of accepting every storage class (UNRESTRICTED_STORAGE_SERVICE) answers
    role selection wrongly.
    """
    others = {sop_class.uid: sop_class for sop_class in further}
    syntaxes: dict[str, list[str]] = {}
    for context in proposed:
        abstract_syntax = str(context.abstract_syntax)
        service = _service_of(abstract_syntax, others)
        if service is not None and peer.may_use(service):
            known = syntaxes.setdefault(abstract_syntax, [])
            known += [str(s) for s in context.transfer_syntax if str(s) not in known]
    supported = []
    for abstract_syntax, transfer in syntaxes.items():
        context = build_context(abstract_syntax, transfer)
        if abstract_syntax in others:
            context.scu_role, context.scp_role = others[abstract_syntax].scu_role, others[abstract_syntax].scp_role
        supported.append(context)
    return supported


def _service_of(abstract_syntax: str, others: dict[str, SopClass]) -> ServiceName | None:
    if abstract_syntax in others:
        return others[abstract_syntax].service
    if abstract_syntax == Verification:
        return ServiceName.ECHO
    return ServiceName.STORE if is_storage(abstract_syntax) else None
