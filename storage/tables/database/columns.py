"""The base of the tables, and the types of their columns."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Enum
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator

from storage.errors import WhyNoResult
from storage.records.commitments import CommitmentState
from storage.records.deliveries import ConfirmationState, DeliveryState
from storage.records.evidence import AssociationEnd
from storage.records.jobs import JobKind, JobState
from storage.records.problems import ProblemKind
from storage.records.procedure_steps import ProcedureStepState
from storage.records.results import ObjectKind
from storage.records.studies import Stage, StudyState


class UtcDateTime(TypeDecorator[datetime]):
    """A time with a time zone, returned in UTC. SQLite has no time zones and stores the time in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without time zone cannot be stored")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _text(enumeration: type[StrEnum]) -> Enum:
    """Keep the names of the members as text, so that a new member needs no change of type on PostgreSQL."""
    return Enum(enumeration, native_enum=False, length=16)


def _values(enumeration: type[StrEnum], length: int = 16) -> Enum:
    """Keep the values of the members as text, where these are not their names."""
    return Enum(
        enumeration,
        native_enum=False,
        length=length,
        values_callable=lambda members: [member.value for member in members],
    )


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 - declared so by SQLAlchemy
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(),
        dict[str, str]: JSON(),
        list[str]: JSON(),
        list[list[str]]: JSON(),
        StudyState: _text(StudyState),
        JobState: _text(JobState),
        DeliveryState: _text(DeliveryState),
        AssociationEnd: _text(AssociationEnd),
        ProcedureStepState: _text(ProcedureStepState),
        CommitmentState: _text(CommitmentState),
        ConfirmationState: _text(ConfirmationState),
        JobKind: _text(JobKind),
        ObjectKind: _values(ObjectKind),
        Stage: _values(Stage),
        ProblemKind: _values(ProblemKind, length=32),
        WhyNoResult: _values(WhyNoResult, length=32),
    }
