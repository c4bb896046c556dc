"""The node as a storage SCP (PS3.4 annex B): whom it admits, what it accepts, and what it answers.

Decisions are pure functions; `StorageService` applies them to one association after another. What is stored goes into
the receiver's journal; whether it is a duplicate or a conflict is found out behind, by the indexer.
"""

import ipaddress
import itertools
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from pydicom._uid_dict import UID_dictionary
from pynetdicom import build_context
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import Verification, uid_to_service_class

from dicom_node.dimse.association import Admission, Proposal, Rejection
from dicom_node.dimse.data_path import LARGEST_PDU_BYTES, MAXIMUM_PDU_BYTES, StoreRequest
from dicom_node.dimse.status import DimseResponse, DimseStatus, RejectReason
from dicom_node.runtime.logs import fields, printable, unexpected
from storage.errors import Permanent, Retriable
from storage.log.files import FileMeta
from storage.log.header import Header, scan_header
from storage.log.journal import Journal, LargeFile
from storage.records.evidence import AssociationEnd
from storage.records.instances import UID, ReceivedInstance

log = logging.getLogger(__name__)

SMALLEST_PDU_BYTES = 4096  # less than that, and headers outweigh the data
ASSOCIATION_NAME_LENGTH = 64


class ServiceName(StrEnum):
    """What a peer may use, for `Peer.services`."""

    ECHO = "echo"
    STORE = "store"
    COMMITMENT = "commitment"
    MPPS = "mpps"


@dataclass(frozen=True)
class Peer:
    """A calling application entity that is admitted, from any host when `host` is None.

    `services` are all of them when None.
    """

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
    """Where the node listens and whom it admits. Without `peers`, everyone and under any called AE title."""

    ae_title: str
    host: str = "0.0.0.0"  # noqa: S104 - scanners are on other machines
    port: int = 11112  # 0: any free one
    peers: tuple[Peer, ...] = ()
    maximum_associations: int = 50
    network_timeout: float = 60.0  # seconds of silence after which a peer is gone, also in the middle of a message
    request_timeout: float = 10.0  # seconds from the connection to the end of the association request


@dataclass(frozen=True)
class SopClass:
    """A SOP class beyond verification and storage that the node offers.

    The roles are those a requestor may take (PS3.7 D.3.3.4): both None leaves role selection unanswered, so that the
    default ones hold and the peer is SCU.
    """

    uid: str
    service: ServiceName
    scu_role: bool | None = None
    scp_role: bool | None = None


# -- decisions ---------------------------------------------------------------------------------------------------------


def judge(
    policy: ReceivePolicy, calling: str, called: str, host: str, addresses: Callable[[str], Iterable[str]]
) -> Peer | Rejection:
    """As which peer an application entity is admitted, or why not. `addresses` resolves a host name."""
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


def beyond_limit(policy: ReceivePolicy, peer: Peer, associations: int, of_peer: int) -> Rejection | None:
    """Whether there are too many associations for one more: now, which says nothing of later."""
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
    """The addresses of a host name; none when the name is unknown."""
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None)]
    except OSError:
        return []


