"""The words of storage commitment (PS3.4 annex J) that the SCP, the SCU and the reporter share."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class IncomingReport:
    """The content of an N-EVENT-REPORT that a destination sends (PS3.4 table J.3-2).

    `committed` holds SOP Instance UIDs; `failed` maps those that failed to their Failure Reason (0008,1197).
    """

    transaction_uid: str
    committed: frozenset[str]
    failed: Mapping[str, int]
