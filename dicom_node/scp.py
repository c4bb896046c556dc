"""The node as a storage SCP (PS3.4 annex B): whom it admits, what it accepts, and what it answers.

Decisions are pure functions; `StorageService` applies them to one association after another.
"""

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from pydicom._uid_dict import UID_dictionary
from pynetdicom import build_context
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import Verification, uid_to_service_class

from dicom_node.logs import fields
from dicom_node.upper_layer import AcceptedAssociation
from storage.errors import Permanent, Retriable
from storage.header import scan_header
from storage.records import AssociationEnd, ReceivedInstance, Stored

log = logging.getLogger(__name__)

ERROR_COMMENT_LENGTH = 64  # (0000,0902) is LO
END_ATTEMPTS = 5
END_PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Peer:
    """A calling application entity that is admitted, from any host when `host` is None."""

    ae_title: str
    host: str | None = None  # name or address


@dataclass(frozen=True)
class ReceivePolicy:
    """Where the node listens and whom it admits. Without `peers`, everyone and under any called AE title."""

    ae_title: str
    host: str = "0.0.0.0"  # noqa: S104 - scanners are on other machines
    port: int = 11112  # 0: any free one
    peers: tuple[Peer, ...] = ()
    maximum_associations: int = 50
    network_timeout: float = 60.0  # seconds without a byte, or within one PDU, after which a peer is gone
    request_timeout: float = 10.0  # seconds from the connection to the association request


class Status(IntEnum):
    """C-STORE response statuses (PS3.4 B.2.3, PS3.7 annex C)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    OUT_OF_RESOURCES = 0xA700
    MISMATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


@dataclass(frozen=True)
class Refusal:
    """An A-ASSOCIATE-RJ (PS3.8 table 9-21) and the sentence that explains it in the log."""

    result: int
    source: int
    diagnostic: int
    reason: str


@dataclass(frozen=True)
class StoreRequest:
    """One C-STORE request as it came. `dataset` is encoded in `transfer_syntax_uid`."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset: bytes


@dataclass(frozen=True)
class StoreResponse:
    status: Status
    comment: str = ""


class Store(Protocol):
    """What receiving needs of `storage.instances.InstanceStore`."""

    def store(self, instance: ReceivedInstance) -> Stored: ...

    def open_association(self, calling_ae_title: str, called_ae_title: str, peer_host: str, receiver: str) -> int: ...

    def end_association(self, association_id: int, end: AssociationEnd) -> None: ...

    def abort_stale_associations(self, receiver: str) -> object: ...


# -- decisions ---------------------------------------------------------------------------------------------------------


def refuse(
    policy: ReceivePolicy, calling: str, called: str, host: str, addresses: Callable[[str], Iterable[str]]
) -> Refusal | None:
    """Whether who calls, or whom it calls, turns an association request down. `addresses` resolves a host name."""
    if not policy.peers:
        return None
    if called != policy.ae_title:
        return Refusal(0x01, 0x01, 0x07, f"it called {called!r}, but this node is {policy.ae_title!r}")
    known = [peer for peer in policy.peers if peer.ae_title == calling]
    if not known:
        return Refusal(0x01, 0x01, 0x03, "its AE title is not among the configured peers")
    if not any(peer.host is None or _same_host(host, peer.host, addresses) for peer in known):
        return Refusal(0x01, 0x01, 0x03, "its AE title is configured for another host")
    return None


def local_limit_exceeded(associations: int) -> Refusal:
    return Refusal(0x02, 0x03, 0x02, f"there are {associations} associations already")


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
    """The addresses of a host name; none when the name is unknown."""
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None)]
    except OSError:
        return []


def is_storage(sop_class_uid: str) -> bool:
    """Whether an abstract syntax is one that is stored: standard, retired, private, or newer than our dictionary."""
    service = uid_to_service_class(sop_class_uid)
    if service is StorageServiceClass:
        return True
    if service is not ServiceClass:
        return False
    name, kind, *_ = UID_dictionary.get(sop_class_uid, ("", "", "", "", ""))
    return not kind or (kind == "SOP Class" and "Storage" in name)


