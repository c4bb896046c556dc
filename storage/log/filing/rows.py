"""The rows of instances in the log: entries to and from columns, the segments they name, and their shared headers."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, insert, select, tuple_
from sqlalchemy.orm import Session

from storage.log.filing.decision import Known
from storage.log.filing.entries import IndexEntry
from storage.log.headers.shared_header import compress_kept, compress_shared, expand_kept, expand_shared
from storage.records.instances import Address, ContentHashes, Facts, InstancePlace
from storage.tables.database import schema
from storage.tables.database.connection import chunks, insert_if_absent

SegmentKey = tuple[str, int]  # receiver and number
_LARGEST_OWN = 512  # bytes; a header that differs more from the shared one is shared itself


# -- segments ----------------------------------------------------------------------------------------------------------


def segment_ids(session: Session, keys: Iterable[SegmentKey]) -> dict[SegmentKey, int]:
    """Return the ids of the rows of these segments, which are inserted if they are absent."""
    row = schema.SegmentRow
    found: dict[SegmentKey, int] = {}
    for receiver, number in set(keys):
        known = select(row.id).where(row.receiver == receiver, row.number == number)
        number_of_row = session.scalar(known)
        if number_of_row is None:
            insert_if_absent(session, row, {"receiver": receiver, "number": number})
            number_of_row = session.scalars(known).one()
        found[receiver, number] = number_of_row
    return found


def address_in(
    row: schema.InstanceRow | schema.InstanceVersionRow | schema.AsideRow, segment: schema.SegmentRow | None
) -> Address | None:
    """Return the address of what has this row; None for a file of release 0.1."""
    if segment is None:
        return None
    assert row.frame_offset is not None
    assert row.body_offset is not None
    return Address(segment.receiver, segment.number, row.frame_offset, row.body_offset, row.size or 0, row.file)


def place_columns(address: Address, segments: Mapping[SegmentKey, int]) -> dict[str, Any]:
    """Return the columns that say where something lies in the log."""
    return {
        "segment_id": segments[address.receiver, address.segment],
        "frame_offset": address.frame_offset,
        "body_offset": address.body_offset,
        "file": address.file,
    }


def _place_columns(entry: IndexEntry, segments: Mapping[SegmentKey, int]) -> dict[str, Any]:
    if entry.address is None:
        return {"segment_id": None, "frame_offset": None, "body_offset": None, "file": entry.file}
    return place_columns(entry.address, segments)


# -- entries -----------------------------------------------------------------------------------------------------------


def known_entries(session: Session, sop_instance_uids: Sequence[str]) -> dict[str, Known]:
    """Return what is known of SOP instances. Those that have no row are left out."""
    current: dict[str, dict[InstancePlace, IndexEntry]] = {}
    versions: dict[str, dict[tuple[InstancePlace, str], IndexEntry]] = {}
    row, version, segment = schema.InstanceRow, schema.InstanceVersionRow, schema.SegmentRow
    for chunk in chunks(sop_instance_uids):
        statement = (
            select(row, segment)
            .outerjoin(segment, segment.id == row.segment_id)
            .where(row.sop_instance_uid.in_(chunk))
            .order_by(row.received_at)
        )
        for found, where in session.execute(statement):
            entry = _entry(found, where)
            current.setdefault(entry.sop_instance_uid, {})[entry.place] = entry
    for chunk in chunks(sorted(current)):
        earlier = (
            select(version, segment)
            .outerjoin(segment, segment.id == version.segment_id)
            .where(version.sop_instance_uid.in_(chunk))
        )
        for one, where in session.execute(earlier):
            place = InstancePlace(one.sop_instance_uid, one.series_instance_uid, one.study_instance_uid)
            entry = _version_entry(one, where, current[one.sop_instance_uid][place])
            versions.setdefault(one.sop_instance_uid, {})[place, one.sha256] = entry
    return {uid: Known(entries, versions.get(uid, {})) for uid, entries in current.items()}


def instance_columns(
    entry: IndexEntry, revision: int, segments: Mapping[SegmentKey, int], headers: Mapping["ContentKey", "KeptColumns"]
) -> dict[str, Any]:
    """Return the columns of the row of an instance."""
    return {
        **version_columns(entry, segments),
        **headers.get((entry.place, entry.sha256), _NOTHING_KEPT),
        "sop_class_uid": entry.sop_class_uid,
        "transfer_syntax_uid": entry.transfer_syntax_uid,
        "modality": entry.modality,
        "revision": revision,
        "facts": entry.facts.to_json(),
    }


def version_columns(entry: IndexEntry, segments: Mapping[SegmentKey, int]) -> dict[str, Any]:
    """Return the columns of the row of a version."""
    hashes = entry.hashes
    return {
        **entry.place._asdict(),
        **_place_columns(entry, segments),
        "sha256": entry.sha256,
        "pixels_sha256": None if hashes is None else hashes.pixels,
        "rest_sha256": None if hashes is None else hashes.rest,
        "size": entry.size,
        "received_at": entry.received_at,
        "subject_id": entry.subject_id,
    }


def is_at(
    row: type[schema.InstanceRow] | type[schema.InstanceVersionRow], place: InstancePlace
) -> list[ColumnElement[bool]]:
    """Return the conditions that choose the rows of this place."""
    return [getattr(row, column) == value for column, value in place._asdict().items()]


def _entry(row: schema.InstanceRow, segment: schema.SegmentRow | None) -> IndexEntry:
    return IndexEntry(
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        series_instance_uid=row.series_instance_uid,
        study_instance_uid=row.study_instance_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        modality=row.modality,
        size=row.size,
        sha256=row.sha256,
        received_at=row.received_at,
        facts=Facts.from_json(row.facts),
        hashes=hashes_of(row),
        address=address_in(row, segment),
        file=row.file if segment is None else None,
        subject_id=row.subject_id,
    )


def _version_entry(row: schema.InstanceVersionRow, segment: schema.SegmentRow | None, now: IndexEntry) -> IndexEntry:
    return IndexEntry(
        **now.place._asdict(),
        sop_class_uid=now.sop_class_uid,
        transfer_syntax_uid=now.transfer_syntax_uid,
        modality=now.modality,
        size=row.size or 0,
        sha256=row.sha256,
        received_at=row.received_at,
        facts=now.facts,
        hashes=hashes_of(row),
        address=address_in(row, segment),
        file=row.file if segment is None else None,
        subject_id=row.subject_id,
    )


def hashes_of(row: schema.InstanceRow | schema.InstanceVersionRow) -> ContentHashes | None:
    """Return the hashes that a row holds; None in rows of release 0.1."""
    if row.pixels_sha256 is None or row.rest_sha256 is None:
        return None
    return ContentHashes(row.pixels_sha256, row.rest_sha256)


# -- kept headers ------------------------------------------------------------------------------------------------------

KeptColumns = dict[str, Any]
ContentKey = tuple[InstancePlace, str]  # place and checksum
_SERIES_AT_ONCE = 100  # in one statement
_NOTHING_KEPT: KeptColumns = {"shared_header_id": None, "kept": None}


def keep_headers(session: Session, entries: Iterable[IndexEntry]) -> dict[ContentKey, KeptColumns]:
    """Return the columns of the kept headers of these instances. What their series share is inserted once.

    All of them must be of the same version of the list of kept elements.
    """
    kept = [entry for entry in entries if entry.kept]
    row = schema.SharedHeaderRow
    series = sorted({(entry.study_instance_uid, entry.series_instance_uid) for entry in kept})
    shared: dict[tuple[str, str], tuple[int, bytes]] = {}
    for start in range(0, len(series), _SERIES_AT_ONCE):
        here = tuple_(row.study_instance_uid, row.series_instance_uid).in_(series[start : start + _SERIES_AT_ONCE])
        for found in session.scalars(select(row).where(here).order_by(row.id)):
            if found.list_version == kept[0].kept[0]:
                key = (found.study_instance_uid, found.series_instance_uid)
                shared[key] = (found.id, expand_shared(found.kept))
    columns: dict[ContentKey, KeptColumns] = {}
    for entry in kept:
        key = (entry.study_instance_uid, entry.series_instance_uid)
        own = compress_kept(entry.kept, shared[key][1]) if key in shared else b""
        if key not in shared or len(own) > _LARGEST_OWN:
            values = {
                "study_instance_uid": key[0],
                "series_instance_uid": key[1],
                "list_version": entry.kept[0],
                "kept": compress_shared(entry.kept),
            }
            number = session.execute(insert(row).values(values).returning(row.id)).scalar_one()
            shared[key] = (number, entry.kept)
            own = compress_kept(entry.kept, entry.kept)
        columns[entry.place, entry.sha256] = {"shared_header_id": shared[key][0], "kept": own}
    return columns


def read_kept_headers(
    session: Session, study_instance_uid: str, series_instance_uids: Collection[str] | None = None
) -> dict[InstancePlace, bytes]:
    """Return the kept headers of the instances of a study, or of some of its series.

    Instances whose rows have none are left out.
    """
    row, base = schema.InstanceRow, schema.SharedHeaderRow
    shared_ones = select(base.id, base.kept).where(base.study_instance_uid == study_instance_uid)
    own_ones = select(row.sop_instance_uid, row.series_instance_uid, row.shared_header_id, row.kept).where(
        row.study_instance_uid == study_instance_uid, row.shared_header_id.is_not(None)
    )
    if series_instance_uids is not None:
        shared_ones = shared_ones.where(base.series_instance_uid.in_(list(series_instance_uids)))
        own_ones = own_ones.where(row.series_instance_uid.in_(list(series_instance_uids)))
    shared = {number: expand_shared(stored) for number, stored in session.execute(shared_ones)}
    kept = session.execute(own_ones)
    return {
        InstancePlace(sop, series, study_instance_uid): expand_kept(stored, shared[number])
        for sop, series, number, stored in kept
        if number is not None and stored is not None
    }
