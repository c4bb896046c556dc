"""The tables of instances: where they lie, who they state to be of, what of them is kept, and what is kept aside."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, ForeignKeyConstraint, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from storage.tables.database.columns import Base

_UID = String(64)  # PS3.5 table 6.2-1


class SubjectRow(Base):
    """An identity that instances state of their patient, as keyed hashes (`storage.tables.patients`).

    `digest` is the name of the key and a hash of `hashes`.
    """

    __tablename__ = "subject"
    __table_args__ = (UniqueConstraint("digest", name="uq_subject_digest"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    hashes: Mapped[dict[str, Any]]


class SegmentRow(Base):
    """A segment of the journal of a receiver, in which instances lie."""

    __tablename__ = "segment"
    __table_args__ = (UniqueConstraint("receiver", "number", name="uq_segment_receiver_number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    receiver: Mapped[str] = mapped_column(String(64))
    number: Mapped[int] = mapped_column(BigInteger)


class JournalRow(Base):
    """A journal, and the place up to which all its frames are indexed."""

    __tablename__ = "journal"

    receiver: Mapped[str] = mapped_column(String(64), primary_key=True)
    segment: Mapped[int] = mapped_column(BigInteger)
    offset: Mapped[int] = mapped_column(BigInteger)
    life: Mapped[int] = mapped_column(BigInteger)  # the segment in which the receiver was last started


class SharedHeaderRow(Base):
    """The kept header of one instance of a series, compressed. Those of the others are compressed against it.

    All of them are of one version of the list of kept elements.
    """

    __tablename__ = "shared_header"
    __table_args__ = (Index("ix_shared_header_series", "study_instance_uid", "series_instance_uid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(_UID)
    series_instance_uid: Mapped[str] = mapped_column(_UID)
    list_version: Mapped[int] = mapped_column(index=True)
    kept: Mapped[bytes] = mapped_column(LargeBinary)


class Placed:
    """The columns of whatever lies in the log.

    The frame of an instance begins at `frame_offset` of its segment, and its Part 10 file at `body_offset`. The Part 10
    file of a large instance is the file `file` beside the segment. Without a segment, the instance is a file of release
    0.1: `file` is then relative to the folder of instances, and null stands for the usual place, which follows from the
    UIDs.
    """

    segment_id: Mapped[int | None] = mapped_column(ForeignKey("segment.id"), index=True)
    frame_offset: Mapped[int | None] = mapped_column(BigInteger)
    body_offset: Mapped[int | None] = mapped_column(BigInteger)
    file: Mapped[str | None]


class InstanceRow(Placed, Base):
    """An instance in its current version. The series are derived from these rows.

    One SOP instance may be filed in several series or studies, after a PACS moved or copied it; each has its own row.
    `subject_id` is null if the instance states nothing of its patient, and in rows of earlier versions. `sha256` is
    the checksum of the content: of both its hashes, or of the dataset where a row of release 0.1 has no hashes.
    """

    __tablename__ = "instance"
    __table_args__ = (Index("ix_instance_study_series", "study_instance_uid", "series_instance_uid"),)

    sop_instance_uid: Mapped[str] = mapped_column(_UID, primary_key=True)
    series_instance_uid: Mapped[str] = mapped_column(_UID, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(_UID, ForeignKey("study.study_instance_uid"), primary_key=True)
    sop_class_uid: Mapped[str] = mapped_column(_UID)
    transfer_syntax_uid: Mapped[str] = mapped_column(_UID)
    modality: Mapped[str] = mapped_column(String(16))
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    pixels_sha256: Mapped[str | None] = mapped_column(String(64))  # empty without pixels
    rest_sha256: Mapped[str | None] = mapped_column(String(64))
    received_at: Mapped[datetime]
    revision: Mapped[int]
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    subject_id: Mapped[int | None] = mapped_column(ForeignKey("subject.id"), index=True)
    shared_header_id: Mapped[int | None] = mapped_column(ForeignKey("shared_header.id"), index=True)
    kept: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)  # the kept header, against the shared one


class InstanceVersionRow(Placed, Base):
    """A version of an instance that has several, because patient or study attributes changed; the current one too."""

    __tablename__ = "instance_version"
    __table_args__ = (
        ForeignKeyConstraint(
            ["sop_instance_uid", "series_instance_uid", "study_instance_uid"],
            ["instance.sop_instance_uid", "instance.series_instance_uid", "instance.study_instance_uid"],
        ),
        Index("ix_instance_version_study", "study_instance_uid"),
    )

    sop_instance_uid: Mapped[str] = mapped_column(_UID, primary_key=True)
    series_instance_uid: Mapped[str] = mapped_column(_UID, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(_UID, primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    pixels_sha256: Mapped[str | None] = mapped_column(String(64))
    rest_sha256: Mapped[str | None] = mapped_column(String(64))
    size: Mapped[int | None] = mapped_column(BigInteger)
    received_at: Mapped[datetime]
    subject_id: Mapped[int | None] = mapped_column(ForeignKey("subject.id"), index=True)


class AsideRow(Placed, Base):
    """Content of an acknowledged SOP instance that is kept, and is part of no study.

    `place` is where it lies, in words for people. `reason` says why it is part of no study. What is not known of it is
    empty.
    """

    __tablename__ = "aside"
    __table_args__ = (
        Index("ix_aside_sop_instance", "sop_instance_uid", "sha256"),
        Index("ix_aside_study", "study_instance_uid"),
    )

    place: Mapped[str] = mapped_column(String(255), primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(_UID)
    series_instance_uid: Mapped[str] = mapped_column(_UID, server_default="")
    study_instance_uid: Mapped[str] = mapped_column(_UID, server_default="")
    size: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64), server_default="")
    reason: Mapped[str] = mapped_column(String(255), server_default="")
    received_at: Mapped[datetime]


class ContestedRow(Base):
    """A SOP instance of which content is kept aside: when such content was acknowledged last.

    `filed_at` is when content of it was last acknowledged that is part of a study; null if that was never after the
    first one that is kept aside.
    """

    __tablename__ = "contested"

    sop_instance_uid: Mapped[str] = mapped_column(_UID, primary_key=True)
    aside_at: Mapped[datetime]
    filed_at: Mapped[datetime | None]


class RepeatedRow(Placed, Base):
    """Content of a study that lies in the log once more, and that another row names: it came several times.

    Only the deletion of its study asks for it.
    """

    __tablename__ = "repeated"
    __table_args__ = (Index("ix_repeated_study", "study_instance_uid"),)

    segment_id: Mapped[int] = mapped_column(ForeignKey("segment.id"), primary_key=True)
    frame_offset: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(_UID)
    series_instance_uid: Mapped[str] = mapped_column(_UID)
    study_instance_uid: Mapped[str] = mapped_column(_UID)
    size: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    received_at: Mapped[datetime]


class OwnInstanceRow(Base):
    """The UID of a result of this node, which stays known if the row of the result is lost."""

    __tablename__ = "own_instance"

    sop_instance_uid: Mapped[str] = mapped_column(_UID, primary_key=True)
