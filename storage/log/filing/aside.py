"""Acknowledged content that stays in the log, and is part of no study."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.log.filing.rows import SegmentKey, place_columns
from storage.records.instances import UID, Address
from storage.tables.commitments import set_aside
from storage.tables.database import schema
from storage.tables.database.connection import insert_if_absent

_LONGEST_REASON = 255


@dataclass(frozen=True)
class Aside:
    """Content that is part of no study, and the reason. UIDs and checksum are empty where they are not known.

    `place` says where it lies: at `address`, unless release 0.1 filed it.
    """

    place: str
    address: Address | None
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    sha256: str
    received_at: datetime
    reason: str

    @property
    def study(self) -> str:
        """The Study Instance UID, or nothing if it is none."""
        return self.study_instance_uid if UID.fullmatch(self.study_instance_uid) else ""


def keep_aside(session: Session, one: Aside, segments: Mapping[SegmentKey, int]) -> str:
    """Insert the row of what is kept aside, and return its place. Content that is kept already keeps its place."""
    uid = one.sop_instance_uid if UID.fullmatch(one.sop_instance_uid) else ""
    if uid:  # of another one, no peer can ask for a commitment
        set_aside(session, uid, one.received_at)
    row = schema.AsideRow
    if uid and one.sha256:
        same = (row.sop_instance_uid == uid, row.sha256 == one.sha256)
        here = (row.series_instance_uid == one.series_instance_uid, row.study_instance_uid == one.study_instance_uid)
        known = session.scalar(select(row.place).where(*same, *here))
        if known is not None:
            return known
    address = one.address
    values: dict[str, Any] = {
        "place": one.place,
        "sop_instance_uid": uid,
        "series_instance_uid": one.series_instance_uid if uid else "",
        "study_instance_uid": one.study,
        "sha256": one.sha256,
        "reason": one.reason[:_LONGEST_REASON],
        "received_at": one.received_at,
    }
    if address is not None:
        values |= {"size": address.length, **place_columns(address, segments)}
    insert_if_absent(session, row, values)
    return one.place
