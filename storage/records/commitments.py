"""Records of storage commitment requests that peers make of this node."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

Item = tuple[str, str]  # SOP Class UID and SOP Instance UID


class CommitmentState(StrEnum):
    """State of a storage commitment request that a peer made of this node."""

    REQUESTED = "REQUESTED"  # accepted; the report is still to be sent, first on the association that asked
    RETRYING = "RETRYING"  # a report could not be delivered; due again once run_after has passed
    REPORTED = "REPORTED"  # the peer answered the N-EVENT-REPORT with Success
    FAILED = "FAILED"  # the last attempt failed, or nothing says where the peer listens


@dataclass(frozen=True)
class CommitmentRequest:
    """A storage commitment request as an N-ACTION makes it.

    `association` is the receiver's name for the requesting association; empty if there is none.
    """

    transaction_uid: str
    peer_ae_title: str
    peer_host: str
    items: tuple[Item, ...]
    association: str = ""


@dataclass(frozen=True)
class Commitment:
    """A stored storage commitment request of a peer (PS3.4 annex J).

    `duplicates` are the items of a second request that the peer made under the same transaction UID before it had the
    report on the first. `waited_seconds` is how long the peer has given no answer to a report.
    """

    id: int
    transaction_uid: str
    peer_ae_title: str
    peer_host: str
    items: tuple[Item, ...]
    state: CommitmentState
    attempts: int
    reason: str
    requested_at: datetime
    run_after: datetime
    duplicates: tuple[Item, ...] = ()
    waited_seconds: float = 0.0