def supported_contexts(proposed: Iterable[PresentationContext]) -> list[PresentationContext]:
    """What we support of a proposal: verification, and storage in every transfer syntax, the peer's first choice first.

    No roles are set, so that the default ones hold (PS3.7 D.3.3.4): the peer is SCU.
    """
    syntaxes: dict[str, list[str]] = {}
    for context in proposed:
        abstract_syntax = str(context.abstract_syntax)
        if abstract_syntax == Verification or is_storage(abstract_syntax):
            known = syntaxes.setdefault(abstract_syntax, [])
            known += [str(s) for s in context.transfer_syntax if str(s) not in known]
    return [build_context(abstract_syntax, transfer) for abstract_syntax, transfer in syntaxes.items()]


def describe_opening(opening: bytes) -> str:
    """Why a connection ended without an association, from its first bytes (PS3.8 9.3: a PDU begins with its type)."""
    if not opening:
        return "it sent nothing"
    if opening[0] != 0x01:
        return "what it sent is not DICOM"
    return "its association request was incomplete or unreadable"


def printable(text: str) -> str:
    """A peer's text for a log line: no control characters, no padding."""
    return "".join(c if c.isprintable() else "?" for c in text.strip())


# -- ingest ------------------------------------------------------------------------------------------------------------


@dataclass
class Session:
    """One admitted association. `association_id` is None until its first instance: an echo leaves no row."""

    calling: str
    called: str
    host: str
    association_id: int | None = None
    stored: int = 0
    refused: int = 0

    def identifiers(self) -> dict[str, object]:
        return {"peer": self.calling, "host": self.host, "association": self.association_id}


class Mismatch(Permanent):
    """The command set names another instance than the dataset."""


class Ingest:
    """From one C-STORE request to its status: Success only once the store says that the bytes are durable."""

    def __init__(self, store: Store, receiver: str) -> None:
        self._store = store
        self._receiver = receiver

    def accept(self, request: StoreRequest, session: Session) -> StoreResponse:
        """Never raises: whatever goes wrong becomes a status for the peer and a line in the log."""
        extra = fields("store", sop_instance=printable(request.sop_instance_uid), **session.identifiers())
        try:
            stored = self._store_it(request, session)
        except Exception as error:
            session.refused += 1
            response = response_to(error)
            if response.status is Status.PROCESSING_FAILURE:
                log.exception("Storing failed unexpectedly", extra=extra)
            else:
                log.warning("An instance was not stored: %s", error, extra=extra)
            return response
        session.stored += 1
        if stored is Stored.CONFLICT:
            log.warning("An instance came again with other bytes; they are in quarantine", extra=extra)
        elif stored is Stored.DUPLICATE:
            log.debug("An instance came again", extra=extra)
        return StoreResponse(Status.SUCCESS)

    def _store_it(self, request: StoreRequest, session: Session) -> Stored:
        header = scan_header(request.dataset, request.transfer_syntax_uid)
        if header.sop_instance_uid != request.sop_instance_uid:
            raise Mismatch("SOP Instance UID of dataset and request differ")
        if header.sop_class_uid != request.sop_class_uid:
            raise Mismatch("SOP Class UID of dataset and request differ")
        if session.association_id is None:
            session.association_id = self._store.open_association(
                session.calling, session.called, session.host, self._receiver
            )
        return self._store.store(
            ReceivedInstance(
                sop_instance_uid=header.sop_instance_uid,
                sop_class_uid=header.sop_class_uid,
                series_instance_uid=header.series_instance_uid,
                study_instance_uid=header.study_instance_uid,
                transfer_syntax_uid=request.transfer_syntax_uid,
                modality=header.modality,
                dataset=request.dataset,
                association_id=session.association_id,
                source_ae_title=session.calling,
            )
        )