@lru_cache(maxsize=256)
def is_storage(sop_class_uid: str) -> bool:
    """Whether an abstract syntax is one that is stored: standard, retired, private, or newer than our dictionary."""
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
    """What we support of a proposal: verification, storage, and the `further` SOP classes, as far as the peer may use
    them; each in every transfer syntax, the peer's first choice first.

    The list is made for each association, since pynetdicom's own way of accepting every storage class
    (UNRESTRICTED_STORAGE_SERVICE) gives wrong answers to role selection.
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


def describe_opening(opening: bytes) -> str:
    """Why a connection ended without an association, from its first bytes (PS3.8 9.3: a PDU begins with its type)."""
    if not opening:
        return "it sent nothing"
    if opening[0] != 0x01:
        return "what it sent is not DICOM"
    return "its association request was incomplete or unreadable"


# -- ingest ------------------------------------------------------------------------------------------------------------


@dataclass
class Session:
    """One admitted association. `association` is unique for ever. An echo leaves nothing in the journal: it hears of
    the association with its first instance.
    """

    association: str
    calling: str
    called: str
    host: str
    peer: Peer
    noted: bool = False
    stored: int = 0
    refused: int = 0

    def identifiers(self) -> dict[str, object]:
        return {"peer": self.calling, "host": self.host, "association": self.association if self.noted else None}


class Mismatch(Permanent):
    """The command set names another instance than the dataset."""


class NotNegotiated(Permanent):
    """The command set names another SOP class than its presentation context, or one that is not stored."""


def response_to(error: Exception) -> DimseResponse:
    """The status and comment that tell the peer why an instance was not stored."""
    match error:
        case Retriable():
            return DimseResponse(DimseStatus.OUT_OF_RESOURCES, "Cannot be stored now, send again later")
        case NotNegotiated():
            return DimseResponse(DimseStatus.SOP_CLASS_NOT_SUPPORTED, str(error))
        case Mismatch():
            return DimseResponse(DimseStatus.DATASET_MISMATCH, str(error))
        case Permanent():
            return DimseResponse(DimseStatus.CANNOT_UNDERSTAND, str(error))
        case _:
            return DimseResponse(DimseStatus.PROCESSING_FAILURE, "Unexpected failure, see the log of the node")


_file_meta = lru_cache(maxsize=256)(FileMeta)
_SUCCESS = DimseResponse(DimseStatus.SUCCESS)


class Ingest:
    """From one C-STORE to its status: Success only once the journal says that the bytes are durable.

    Never raises: whatever goes wrong becomes a status for the peer and a line in the log.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def accept(self, session: Session, request: StoreRequest, dataset: memoryview) -> DimseResponse:
        try:
            self._journal.ensure_space()
            instance = self._instance(session, request, dataset)
            self._journal.store(instance, self._part10_header(session, request), dataset)
        except Exception as error:
            return self.refuse(session, request, error)
        session.stored += 1
        return _SUCCESS

    def begin(self, session: Session, request: StoreRequest, beginning: memoryview) -> "LargeReception":
        return LargeReception(self, session, request, beginning)

    def open_large(
        self, session: Session, request: StoreRequest, beginning: memoryview
    ) -> tuple[ReceivedInstance, LargeFile]:
        """The file of a large instance, its header written."""
        self._journal.ensure_space()
        instance = self._instance(session, request, beginning)
        file = self._journal.large()
        try:
            file.write(self._part10_header(session, request))
        except BaseException:
            file.discard()
            raise
        return instance, file

    def store_large(self, session: Session, instance: ReceivedInstance, file: LargeFile) -> DimseResponse:
        self._journal.store_large(instance, file)
        session.stored += 1
        return _SUCCESS

    def refuse(self, session: Session, request: StoreRequest, error: Exception) -> DimseResponse:
        session.refused += 1
        response = response_to(error)
        extra = fields("store", sop_instance=printable(request.sop_instance_uid), **session.identifiers())
        if response.status == DimseStatus.PROCESSING_FAILURE:
            log.error("Storing failed unexpectedly: %s", unexpected(error), extra=extra)
        else:
            log.warning("An instance was not stored: %s", error, extra=extra)
        return response

    def _instance(self, session: Session, request: StoreRequest, dataset: memoryview) -> ReceivedInstance:
        header = scan_header(dataset, request.transfer_syntax_uid)
        ensure_acceptable(header, request)
        if not session.noted:
            self._journal.opened(session.association, session.calling, session.called, session.host)
            session.noted = True
        return ReceivedInstance(
            sop_instance_uid=header.sop_instance_uid,
            sop_class_uid=header.sop_class_uid,
            series_instance_uid=header.series_instance_uid,
            study_instance_uid=header.study_instance_uid,
            transfer_syntax_uid=request.transfer_syntax_uid,
            modality=header.modality,
            source_ae_title=session.calling,
            association=session.association,
            received_at=datetime.now(UTC),
            facts=header.facts,
        )

    def _part10_header(self, session: Session, request: StoreRequest) -> bytes:
        meta = _file_meta(request.sop_class_uid, request.transfer_syntax_uid, session.calling)
        return meta.header(request.sop_instance_uid)


def ensure_acceptable(header: Header, request: StoreRequest) -> None:
    """Raises what refuses an instance for good: the indexer must be able to file whatever was acknowledged."""
    if request.sop_class_uid != request.abstract_syntax_uid or not is_storage(request.sop_class_uid):
        raise NotNegotiated("The presentation context is not for storing this SOP class")
    if header.sop_instance_uid != request.sop_instance_uid:
        raise Mismatch("SOP Instance UID of dataset and request differ")
    if header.sop_class_uid != request.sop_class_uid:
        raise Mismatch("SOP Class UID of dataset and request differ")
    if not (
        UID.fullmatch(header.sop_class_uid)
        and UID.fullmatch(header.sop_instance_uid)
        and UID.fullmatch(header.series_instance_uid)
        and UID.fullmatch(header.study_instance_uid)
    ):
        raise Permanent("A UID has other characters than digits and dots")


