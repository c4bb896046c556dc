"""The tables of instances: where they are filed, who they state to be of, and what is kept aside."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, ForeignKeyConstraint, Index, String, UniqueConstraint
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


class InstanceRow(Base):
    """An instance in its current version. The series are derived from these rows.

    One SOP instance may be filed in several series or studies, after a PACS moved or copied it; each has its own row
    and file. `file` is relative to the folder of instances; null stands for the usual place, which follows from the
    UIDs. `subject_id` is null if the instance states nothing of its patient, and in rows of earlier versions.
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
    received_at: Mapped[datetime]
    revision: Mapped[int]
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    file: Mapped[str | None]
    subject_id: Mapped[int | None] = mapped_column(ForeignKey("subject.id"))


class InstanceVersionRow(Base):
    """A version of an instance that has several, because patient or study attributes changed; the current one too."""

    __tablename__ = "instance_version"
    __table_args__ = (
        ForeignKeyConstraint(
            ["sop_instance_uid", "series_instance_uid", "study_instance_uid"],
            ["instance.sop_instance_uid", "instance.series_instance_uid", "instance.study_instance_uid"],
        ),
    )

    sop_instance_uid: Mapped[str] = mapped_column(_UID, primary_key=True)
    series_instance_uid: Mapped[str] = mapped_column(_UID, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(_UID, primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    file: Mapped[str | None]
    received_at: Mapped[datetime]
    subject_id: Mapped[int | None] = mapped_column(ForeignKey("subject.id"))


class AsideRow(Base):
    """Content of an acknowledged SOP instance that is kept aside, and is part of no study.

    `file` is relative to the data directory. `filed_at` is when content of the same SOP instance was last acknowledged
    that is part of a study; null if that was never after this one.
    """

    __tablename__ = "aside"
    __table_args__ = (Index("ix_aside_sop_instance", "sop_instance_uid"),)

    file: Mapped[str] = mapped_column(String(255), primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(_UID)
    received_at: Mapped[datetime]
    filed_at: Mapped[datetime | None]