def response_to(error: Exception) -> StoreResponse:
    """The status and comment that tell the peer why an instance was not stored."""
    match error:
        case Retriable():
            return StoreResponse(Status.OUT_OF_RESOURCES, "Cannot be stored now, send again later")
        case Mismatch():
            return StoreResponse(Status.MISMATCH, str(error)[:ERROR_COMMENT_LENGTH])
        case Permanent():
            return StoreResponse(Status.CANNOT_UNDERSTAND, str(error)[:ERROR_COMMENT_LENGTH])
        case _:
            return StoreResponse(Status.PROCESSING_FAILURE, "Unexpected failure, see the log of the node")


# -- one association after another -------------------------------------------------------------------------------------


class StorageService:
    """Applies the policy to associations and hands their instances to `Ingest`."""

    def __init__(
        self,
        policy: ReceivePolicy,
        store: Store,
        receiver: str,
        addresses: Callable[[str], Iterable[str]] = resolve,
    ) -> None:
        self._policy = policy
        self._store = store
        self._addresses = addresses
        self._ingest = Ingest(store, receiver)
        self._established = 0
        self._lock = threading.Lock()

    @property
    def established(self) -> int:
        """Number of associations that are admitted and have not ended."""
        return self._established

    def requested(self, assoc: AcceptedAssociation) -> None:
        request = assoc.requestor.primitive
        session = Session(
            calling=printable(request.calling_ae_title),
            called=printable(request.called_ae_title),
            host=assoc.requestor.address_info.address,
        )
        refusal = refuse(self._policy, session.calling, session.called, session.host, self._addresses)
        with self._lock:
            if refusal is None and self._established >= self._policy.maximum_associations:
                refusal = local_limit_exceeded(self._established)
            if refusal is None:
                self._established += 1
        if refusal is not None:
            log.warning("Rejected an association: %s", refusal.reason, extra=fields("reject", **session.identifiers()))
            assoc.reject(refusal.result, refusal.source, refusal.diagnostic)
            return
        assoc.session = session
        assoc.acceptor.supported_contexts = supported_contexts(request.presentation_context_definition_list)
        log.debug("Admitted an association", extra=fields("associate", **session.identifiers()))

    def store(self, assoc: AcceptedAssociation, request: C_STORE, transfer_syntax_uid: str) -> tuple[int, str]:
        response = self._ingest.accept(
            StoreRequest(
                sop_class_uid=str(request.AffectedSOPClassUID or ""),
                sop_instance_uid=str(request.AffectedSOPInstanceUID or ""),
                transfer_syntax_uid=transfer_syntax_uid,
                dataset=request.DataSet.getvalue() if request.DataSet is not None else b"",
            ),
            assoc.session,
        )
        return int(response.status), response.comment

    def echoed(self, assoc: AcceptedAssociation) -> int:
        log.info("Answered an echo", extra=fields("echo", **assoc.session.identifiers()))
        return Status.SUCCESS

    def ended(self, assoc: AcceptedAssociation) -> None:
        session: Session | None = assoc.session
        if session is None:
            if not assoc.is_rejected:
                host = assoc.requestor.address_info.address
                reason = describe_opening(assoc.opening)
                log.warning("A connection ended without an association: %s", reason, extra=fields("accept", host=host))
            return
        end = AssociationEnd.RELEASED if assoc.is_released else AssociationEnd.ABORTED
        try:
            if session.association_id is not None:
                self._end(session.association_id, end)
        except Exception:
            log.exception(
                "The end of an association could not be noted", extra=fields("associate", **session.identifiers())
            )
        finally:
            with self._lock:
                self._established -= 1
        if session.association_id is None and end is AssociationEnd.RELEASED:
            return
        log.log(
            logging.INFO if end is AssociationEnd.RELEASED else logging.WARNING,
            "An association was %s: %d stored, %d refused",
            "released" if end is AssociationEnd.RELEASED else "aborted",
            session.stored,
            session.refused,
            extra=fields("associate", **session.identifiers()),
        )

    def _end(self, association_id: int, end: AssociationEnd) -> None:
        """Noting the end must not fail on a busy database: an association that stays open delays its studies."""
        for attempt in range(1, END_ATTEMPTS + 1):
            try:
                self._store.end_association(association_id, end)
                return
            except Retriable:
                if attempt == END_ATTEMPTS:
                    raise
                time.sleep(END_PAUSE_SECONDS)