class LargeReception:
    """A large instance while it arrives. After a failure the rest of it is dropped, and the peer hears of it at the
    end, on an association that goes on.
    """

    def __init__(self, ingest: Ingest, session: Session, request: StoreRequest, beginning: memoryview) -> None:
        self._ingest = ingest
        self._session = session
        self._request = request
        self._error: Exception | None = None
        self._file: LargeFile | None = None
        try:
            self._instance, self._file = ingest.open_large(session, request, beginning)
        except Exception as error:
            self._error = error
        self.write(beginning)

    def write(self, part: memoryview) -> None:
        if self._file is not None:
            try:
                self._file.write(part)
            except Exception as error:
                self._error = error
                self.discard()

    def finish(self) -> DimseResponse:
        try:
            if self._error is not None:
                raise self._error
            assert self._file is not None
            return self._ingest.store_large(self._session, self._instance, self._file)
        except Exception as error:
            self.discard()
            return self._ingest.refuse(self._session, self._request, error)

    def discard(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.discard()
            except OSError as error:
                log.error("What came of an instance could not be removed: %s", error.strerror, extra=fields("store"))


# -- one association after another -------------------------------------------------------------------------------------


class StorageService:
    """Applies the policy to associations and hands their instances to `Ingest`."""

    def __init__(
        self,
        policy: ReceivePolicy,
        journal: Journal,
        receiver: str,
        further: Sequence[SopClass] = (),
        addresses: Callable[[str], Iterable[str]] = resolve,
    ) -> None:
        self._policy = policy
        self._journal = journal
        self._further = further
        self._addresses = addresses
        self._ingest = Ingest(journal)
        life = f"-{time.time_ns():x}-"
        self._name = receiver[-(ASSOCIATION_NAME_LENGTH - len(life) - 10) :] + life
        self._numbers = itertools.count(1)
        self._established: Counter[Peer] = Counter()
        self._lock = threading.Lock()

    @property
    def established(self) -> int:
        """Number of associations that are admitted and have not ended."""
        with self._lock:
            return self._established.total()

    def admit(self, proposal: Proposal) -> Admission | Rejection:
        calling, called = printable(proposal.calling_ae_title), printable(proposal.called_ae_title)
        judged = judge(self._policy, calling, called, proposal.host, self._addresses)
        if isinstance(judged, Peer):
            with self._lock:
                established = self._established
                refusal = beyond_limit(self._policy, judged, established.total(), established[judged])
                if refusal is None:
                    established[judged] += 1
            judged = refusal or judged
        if isinstance(judged, Rejection):
            extra = fields("reject", peer=calling, host=proposal.host)
            log.warning("Rejected an association: %s", judged.explanation, extra=extra)
            return judged
        session = Session(f"{self._name}{next(self._numbers)}", calling, called, proposal.host, judged)
        log.debug("Admitted an association", extra=fields("associate", **session.identifiers()))
        return Admission(
            session=session,
            contexts=supported_contexts(proposal.contexts, judged, self._further),
            maximum_pdu_bytes=judged.maximum_pdu_bytes or MAXIMUM_PDU_BYTES,
        )

    def store(self, session: Any, request: StoreRequest, dataset: memoryview) -> DimseResponse:
        return self._ingest.accept(session, request, dataset)

    def begin_large(self, session: Any, request: StoreRequest, beginning: memoryview) -> LargeReception:
        return self._ingest.begin(session, request, beginning)

    def echoed(self, session: Session) -> int:
        log.info("Answered an echo", extra=fields("echo", **session.identifiers()))
        return DimseStatus.SUCCESS

    def failed(self, host: str, opening: bytes) -> None:
        reason = describe_opening(opening)
        log.warning("A connection ended without an association: %s", reason, extra=fields("accept", host=host))

    def ended(self, session: Any, end: AssociationEnd, reason: str) -> None:
        with self._lock:
            self._established[session.peer] -= 1
            self._established += Counter()  # forgets peers without any
        if session.noted:
            extra = fields("associate", **session.identifiers())
            try:
                self._journal.ended(session.association, end)
            except Retriable as error:  # it counts as aborted, at the latest when this receiver starts again
                log.warning("The end of an association could not be noted: %s", error, extra=extra)
            except Exception as error:
                log.error("The end of an association could not be noted: %s", unexpected(error), extra=extra)
        elif end is AssociationEnd.RELEASED:
            return
        log.log(
            logging.INFO if end is AssociationEnd.RELEASED else logging.WARNING,
            "An association was %s: %d stored, %d refused%s",
            "released" if end is AssociationEnd.RELEASED else "aborted",
            session.stored,
            session.refused,
            "" if end is AssociationEnd.RELEASED else f"; {reason}",
            extra=fields("associate", **session.identifiers()),
        )
